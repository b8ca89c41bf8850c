"""Furnished rooms: homes with furniture and colours of their own, and rooms put together in them.

Frame of a room: x to the right, y up, z towards the viewer; the back wall is at z = -depth / 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgecmd.datasets.build.furniture.kinds import CLASSES, OTHER, OUTDOORS, VEHICLES
from edgecmd.datasets.build.furniture.render import Plane, Thing
from edgecmd.datasets.build.furniture.stock import Item, Stock

ROOMS = ("bathroom", "bedroom", "kitchen", "living room", "office")
# How often each kind is tried in each room; the first is in every one of its rooms.
RECIPES: dict[str, dict[str, float]] = {
    "bathroom": {
        "sanitary": 5.0,
        "cabinet": 1.5,
        "plant": 0.7,
        "other": 1.2,
        "appliance": 0.7,
        "lamp": 0.7,
        "opening": 0.4,
    },
    "bedroom": {
        "bed": 2.0,
        "cabinet": 3.0,
        "chair": 1.0,
        "lamp": 1.5,
        "table": 1.0,
        "plant": 0.8,
        "screen": 0.6,
        "opening": 0.4,
        "person": 0.5,
        "other": 0.6,
    },
    "kitchen": {
        "appliance": 5.0,
        "table": 2.0,
        "chair": 2.0,
        "cabinet": 2.5,
        "sanitary": 0.7,
        "plant": 0.5,
        "person": 0.4,
        "opening": 0.4,
        "other": 0.8,
    },
    "living room": {
        "sofa": 4.0,
        "chair": 2.0,
        "table": 2.0,
        "screen": 1.5,
        "plant": 1.5,
        "cabinet": 1.0,
        "lamp": 1.2,
        "person": 0.8,
        "opening": 0.4,
        "other": 0.5,
    },
    "office": {
        "table": 4.0,
        "chair": 3.0,
        "screen": 3.0,
        "cabinet": 2.0,
        "plant": 0.8,
        "lamp": 1.0,
        "person": 0.7,
        "opening": 0.4,
        "other": 0.5,
    },
}
SMALLEST_M, LARGEST_M = 0.15, 2.6
# What stands on tables and low cabinets where it is smaller than this.
ON_TOP_M = 0.75
ON_TOP = ("screen", "lamp", "plant", "other", "appliance")
MAX_TOP_M = 1.3
SHARE_OF_STOCK = 0.7
MAX_DRAWS = 80


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Home:
    """What the rooms of one home share.

    Attributes:
        stock: Furniture by kind.
        wall: Colour of the walls, (3,).
        floor: Colour of the floor.
        ceiling: Colour of the ceiling.
    """

    stock: Stock
    wall: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray


def indoor(stock: Stock) -> dict[str, list[Item]]:
    """Items that fit into a room."""
    return {
        kind: [
            item
            for item in items
            if item.piece.category not in (*OUTDOORS, VEHICLES)
            and SMALLEST_M < max(item.mesh.size_m) < LARGEST_M
        ]
        for kind, items in stock.items()
    }


def make_home(stock: Stock, *, generator: np.random.Generator) -> Home:
    """A home with a share of the stock and calm colours.

    Of each kind it has at least one piece, and where the stock has any one that stands on the floor.
    """
    chosen: dict[str, list[Item]] = {}
    for kind, items in stock.items():
        num = min(len(items), max(1, round(SHARE_OF_STOCK * len(items))))
        order = [items[row] for row in generator.permutation(len(items))]
        standing = next((item for item in order if not _is_small(item)), None)
        chosen[kind] = order[:num]
        if standing is not None and standing not in chosen[kind]:
            chosen[kind].append(standing)
    wall = generator.uniform(0.78, 0.95) + generator.normal(size=3) * 0.03
    floor = generator.uniform(0.45, 0.7) * np.array([1.0, 0.87, 0.72]) + generator.normal(size=3) * 0.03
    return Home(
        stock=chosen,
        wall=wall.clip(0.05, 1.0),
        floor=floor.clip(0.05, 1.0),
        ceiling=np.full(3, 0.95),
    )


@dataclass(kw_only=True, slots=True)
class Layout:
    """A room while it is being furnished.

    Attributes:
        size_m: Width, height and depth.
        things: What stands in it.
        footprints: Floor that is taken, as (left, right, back, front).
        tops: Where small things can stand: x, y, z, width and depth of the surface.
    """

    size_m: tuple[float, float, float]
    things: list[Thing] = field(default_factory=list)
    footprints: list[tuple[float, float, float, float]] = field(default_factory=list)
    tops: list[tuple[float, float, float, float, float]] = field(default_factory=list)

    def add(self, item: Item, *, turn: float, place: tuple[float, float, float], tint: np.ndarray) -> None:
        """Put a piece somewhere."""
        self.things.append(
            Thing(
                mesh=item.mesh,
                caster=item.caster,
                code=CLASSES.index(item.kind),
                turn=turn,
                place=np.array(place),
                tint=tint,
            )
        )


def furnish(home: Home, room: str, *, generator: np.random.Generator) -> Layout:
    """Put four to eight pieces of a home into a room of one of `ROOMS`, where they do not overlap."""
    width, depth = generator.uniform(2.4, 3.8), generator.uniform(2.4, 3.6)
    layout = Layout(size_m=(width, generator.uniform(2.3, 2.8), depth))
    recipe = RECIPES[room]
    shares = np.array(list(recipe.values())) / sum(recipe.values())
    wanted = int(generator.integers(4, 9))
    for _ in range(MAX_DRAWS):
        kind = str(generator.choice(list(recipe), p=shares)) if layout.things else next(iter(recipe))
        items = _choices(home.stock, kind, room)
        if not layout.things:
            items = [item for item in home.stock.get(kind, ()) if not _is_small(item)]
        if items:
            _try_to_place(layout, items[int(generator.integers(len(items)))], generator=generator)
        if len(layout.things) == wanted:
            break
    return layout


def _choices(stock: Stock, kind: str, room: str) -> Sequence[Item]:
    """Items of a kind; of what is of no kind, those that the catalogue sorts into that room."""
    items = stock.get(kind, ())
    if kind != OTHER:
        return items
    return [item for item in items if item.piece.category.lower() == room] or items


def _is_small(item: Item) -> bool:
    """Whether a piece stands on others."""
    return item.kind in ON_TOP and max(item.mesh.size_m) < ON_TOP_M


def _try_to_place(layout: Layout, item: Item, *, generator: np.random.Generator) -> None:
    tint = (1.0 + generator.normal(size=3) * 0.03).clip(0.8, 1.2).astype(np.float32)
    if item.kind == "opening":
        _place_in_wall(layout, item, tint=tint, generator=generator)
    elif _is_small(item):
        _place_on_top(layout, item, tint=tint, generator=generator)
    else:
        _place_on_floor(layout, item, tint=tint, generator=generator)


def _place_in_wall(layout: Layout, item: Item, *, tint: np.ndarray, generator: np.random.Generator) -> None:
    width, _, depth = layout.size_m
    if item.mesh.size_m[0] > 0.9 * width:
        return
    reach = (width - item.mesh.size_m[0]) / 2.0
    place = (
        generator.uniform(-reach, reach),
        max(item.piece.elevation_m, 0.0),
        (item.mesh.size_m[2] - depth) / 2.0,
    )
    layout.add(item, turn=0.0, place=place, tint=tint)


def _place_on_top(layout: Layout, item: Item, *, tint: np.ndarray, generator: np.random.Generator) -> None:
    if not layout.tops:
        return
    x, y, z, width, depth = layout.tops[int(generator.integers(len(layout.tops)))]
    place = (x + generator.uniform(-0.3, 0.3) * width, y, z + generator.uniform(-0.3, 0.3) * depth)
    layout.add(item, turn=generator.uniform(-0.6, 0.6), place=place, tint=tint)


def _place_on_floor(layout: Layout, item: Item, *, tint: np.ndarray, generator: np.random.Generator) -> None:
    """Against the back wall, against a side, or in the middle at any angle."""
    room_width, _, room_depth = layout.size_m
    side = str(generator.choice(["back", "left", "right", "middle"], p=[0.4, 0.2, 0.2, 0.2]))
    angles = {"back": 0.0, "left": np.pi / 2, "right": -np.pi / 2}
    turn = float(angles[side] if side in angles else generator.uniform(0.0, 2.0 * np.pi))
    width, depth = _extent(item, turn)
    if width > 0.85 * room_width or depth > 0.75 * room_depth:
        return
    x = generator.uniform(-1.0, 1.0) * (room_width - width) / 2.0
    z = generator.uniform(-1.0, 1.0) * (room_depth - depth) / 2.0
    if side == "middle":
        x, z = x / 2.0, z / 2.0
    x, z = _against(side, x, z, ((room_width - width) / 2.0, (room_depth - depth) / 2.0))
    footprint = (x - width / 2.0, x + width / 2.0, z - depth / 2.0, z + depth / 2.0)
    if any(_overlap(footprint, other) for other in layout.footprints):
        return
    layout.footprints.append(footprint)
    base = item.piece.elevation_m if item.kind != "table" else 0.0
    top = base + item.mesh.size_m[1]
    if item.kind in ("table", "cabinet") and top < MAX_TOP_M:
        layout.tops.append((x, top, z, width, depth))
    layout.add(item, turn=turn, place=(x, base, z), tint=tint)


def _extent(item: Item, turn: float) -> tuple[float, float]:
    """Width and depth of the box around a turned piece."""
    width, _, depth = item.mesh.size_m
    cosine, sine = abs(np.cos(turn)), abs(np.sin(turn))
    return float(cosine * width + sine * depth), float(sine * width + cosine * depth)


def _against(side: str, x: float, z: float, reach: tuple[float, float]) -> tuple[float, float]:
    moved: Mapping[str, tuple[float, float]] = {
        "back": (x, -reach[1]),
        "left": (-reach[0], z),
        "right": (reach[0], z),
        "middle": (x, z),
    }
    return moved[side]


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def walls(home: Home, size_m: tuple[float, float, float]) -> list[Plane]:
    """Floor, two sides, back wall and ceiling of a room; the front is open."""
    width, height, depth = size_m
    wall, floor = CLASSES.index("wall"), CLASSES.index("floor")
    rows = (
        (1, 0.0, (0.0, 1.0, 0.0), floor, home.floor),
        (1, height, (0.0, -1.0, 0.0), wall, home.ceiling),
        (0, -width / 2.0, (1.0, 0.0, 0.0), wall, home.wall),
        (0, width / 2.0, (-1.0, 0.0, 0.0), wall, home.wall),
        (2, -depth / 2.0, (0.0, 0.0, 1.0), wall, home.wall),
    )
    return [
        Plane(axis=axis, value=value, normal=np.array(normal), code=code, colour=colour)
        for axis, value, normal, code, colour in rows
    ]
