"""Made-up recordings and depth maps whose ranges int8 takes, where no public set of the kind is at hand.

Shapes: N examples, T samples, S side in pixels.
"""

import numpy as np
from jaxtyping import Float32, UInt16

# Of full scale: voices are seldom fainter on average, and none is louder.
LOUDNESS, NOISE = (0.03, 1.0), (1e-4, 1e-1)
LOWEST_HZ, HIGHEST_OF_RATE, MOST_TONES = 60.0, 0.45, 4
# Of rooms, in millimetres; a sensor's noise grows with the square of the distance.
WALL_MM, THING_MM, FLOOR_MM, MOST_THINGS = (1500, 5000), (500, 3500), (600, 1500), 5
NOISE_PER_MM2, EDGE_MM, MOST_MISSING = 1e-6, 80.0, 0.05


def made_sounds(
    num: int, *, samples: int, rate_hz: int | float, generator: np.random.Generator
) -> Float32[np.ndarray, "num samples"]:
    """Tones and chirps, some of them short, in noise: shares of full scale, loud and faint ones.

    Args:
        num: N.
        samples: T.
        rate_hz: Samples a second.
        generator: Source of randomness, and of nothing else.
    """
    place = np.arange(samples) / samples
    found = np.empty((num, samples), np.float32)
    for row in range(num):
        sound = generator.standard_normal(samples) * np.exp(generator.uniform(*np.log(NOISE)))
        for _ in range(generator.integers(1, MOST_TONES + 1)):
            ends_hz = np.exp(generator.uniform(np.log(LOWEST_HZ), np.log(HIGHEST_OF_RATE * rate_hz), 2))
            ends_hz[1] = ends_hz[generator.integers(2)]
            begin, end = np.sort(generator.uniform(-0.3, 1.3, 2))
            pitch_hz = ends_hz[0] + (ends_hz[1] - ends_hz[0]) * place
            tone = np.sin(2 * np.pi * np.cumsum(pitch_hz) / rate_hz)
            sound += generator.uniform(0.05, 0.5) * tone * ((begin <= place) & (place <= end))
        found[row] = sound / np.abs(sound).max() * np.exp(generator.uniform(*np.log(LOUDNESS)))
    return found


def made_depth(
    num: int, *, side: int, generator: np.random.Generator
) -> UInt16[np.ndarray, "num side side 1"]:
    """Rounded things before a wall and a floor, with a sensor's noise and holes: millimetres, 0 is missing.

    Args:
        num: N.
        side: S.
        generator: Source of randomness, and of nothing else.
    """
    row, column = np.mgrid[0:side, 0:side] / side
    found = np.empty((num, side, side, 1), np.uint16)
    for index in range(num):
        scene = np.full((side, side), generator.uniform(*WALL_MM))
        below = np.maximum(row - generator.uniform(0.1, 0.5), 1e-3)
        scene = np.minimum(scene, generator.uniform(*FLOOR_MM) / (2 * below))
        for _ in range(generator.integers(1, MOST_THINGS + 1)):
            middle_y, middle_x, half_y, half_x, turn = generator.uniform(
                [0, 0, 0.05, 0.05, 0], [1, 1, 0.4, 0.4, np.pi]
            )
            along = (column - middle_x) * np.cos(turn) + (row - middle_y) * np.sin(turn)
            across = (row - middle_y) * np.cos(turn) - (column - middle_x) * np.sin(turn)
            far = np.abs(along / half_x) ** 2 + np.abs(across / half_y) ** generator.choice([2, 8])
            front = generator.uniform(*THING_MM) - generator.uniform(0, 300) * np.sqrt(np.maximum(1 - far, 0))
            scene = np.where((far < 1) & (front < scene), front, scene)
        edges = np.hypot(*np.gradient(scene)) > EDGE_MM
        scene += generator.standard_normal(scene.shape) * NOISE_PER_MM2 * scene**2
        holes = edges | (generator.random(scene.shape) < generator.uniform(0, MOST_MISSING))
        found[index, :, :, 0] = np.where(holes, 0, np.rint(scene).clip(1, 65535))
    return found
