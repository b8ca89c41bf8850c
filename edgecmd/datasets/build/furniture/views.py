"""Single pieces of furniture, seen from around and above, before plain paper.

Every piece is brought to one size: distance then tells shape alone, and says no more about how large a
thing is than an image does.
"""

import numpy as np

from edgecmd.datasets.build.furniture.render import NOTHING, Camera, Shot, Thing, render
from edgecmd.datasets.build.furniture.stock import Item

RADIUS_M = 0.75
FIELD_DEGREES = 45.0
MIN_COVER = 0.02
MAX_TRIES = 20


def lamp_direction(generator: np.random.Generator, *, spread: float) -> np.ndarray:
    """Towards a lamp above and a little to the left, moved by ``spread``; of unit length."""
    lamp = np.array([-0.35, 1.0, 0.45]) + spread * generator.normal(size=3)
    return np.asarray(lamp / np.linalg.norm(lamp))


def object_view(item: Item, *, side: int, generator: np.random.Generator) -> Shot | None:
    """One view of a piece that covers at least `MIN_COVER` of the frame, or None after `MAX_TRIES`.

    Args:
        item: The piece.
        side: Side of the image in pixels.
        generator: Source of the place of camera and lamp.
    """
    for _ in range(MAX_TRIES):
        shot = _look_at(item, side=side, generator=generator)
        if np.mean(shot.code != NOTHING) >= MIN_COVER:
            return shot
    return None


def _look_at(item: Item, *, side: int, generator: np.random.Generator) -> Shot:
    scale = 2.0 * RADIUS_M / float(np.linalg.norm(item.mesh.size_m))
    yaw, pitch = generator.uniform(0.0, 2.0 * np.pi), np.radians(generator.uniform(5.0, 40.0))
    distance = RADIUS_M / np.sin(np.radians(FIELD_DEGREES / 2.0)) * generator.uniform(0.85, 1.1)
    centre = np.array([0.0, item.mesh.size_m[1] * scale / 2.0, 0.0])
    away = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    camera = Camera(
        eye=centre + distance * away,
        target=centre + generator.normal(size=3) * RADIUS_M * 0.05,
        field_degrees=FIELD_DEGREES,
    )
    thing = Thing(
        mesh=item.mesh,
        caster=item.caster,
        code=0,
        turn=0.0,
        place=np.zeros(3),
        tint=np.ones(3, dtype=np.float32),
        scale=scale,
    )
    return render(
        [thing],
        camera,
        side=side,
        lamp=lamp_direction(generator, spread=0.15),
        background=np.full(3, generator.uniform(0.92, 1.0)),
    )
