"""From what a sensor gives to what a student takes, as a part of the exported graph.

A front end is chosen by ``ExportSpec.front_end``. Everything that differs from one kind of input to another
stands in its row of `FRONT_ENDS`: the module, the free axes, an example, the metadata, and inputs of several
sizes for the checks.

Shapes: B batch, N images, H height, W width, C channels, S side of the student's input.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.row import Modality
from export.graph.front_dense import (
    DenseDepthFrontEnd,
    DenseImageFrontEnd,
    dense_depth_metadata,
    dense_depth_takes,
    dense_image_metadata,
    dense_image_takes,
    dense_tracing,
    dense_variants,
)
from export.graph.front_depth import DepthFrontEnd, depth_golden, depth_metadata, depth_takes, depth_variants
from export.graph.front_wave import (
    WaveFrontEnd,
    generate_basis,
    wave_golden,
    wave_metadata,
    wave_takes,
    wave_tracing,
    wave_variants,
)
from export.graph.spec import ExportSpec

NUM_GOLDEN = 4


class ImageFrontEnd(nn.Module):
    """8-bit pictures of any size to the student's scaled square, by the rule that made the training data.

    `images.squeeze` averages whole blocks where both sides are multiples of S (Pillow's
    ``reduce``), and else filters with Pillow's antialiased ``BILINEAR``. Here both are one path without a
    branch: resize to (f_h S, f_w S), then average blocks of (f_h, f_w). Where both sides are multiples the
    first step changes nothing; else f_h = f_w = 1 and the second step changes nothing. A picture of the
    student's own size passes unchanged.

    Args:
        spec: Side and scaling.
    """

    def __init__(self, spec: ExportSpec) -> None:
        super().__init__()
        self.side, self.offset, self.scale = spec.image_size, spec.offset, spec.scale

    def forward(
        self, image_BHWC: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch channels side side"]:
        """Resize, round to whole grey levels and scale.

        Guarantees:
            Within one grey level of what Pillow makes (it rounds once more, between rows and columns).
        """
        side, (height, width) = self.side, image_BHWC.shape[1:3]
        # 0 where both sides are multiples of the student's, else 1: whole numbers, so no branch is traced.
        # None below 0 is divided: ONNX rounds such a quotient up where torch rounds it down.
        uneven = (height % side + width % side + 2 * side - 2) // (2 * side - 1)
        rows = (height // side - 1) * (1 - uneven) + 1
        columns = (width // side - 1) * (1 - uneven) + 1
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(torch.float32)
        large_BCHW = functional.interpolate(
            image_BCHW, size=(side * rows, side * columns), mode="bilinear", antialias=True
        )
        blocks = large_BCHW.reshape(*large_BCHW.shape[:2], side, rows, side, columns)
        # Half a grey level is rounded up as Pillow does, by every engine: 0.001 is more than they differ by.
        level_BCSS = torch.floor(blocks.mean(dim=(3, 5)) + 0.501)
        return (level_BCSS / 255.0 - self.offset) / self.scale


def image_metadata(spec: ExportSpec) -> dict[str, object]:
    """What the graph does with the bytes."""
    return {
        "channel_order": {1: "L", 3: "RGB"}.get(spec.channels, ""),
        "dtype": "uint8",
        "input": "image",
        "layout": "NHWC",
        "offset": spec.offset,
        "resize": "box-or-bilinear",
        "scale": spec.scale,
        "size": "any",
    }


def image_golden(spec: ExportSpec) -> tuple[np.ndarray, np.ndarray]:
    """Seeded noise from fine to coarse: (N, S, S, C) and the same at another, oblong size."""
    generator, images = np.random.default_rng(0), []
    for index in range(NUM_GOLDEN):
        block = 2**index
        side = -(-spec.image_size // block)
        small = generator.integers(0, 256, (side, side, spec.channels), dtype=np.uint8)
        large = small.repeat(block, axis=0).repeat(block, axis=1)
        images.append(large[: spec.image_size, : spec.image_size])
    return np.stack(images), at_size(np.stack(images[-2:]), *_oblong(spec.image_size))


def image_variants(images: np.ndarray, spec: ExportSpec) -> dict[str, np.ndarray]:
    """``images`` at the student's size, at twice its sides, and at an oblong size that is no multiple."""
    side = spec.image_size
    sizes = ((side, side), (2 * side, 2 * side), _oblong(side))
    return {f"{height}x{width}": at_size(images, height, width) for height, width in sizes}


def _oblong(side: int) -> tuple[int, int]:
    """Height of two and a half sides, width of half a side: one to shrink and one to enlarge."""
    return 2 * side + side // 2 + 1, side // 2 + 1


