"""Depth maps in millimetres of any size, as a part of the exported graph.

Shapes: B batch, N inputs, H height, W width, S side of the student's input.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt16
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.data.modalities.depth import DEPTH_OFFSET_M, DEPTH_SCALE_M
from edgecmd.data.user_files.downsample import shown
from export.graph.front_image import FITTED, border, fit_metadata, fit_steps, kept
from export.graph.spec import ExportSpec

NUM_GOLDEN = 4
FARTHEST_MM = 8000


class DepthFrontEnd(nn.Module):
    """16-bit depth maps of any size to scaled metres and a mask, as `depth_input` does.

    Each pixel of the result is the one that is under its centre: nothing is averaged, so that no distance
    mixes with another or with what is missing. The place follows from whole numbers, alike on every machine.

    Of `CROP` and `PAD` see `ImageFrontEnd`; a border is missing.

    Args:
        spec: Side and fit.
    """

    def __init__(self, spec: ExportSpec) -> None:
        super().__init__()
        self.side, self.fit = spec.image_size, spec.fit

    def forward(
        self, depth_BHW1: UInt16[Tensor, "batch height width 1"]
    ) -> Float[Tensor, "batch 2 side side"]:
        """Choose pixels and scale; 0 is missing, and 0 in both channels."""
        depth_BHW1 = kept(depth_BHW1, self.fit)
        depth_BHW = depth_BHW1.to(torch.float32)[..., 0]
        size = (depth_BHW.shape[1], depth_BHW.shape[2])
        small = shown(size, side=self.side, fit=self.fit)
        # The pixel under the centre of each of the result's; float64 is exact enough for these quotients.
        rows, columns = (
            torch.floor((torch.arange(1, 2 * num, 2) * one).to(torch.float64) / (2 * num)).to(torch.int64)
            for one, num in zip(size, small, strict=True)
        )
        picked = depth_BHW.index_select(1, rows).index_select(2, columns)
        depth_BSS = functional.pad(picked, border(small, side=self.side))
        measured = depth_BSS.clamp(max=1.0)
        scaled = (depth_BSS / 1000.0 - DEPTH_OFFSET_M) / DEPTH_SCALE_M * measured
        return torch.stack([scaled, measured], dim=1)


def depth_metadata(spec: ExportSpec) -> dict[str, object]:
    """What the graph does with the numbers."""
    return fit_metadata(spec) | {
        "dtype": "uint16",
        "input": "depth",
        "layout": "NHW1",
        "missing": 0,
        "offset_m": DEPTH_OFFSET_M,
        "resize": "nearest",
        "scale_m": DEPTH_SCALE_M,
        "size": "any",
        "unit": "millimetre",
    }


def depth_golden(spec: ExportSpec) -> tuple[np.ndarray, np.ndarray]:
    """Seeded steps of distance with holes: (N, S, S, 1) and the same at another, oblong size."""
    generator, maps = np.random.default_rng(0), []
    for index in range(NUM_GOLDEN):
        block = 2 ** (index + 1)
        side = -(-spec.image_size // block)
        small = generator.integers(0, FARTHEST_MM, (side, side, 1), dtype=np.uint16)
        small[generator.random(small.shape) < 0.2] = 0
        large = small.repeat(block, axis=0).repeat(block, axis=1)
        maps.append(large[: spec.image_size, : spec.image_size])
    own = np.stack(maps)
    return own, nearest(own[-2:], *_oblong(spec.image_size))


def depth_variants(maps: np.ndarray, spec: ExportSpec) -> dict[str, np.ndarray]:
    """``maps`` at the student's size, at twice its sides, and at an oblong size that is not a multiple."""
    side = spec.image_size
    sizes = ((side, side), (2 * side, 2 * side), _oblong(side))
    return {f"{height}x{width}": nearest(maps, height, width) for height, width in sizes}


def _oblong(side: int) -> tuple[int, int]:
    return side + side // 2 + 1, side + side // 4 + 2


def nearest(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """``maps`` (N, H, W, 1) at another size, each pixel the one that is under its centre."""
    rows = (2 * np.arange(height) + 1) * maps.shape[1] // (2 * height)
    columns = (2 * np.arange(width) + 1) * maps.shape[2] // (2 * width)
    return np.ascontiguousarray(maps[:, rows][:, :, columns])


def depth_takes(report: Mapping[str, Any]) -> str:
    """What the card says of depth maps, out of ``report.json``."""
    side = report["image_size"]
    return (
        "depth maps of any size, 16-bit millimetres as (batch, height, width, 1) with 0 where nothing was"
        f" measured, takes {side} x {side} of their pixels (the nearest; none is averaged with another)"
        f"{FITTED.get(report['preprocess'].get('fit'), '')}"
    )


def depth_steps(spec: ExportSpec) -> list[str]:
    """What `DepthFrontEnd` does, so that it can be written in another language."""
    before, sizes, behind = fit_steps(spec, empty="0")
    return [
        "Take 16-bit whole millimetres (height, width, 1) of any size, 0 where nothing was measured.",
        *before,
        f"{sizes} Take R rows and Q columns of them, none mixed with another: number (r, q) is pixel"
        " (floor((2 * r + 1) * height / (2 * R)), floor((2 * q + 1) * width / (2 * Q))).",
        *behind,
        "Let measured = min(millimetres, 1): 1 where something was measured, else 0.",
        f"Let metres = (millimetres / 1000 - {DEPTH_OFFSET_M!r}) / {DEPTH_SCALE_M!r} * measured, in float32.",
        f"Give the core (1, 2, {spec.image_size}, {spec.image_size}): metres, then measured.",
    ]
