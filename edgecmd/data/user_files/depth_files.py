"""Depth maps of a user: units of a file into millimetres, and down to the side of a run.

Shapes: H height, W width, S side of the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, UInt16

from edgecmd.core.errors import DataError
from edgecmd.core.text import counted
from edgecmd.data.user_files.downsample import median_of_measured
from edgecmd.settings import DataConfig

# What uint16 millimetres can hold; 0 stands for missing.
MOST_MM = 65_535
# Depth cameras and rooms lie in between; a median outside is more often a wrong scale than a wide hall.
USUAL_M = (0.1, 20.0)

Raw = Integer[np.ndarray, "height width"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruler:
    """What a unit of a depth file is: ``data.depth_scale_mm``, and ``data.depth_max_m``."""

    mm_per_unit: float = DataConfig().depth_scale_mm
    most_m: float = DataConfig().depth_max_m

    @property
    def is_plain(self) -> bool:
        """Whether neither setting was changed, so that nobody said that the targets are depth."""
        return self == Ruler()


def ruler_of(config: DataConfig) -> Ruler:
    """What the settings say."""
    return Ruler(mm_per_unit=config.depth_scale_mm, most_m=config.depth_max_m)


def to_millimetres(units: Raw, ruler: Ruler) -> UInt16[np.ndarray, "height width"]:
    """Whole millimetres out of a file's units.

    Args:
        units: 0 where nothing was measured.
        ruler: Millimetres a unit, and the farthest distance that counts.

    Guarantees:
        0 stays 0, and nothing else becomes 0 but what lies beyond ``ruler.most_m`` (or beyond 65.535 m,
        which cannot be stored): too far to trust is missing, not nearer than it is.
    """
    most = ruler.most_m * 1000.0 if ruler.most_m else float(MOST_MM)
    exact = units.astype(np.float64) * ruler.mm_per_unit
    whole = np.clip(np.rint(exact), 1, MOST_MM)
    return np.where((units > 0) & (exact <= most), whole, 0).astype(np.uint16)


def make_depth(units: Raw, *, ruler: Ruler, side: int, name: str) -> UInt16[np.ndarray, "side side 1"]:
    """A depth map as a run takes it.

    Args:
        units: As the file has them, height and width at least ``side``.
        ruler: What they mean.
        side: S.
        name: What an error calls the map.

    Raises:
        DataError: Nothing in it was measured.
    """
    depth = median_of_measured(to_millimetres(units, ruler), side=side)
    if not depth.any():
        raise DataError(
            f"{name} has no measurement that counts (data.depth_scale_mm={ruler.mm_per_unit:g},"
            f" data.depth_max_m={ruler.most_m:g}; 0 is missing, and so is a pixel of the result of which less"
            " than half was measured). Check the scale, or remove the pair."
        )
    return depth[..., None]


def notes_on_depth(maps: Sequence[np.ndarray]) -> list[str]:
    """A sentence about range and gaps, so that a wrong scale is seen; another where it looks wrong.

    Args:
        maps: uint16 millimetres, (S, S, 1) each.
    """
    depth = np.stack(maps)
    metres = depth[depth > 0] / 1000.0
    low, middle, high = np.quantile(metres, (0.01, 0.5, 0.99))
    notes = [
        f"{counted(len(maps), 'depth map')}: {low:.2f} to {high:.2f} m (1% and 99%), median {middle:.2f} m;"
        f" {np.mean(depth == 0):.0%} of the pixels are missing."
    ]
    if not USUAL_M[0] <= middle <= USUAL_M[1]:
        notes.append(
            f"A median of {middle:.3g} m is unusual: data.depth_scale_mm is millimetres a unit (1 for"
            " millimetres, 0.2 for 5000 units a metre). Change it where it does not fit your files."
        )
    return notes
