"""Public anchors: negatives that share nothing with any pair, made from the run's seed.

Four kinds: teacher features of public images, of all that can be found where that is public, of images drawn
by a procedure, and directions drawn at random. What they are made of comes in as an `AnchorSource`; where the
images are is not known here.

Shapes: K anchors, M public images, D embedding dimension, R by Q places of an image.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edgecmd.core.errors import ConfigError, choose
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.modalities.row import Pictures
from edgecmd.data.pairs import Images
from edgecmd.data.stored.array_files import Examples
from edgecmd.settings import DistillConfig

Anchors = Float[Tensor, "anchors dim"]
# Of a made-up picture.
NUM_SHAPES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorSource:
    """What anchors are made of.

    Attributes:
        public: Teacher features of the public images, (M, D); for a dense student of all their places,
            (M, D, R, Q).
        embed: The same of other images, in memory.
        dim: D.
        side: Side of a made-up image in pixels.
        things: Teacher features of all that can be found, as ``public``, where the data set says that this is
            public and the same whatever pairs there are; None where it does not.
    """

    public: Callable[[], Examples]
    embed: Callable[[Images], np.ndarray]
    dim: Callable[[], int]
    side: int
    things: Callable[[], Examples] | None = None


def make_anchors(settings: DistillConfig, source: AnchorSource, *, seed: int) -> Anchors:
    """Anchors of ``distill.anchors``, (K, D), on the CPU.

    Args:
        settings: ``anchors`` and ``num_anchors``.
        source: Where features come from.
        seed: Of the run.

    Raises:
        ConfigError: The kind is unknown, or needs a public gallery that there is not.

    Guarantees:
        A function of the settings, the teacher and the public images; no pair is asked for.
    """
    kind = choose("distill.anchors", settings.anchors, ANCHORS)
    return torch.from_numpy(np.ascontiguousarray(kind(source, settings.num_anchors, seed), dtype=np.float32))


def anchors_digest(anchors: Anchors) -> str:
    """SHA-256 of the anchors' float32 values; equal on one machine, and another's may round otherwise."""
    return hashlib.sha256(anchors.cpu().contiguous().numpy().tobytes()).hexdigest()


def _public_kind(source: AnchorSource, num: int, seed: int) -> np.ndarray:
    return _some_of(source.public(), num, seed)


def _gallery_kind(source: AnchorSource, num: int, seed: int) -> np.ndarray:
    if source.things is None:
        raise ConfigError(
            "distill.anchors='gallery' needs a list of things that is public, whatever pairs there are: of"
            " the sets that ship, words has one; a device that reads its own pairs has none. Set"
            " distill.anchors to 'public'."
        )
    return _some_of(source.things(), num, seed)


def _some_of(features: Examples, num: int, seed: int) -> np.ndarray:
    return _places(features, np.sort(_drawn(features, num, seed)))


def _drawn(features: Examples, num: int, seed: int) -> np.ndarray:
    """Numbers of ``num`` places of all images, row by row; an image that is no map is one place."""
    total = len(features) * math.prod(features.shape[2:])
    return numpy_generator(seed, "anchors").permutation(total)[:num]


def _places(features: Examples, numbers: np.ndarray) -> np.ndarray:
    """Features of the places of those numbers, (K, D); one map is in memory at a time."""
    image, place = np.divmod(numbers, math.prod(features.shape[2:]))
    found = [features[row].reshape(features.shape[1], -1)[:, at] for row, at in zip(image, place)]
    return np.array(found, features.dtype).reshape(-1, features.shape[1])


def procedural_images(num: int, *, side: int, generator: np.random.Generator) -> Pictures:
    """Made-up pictures: coloured discs and boxes on coloured ground, drawn from a seed and nothing else.

    Args:
        num: Images.
        side: Side in pixels.
        generator: Source of randomness.

    Returns:
        uint8, (num, side, side, 3).
    """
    row, column = np.mgrid[0:side, 0:side] / side
    images = np.empty((num, side, side, 3), dtype=np.uint8)
    for index in range(num):
        image = np.broadcast_to(generator.integers(0, 256, 3), (side, side, 3)).astype(np.float64)
        for _ in range(NUM_SHAPES):
            middle_y, middle_x, half_y, half_x, turn = generator.uniform(
                [0, 0, 0.05, 0.05, 0], [1, 1, 0.4, 0.4, np.pi]
            )
            along = (column - middle_x) * np.cos(turn) + (row - middle_y) * np.sin(turn)
            across = (row - middle_y) * np.cos(turn) - (column - middle_x) * np.sin(turn)
            power = generator.choice([2, 8])
            inside = np.abs(along / half_x) ** power + np.abs(across / half_y) ** power < 1
            image[inside] = generator.integers(0, 256, 3)
        images[index] = image
    return images


def _procedural_kind(source: AnchorSource, num: int, seed: int) -> np.ndarray:
    """Teacher features of made-up images, for a source modality without a public set."""
    coins = numpy_generator(seed, "procedural-anchors")
    found = source.embed(procedural_images(num, side=source.side, generator=coins))
    return found if found.ndim == 2 else _places(found, _drawn(found, num, seed))


def _random_kind(source: AnchorSource, num: int, seed: int) -> np.ndarray:
    """Random unit vectors of the teacher's dimension; no image is needed."""
    directions = numpy_generator(seed, "random-anchors").normal(size=(num, source.dim()))
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))


ANCHORS: dict[str, Callable[[AnchorSource, int, int], np.ndarray]] = {
    "public": _public_kind,
    "gallery": _gallery_kind,
    "procedural": _procedural_kind,
    "random": _random_kind,
}
