"""Adversarial search for the pair that moves a step's sum the most: a lower bound of its sensitivity.

A proof bounds the sensitivity from above. This search looks for a counter-example to the proof or to
the code, on a user's own student and loss. Random data would not do: a clipped sum over an in-batch
contrast moves by 0.8 C on random pairs and by 508 C on pairs that know the student (batch of 256). So
the search starts from pairs made of the student's own features and climbs from there.

Shapes: N pairs, C channels, H height, W width, D embedding dimension.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from edgecmd.distill import LocalData
from edgecmd.losses import unit
from edgecmd.privacy.effective import EffectiveStudent
from edgecmd.privacy.gradients import clipped_sum
from edgecmd.privacy.mechanisms import StepSettings, UnitLoss, Units, make_units
from edgecmd.privacy.neighbours import Neighbours, PairMaker
from edgecmd.privacy.randomness import DeterministicSource

Query = Callable[[LocalData, np.ndarray], Mapping[str, Tensor]]
"""What a step would release, without noise, for the pairs at the given rows of a data set. All other
coins (views, buckets) are a function of the row number, so they are the same for neighbours."""

# Smallest and largest change of a row in a climb.
STEP_SIZES = (0.02, 2.0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Found:
    """Outcome of a search.

    Attributes:
        largest: Largest L2 distance of two neighbours' sums; infinite where a sum is not finite.
        kind: Kind of the pair that the search of it started from.
        worst: The neighbours that it was found on; None without tries.
        by_kind: Largest distance for each kind.
        num_tries: Pairs of neighbours that were compared.
    """

    largest: float = 0.0
    kind: str = ""
    worst: Neighbours | None = None
    by_kind: Mapping[str, float] = field(default_factory=dict)
    num_tries: int = 0


def distance(larger: Mapping[str, Tensor], smaller: Mapping[str, Tensor]) -> float:
    """L2 distance of two sums in float64; infinite where one is not finite."""
    square = sum(float((larger[name].double() - smaller[name].double()).square().sum()) for name in larger)
    return math.sqrt(square) if math.isfinite(square) else math.inf


def search_sensitivity(
    query: Query,
    makers: Mapping[str, PairMaker],
    *,
    num_tries: int,
    generator: torch.Generator,
    climb_length: int = 20,
    stop_above: int | float = math.inf,
) -> Found:
    """Look for neighbours whose sums lie as far apart as possible: random-restart hill climbing.

    The kinds take turns. Each climb starts from a new pair of its kind and keeps every change of a
    row that makes the distance larger.

    Args:
        query: Sum of a step for some rows.
        makers: For each kind, what makes a pair of it; see `edgecmd.privacy.neighbours`.
        num_tries: Neighbours to compare, the starts of climbs included.
        generator: Source of the search's randomness.
        climb_length: Tries of a climb; 1 tries new pairs only.
        stop_above: Stop as soon as the distance is above this.

    Returns:
        The largest distance, and where it was found.

    Guarantees:
        ``largest`` is attained, so it is a lower bound of the sensitivity for add or remove one pair.
        A value above the stated sensitivity refutes it; a value below proves nothing.
    """
    names = list(makers)
    by_kind = dict.fromkeys(names, 0.0)
    best, tried = Found(by_kind=by_kind), 0
    while tried < num_tries and best.largest <= stop_above:
        kind = names[(tried // climb_length) % len(names)]
        length = min(climb_length, num_tries - tried)
        largest, worst, used = _climb(query, makers[kind](generator), length, stop_above, generator)
        tried += length
        best = replace(best, num_tries=best.num_tries + used)
        by_kind[kind] = max(by_kind[kind], largest)
        if largest > best.largest:
            best = replace(best, largest=largest, kind=kind, worst=worst)
    return best


def _climb(
    query: Query, start: Neighbours, length: int, stop_above: int | float, generator: torch.Generator
) -> tuple[float, Neighbours, int]:
    """Climb for ``length`` tries; a change of the added row alone leaves the smaller sum as it was."""
    at = start
    smaller = query(at.data, at.smaller())
    height = distance(query(at.data, at.larger()), smaller)
    used = 1
    while used < length and height <= stop_above:
        moved, row = _moved(at, generator)
        without = smaller if row == at.added else query(moved.data, moved.smaller())
        found = distance(query(moved.data, moved.larger()), without)
        used += 1
        if found > height:
            at, height, smaller = moved, found, without
    return height, at, used


def _moved(at: Neighbours, generator: torch.Generator) -> tuple[Neighbours, int]:
    """A copy with the image or the teacher feature of one row changed; every other time the added row's."""
    coin, place, side, size = torch.rand(4, generator=generator).tolist()
    row = at.added if coin < 0.7 else int(place * len(at.data))
    scale = STEP_SIZES[0] * (STEP_SIZES[1] / STEP_SIZES[0]) ** size
    image, teacher = at.data.target.clone(), at.data.teacher.clone()
    if side < 0.4:
        image[row] += scale * torch.randn(image[row].shape, generator=generator)
    else:
        teacher[row] = unit(teacher[row] + scale * torch.randn(teacher[row].shape, generator=generator))
    return replace(at, data=LocalData(target=image, teacher=teacher)), row


