"""``edgecmd data build rooms``: the files of ``rooms`` and ``objects``, rendered from furniture meshes.

Shapes: N examples, S side of an image.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from edgecmd.catalogue.data_files import write_manifest
from edgecmd.core.errors import DataError
from edgecmd.core.files import files_in_one_piece, write_bytes_atomically, write_text_atomically
from edgecmd.core.machine import require_space
from edgecmd.core.seeding import numpy_generator
from edgecmd.core.text import counted
from edgecmd.data.labelled import IGNORED
from edgecmd.datasets.build.furniture.credits import attribution
from edgecmd.datasets.build.furniture.interiors import room_view
from edgecmd.datasets.build.furniture.kinds import CLASSES, KINDS
from edgecmd.datasets.build.furniture.layout import ROOMS, indoor, make_home
from edgecmd.datasets.build.furniture.libraries import DEBIAN_FOLDER, Piece, read_catalogue
from edgecmd.datasets.build.furniture.ray_caster import EmbreeCaster, MakeCaster
from edgecmd.datasets.build.furniture.render import NOTHING, Shot
from edgecmd.datasets.build.furniture.stock import Item, Stock, count_pieces, stock_up
from edgecmd.datasets.build.furniture.views import object_view
from edgecmd.datasets.build.npz_writer import npz_bytes
from edgecmd.datasets.build.packages import Say, keep_quiet
from edgecmd.datasets.indoor import (
    CONTENT_SHA256,
    NOTICE_FILE,
    OBJECTS_FILE,
    PUBLIC_FILE,
    ROOMS_FILE,
    SIDE,
    TEST,
    TRAIN,
    VALIDATION,
)
from edgecmd.datasets.pinned import content_sha256

ROOMS_A_HOME = 40
# A picture, its depth and its masks, before they are packed.
BYTES_A_VIEW = 10_000
# Depth is kept in steps that fit a byte: 5.1 m of a room, 3.06 m of an object.
ROOM_STEP_MM, OBJECT_STEP_MM = 20, 12
SPLITS = {"pairs": TRAIN, "pool": VALIDATION, "test": TEST}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much is rendered; the default makes the files that ship with edgecmd.

    Attributes:
        rooms: Room pairs; a quarter as many are in the label pool and in the test, three quarters public.
        views: Views of each piece in the object pairs; half as many of each public piece.
        pool_views: Views of each kind in the label pool, shared out among its pieces.
        test_views: Views of each kind in the test.
        seed: Of rooms, cameras and lamps. Which piece serves which part does not depend on it.
    """

    rooms: int = 800
    views: int = 10
    pool_views: int = 36
    test_views: int = 48
    seed: int = 0


class View(TypedDict):
    """One view of a piece."""

    item: Item
    view: int
    split: int


def build_rooms(
    out: Path,
    furniture: Path = DEBIAN_FOLDER,
    *,
    plan: Plan | None = None,
    make_caster: MakeCaster = EmbreeCaster,
    say: Say = keep_quiet,
) -> str:
    """Render both sets and their public images.

    Args:
        out: Folder to write.
        furniture: Folder with libraries of Sweet Home 3D.
        plan: How much; None for what ships.
        make_caster: Who casts the rays.
        say: Called with a line of progress.

    Returns:
        What was written, a line a file.

    Raises:
        DataError: There are no libraries, a kind lacks pieces, or a room cannot be furnished.

    Guarantees:
        No piece serves two of public images, pairs, label pool and test. Equal libraries and arguments
        give equal bytes on one machine with one version of embreex.
    """
    chosen = plan or Plan()
    pieces = read_catalogue(furniture)
    require_space(out, BYTES_A_VIEW * (chosen.rooms + chosen.views * len(pieces)))
    say(f"reading {counted(len(pieces), 'piece')} of furniture")
    stocks = stock_up(pieces, make_caster)
    check_stocks(stocks)
    made = {
        OBJECTS_FILE: object_arrays(stocks, chosen, say=say),
        ROOMS_FILE: room_arrays(stocks, chosen, say=say),
        PUBLIC_FILE: public_arrays(stocks, chosen, say=say),
    }
    lines, files = [], {}
    for name, arrays in made.items():
        files[name] = data = npz_bytes(arrays)
        verdict = "identical to" if content_sha256(arrays) == CONTENT_SHA256[name] else "not"
        rows = len(next(iter(arrays.values())))
        lines.append(
            f"{out / name}: {counted(rows, 'row')}, {len(data) / 1e6:.2f} MB, {verdict} the shipped content"
        )
    used = used_pieces(stocks)
    facts = {
        "plan": {name: getattr(chosen, name) for name in Plan.__dataclass_fields__},
        "content_sha256": {name: content_sha256(arrays) for name, arrays in made.items()},
        "num_pieces": len(used),
        "pieces_by_kind": count_pieces(stocks),
    }
    with files_in_one_piece(out) as parts:
        for name, data in files.items():
            write_bytes_atomically(parts / name, data)
        write_text_atomically(parts / NOTICE_FILE, attribution(used))
        write_manifest(parts, {name: parts / name for name in made}, facts=facts)
    return "\n".join(
        [*lines, f"{out / NOTICE_FILE}: creators of {counted(len(used), 'piece')}, to be passed on with them"]
    )


