"""Both halves of a pair from its two files, and all pairs as two arrays.

What a target is follows from its file: ``.wav`` or ``.flac`` is a recording, one channel of 16 bits a depth
map, everything else an image. Strings have no files: they are cells of ``pairs.csv``.

Shapes: S side of a half.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecmd.core.errors import DataError
from edgecmd.data.modalities import utf8
from edgecmd.data.modalities.depth import DEPTH
from edgecmd.data.modalities.image import IMAGE
from edgecmd.data.modalities.row import Modality
from edgecmd.data.modalities.table import modality_of, target_kinds
from edgecmd.data.stored.array_files import Examples
from edgecmd.data.stored.store import Form
from edgecmd.data.user_files import images, sound_files
from edgecmd.data.user_files.csv_tables import few
from edgecmd.data.user_files.images import (
    Sides,
    check_pair_aspect,
    check_size,
    flatten_alpha,
    is_depth,
    make_depth,
    notes_on_depth,
    open_upright,
    own_size,
    read_image,
    to_square,
)
from edgecmd.data.user_files.sound_files import Recording, notes_on, read_recording

# A picture or depth map (S, S[, C]), or a recording.
Half = np.ndarray | Recording
# A picture of the source (S, S, 3), and the target.
Halves = tuple[np.ndarray, Half]
# Depth maps, (S, S, 1) each.
Maps = Examples


def read_source(path: Path, *, side: int, fit: str) -> tuple[np.ndarray, tuple[int, int]]:
    """An image of the source, (S, S, 3), and the file's own width and height.

    Raises:
        DataError: The file is broken, smaller than ``side``, or a depth map.
    """
    image = read_image(path, least=side)
    size = own_size(image)
    check_size(size, side=side, fit=fit, name=str(path))
    return to_square(image.convert("RGB"), side=side, fit=fit), size


def read_target(path: Path, sides: Sides) -> tuple[Half, tuple[int, int] | None]:
    """A target, and the file's own width and height where it has them.

    Raises:
        DataError: The file is broken, or does not suit ``sides``.
    """
    suffix = path.suffix.lower()
    reader = next((one for one in READERS.values() if suffix in one.suffixes), READERS["picture"])
    return reader.read(path, sides)


def _read_recording(path: Path, sides: Sides) -> tuple[Half, None]:
    return read_recording(path, sides.clip), None


def _read_picture(path: Path, sides: Sides) -> tuple[Half, tuple[int, int]]:
    """A depth map where the file has one channel of 16 bits, else an image."""
    side, fit = sides.target, sides.fit
    image = open_upright(path, least=side)
    size = own_size(image)
    check_size(size, side=side, fit=fit, name=str(path))
    if is_depth(image):
        units = np.asarray(image).astype(np.int64)
        return make_depth(units, ruler=sides.ruler, side=side, fit=fit, name=str(path)), size
    if image.mode == "F":
        raise DataError(f"{path} holds floating-point numbers. Save depth as PNG of 16 bits, one channel.")
    return to_square(flatten_alpha(image, name=str(path)), side=side, fit=fit), size


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """How files of targets are read.

    Attributes:
        suffixes: Endings of its files, in lower case.
        read: A target as a run takes it, and the file's own width and height where it has them.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, Sides], tuple[Half, tuple[int, int] | None]]


