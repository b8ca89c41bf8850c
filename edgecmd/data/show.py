"""A contact sheet of an experiment's data, and a table of its counts.

Shapes: T side of a tile, C channels.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from edgecmd.core.errors import DataError
from edgecmd.core.files import write_bytes_atomically
from edgecmd.core.seeding import numpy_generator
from edgecmd.core.text import counted, printable
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.data.labelled import IGNORED, Labels
from edgecmd.data.modalities.table import as_pictures, input_shape, kind_of, modality_of
from edgecmd.data.pairs import PairedData

TILE_PX = 128
GAP_PX = 16
CAPTION_PX = 34
HEADING_PX = 46
MARGIN_PX = 24
MAX_COLUMNS = 16
MAX_CAPTION = 20
DPI = 100
INK, QUIET, FRAME = "#202124", "#5f6368", 218


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cell:
    """Images in a column, each (T, T, 3), and the caption below them."""

    tiles: tuple[np.ndarray, ...]
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Section:
    """A heading and its cells."""

    heading: str
    cells: tuple[Cell, ...]

    @property
    def num_lines(self) -> int:
        """Lines of cells, at most `MAX_COLUMNS` a line."""
        return math.ceil(len(self.cells) / MAX_COLUMNS)

    @property
    def line_px(self) -> int:
        """Height of one line of cells with its captions."""
        tiles = max((len(cell.tiles) for cell in self.cells), default=0)
        return tiles * TILE_PX + CAPTION_PX + GAP_PX

    @property
    def height_px(self) -> int:
        """Height of heading and cells."""
        return HEADING_PX + self.num_lines * self.line_px


def tile(image: UInt8[np.ndarray, "height width channels"]) -> UInt8[np.ndarray, "T T 3"]:
    """Picture stretched to a tile with a thin frame; one channel is grey, other counts are averaged."""
    height, width, channels = image.shape
    if channels != 3:
        image = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    steps = np.arange(TILE_PX)
    stretched = image[steps * height // TILE_PX][:, steps * width // TILE_PX]
    framed = np.full((TILE_PX, TILE_PX, 3), FRAME, dtype=np.uint8)
    framed[1:-1, 1:-1] = stretched[1:-1, 1:-1]
    return framed


def shorten(text: str) -> str:
    """``text`` cut to what fits below a tile."""
    return text if len(text) <= MAX_CAPTION else text[: MAX_CAPTION - 2] + ".."


def caption(name: str, owner: str) -> str:
    """Two lines: the last part of an id, and who made the image."""
    return f"{shorten(printable(name.rsplit('/', 1)[-1]))}\n{shorten(printable(owner))}"


def same_labelling(held: HeldOut, labels: Labels) -> Labels | None:
    """The labelling of ``held`` that has the classes of ``labels``, if there is one."""
    return next((one for one in held.labelled.labels.values() if one.names == labels.names), None)


def name_of(labels: Labels | None, row: int) -> str:
    """Name of the class at ``row``; empty where there is none."""
    value = -1 if labels is None else int(labels.values[row])
    return labels.names[value] if labels is not None and value >= 0 else ""


def draw_rows(total: int, num: int, *, seed: int, purpose: str) -> list[int]:
    """At most ``num`` of ``total`` rows, drawn without replacement, in ascending order."""
    generator = numpy_generator(seed, f"contact-sheet-{purpose}")
    return sorted(generator.choice(total, size=min(num, total), replace=False).tolist())


def train_section(experiment: Experiment, *, num: int, seed: int) -> Section:
    """Training pairs."""
    pairs, ids, owner = experiment.train, experiment.train_ids, experiment.train_owner
    cells = [
        pair_cell(pairs, ids, owner, row) for row in draw_rows(len(pairs), num, seed=seed, purpose="train")
    ]
    return Section(heading=f"training: {len(pairs):,} private pairs, unlabelled", cells=tuple(cells))


def pair_cell(
    pairs: PairedData, ids: Sequence[str], owner: Labels | None, row: int, *, more: Sequence[np.ndarray] = ()
) -> Cell:
    """The pair at ``row``, source above target above ``more``; its number where it has no id."""
    halves = [tile(as_pictures(half[row : row + 1])[0]) for half in (pairs.source, pairs.target)]
    name = caption(ids[row] if ids else str(row), name_of(owner, row))
    return Cell(tiles=(*halves, *more), caption=name)


def held_out_section(experiment: Experiment, name: str, *, num: int, seed: int) -> Section:
    """Pairs of the split ``name``: ``validation`` or ``test``."""
    held: HeldOut = getattr(experiment, name)
    owner = same_labelling(held, experiment.train_owner)
    cells = [
        pair_cell(held.pairs, held.ids, owner, row, more=mask_tiles(held, row))
        for row in draw_rows(len(held), num, seed=seed, purpose=name)
    ]
    is_strict = name == "test" and experiment.test_strict is not experiment.test
    strict = f", {len(experiment.test_strict):,} of them strict" if is_strict else ""
    # Labels may come from people who are in the training pairs too; the test never does.
    unseen = f"unseen {experiment.unseen}" if name == "test" or experiment.unseen == "concepts" else "others"
    return Section(heading=f"{name}: {len(held):,} pairs of {unseen}{strict}", cells=tuple(cells))


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


def mask_tiles(held: HeldOut, row: int) -> tuple[np.ndarray, ...]:
    """The classes of the pixels at ``row`` as a tile, where there are any."""
    masks = held.labelled.masks
    if masks is None:
        return ()
    return (tile(mask_pictures(masks.values[row : row + 1], num_classes=len(masks.names))[0]),)


def public_section(experiment: Experiment, *, num: int, seed: int) -> Section:
    """Public source images."""
    public = experiment.public
    cells = [
        Cell(
            tiles=(tile(as_pictures(public.images[row : row + 1])[0]),),
            caption=caption(public.keys[row], public.keys[row].rpartition("/")[0]),
        )
        for row in draw_rows(len(public), num, seed=seed, purpose="public")
    ]
    return Section(heading=f"public: {len(public):,} source images ({public.name})", cells=tuple(cells))


def contact_sheet(experiment: Experiment, path: Path, *, num: int = 16, seed: int = 0) -> None:
    """Write a PNG with drawn pairs of each split, source above target, and public images.

    Args:
        experiment: Data to show.
        path: PNG to write.
        num: Pairs a split, and public images.
        seed: Of the draw.

    Guarantees:
        Equal arguments give equal bytes under the same version of matplotlib.
    """
    sections = (
        public_section(experiment, num=num, seed=seed),
        train_section(experiment, num=num, seed=seed),
        held_out_section(experiment, "validation", num=num, seed=seed),
        held_out_section(experiment, "test", num=num, seed=seed),
    )
    _write_sheet(path, f"{experiment.name}: {experiment.kind} pairs, source above target", sections)


def mask_sheet(
    held: HeldOut,
    found: Callable[[Sequence[int]], UInt8[np.ndarray, "num height width"]],
    path: Path,
    *,
    title: str,
    num: int = 12,
    seed: int = 0,
) -> None:
    """Write a PNG with drawn pairs of a split that has masks: source, target, true mask, mask found.

    Args:
        held: The split.
        found: Class of each pixel of its pairs at some rows.
        path: PNG to write.
        title: What it shows.
        num: Pairs.
        seed: Of the draw, which does not look at what was found.

    Raises:
        DataError: The split has no masks.
    """
    masks = held.labelled.masks
    if masks is None:
        raise DataError("These pairs have no masks to compare with. Choose a set with masks.")
    rows = draw_rows(len(held), num, seed=seed, purpose="masks")
    pictures = mask_pictures(found(rows), num_classes=len(masks.names))
    cells = [
        pair_cell(held.pairs, held.ids, None, row, more=(*mask_tiles(held, row), tile(picture)))
        for row, picture in zip(rows, pictures, strict=True)
    ]
    heading = "from top: source, target, true mask, predicted mask; colours are classes"
    _write_sheet(path, title, (Section(heading=heading, cells=tuple(cells)),))


def _write_sheet(path: Path, title: str, sections: Sequence[Section]) -> None:
    buffer = io.BytesIO()
    draw_sheet(title, sections).savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    write_bytes_atomically(path, buffer.getvalue())


def draw_sheet(title: str, sections: Sequence[Section]) -> Figure:
    """Figure in which one pixel of a tile is one pixel of the PNG."""
    columns = max(1, max(min(len(section.cells), MAX_COLUMNS) for section in sections))
    width = max(640, 2 * MARGIN_PX + columns * (TILE_PX + GAP_PX) - GAP_PX)
    height = 2 * MARGIN_PX + HEADING_PX + sum(section.height_px for section in sections)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def write(
        text: str,
        left: int,
        top: int,
        *,
        size: int,
        color: str = INK,
        weight: str = "normal",
        ha: Literal["left", "center"] = "left",
    ) -> None:
        # Without parse_math a "$" in an id would be read as a formula.
        style: dict[str, Any] = {"size": size, "color": color, "weight": weight, "ha": ha, "va": "top"}
        figure.text(left / width, 1 - top / height, text, parse_math=False, **style)

    write(title, MARGIN_PX, MARGIN_PX, size=16, weight="bold")
    top = MARGIN_PX + HEADING_PX
    for section in sections:
        write(section.heading, MARGIN_PX, top + 10, size=12)
        for index, cell in enumerate(section.cells):
            line, column = divmod(index, MAX_COLUMNS)
            down = top + HEADING_PX + line * section.line_px
            right = MARGIN_PX + column * (TILE_PX + GAP_PX)
            stack = np.concatenate(cell.tiles)
            canvas[down : down + len(stack), right : right + TILE_PX] = stack
            centre = right + TILE_PX // 2
            write(cell.caption, centre, down + len(stack) + 4, ha="center", size=8, color=QUIET)
        top += section.height_px
    figure.figimage(canvas)
    return figure


def overview(whole: Experiment) -> list[tuple[str, str]]:
    """What a run would use: pairs, sizes and kinds, labellings, the public set, the split."""
    parts = {"training": whole.train, "validation": whole.validation.pairs, "test": whole.test.pairs}
    total = sum(len(part) for part in parts.values())
    halves = {"source": whole.train.source, "target": whole.train.target}
    names: dict[str, set[str]] = {"owners": set(), "concepts": set(), "labels": set()}
    for key, column, own in (
        ("owners", "owner", whole.train_owner),
        ("concepts", "concept", whole.train_concept),
        ("labels", "group", whole.train_labels),
    ):
        for one in (own, *(part.labelled.labels.get(column) for part in (whole.validation, whole.test))):
            names[key] |= set(one.names) if one else set()
    rows = [("pairs", f"{total:,}")]
    for half, array in halves.items():
        size = modality_of(array).size(input_shape(array))
        rows.append((half, f"{kind_of(array)}, {size}"))
    rows += [(key, f"{len(found):,}" if found else "none given") for key, found in names.items()]
    masked = whole.test.labelled.masks
    rows.append(("masks", f"{counted(len(masked.names), 'class', 'classes')}" if masked else "none given"))
    rows.append(("public set", f"{whole.public.name}, {counted(len(whole.public), 'image')}"))
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    rows.append(("split", f"{sizes}; the test has unseen {whole.unseen}"))
    # Where it is the test itself, no stricter one is asked.
    if whole.test_strict is not whole.test:
        told = f"{counted(len(whole.test_strict), 'pair')} of the test look like no training pair"
        rows.append(("strict test", told))
    return rows


def data_table(experiment: Experiment) -> list[dict[str, str | int]]:
    """Counts by split: all pairs, then by who made them, then by label.

    Returns:
        Rows with the keys ``by``, ``name``, ``public``, ``train``, ``validation``, ``test`` and
        ``strict test``; an empty string where a count does not apply.
    """
    held = (experiment.validation, experiment.test, experiment.test_strict)
    rows = [
        table_row("all", "", public=len(experiment.public), counts=(len(experiment.train), *map(len, held)))
    ]
    for by, labels in (("owner", experiment.train_owner), ("label", experiment.train_labels)):
        others = [same_labelling(one, labels) for one in held]
        for value, name in enumerate(labels.names):
            counts = ["" if one is None else int((one.values == value).sum()) for one in (labels, *others)]
            rows.append(table_row(by, name, public="", counts=counts))
    return rows


def table_row(by: str, name: str, *, public: str | int, counts: Sequence[str | int]) -> dict[str, str | int]:
    """One row of `data_table`."""
    splits = dict(zip(("train", "validation", "test", "strict test"), counts, strict=True))
    return {"by": by, "name": name, "public": public, **splits}
