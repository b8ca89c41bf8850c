"""Adversarial search for the pair that moves a step's sum the most: a lower bound of its sensitivity.

A proof bounds the sensitivity from above. This search looks for a counter-example to the proof or to
the code, on a user's own student and loss. Random data would not do: a clipped sum over an in-batch
contrast moves by 0.8 C on random pairs and by 508 C on pairs that know the student (batch of 256). So
the search starts from pairs made of the student's own features and climbs from there.

Shapes: N pairs, C channels, H height, W width, D embedding dimension.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from edgecmd.audits.static.neighbours import Neighbours, PairMaker
from edgecmd.losses import unit
from edgecmd.training.distill import LocalData

Sample = tuple[LocalData, np.ndarray]
Query = Callable[[Sequence[Sample]], Sequence[Mapping[str, Tensor]]]
"""What a step would release, without noise, for each of several samples: a data set and sampled rows of
it. All other coins (views, buckets) are a function of the row, so they are the same for neighbours."""

# Smallest and largest change of a row in a climb, and how often it is the added row that changes.
STEP_SIZES = (0.02, 2.0)
ADDED_SHARE = 0.7


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


@dataclass(frozen=True, slots=True, eq=False)
class _Climber:
    """Where a climb stands: neighbours, the smaller one's sum, and the distance of the two sums."""

    at: Neighbours
    smaller: Mapping[str, Tensor]
    height: float


def search_sensitivity(
    query: Query,
    makers: Mapping[str, PairMaker],
    *,
    num_tries: int,
    generator: torch.Generator,
    climb_length: int = 20,
    num_climbers: int = 1,
    stop_above: int | float = math.inf,
) -> Found:
    """Look for neighbours whose sums lie as far apart as possible: random-restart hill climbing.

    The kinds take turns. Each climb starts from a new pair of its kind and keeps every change of a
    row that makes the distance larger.

    Args:
        query: Sums of a step for some samples.
        makers: For each kind, what makes a pair of it; see `edgecmd.audits.static.neighbours`.
        num_tries: Neighbours to compare, the starts of climbs included.
        generator: Source of the search's randomness.
        climb_length: Tries of a climb; 1 tries new pairs only.
        num_climbers: Climbs that go on side by side, for a query that is faster for many samples.
        stop_above: Stop once the distance is above this.

    Returns:
        The largest distance, and where it was found.

    Guarantees:
        ``largest`` is attained, so it is a lower bound of the sensitivity for add or remove one pair.
        A value above the stated sensitivity refutes it; a value below proves nothing.
    """
    kinds = cycle(makers)
    best = Found(by_kind=dict.fromkeys(makers, 0.0))
    while best.num_tries < num_tries and best.largest <= stop_above:
        left = num_tries - best.num_tries
        starts = [makers[kind](generator) for kind in islice(kinds, min(num_climbers, left))]
        climbers = _measured(query, starts)
        best = _better(best, climbers)
        for _ in range(min(climb_length, left // len(starts)) - 1):
            if best.largest > stop_above:
                break
            climbers = _climbed(query, climbers, generator)
            best = _better(best, climbers)
    return best


def _better(best: Found, climbers: Sequence[_Climber]) -> Found:
    """What is known after each climber made one more try."""
    by_kind = dict(best.by_kind)
    for climber in climbers:
        by_kind[climber.at.kind] = max(by_kind[climber.at.kind], climber.height)
    best = replace(best, by_kind=by_kind, num_tries=best.num_tries + len(climbers))
    top = max(climbers, key=lambda climber: climber.height)
    if top.height <= best.largest:
        return best
    return replace(best, largest=top.height, kind=top.at.kind, worst=top.at)


def _measured(query: Query, found: Sequence[Neighbours]) -> list[_Climber]:
    sums = query([(one.data, one.larger()) for one in found] + [(one.data, one.smaller()) for one in found])
    larger, smaller = sums[: len(found)], sums[len(found) :]
    return [_Climber(at, less, distance(more, less)) for at, more, less in zip(found, larger, smaller)]


def _climbed(query: Query, climbers: Sequence[_Climber], generator: torch.Generator) -> list[_Climber]:
    """One try of each climber; where the added row alone moves, the smaller sum stays as it was."""
    moves = [_moved(climber.at, generator) for climber in climbers]
    asked = [index for index, (at, row) in enumerate(moves) if row != at.added]
    sums = query(
        [(at.data, at.larger()) for at, _ in moves]
        + [(moves[index][0].data, moves[index][0].smaller()) for index in asked]
    )
    smaller = [climber.smaller for climber in climbers]
    for index, found in zip(asked, sums[len(moves) :]):
        smaller[index] = found
    tried = [_Climber(at, less, distance(more, less)) for (at, _), more, less in zip(moves, sums, smaller)]
    return [new if new.height > old.height else old for old, new in zip(climbers, tried)]


def _moved(at: Neighbours, generator: torch.Generator) -> tuple[Neighbours, int]:
    """A copy with the image or the teacher feature of one row changed, and that row."""
    coin, place, side, size = torch.rand(4, generator=generator).tolist()
    row = at.added if coin < ADDED_SHARE else int(place * len(at.data))
    scale = STEP_SIZES[0] * (STEP_SIZES[1] / STEP_SIZES[0]) ** size
    image, teacher = at.data.target.clone(), at.data.teacher.clone()
    if side < 0.4:
        image[row] += scale * torch.randn(image[row].shape, generator=generator)
    else:
        teacher[row] = unit(teacher[row] + scale * torch.randn(teacher[row].shape, generator=generator))
    return replace(at, data=replace(at.data, target=image, teacher=teacher)), row