# By the names that a row of `edgecmd.data.modalities.table.MODALITIES` calls them.
READERS: dict[str, Reader] = {
    "picture": Reader(suffixes=images.SUFFIXES, read=_read_picture),
    "sound": Reader(suffixes=sound_files.SUFFIXES, read=_read_recording),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """How targets are read that are cells of ``pairs.csv`` and no files.

    Attributes:
        column: Name of their column.
        kind: Of the targets, a key of `edgecmd.data.modalities.table.target_kinds`.
        read: A target as a run takes it; raises a DataError that says what is wrong with the cell.
        is_cut: Whether a cell holds more than is kept.
        setting: What says how much is kept.
    """

    column: str
    kind: str
    read: Callable[[str, Sides], np.ndarray]
    is_cut: Callable[[str, Sides], bool]
    setting: str


# By the same names.
CELLS: dict[str, Cell] = {
    "strings": Cell(
        column="text",
        kind="text",
        read=lambda text, sides: utf8.row_of(text, sides.text_bytes),
        is_cut=lambda text, sides: utf8.is_cut(text, sides.text_bytes),
        setting="data.text_bytes",
    ),
}


def form_of(kind: str, sides: Sides) -> Form:
    """One stored target of a kind, a key of `edgecmd.data.modalities.table.target_kinds`."""
    modality = target_kinds()[kind]
    shape = modality.stored_shape(
        channels=modality.kinds[kind],
        side=sides.target,
        samples=sides.clip.num_samples,
        text_bytes=sides.text_bytes,
    )
    return Form(shape=shape, dtype=np.dtype(modality.dtype))


def read_halves(source: Path, target: Path, sides: Sides) -> Halves:
    """Both halves of a pair; images and depth maps of one field of view.

    Raises:
        DataError: A file is broken, or does not suit ``sides`` or the other.
    """
    half, target_size = read_target(target, sides)
    picture, source_size = read_source(source, side=sides.source, fit=sides.fit)
    if target_size is not None:
        check_pair_aspect(source_size, target_size, name=str(target))
    return picture, half


def stored_half(half: Half) -> np.ndarray:
    """The numbers of a half, without what its reader knows beside them."""
    return half.samples if isinstance(half, Recording) else half


def half_modality(half: Half) -> Modality:
    """Modality of a half; of a grey image with two axes too."""
    stored = stored_half(half)
    return modality_of(stored[None, ..., None] if stored.ndim == 2 else stored[None])


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is to be known of a target beside its numbers.

    Attributes:
        modality: Name of its modality.
        axes: Of its numbers: 3 for a colour image, 2 for a grey one.
        seconds: Length of a recording, see `edgecmd.data.user_files.sound_files.Recording`.
        clipped_share: Share of its samples at full scale.
    """

    modality: str
    axes: int
    seconds: float = 0.0
    clipped_share: float = 0.0


def seen_of(half: Half) -> Seen:
    """What is to be known of a target."""
    name, axes = half_modality(half).name, stored_half(half).ndim
    if isinstance(half, Recording):
        return Seen(modality=name, axes=axes, seconds=half.seconds, clipped_share=half.clipped_share)
    return Seen(modality=name, axes=axes)


def check_one_kind(found: Mapping[str, Seen], sides: Sides, *, where: str, problems: list[str]) -> None:
    """Refuse depth maps beside images, and a scale of depth where there is none.

    Args:
        found: What is known of the targets, by id.
        sides: What they were read with.
        where: Their folder, for the message.
        problems: Gets a sentence for each.
    """
    maps = [name for name, one in found.items() if one.modality == DEPTH.name]
    pictures = [name for name, one in found.items() if one.modality == IMAGE.name]
    if maps and pictures:
        problems.append(
            f"{where} has {few(maps)} of 16 bits, which are depth maps, and {few(pictures)} of 8 bits, which"
            " are images. Keep one kind; the targets of a run have one modality."
        )
    if pictures and not maps and not sides.ruler.is_plain:
        problems.append(
            f"data.depth_scale_mm={sides.ruler.mm_per_unit:g} and data.depth_max_m={sides.ruler.most_m:g}"
            f" are for depth maps, but {where} has 8-bit images, such as {pictures[0]}. Save depth with 16"
            " bits and one channel; an 8-bit grey image is never read as depth."
        )


def notes_on_targets(found: Mapping[str, Seen], maps: Maps, sides: Sides) -> list[str]:
    """What a user may want to know of targets that can be used: recordings cut or clipped, range of depth.

    Args:
        found: What is known of the targets, by id.
        maps: Those that are depth maps.
        sides: What they were read with.
    """
    recordings = {name: one for name, one in found.items() if one.seconds}
    notes = notes_on(recordings, clip=sides.clip) if recordings else []
    return [*notes, *(notes_on_depth(maps) if len(maps) else [])]
