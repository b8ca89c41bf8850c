"""Views of furnished rooms that show enough of them, found in a known number of tries."""

from collections.abc import Sequence

import numpy as np

from edgecmd.core.errors import DataError
from edgecmd.datasets.build.furniture.kinds import CLASSES, STRUCTURE
from edgecmd.datasets.build.furniture.layout import RECIPES, Home, Layout, furnish, walls
from edgecmd.datasets.build.furniture.render import NOTHING, Camera, Plane, Shot, render
from edgecmd.datasets.build.furniture.views import lamp_direction

MAX_LAYOUTS, MAX_LOOKS = 60, 4
PREVIEW_PX = 32
# A view shows at least this share of furniture, three pieces of at least `MIN_PIECE`, no piece that fills
# more than `MAX_PIECE`, nothing nearer than `NEAREST_M`, and of the room's own kind at least `MIN_OWN`.
MIN_FURNITURE, MIN_PIECES, MIN_PIECE, MAX_PIECE, NEAREST_M, MIN_OWN = 0.2, 3, 0.004, 0.45, 0.45, 0.015


def room_view(home: Home, room: str, *, side: int, generator: np.random.Generator) -> Shot:
    """Furnish a room until a view of it shows enough.

    Args:
        home: Whose room.
        room: A key of `RECIPES`.
        side: Side of the image in pixels.
        generator: Source of layout, camera and lamp.

    Raises:
        DataError: None of `MAX_LAYOUTS` layouts shows enough, such as when there is hardly any furniture.
    """
    for _ in range(MAX_LAYOUTS):
        layout = furnish(home, room, generator=generator)
        planes = walls(home, layout.size_m)
        for _ in range(MAX_LOOKS):
            camera = _camera(layout, generator=generator)
            lamp = lamp_direction(generator, spread=0.1)
            preview = _shoot(layout, planes, camera, lamp, side=PREVIEW_PX, supersampling=1)
            if shows_enough(preview, room):
                return _shoot(layout, planes, camera, lamp, side=side)
    own = next(iter(RECIPES[room]))
    counts = ", ".join(f"{len(items)} {kind}" for kind, items in home.stock.items())
    raise DataError(
        f"No view of a {room} shows enough in {MAX_LAYOUTS} layouts of {MAX_LOOKS} views: it needs a"
        f" {own} that fits and {MIN_PIECES} pieces in sight. The home has {counts}. Add furniture libraries."
    )


def _camera(layout: Layout, *, generator: np.random.Generator) -> Camera:
    """Eyes of someone who stands at the open front and looks at the back."""
    width, _, depth = layout.size_m
    return Camera(
        eye=np.array(
            [
                generator.uniform(-0.35, 0.35) * width,
                generator.uniform(1.2, 1.75),
                depth / 2.0 * generator.uniform(0.85, 1.2),
            ]
        ),
        target=np.array([generator.uniform(-0.2, 0.2) * width, generator.uniform(0.35, 0.8), -0.2 * depth]),
        field_degrees=generator.uniform(52.0, 68.0),
    )


def _shoot(
    layout: Layout,
    planes: Sequence[Plane],
    camera: Camera,
    lamp: np.ndarray,
    *,
    side: int,
    supersampling: int = 2,
) -> Shot:
    return render(
        layout.things,
        camera,
        side=side,
        lamp=lamp,
        planes=planes,
        background=np.full(3, 0.9),
        supersampling=supersampling,
    )


def shows_enough(shot: Shot, room: str) -> bool:
    """Whether a view of a room has enough furniture in it, and not one piece before all else."""
    covers = np.bincount(shot.thing[shot.thing != NOTHING], minlength=1) / shot.thing.size
    seen = shot.depth_m[shot.code != NOTHING]
    own = shot.code == CLASSES.index(next(iter(RECIPES[room])))
    return bool(
        (shot.code >= len(STRUCTURE)).mean() > MIN_FURNITURE
        and covers.max() < MAX_PIECE
        and (covers > MIN_PIECE).sum() >= MIN_PIECES
        and own.mean() > MIN_OWN
        and np.percentile(seen, 2) > NEAREST_M
    )
