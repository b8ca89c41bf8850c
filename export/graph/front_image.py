"""Images of any size, as a part of the exported graph.

Shapes: B batch, N images, H height, W width, C channels, S side of the student's input.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.data.user_files.downsample import middle, shown
from edgecmd.data.user_files.images import WHITE
from edgecmd.settings import CROP, PAD, SQUEEZE
from export.graph.spec import ExportSpec

NUM_GOLDEN = 4
# Of a fit that is not `SQUEEZE`, which old files have without a word: what the card says of it.
FITTED = {
    CROP: "; of what is not square it takes the middle square",
    PAD: "; what is not square stands whole between empty borders",
}


def kept(
    raw_BHWC: Shaped[Tensor, "batch height width channels"], fit: str
) -> Shaped[Tensor, "batch _ _ channels"]:
    """The middle square where ``fit`` is `CROP`, else all of it."""
    height, width = raw_BHWC.shape[1:3]
    short = min(height, width)
    if fit != CROP:
        return raw_BHWC
    return raw_BHWC[:, middle(height, short), middle(width, short)]


def border(size: tuple[int, int], *, side: int) -> tuple[int, int, int, int]:
    """Places left, right, above and below ``size``, rows and columns, in a square; as `functional.pad`."""
    rows, columns = (middle(side, one) for one in size)
    return columns.start, side - columns.stop, rows.start, side - rows.stop


def _resized(image_BCHW: Float[Tensor, "batch channels _ _"], rows: int, columns: int) -> Tensor:
    """By an antialiased linear filter; torch 2.13 makes one column all alike, but not one row."""
    if columns == 1:
        turned = functional.interpolate(
            image_BCHW.transpose(2, 3), size=(1, rows), mode="bilinear", antialias=True
        )
        return turned.transpose(2, 3)
    return functional.interpolate(image_BCHW, size=(rows, columns), mode="bilinear", antialias=True)


class ImageFrontEnd(nn.Module):
    """8-bit images of any size to the student's scaled square, by the rule that made the training data.

    `images.to_square` averages whole blocks where both sides are multiples of S (Pillow's
    ``reduce``), and else filters with Pillow's antialiased ``BILINEAR``. Here both are one path without a
    branch: resize to (f_h S, f_w S), then average blocks of (f_h, f_w). Where both sides are multiples the
    first step changes nothing; else f_h = f_w = 1 and the second step changes nothing. An image of the
    student's own size passes unchanged. Before it `CROP` keeps the middle square. With `PAD` the rows and
    columns that show the image are in place of S, and white is put around them at the end.

    Args:
        spec: Side, fit and scaling.
    """

    def __init__(self, spec: ExportSpec) -> None:
        super().__init__()
        self.side, self.fit, self.offset, self.scale = spec.image_size, spec.fit, spec.offset, spec.scale

    def forward(
        self, image_BHWC: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch channels side side"]:
        """Resize, round to whole grey levels and scale.

        Guarantees:
            Within one grey level of what Pillow makes (it rounds once more, between rows and columns).
        """
        side, image_BHWC = self.side, kept(image_BHWC, self.fit)
        height, width = image_BHWC.shape[1:3]
        down, across = shown((height, width), side=side, fit=self.fit)
        # 0 where both sides are multiples of the student's, else 1: whole numbers, so no branch is traced.
        # None below 0 is divided: ONNX rounds such a quotient up where torch rounds it down.
        uneven = (height % down + width % across + 2 * side - 2) // (2 * side - 1)
        rows = (height // down - 1) * (1 - uneven) + 1
        columns = (width // across - 1) * (1 - uneven) + 1
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(torch.float32)
        large_BCHW = _resized(image_BCHW, down * rows, across * columns)
        blocks = large_BCHW.reshape(*large_BCHW.shape[:2], down, rows, across, columns)
        # Half a grey level is rounded up as Pillow does, by every engine: 0.001 is more than they differ by.
        level = torch.floor(blocks.mean(dim=(3, 5)) + 0.501)
        level_BCSS = functional.pad(level, border((down, across), side=side), value=WHITE)
        return (level_BCSS / 255.0 - self.offset) / self.scale


def image_metadata(spec: ExportSpec) -> dict[str, object]:
    """What the graph does with the bytes."""
    return fit_metadata(spec) | {
        "channel_order": {1: "L", 3: "RGB"}.get(spec.channels, ""),
        "dtype": "uint8",
        "input": "image",
        "layout": "NHWC",
        "offset": spec.offset,
        "resize": "box-or-bilinear",
        "scale": spec.scale,
        "size": "any",
    }


def fit_metadata(spec: ExportSpec) -> dict[str, object]:
    """How what is not square becomes so; nothing where it is squeezed, as by files that do not say it."""
    return {} if spec.fit == SQUEEZE else {"fit": spec.fit}


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
    """``images`` at the student's size, at twice its sides, and at an oblong size that is not a multiple."""
    side = spec.image_size
    sizes = ((side, side), (2 * side, 2 * side), _oblong(side))
    return {f"{height}x{width}": at_size(images, height, width) for height, width in sizes}


