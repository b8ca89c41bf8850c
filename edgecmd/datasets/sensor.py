"""What a depth sensor would make of exact distances: noise that grows with the distance, and holes.

A simulation, not a model of one device. The quadratic growth of the noise is that of structured light and
stereo (Khoshelham and Elberink 2012, doi:10.3390/s120201437: about 1.4 mm at 1 m and 35 mm at 5 m for the
first Kinect); holes come where such sensors have them, at the edges of things and on surfaces that are
seen at a grazing angle.

Shapes: N maps, H height, W width.
"""

import numpy as np
from jaxtyping import Bool, Float32, UInt16

from edgecmd.core.seeding import numpy_generator

SEED = 0
# A jump between neighbours that is larger than this share of the distance is an edge, or all but grazing.
EDGE_SHARE = 0.05


def simulate_sensor(
    depth_NHW1: UInt16[np.ndarray, "num height width 1"], *, noise: float, holes: float
) -> UInt16[np.ndarray, "num height width 1"]:
    """Depth maps as a sensor gives them.

    Args:
        depth_NHW1: Exact millimetres, 0 where nothing is.
        noise: Standard deviation at 1 m, in millimetres; it grows with the square of the distance.
        holes: Probability that a pixel at an edge is missing.

    Returns:
        Millimetres of the same shape; the same array where both are 0.

    Guarantees:
        What is missing stays missing, and nothing measured becomes 0 by noise. Equal maps and settings
        give equal results, and map n does not depend on the maps after it.
    """
    if noise == 0.0 and holes == 0.0:
        return depth_NHW1
    sensed = np.empty_like(depth_NHW1)
    for row, exact in enumerate(depth_NHW1[..., 0]):
        generator = numpy_generator(SEED, "depth-sensor", client=row)
        metres = exact.astype(np.float32) / 1000.0
        moved = exact + noise * metres**2 * generator.standard_normal(exact.shape, dtype=np.float32)
        is_hole = at_edges(metres) & (generator.random(exact.shape) < holes)
        kept = np.where(is_hole | (exact == 0), 0.0, np.clip(np.rint(moved), 1.0, 65535.0))
        sensed[row, ..., 0] = kept.astype(np.uint16)
    return sensed


def at_edges(metres_HW: Float32[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Measured pixels beside (left, right, above, below) one that is missing, or much nearer or farther."""
    jump = np.zeros(metres_HW.shape, dtype=np.float32)
    for axis in (0, 1):
        step = np.abs(np.diff(metres_HW, axis=axis))
        for pad in ((1, 0), (0, 1)):
            widths = [pad if one == axis else (0, 0) for one in (0, 1)]
            jump = np.maximum(jump, np.pad(step, widths))
    return np.asarray((metres_HW > 0) & (jump > EDGE_SHARE * metres_HW))
