"""Neighbouring data sets that are hard for a clipped sum, made of the student's own features.

Shapes: N pairs, C channels, H height, W width, D embedding dimension.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgecmd.core.errors import PrivacyError
from edgecmd.losses import unit
from edgecmd.training.distill import LocalData

# Cosines of the two teacher features that pull a student to opposite sides (the flip pair).
NEAR, FAR = 0.95, 0.3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neighbours:
    """A data set, and the row of it that its neighbour lacks.

    Attributes:
        data: The larger data set, N pairs.
        added: Row that the smaller one lacks.
        kind: How it was made.
    """

    data: LocalData
    added: int
    kind: str

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
        image = image + 0.02 * torch.randn(image.shape, generator=generator)
        image[-1] = 3.0 * torch.randn(self.shape, generator=generator)
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
        return torch.rand((num, *self.shape), generator=generator)

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
        return Neighbours(data=LocalData(target=image[order], teacher=teacher[order]), added=added, kind=kind)