def step_query(
    student: nn.Module,
    loss: UnitLoss,
    *,
    settings: StepSettings,
    clip: float,
    engine: str = "vmap",
    augment: int | float = 0.0,
    seed: int = 0,
) -> Query:
    """The sum that a private step makes, with fixed coins, as a question for `search_sensitivity`.

    Args:
        student: Encoder; a copy at its present weights is asked, without dropout, whose coins are each
            pair's own.
        loss: Loss of one unit.
        settings: Mechanism, views, groups and chunk size.
        clip: C.
        engine: A key of `edgecmd.privacy.gradients.ENGINES`.
        augment: Strength of the views; buckets are made without views, since their coins are independent
            of those of the buckets.
        seed: Of the fixed coins.

    Returns:
        Query whose sums are over the weights that act (`edgecmd.privacy.effective`), where a step adds noise.
    """
    effective = EffectiveStudent(copy.deepcopy(student).eval())

    def query(data: LocalData, rows: np.ndarray) -> Mapping[str, Tensor]:
        if settings.mechanism == "groups":
            coins = RowCoins(rows, num_rows=len(data), seed=seed)
            chunks = make_units(data, rows, config=settings, augment=0.0, source=coins)
        else:
            chunks = _pair_units(data, rows, settings=settings, augment=augment, seed=seed)
        return clipped_sum(effective.module, chunks, loss, clip=clip, engine=engine)

    return query


def _pair_units(
    data: LocalData, rows: np.ndarray, *, settings: StepSettings, augment: int | float, seed: int
) -> list[Units]:
    """Units of all rows, so that each keeps its views, of which those at ``rows`` are cut into chunks."""
    whole = replace(settings, chunk_size=len(data) * settings.num_views)
    every = make_units(
        data, np.arange(len(data)), config=whole, augment=float(augment), source=DeterministicSource(seed)
    )[0]
    size = max(1, settings.chunk_size // settings.num_views)
    parts = np.split(rows, range(size, len(rows), size)) if len(rows) else []
    return [
        Units(images=every.images[part], teacher=every.teacher[part], mask=every.mask[part]) for part in parts
    ]


class RowCoins:
    """A source whose first words belong to the rows, whichever other rows are there. NOT PRIVATE.

    Args:
        rows: Rows in the order in which they are asked about.
        num_rows: Rows of the data set.
        seed: Of the coins.
    """

    private = False

    def __init__(self, rows: np.ndarray, *, num_rows: int, seed: int) -> None:
        self._first: np.ndarray | None = DeterministicSource(seed).words(num_rows)[rows]
        self._later = DeterministicSource(seed, round_index=1)

    def words(self, count: int) -> np.ndarray:
        """One uint64 a row at the first call; ``count`` others later."""
        first, self._first = self._first, None
        return first if first is not None and len(first) == count else self._later.words(count)