def at_size(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """``images`` (N, H, W, C) at another size, each pixel the one it lies on: sharp, so hard to resize."""
    rows = np.arange(height) * images.shape[1] // height
    columns = np.arange(width) * images.shape[2] // width
    return np.ascontiguousarray(images[:, rows][:, :, columns])


def image_takes(report: Mapping[str, Any]) -> str:
    """What the card says of pictures that are resized, out of ``report.json``."""
    grey = {1: "grey", 3: "RGB"}.get(report["channels"], f"{report['channels']}-channel")
    side = report["image_size"]
    return (
        f"{grey} 8-bit pictures of any size, as (batch, height, width, {report['channels']}), resizes them to"
        f" {side} x {side} as its training pictures were (whole blocks averaged where both sides are"
        f" multiples of {side}, else an antialiased bilinear filter)"
    )


def square_tracing(spec: ExportSpec) -> tuple[Tensor, dict[int, Any]]:
    """Two blank inputs of the student's own size; only their number is free."""
    return torch.zeros((2, spec.channels, spec.image_size, spec.image_size)), {0: "batch"}


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontEnd:
    """One kind of input.

    Attributes:
        input_name: Name of the graph's input.
        module: Raw batch to scaled batch (B, C, S, S).
        tracing: A batch of what the student sees, for tracing, and its free axes.
        metadata: What ``edgecmd.preprocess`` says.
        golden: Made-up inputs of the student's own size, and of another.
        variants: Held-out inputs at three sizes by name, the student's own first.
        takes: Of ``report.json``, what the card says that it takes.
        example: File that the card runs.
        dtype: Of stored inputs.
        shape: Of one stored input of the student's own size.
        rewrite: Changes the traced file in place, where the exporter cannot write what is wanted.
    """

    input_name: str
    module: Callable[[ExportSpec], nn.Module]
    metadata: Callable[[ExportSpec], dict[str, object]]
    golden: Callable[[ExportSpec], tuple[np.ndarray, np.ndarray]]
    variants: Callable[[np.ndarray, ExportSpec], dict[str, np.ndarray]]
    takes: Callable[[Mapping[str, Any]], str]
    example: str
    tracing: Callable[[ExportSpec], tuple[Tensor, dict[int, Any]]] = square_tracing
    dtype: type = np.uint8
    shape: Callable[[ExportSpec], tuple[int, ...]] = lambda spec: spec.image_shape
    rewrite: Callable[[onnx.ModelProto], None] = lambda _: None


FRONT_ENDS: dict[str, FrontEnd] = {
    "image": FrontEnd(
        input_name="image",
        module=ImageFrontEnd,
        metadata=image_metadata,
        golden=image_golden,
        variants=image_variants,
        takes=image_takes,
        example="picture.png",
    ),
    "depth16": FrontEnd(
        input_name="depth",
        module=DepthFrontEnd,
        metadata=depth_metadata,
        golden=depth_golden,
        variants=depth_variants,
        takes=depth_takes,
        example="depth.png",
        dtype=np.uint16,
        shape=lambda spec: (spec.image_size, spec.image_size, 1),
    ),
    "image-dense": FrontEnd(
        input_name="image",
        module=DenseImageFrontEnd,
        tracing=dense_tracing,
        metadata=dense_image_metadata,
        golden=image_golden,
        variants=dense_variants,
        takes=dense_image_takes,
        example="picture.png",
    ),
    "depth16-dense": FrontEnd(
        input_name="depth",
        module=DenseDepthFrontEnd,
        tracing=dense_tracing,
        metadata=dense_depth_metadata,
        golden=depth_golden,
        variants=dense_variants,
        takes=dense_depth_takes,
        example="depth.png",
        dtype=np.uint16,
        shape=lambda spec: (spec.image_size, spec.image_size, 1),
    ),
    "wave": FrontEnd(
        input_name="wave",
        module=WaveFrontEnd,
        tracing=wave_tracing,
        metadata=wave_metadata,
        golden=wave_golden,
        variants=wave_variants,
        takes=wave_takes,
        example="recording.wav",
        dtype=np.int16,
        shape=lambda spec: (spec.image_size,),
        rewrite=generate_basis,
    ),
}


def front_end_of(modality: Modality, *, dense: bool) -> str:
    """Key of `FRONT_ENDS` for a student of a modality.

    Raises:
        ConfigError: It has none.
    """
    found = modality.dense_front_end if dense else modality.front_end
    if not found:
        name = "dense_front_end" if dense else "front_end"
        raise ConfigError(
            f"Students of {modality.nouns} cannot be exported: the modality {modality.name!r} has {name}=''."
            f" Allowed: {', '.join(FRONT_ENDS)}. Write one of its own into export.graph.frontends.FRONT_ENDS"
            " and name it in the row of the modality."
        )
    return found
