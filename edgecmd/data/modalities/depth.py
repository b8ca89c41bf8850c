"""Depth maps: whole millimetres, 0 where nothing was measured.

Shapes: N examples, B batch, H height, W width.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8, UInt16
from torch import Tensor

from edgecmd.data.modalities.degrade import erased, resample
from edgecmd.data.modalities.motion import Batch, Motion, moved_views
from edgecmd.data.modalities.row import InputShape, Lying, Modality, Stored
from edgecmd.data.modalities.signature import GRID, Rows, Signature, cells, centred_norm, looked_at
from edgecmd.data.stored.array_files import Examples

# Depth is seen as (metres - 2) / 1.5: fixed, so that no private statistic enters.
DEPTH_OFFSET_M, DEPTH_SCALE_M = 2.0, 1.5
MOTION = Motion(max_degrees=5.0, max_shift=0.06, min_scale=0.9, max_scale=1.15, mode="nearest")
NEAREST_M, FARTHEST_M = 0.2, 6.0
# What was not measured is told apart from every distance.
MISSING = (150, 40, 60)
DEPTH_PERCENT, MISSING_SHARE = 1.0, 0.05
FARTHEST_MM = 4000
COARSEST_MM = 4000


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


def input_shape(maps: Examples) -> InputShape:
    """(2, H, W): distance and mask of one map."""
    return 2, int(maps.shape[1]), int(maps.shape[2])


def augment_depth(depth_BCHW: Batch, *, strength: float, generator: torch.Generator) -> Batch:
    """Views of depth maps: moved and mirrored whole pixels, so that nothing mixes with what is missing."""
    return moved_views(depth_BCHW, MOTION, strength=strength, generator=generator)


def from_pictures(
    image_B3HW: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 2 height width"]:
    """The grey of public images as its scaled distance, and a mask that says that all was measured."""
    grey = image_B3HW.mean(dim=1, keepdim=True)
    return torch.cat([grey, torch.ones_like(grey)], dim=1)


def depth_pictures(
    depth_NHW1: UInt16[np.ndarray, "num height width 1"],
) -> UInt8[np.ndarray, "num height width 3"]:
    """Grey by the inverse of the distance, from 0.2 m (white) to 6 m; what is missing is red."""
    metres = np.clip(depth_NHW1.astype(np.float32) / 1000.0, NEAREST_M, FARTHEST_M)
    share = (1.0 / metres - 1.0 / FARTHEST_M) / (1.0 / NEAREST_M - 1.0 / FARTHEST_M)
    # The square root spreads the far half, where rooms have their walls.
    grey = np.rint(255.0 * np.sqrt(share)).astype(np.uint8)
    return np.where(depth_NHW1 == 0, np.asarray(MISSING, dtype=np.uint8), np.repeat(grey, 3, axis=3))


def is_constant(depth_NHW1: Stored) -> Bool[np.ndarray, " num"]:
    """Which maps have one distance in all that was measured, if anything was, (N,)."""
    measured = np.where(depth_NHW1 == 0, depth_NHW1.max(axis=(1, 2, 3), keepdims=True), depth_NHW1)
    return np.asarray(measured.min(axis=(1, 2, 3)) == measured.max(axis=(1, 2, 3)))


def signature(maps: Lying, rows: Rows) -> Signature:
    """Mean distance and missing share over a 16 by 16 grid.

    Near-equal are maps where no cell differs by more than 1% of its distance, or by 5% of its missing share.
    """

    def numbers(part: Stored) -> np.ndarray:
        chunk = part[..., 0]
        share = cells(chunk > 0, GRID).reshape(len(part), -1, 1)
        mean = cells(chunk, GRID).reshape(len(part), -1, 1) / np.maximum(share, 1e-9)
        far = np.where(share >= 0.5, 100.0 * np.log(np.maximum(mean, 1.0)), 0.0) / DEPTH_PERCENT
        missing = share / MISSING_SHARE
        contrast = centred_norm(far, missing)[:, None]
        return np.concatenate([contrast, far[..., 0], missing[..., 0]], axis=1).astype(np.float32)

    found = looked_at(maps, rows, "look-depth", numbers, like=np.dtype(np.float32))
    return Signature(values=found[:, 1:], contrast=found[:, 0])


def erase_depth(target: Stored, level: float, generator: np.random.Generator) -> Stored:
    """Squares of an eight by eight grid not measured, a share of ``level`` of them."""
    return erased(target, level, generator, empty=0)


def noise_depth(target: Stored, level: float, generator: np.random.Generator) -> Stored:
    """Any distance up to `FARTHEST_MM` in a share ``level`` of the pixels, missing ones among them.

    Noise on what was measured alone would leave the outline of an object as it is, whatever its strength.
    """
    spikes = generator.integers(1, FARTHEST_MM + 1, target.shape).astype(target.dtype)
    return np.where(generator.random(target.shape) < level, spikes, target)


def quantise(target: Stored, level: float, _: np.random.Generator) -> Stored:
    """Distances in steps of ``COARSEST_MM ** level`` mm, up to four metres; a measured one is never 0."""
    step = round(COARSEST_MM**level)
    coarse = np.maximum(1, np.rint(target / step) * step)
    return np.where(target == 0, 0, np.clip(coarse, 0, 65535)).astype(target.dtype)


DEPTH = Modality(
    name="depth",
    noun="depth map",
    dtype=np.uint16,
    rank=4,
    allowed="uint16 millimetres of shape (num, height, width, 1), 0 where nothing was measured",
    has_form=lambda maps: maps.shape[3] == 1,
    kinds={"depth": 2},
    input_shape=input_shape,
    size=lambda shape: f"{shape[2]} x {shape[1]} pixels",
    stored_shape=lambda side, **_: (side, side, 1),
    to_input=lambda maps, **_: depth_input(maps),
    view=augment_depth,
    motion=MOTION,
    from_pictures=lambda pictures, _, **__: from_pictures(pictures),
    as_pictures=depth_pictures,
    is_constant=is_constant,
    constant_words="without two different distances",
    looks=(signature,),
    degradations={"quantise": quantise, "erase": erase_depth, "resample": resample, "noise": noise_depth},
    reader="picture",
    front_end="depth16",
    dense_front_end="depth16-dense",
)