def used_pieces(stocks: dict[str, Stock]) -> list[Piece]:
    """Every piece that some image may show."""
    return [item.piece for stock in stocks.values() for items in stock.values() for item in items]


def check_stocks(stocks: dict[str, Stock]) -> None:
    """Refuse furniture that lacks a kind in some part.

    Raises:
        DataError: The message names the kinds.
    """
    lacking = sorted({kind for stock in stocks.values() for kind in KINDS if not stock[kind]})
    if lacking:
        raise DataError(
            "There are too few pieces of furniture for four parts with none in common:"
            f" {', '.join(lacking)}. Give more libraries with --furniture; Debian's sweethome3d-furniture"
            " has enough."
        )


def object_arrays(stocks: dict[str, Stock], plan: Plan, *, say: Say) -> dict[str, np.ndarray]:
    """Arrays of `OBJECTS_FILE`."""
    wanted = [
        *every_view(stocks["pairs"], plan.views),
        *shared_views(stocks["pool"], plan.pool_views, split=VALIDATION),
        *shared_views(stocks["test"], plan.test_views, split=TEST),
    ]
    say(f"rendering {counted(len(wanted), 'view')} of single pieces")
    taken = list(take_views(wanted, seed=plan.seed, say=say))
    pieces = sorted({view["item"].piece.key for view, _ in taken})
    row_of = {key: row for row, key in enumerate(pieces)}
    views = [view for view, _ in taken]
    return {
        "rgb": np.stack([shot.rgb for _, shot in taken]),
        "depth": np.stack([in_steps(shot.depth_m, OBJECT_STEP_MM) for _, shot in taken]),
        "depth_step_mm": np.array(OBJECT_STEP_MM, dtype=np.uint16),
        "label": np.array([KINDS.index(view["item"].kind) for view in views], dtype=np.uint8),
        "label_names": np.array(KINDS),
        "piece": np.array([row_of[view["item"].piece.key] for view in views], dtype=np.uint16),
        "pieces": np.array(pieces),
        "view": np.array([view["view"] for view in views], dtype=np.uint16),
        "split": np.array([view["split"] for view in views], dtype=np.uint8),
    }


def every_view(stock: Stock, num_views: int) -> Iterator[View]:
    """The same number of views of every piece that is of a kind."""
    for kind in KINDS:
        for item in stock[kind]:
            yield from (View(item=item, view=view, split=TRAIN) for view in range(num_views))