def _oblong(side: int) -> tuple[int, int]:
    """Height of two and a half sides, width of half a side: one to shrink and one to enlarge."""
    return 2 * side + side // 2 + 1, side // 2 + 1


def at_size(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """``images`` (N, H, W, C) at another size, each pixel the one it is on: sharp, so hard to resize."""
    rows = np.arange(height) * images.shape[1] // height
    columns = np.arange(width) * images.shape[2] // width
    return np.ascontiguousarray(images[:, rows][:, :, columns])


def pictures_of(report: Mapping[str, Any]) -> str:
    """Channels and layout of images, as a card says them."""
    grey = {1: "grey", 3: "RGB"}.get(report["channels"], f"{report['channels']}-channel")
    return f"{grey} 8-bit pictures of any size, as (batch, height, width, {report['channels']})"


def image_takes(report: Mapping[str, Any]) -> str:
    """What the card says of images that are resized, out of ``report.json``."""
    side = report["image_size"]
    return (
        f"{pictures_of(report)}, resizes them to {side} x {side} as its training pictures were (whole blocks"
        f" averaged where both sides are multiples of {side}, else an antialiased bilinear filter)"
        f"{FITTED.get(report['preprocess'].get('fit'), '')}"
    )


def grey_level(spec: ExportSpec) -> float:
    """One grey level as the student sees it: what two resizes may differ by, see `ImageFrontEnd`."""
    return 1.001 / WHITE / abs(spec.scale)


def fit_steps(spec: ExportSpec, *, empty: str) -> tuple[list[str], str, list[str]]:
    """Steps before and behind the resize, and what the resize makes R rows and Q columns of."""
    side = spec.image_size
    if spec.fit == CROP:
        kept = (
            "Let s be the smaller of height and width. Keep s rows from row floor((height - s) / 2) on, and s"
            " columns from column floor((width - s) / 2) on; these are the input from here on."
        )
        return [kept], f"Let R = Q = {side}.", []
    if spec.fit == PAD:
        sizes = (
            f"Let m be the larger of height and width, R = max(1, floor((2 * {side} * height + m) / (2 * m)))"
            f" and Q = max(1, floor((2 * {side} * width + m) / (2 * m)))."
        )
        around = (
            f"Put these R x Q numbers into {side} x {side} that are {empty} elsewhere, from row"
            f" floor(({side} - R) / 2) and column floor(({side} - Q) / 2) on."
        )
        return [], sizes, [around]
    return [], f"Let R = Q = {side}.", []


def image_steps(spec: ExportSpec) -> list[str]:
    """What `ImageFrontEnd` does, so that it can be written in another language."""
    side, channels = spec.image_size, spec.channels
    before, sizes, behind = fit_steps(spec, empty=str(WHITE))
    order = {1: "grey levels", 3: "red, green, blue"}.get(channels, f"{channels} channels")
    return [
        f"Take 8-bit pixels (height, width, {channels}), {order}, of any size; rows from the top.",
        *before,
        f"{sizes} Resize each channel to R rows and Q columns, in floating point:",
        "Where height is a multiple of R and width is a multiple of Q, each number is the mean of its block"
        " of height / R by width / Q pixels.",
        "Else by an antialiased linear filter, along the rows and along the columns: for n numbers out of N"
        " pixels let z = N / n and w = max(z, 1). Number i is the mean of all pixels j, weighted by"
        " max(0, 1 - |(j + 0.5 - (i + 0.5) * z) / w|); weights are divided by their sum, and nothing beyond"
        " the border counts.",
        "Round each number v to the whole level floor(v + 0.501).",
        *behind,
        f"Compute (level / {WHITE} - offset) / scale in float32, with offset = {spec.offset!r} and"
        f" scale = {spec.scale!r}.",
        f"Give the core (1, {channels}, {side}, {side}): channels first, then rows, then columns.",
    ]
