"""Pictures of any size, as a part of the exported graph.

Shapes: B batch, N images, H height, W width, C channels, S side of the student's input.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

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


def pictures_of(report: Mapping[str, Any]) -> str:
    """Channels and layout of pictures, as a card says them."""
    grey = {1: "grey", 3: "RGB"}.get(report["channels"], f"{report['channels']}-channel")
    return f"{grey} 8-bit pictures of any size, as (batch, height, width, {report['channels']})"


def image_takes(report: Mapping[str, Any]) -> str:
    """What the card says of pictures that are resized, out of ``report.json``."""
    side = report["image_size"]
    return (
        f"{pictures_of(report)}, resizes them to {side} x {side} as its training pictures were (whole blocks"
        f" averaged where both sides are multiples of {side}, else an antialiased bilinear filter)"
    )
