"""Made-up pictures: coloured discs and boxes on coloured ground, drawn from a seed and from nothing else."""

import numpy as np

from edgecmd.data.pairs import Images

NUM_SHAPES = 6


def procedural_images(num: int, *, side: int, generator: np.random.Generator) -> Images:
    """Draw ``num`` pictures.

    Args:
        num: Pictures.
        side: Side in pixels.
        generator: Source of randomness.

    Returns:
        uint8, (num, side, side, 3).
    """
    row, column = np.mgrid[0:side, 0:side] / side
    images = np.empty((num, side, side, 3), dtype=np.uint8)
    for index in range(num):
        image = np.broadcast_to(generator.integers(0, 256, 3), (side, side, 3)).astype(np.float64)
        for _ in range(NUM_SHAPES):
            middle_y, middle_x, half_y, half_x, turn = generator.uniform(
                [0, 0, 0.05, 0.05, 0], [1, 1, 0.4, 0.4, np.pi]
            )
            along = (column - middle_x) * np.cos(turn) + (row - middle_y) * np.sin(turn)
            across = (row - middle_y) * np.cos(turn) - (column - middle_x) * np.sin(turn)
            power = generator.choice([2, 8])
            inside = np.abs(along / half_x) ** power + np.abs(across / half_y) ** power < 1
            image[inside] = generator.integers(0, 256, 3)
        images[index] = image
    return images
