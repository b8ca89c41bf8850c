"""Stored numbers to network input; the exported graph does the same arithmetic.

Shapes: B batch, H height, W width, C channels, T samples of a recording.
"""

import numpy as np
import torch
from jaxtyping import Float, Int16, UInt8, UInt16
from torch import Tensor

from edgecmd.data.pairs import Targets, target_kind

# The source modality is always seen as (value - 0.5) / 0.25: fixed, so that no private statistic enters.
SOURCE_OFFSET = 0.5
SOURCE_SCALE = 0.25
# Depth is seen as (metres - 2) / 1.5, a recording as its share of full scale: fixed for the same reason.
DEPTH_OFFSET_M, DEPTH_SCALE_M = 2.0, 1.5
FULL_SCALE = 32768.0


def to_input(
    images_BHWC: UInt8[np.ndarray, "batch height width channels"], *, offset: float, scale: float
) -> Float[Tensor, "batch channels height width"]:
    """Scale uint8 images to ``(value / 255 - offset) / scale``.

    Args:
        images_BHWC: Images, uint8.
        offset: Value in [0, 1] that becomes zero.
        scale: Divisor.
    """
    image_BCHW = torch.from_numpy(np.ascontiguousarray(images_BHWC)).permute(0, 3, 1, 2)
    scaled = (image_BCHW.to(torch.float32) / 255.0 - offset) / scale
    return scaled.contiguous(memory_format=torch.channels_last)


def depth_input(
    depth_BHW1: UInt16[np.ndarray, "batch height width 1"],
) -> Float[Tensor, "batch 2 height width"]:
    """Depth in millimetres as two channels: scaled metres, and whether anything was measured.

    What is missing (0) is 0 in both channels; it is never taken for a distance.
    """
    depth = torch.from_numpy(np.ascontiguousarray(depth_BHW1).astype(np.float32)).permute(0, 3, 1, 2)
    measured = (depth > 0).to(torch.float32)
    scaled = (depth / 1000.0 - DEPTH_OFFSET_M) / DEPTH_SCALE_M * measured
    return torch.cat([scaled, measured], dim=1).contiguous(memory_format=torch.channels_last)


def wave_input(wave_BT: Int16[np.ndarray, "batch samples"]) -> Float[Tensor, "batch 1 1 samples"]:
    """Recordings as shares of full scale; a line of one pixel height, so that all inputs have four axes."""
    return torch.from_numpy(np.ascontiguousarray(wave_BT).astype(np.float32) / FULL_SCALE)[:, None, None]


def target_input(
    target: Targets, *, offset: float, scale: float
) -> Float[Tensor, "batch channels height width"]:
    """Targets of any modality as a student sees them.

    Args:
        target: See `edgecmd.data.pairs.TARGETS`.
        offset: ``data.target_offset``; for images alone.
        scale: ``data.target_scale``; for images alone.
    """
    kind = target_kind(target)
    if kind == "depth":
        return depth_input(target)
    return wave_input(target) if kind == "wave" else to_input(target, offset=offset, scale=scale)


def source_input(source: Targets) -> Float[Tensor, "batch channels height width"]:
    """Sources of any modality as every teacher sees them: the same numbers, pictures on a fixed scale."""
    return target_input(source, offset=SOURCE_OFFSET, scale=SOURCE_SCALE)
