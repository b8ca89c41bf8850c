"""Images and depth maps for a dense student: no pixel is resized, the border is continued to whole places.

Shapes: B batch, N inputs, H height, W width, C channels, S side that the student was trained at; P, Q are H
and W up to the next multiple of 16.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from edgecmd.data.modalities.depth import DEPTH_OFFSET_M, DEPTH_SCALE_M
from edgecmd.models.students import INPUT_MULTIPLE
from edgecmd.settings import SQUEEZE
from export.graph.front_depth import depth_metadata, nearest
from export.graph.front_image import image_metadata, pictures_of
from export.graph.spec import ExportSpec


def continued(image_BCHW: Float[Tensor, "batch channels _ _"]) -> Float[Tensor, "batch channels _ _"]:
    """The border's pixels repeated to the right and below, up to multiples of `INPUT_MULTIPLE`.

    The most that can be missing is appended and what is too much cut off: no branch, and no operator whose
    output's size is a number in the data.
    """
    missing = INPUT_MULTIPLE - 1
    for axis in (2, 3):
        size = image_BCHW.shape[axis]
        last = image_BCHW.narrow(axis, size - 1, 1)
        more = [-1, -1, -1, -1]
        more[axis] = missing
        long = torch.cat([image_BCHW, last.expand(more)], dim=axis)
        image_BCHW = long.narrow(axis, 0, (size + missing) // INPUT_MULTIPLE * INPUT_MULTIPLE)
    return image_BCHW


class DenseImageFrontEnd(nn.Module):
    """8-bit images, scaled as the student was trained.

    Args:
        spec: Scaling.
    """

    def __init__(self, spec: ExportSpec) -> None:
        super().__init__()
        self.offset, self.scale = spec.offset, spec.scale

    def forward(
        self, image_BHWC: Shaped[Tensor, "batch _ _ channels"]
    ) -> Float[Tensor, "batch channels _ _"]:
        """Scale and continue the border, (B, C, P, Q)."""
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(torch.float32)
        return continued((image_BCHW / 255.0 - self.offset) / self.scale)


class DenseDepthFrontEnd(nn.Module):
    """16-bit depth maps as scaled metres and a mask, as `edgecmd.data.modalities.depth.depth_input` does.

    Args:
        spec: Not used; every front end is made alike.
    """

    def __init__(self, spec: ExportSpec) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, depth_BHW1: Shaped[Tensor, "batch _ _ 1"]) -> Float[Tensor, "batch 2 _ _"]:
        """Scale; 0 is missing, and 0 in both channels. (B, 2, P, Q)."""
        depth_B1HW = depth_BHW1.permute(0, 3, 1, 2).to(torch.float32)
        measured = depth_B1HW.clamp(max=1.0)
        scaled = (depth_B1HW / 1000.0 - DEPTH_OFFSET_M) / DEPTH_SCALE_M * measured
        return continued(torch.cat([scaled, measured], dim=1))


def dense_tracing(spec: ExportSpec) -> tuple[Tensor, dict[int, Any]]:
    """Two blank inputs of whole places, no side equal to another, and the free axes."""
    sides = (INPUT_MULTIPLE * 3, INPUT_MULTIPLE * 5)
    rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
    axes = {0: "batch", 2: INPUT_MULTIPLE * rows, 3: INPUT_MULTIPLE * columns}
    return torch.zeros((2, spec.channels, *sides)), axes


def _unresized(spec: ExportSpec) -> dict[str, object]:
    return {"resize": "none", "trained_size": spec.image_size}


def dense_image_metadata(spec: ExportSpec) -> dict[str, object]:
    """What the graph does with the bytes."""
    return image_metadata(replace(spec, fit=SQUEEZE)) | _unresized(spec)


def dense_depth_metadata(spec: ExportSpec) -> dict[str, object]:
    """What the graph does with the numbers."""
    return depth_metadata(replace(spec, fit=SQUEEZE)) | _unresized(spec)


def dense_variants(inputs: np.ndarray, spec: ExportSpec) -> dict[str, np.ndarray]:
    """``inputs`` at the student's size, at another multiple of 16, and at an oblong size that is none."""
    side = spec.image_size
    sizes = ((side, side), (side + INPUT_MULTIPLE, 2 * side), (side + 5, side - 7))
    return {f"{height}x{width}": nearest(inputs, height, width) for height, width in sizes}


def dense_image_takes(report: Mapping[str, Any]) -> str:
    """What the card says of images at their own size, out of ``report.json``."""
    return (
        f"{pictures_of(report)}, none of whose pixels it resizes (trained at {report['image_size']} x"
        f" {report['image_size']}: objects must be as large in pixels as they were there)"
    )


def dense_depth_takes(report: Mapping[str, Any]) -> str:
    """What the card says of depth maps at their own size, out of ``report.json``."""
    return (
        "depth maps of any size, 16-bit millimetres as (batch, height, width, 1) with 0 where nothing was"
        f" measured, none of whose pixels it resizes (trained at {report['image_size']} x"
        f" {report['image_size']}: objects must be as large in pixels as they were there)"
    )
