"""Targets of any modality as pictures, for people and for a teacher that knows pictures alone.

Shapes: N examples, H height, W width, C channels, T samples.
"""

import numpy as np
from jaxtyping import UInt8, UInt16

from edgecmd.data.labelled import IGNORED
from edgecmd.data.pairs import Images, Targets, target_kind

NEAREST_M, FARTHEST_M = 0.2, 6.0
# What was not measured is told apart from every distance.
MISSING = (150, 40, 60)


def as_pictures(target: Targets) -> Images:
    """Images as they are; depth as grey, near is white; a recording as its log-mel picture, low below."""
    kind = target_kind(target)
    if kind == "depth":
        return depth_pictures(target)
    return wave_pictures(target) if kind == "wave" else target


def depth_pictures(
    depth_NHW1: UInt16[np.ndarray, "num height width 1"],
) -> UInt8[np.ndarray, "num height width 3"]:
    """Grey by the inverse of the distance, from 0.2 m (white) to 6 m; what is missing is red."""
    metres = np.clip(depth_NHW1.astype(np.float32) / 1000.0, NEAREST_M, FARTHEST_M)
    share = (1.0 / metres - 1.0 / FARTHEST_M) / (1.0 / NEAREST_M - 1.0 / FARTHEST_M)
    # The square root spreads the far half, where rooms have their walls.
    grey = np.rint(255.0 * np.sqrt(share)).astype(np.uint8)
    return np.where(depth_NHW1 == 0, np.asarray(MISSING, dtype=np.uint8), np.repeat(grey, 3, axis=3))


def mask_pictures(
    mask_NHW: UInt8[np.ndarray, "num height width"], *, num_classes: int
) -> UInt8[np.ndarray, "num height width 3"]:
    """Classes of pixels as colours evenly around the circle of hues; what does not count is white."""
    hues = np.arange(num_classes) / num_classes
    phases = np.stack([np.cos(2 * np.pi * (hues - shift / 3)) for shift in range(3)], axis=1)
    # Light and dark in turn, so that neighbours on the circle differ too.
    light = np.where(np.arange(num_classes) % 2, 170.0, 110.0)[:, None]
    colours = np.full((IGNORED + 1, 3), 255, dtype=np.uint8)
    colours[:num_classes] = np.rint(light + 85.0 * phases).astype(np.uint8)
    return np.asarray(colours[mask_NHW])


def wave_pictures(wave_NT: Targets) -> UInt8[np.ndarray, "num mels frames 1"]:
    """Log-mel pictures, loud is dark; the same numbers that a student of recordings sees."""
    import torch

    from edgecmd.data.student_input import wave_input
    from edgecmd.models.log_mel import CENTRE, SPREAD, LogMel

    with torch.no_grad():
        seen = LogMel()(wave_input(wave_NT)).numpy()[:, 0, ::-1]
    share = np.clip(seen * SPREAD + CENTRE, 0.0, 1.0)
    return np.asarray(np.rint(255.0 * (1.0 - share)).astype(np.uint8))[..., None]
