"""Bytes to network input; the exported graph does the same arithmetic.

Shapes: B batch, H height, W width, C channels.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

# The source modality is always seen as (value - 0.5) / 0.25: fixed, so that no private statistic enters.
SOURCE_OFFSET = 0.5
SOURCE_SCALE = 0.25


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


def source_input(
    images_BHWC: UInt8[np.ndarray, "batch height width 3"],
) -> Float[Tensor, "batch 3 height width"]:
    """Scale RGB images as every teacher sees them."""
    return to_input(images_BHWC, offset=SOURCE_OFFSET, scale=SOURCE_SCALE)
