"""Public anchors: negatives that share nothing with any pair, made from the run's seed.

Three kinds: teacher features of public images, of images drawn by a procedure, and directions drawn at
random. What they are made of comes in as an `AnchorSource`; where the images are is not known here.

Shapes: K anchors, M public images, P places of all of them, D embedding dimension.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edgecmd.core.errors import choose
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.modalities.row import Pictures
from edgecmd.data.pairs import Images
from edgecmd.settings import DistillConfig

Anchors = Float[Tensor, "anchors dim"]
# Of a made-up picture.
NUM_SHAPES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorSource:
    """What anchors are made of.

    Attributes:
        public: Teacher features of the public images, (M, D); for a dense student of all places, (P, D).
        embed: The same of other images.
        dim: D.
        dense: Whether a feature is that of a location and not of an image.
        side: Side of a made-up image in pixels.
    """

    public: Callable[[], np.ndarray]
    embed: Callable[[Images], np.ndarray]
    dim: Callable[[], int]
    dense: bool
    side: int


def make_anchors(settings: DistillConfig, source: AnchorSource, *, seed: int) -> Anchors:
    """Anchors of ``distill.anchors``, (K, D), on the CPU.

    Args:
        settings: ``anchors`` and ``num_anchors``.
        source: Where features come from.
        seed: Of the run.

    Raises:
        ConfigError: The kind is unknown.

    Guarantees:
        A function of the settings, the teacher and the public images; no pair is asked for.
    """
    kind = choose("distill.anchors", settings.anchors, ANCHORS)
    return torch.from_numpy(np.ascontiguousarray(kind(source, settings.num_anchors, seed), dtype=np.float32))


def anchors_digest(anchors: Anchors) -> str:
    """SHA-256 of the anchors' float32 values; equal on one machine, and another's may round otherwise."""
    return hashlib.sha256(anchors.cpu().contiguous().numpy().tobytes()).hexdigest()


def _public_kind(source: AnchorSource, num: int, seed: int) -> np.ndarray:
    features = source.public()
    chosen = numpy_generator(seed, "anchors").permutation(len(features))[:num]
    return features[np.sort(chosen)]


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
    if not source.dense:
        return found
    chosen = numpy_generator(seed, "anchors").permutation(len(found))
    return found[chosen[:num]]


def _random_kind(source: AnchorSource, num: int, seed: int) -> np.ndarray:
    """Random unit vectors of the teacher's dimension; no image is needed."""
    directions = numpy_generator(seed, "random-anchors").normal(size=(num, source.dim()))
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))


ANCHORS: dict[str, Callable[[AnchorSource, int, int], np.ndarray]] = {
    "public": _public_kind,
    "procedural": _procedural_kind,
    "random": _random_kind,
}
