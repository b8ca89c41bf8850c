"""Adversarial search for the pair that moves a step's sum the most: a lower bound of its sensitivity.

A proof bounds the sensitivity from above. This search looks for a counter-example to the proof or to
the code, on a user's own student and loss. Random data would not do: a clipped sum over an in-batch
contrast moves by 0.8 C on random pairs and by 508 C on pairs that know the student (batch of 256). So
the search starts from neighbouring data sets made of the student's own features and climbs from there.

Shapes: N pairs, C channels, H height, W width, D embedding dimension.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgecmd.core.errors import PrivacyError
from edgecmd.losses import unit
from edgecmd.models.base import noise_for
from edgecmd.training.distill import LocalData

# Cosines of the two teacher features that pull a student to opposite sides (the flip pair).
NEAR, FAR = 0.95, 0.3
# Smallest and largest change of a row in a climb, and how often it is the added row that changes.
STEP_SIZES = (0.02, 2.0)
ADDED_SHARE = 0.7


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neighbours:
    """A data set, and the row of it that its neighbour lacks.

    Attributes:
        data: The larger data set, N pairs.
        added: Row that the smaller one lacks.
        kind: How it was made.
        largest_input: How far inputs reach, in which a climb measures its steps.
    """

    data: LocalData
    added: int
    kind: str
    largest_input: float = 1.0

    def larger(self) -> np.ndarray:
        """All rows."""
        return np.arange(len(self.data))

    def smaller(self) -> np.ndarray:
        """All rows but the added one."""
        return np.delete(self.larger(), self.added)


PairMaker = Callable[[torch.Generator], Neighbours]


def pair_makers(
    student: nn.Module,
    *,
    num_pairs: int,
    in_channels: int,
    image_size: int | tuple[int, int],
    embedding_dim: int,
) -> dict[str, PairMaker]:
    """What makes neighbours of each kind for this student.

    With ``z`` the student's unit feature of one image and ``e`` a unit vector across it:

    - random: random images and features, between 1 and ``num_pairs`` of them;
    - hub: random, but the added feature is the mean ``z``, near which an untrained student maps all;
    - duplicates: copies of one image with the feature ``-z``, satisfied until ``.95 z - .3 e`` is added;
    - flip: copies with ``-z``, one with ``.3 z + .95 e``; adding ``.95 z - .3 e`` turns all gradients round;
    - outlier: features around a hub, images nearly equal; the hub itself and an odd image are added
      (what relations between the pairs of a batch cannot bear);
    - poisoned: random, with NaN, infinite, huge or zero numbers in the added row or in another.

    Args:
        student: Encoder; its present weights are used.
        num_pairs: N of the larger set, at least 3.
        in_channels: C.
        image_size: H and W, one number where they are equal.
        embedding_dim: D.

    Raises:
        PrivacyError: Fewer than three pairs, of which the flip pair cannot be made.
    """
    if num_pairs < 3:
        raise PrivacyError(f"num_pairs={num_pairs} is too few for a sensitivity search; give at least 3.")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    make = _Maker(student, num_pairs, (in_channels, *size), embedding_dim)
    return {
        "random": make.random,
        "hub": make.hub,
        "duplicates": make.duplicates,
        "flip": make.flip,
        "outlier": make.outlier,
        "poisoned": make.poisoned,
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Maker:
    student: nn.Module
    num: int
    shape: tuple[int, int, int]
    dim: int

    @property
    def largest(self) -> float:
        """How far inputs reach: a string's bytes to 255, of which those below 1 would be padding."""
        return float(getattr(self.student, "largest_input", 1.0))

    def random(self, generator: torch.Generator) -> Neighbours:
        """Noise images and random teacher features, of any number."""
        num = int(torch.randint(1, self.num + 1, (), generator=generator))
        return self._placed("random", self._images(num, generator), self._features(num, generator), generator)

    def hub(self, generator: torch.Generator) -> Neighbours:
        """Noise, and a last pair whose teacher feature is the student's mean feature."""
        image, teacher = self._images(self.num, generator), self._features(self.num, generator)
        teacher[-1] = unit(self._embed(image).mean(dim=0))
        return self._placed("hub", image, teacher, generator)

    def duplicates(self, generator: torch.Generator) -> Neighbours:
        """Copies of one pair, as badly aligned as can be, and a last one that is nearly right."""
        image, own, across = self._copies(generator)
        teacher = (-own).repeat(self.num, 1)
        teacher[-1] = unit(NEAR * own - FAR * across)
        return self._placed("duplicates", image, teacher, generator)

    def flip(self, generator: torch.Generator) -> Neighbours:
        """Duplicates pulled one way by one pair, and a last one that turns them the other way."""
        image, own, across = self._copies(generator)
        teacher = (-own).repeat(self.num, 1)
        teacher[-2] = unit(FAR * own + NEAR * across)
        teacher[-1] = unit(NEAR * own - FAR * across)
        return self._placed("flip", image, teacher, generator)

    def outlier(self, generator: torch.Generator) -> Neighbours:
        """Images alike but for the last, whose teacher feature is near all the others."""
        image = self._images(1, generator).repeat(self.num, 1, 1, 1)
        image = image + 0.02 * self.largest * torch.randn(image.shape, generator=generator)
        image[-1] = 3.0 * self.largest * torch.randn(self.shape, generator=generator)
        hub, spread = self._features(1, generator)[0], self._features(self.num, generator)
        across = unit(spread - (spread @ hub)[:, None] * hub)
        teacher = 0.5 * hub + math.sqrt(0.75) * across
        teacher[-1] = hub
        return self._placed("outlier", image, teacher, generator)

    def poisoned(self, generator: torch.Generator) -> Neighbours:
        """Noise with NaN, infinity or a huge value in one pair."""
        image, teacher = self._images(self.num, generator), self._features(self.num, generator)
        poison, row, side = torch.rand(3, generator=generator).tolist()
        value = (math.nan, math.inf, -math.inf, 1e30, 1e20, 0.0)[int(6 * poison)]
        chosen = (image, teacher)[int(2 * side)]
        chosen[-1 if row < 0.5 else 0] = value
        return self._placed("poisoned", image, teacher, generator)

    def _copies(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Copies of one image, the student's unit feature ``z`` of it, and a unit vector across ``z``."""
        image = self._images(1, generator)
        own = self._embed(image)[0]
        other = self._features(1, generator)[0]
        return image.repeat(self.num, 1, 1, 1), own, unit(other - (other @ own) * own)

    def _images(self, num: int, generator: torch.Generator) -> Float[Tensor, "num channels height width"]:
        return noise_for(self.student, (num, *self.shape), generator=generator)

    def _features(self, num: int, generator: torch.Generator) -> Float[Tensor, "num dim"]:
        return unit(torch.randn((num, self.dim), generator=generator))

    @torch.no_grad()
    def _embed(self, image: Tensor) -> Tensor:
        return unit(self.student(image).float())

    def _placed(self, kind: str, image: Tensor, teacher: Tensor, generator: torch.Generator) -> Neighbours:
        """Move the last row, which is the added one, to a random place."""
        added = int(torch.randint(len(image), (), generator=generator))
        order = list(range(len(image) - 1))
        order.insert(added, len(image) - 1)
        return Neighbours(
            data=LocalData(target=image[order], teacher=teacher[order]),
            added=added,
            kind=kind,
            largest_input=self.largest,
        )


Sample = tuple[LocalData, np.ndarray]
Query = Callable[[Sequence[Sample]], Sequence[Mapping[str, Tensor]]]
"""What a step would release, without noise, for each of several samples: a data set and sampled rows of
it. All other coins (views, buckets) are a function of the row, so they are the same for neighbours."""


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
    """State of a climb: neighbours, the smaller one's sum, and the distance of the two sums."""

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
    stop_above: int | float = math.inf,
) -> Found:
    """Look for neighbours whose sums are as far apart as possible: random-restart hill climbing.

    The kinds take turns. Each climb starts from a new pair of its kind and keeps every change of a
    row that makes the distance larger.

    Args:
        query: Sums of a step for some samples.
        makers: For each kind, what makes a pair of it.
        num_tries: Neighbours to compare, the starts of climbs included.
        generator: Source of the search's randomness.
        climb_length: Tries of a climb; 1 tries new pairs only.
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
        climber = _measured(query, makers[next(kinds)](generator))
        best = _better(best, climber)
        for _ in range(min(climb_length, left) - 1):
            if best.largest > stop_above:
                break
            climber = _climbed(query, climber, generator)
            best = _better(best, climber)
    return best


def _better(best: Found, climber: _Climber) -> Found:
    """What is known after one more try."""
    by_kind = dict(best.by_kind)
    by_kind[climber.at.kind] = max(by_kind[climber.at.kind], climber.height)
    best = replace(best, by_kind=by_kind, num_tries=best.num_tries + 1)
    if climber.height <= best.largest:
        return best
    return replace(best, largest=climber.height, kind=climber.at.kind, worst=climber.at)


def _measured(query: Query, at: Neighbours) -> _Climber:
    larger, smaller = query([(at.data, at.larger()), (at.data, at.smaller())])
    return _Climber(at, smaller, distance(larger, smaller))


def _climbed(query: Query, old: _Climber, generator: torch.Generator) -> _Climber:
    """One more try; where the added row alone moves, the smaller sum stays as it was."""
    at, row = _moved(old.at, generator)
    if row == at.added:
        (larger,) = query([(at.data, at.larger())])
        new = _Climber(at, old.smaller, distance(larger, old.smaller))
    else:
        new = _measured(query, at)
    return new if new.height > old.height else old


def _moved(at: Neighbours, generator: torch.Generator) -> tuple[Neighbours, int]:
    """A copy with the image or the teacher feature of one row changed, and that row."""
    coin, place, side, size = torch.rand(4, generator=generator).tolist()
    row = at.added if coin < ADDED_SHARE else int(place * len(at.data))
    scale = STEP_SIZES[0] * (STEP_SIZES[1] / STEP_SIZES[0]) ** size
    image, teacher = at.data.inputs.clone(), at.data.features.clone()
    if side < 0.4:
        image[row] += scale * at.largest_input * torch.randn(image[row].shape, generator=generator)
    else:
        teacher[row] = unit(teacher[row] + scale * torch.randn(teacher[row].shape, generator=generator))
    return replace(at, data=replace(at.data, target=image, teacher=teacher)), row