def shared_views(stock: Stock, num_views: int, *, split: int) -> Iterator[View]:
    """The same number of views of every kind, dealt to its pieces in turn."""
    for kind in KINDS:
        items = stock[kind]
        for view in range(num_views):
            yield View(item=items[view % len(items)], view=view // len(items), split=split)


def take_views(wanted: Iterable[View], *, seed: int, say: Say) -> Iterator[tuple[View, Shot]]:
    """Render views; pieces that are too thin to see are left out, and said."""
    thin: set[str] = set()
    for view in wanted:
        piece = view["item"].piece
        generator = numpy_generator(seed, f"object/{piece.key}", client=view["view"])
        shot = object_view(view["item"], side=SIDE, generator=generator)
        if shot is None:
            if piece.key not in thin:
                say(f"note: {piece.name} ({piece.key}) is hardly visible: views of it are left out")
            thin.add(piece.key)
            continue
        yield view, shot


def room_arrays(stocks: dict[str, Stock], plan: Plan, *, say: Say) -> dict[str, np.ndarray]:
    """Arrays of `ROOMS_FILE`; training rooms keep no classes of their pixels."""
    shots: list[Shot] = []
    split: list[int] = []
    home: list[int] = []
    kinds: list[int] = []
    for part, number in SPLITS.items():
        num = plan.rooms if part == "pairs" else max(len(ROOMS), plan.rooms // 4)
        say(f"rendering {num} rooms: {part}")
        first = max(home, default=-1) + 1
        for row, shot in enumerate(take_rooms(stocks[part], part, num, seed=plan.seed)):
            shots.append(shot)
            split.append(number)
            home.append(first + row // ROOMS_A_HOME)
            kinds.append(row % len(ROOMS))
    masks = np.stack([np.where(shot.code == NOTHING, IGNORED, shot.code) for shot in shots]).astype(np.uint8)
    masks[np.array(split) == TRAIN] = IGNORED
    return {
        "rgb": np.stack([shot.rgb for shot in shots]),
        "depth": np.stack([in_steps(shot.depth_m, ROOM_STEP_MM) for shot in shots]),
        "depth_step_mm": np.array(ROOM_STEP_MM, dtype=np.uint16),
        "mask": masks,
        "room": np.array(kinds, dtype=np.uint8),
        "home": np.array(home, dtype=np.uint16),
        "split": np.array(split, dtype=np.uint8),
        "class_names": np.array(CLASSES),
        "room_names": np.array(ROOMS),
    }


def take_rooms(stock: Stock, part: str, num: int, *, seed: int) -> Iterator[Shot]:
    """Rooms of every type in turn, `ROOMS_A_HOME` of each home."""
    fitting = indoor(stock)
    for row in range(num):
        number = row // ROOMS_A_HOME
        home = make_home(fitting, generator=numpy_generator(seed, f"home/{part}", client=number))
        generator = numpy_generator(seed, f"room/{part}", client=row)
        yield room_view(home, ROOMS[row % len(ROOMS)], side=SIDE, generator=generator)


def public_arrays(stocks: dict[str, Stock], plan: Plan, *, say: Say) -> dict[str, np.ndarray]:
    """Arrays of `PUBLIC_FILE`: images alone, without depth, class or kind."""
    items: Sequence[Item] = [item for items in stocks["public"].values() for item in items]
    views = max(1, plan.views // 2)
    wanted = [View(item=item, view=view, split=TRAIN) for item in items for view in range(views)]
    say(f"rendering {counted(len(wanted), 'public view')} of single pieces")
    taken = list(take_views(wanted, seed=plan.seed, say=say))
    num = max(len(ROOMS), 3 * plan.rooms // 4)
    say(f"rendering {num} public rooms")
    rooms = [shot.rgb for shot in take_rooms(stocks["public"], "public", num, seed=plan.seed)]
    keys = [f"{view['item'].piece.key}/{view['view']:03d}" for view, _ in taken]
    keys += [f"room-{row:04d}/000" for row in range(num)]
    return {"image": np.stack([*(shot.rgb for _, shot in taken), *rooms]), "key": np.array(keys)}


def in_steps(depth_m: np.ndarray, step_mm: int) -> np.ndarray:
    """Distances in whole steps, uint8; 0 where nothing was hit and nowhere else."""
    steps = np.rint(depth_m * 1000.0 / step_mm).clip(1, 255)
    return np.where(depth_m > 0, steps, 0).astype(np.uint8)
