"""NYU-Depth V2 (Silberman et al. 2012): 1,449 labelled frames in one MATLAB 7.3 file, which is HDF5.

``nyu_depth_v2_labeled.mat``, read by h5py (``pip install "edgecmd[nyu]"``), holds its arrays with the axes
reversed: ``images`` (N, 3, W, H) uint8, ``rawDepths`` and ``depths`` (N, W, H) float metres, ``labels``
(N, W, H) uint16 with 0 for unlabelled and else the place in ``names``, from 1; ``scenes`` and ``sceneTypes``
(1, N) references to text. ``splits.mat`` beside it, where there is one, has the official split in
``trainNdxs`` and ``testNdxs``, from 1.

``rawDepths`` is read, so that missing stays missing (0); ``depths``, with holes filled in, only where it is
alone. Frames of one place (``kitchen_0004a`` and ``kitchen_0004b``) are in one part. Masks: the
`NUM_CLASSES` names that cover most pixels of the frames that are read; all others are ignored. This is
neither the 13 nor the 40 classes of later papers, whose mapping is not in the file.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import loadmat

from edgecmd.core.errors import DataError
from edgecmd.data.labelled import IGNORED, Masks
from edgecmd.data.stored.array_files import chunks
from edgecmd.data.stored.kept_rows import at_once, relabelled
from edgecmd.data.stored.store import Form
from edgecmd.data.stored.through_store import Listed, Read, through_store
from edgecmd.data.user_files.decode import MOST_PIXELS
from edgecmd.data.user_files.downsample import majority
from edgecmd.data.user_files.halves import Halves
from edgecmd.data.user_files.images import Sides, check_size, make_depth, to_square
from edgecmd.data.user_files.reading import reading
from edgecmd.datasets.on_disk.index import TEST, TRAIN, Entry, Index, not_used, unknown_layout
from edgecmd.settings import DataConfig

FILE, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
LABELS = "labels"
NEEDED = ("images", "labels", "names", "scenes", "sceneTypes")
DEPTHS = ("rawDepths", "depths")
KINDS = {"images": "u", "labels": "iu", "rawDepths": "f", "depths": "f"}
NUM_CLASSES = 20
AGAIN = f"Fetch {FILE} again."
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def index_nyu(path: Path, _config: DataConfig) -> Index:
    """Index of NYU-Depth V2; an entry is a frame.

    Args:
        path: The file, or the folder that has it.

    Raises:
        DataError: The file is missing, not what its name says, or h5py is not installed.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise unknown_layout(path, expected=FILE)
    scenes, types = _texts(file, "scenes"), _texts(file, "sceneTypes")
    if len(types) != len(scenes):
        raise DataError(f"{file}: {len(scenes)} scenes and {len(types)} sceneTypes. {AGAIN}")
    _check_shapes(file, len(scenes))
    parts = _official(file.with_name(SPLITS), len(scenes))
    entries = [
        Entry(
            id=f"{row:04d}",
            source=file,
            target=file,
            concept=scene.rstrip(LETTERS) or scene,
            label=kind,
            part=parts[row],
        )
        for row, (scene, kind) in enumerate(zip(scenes, types, strict=True))
    ]
    notes = not_used(path, (file, file.with_name(SPLITS)))
    return Index(
        entries=tuple(entries), unseen="places", read=_read, masks=partial(_masks, file), notes=notes
    )


def _open(file: Path) -> Any:  # noqa: ANN401 - h5py has no types
    """The open HDF5 file."""
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f'{file} is HDF5, which h5py reads; it is not installed. Run `pip install "edgecmd[nyu]"`.'
        ) from error
    with reading(file, what="MATLAB 7.3", way_out=f"It may be cut off. {AGAIN}"):
        opened = h5py.File(file, "r")
        found = sorted(opened)
    missing = [name for name in NEEDED if name not in found]
    if missing or not any(name in found for name in DEPTHS):
        lacking = ", ".join(missing or DEPTHS[:1])
        opened.close()
        raise DataError(f"{file} lacks {lacking}; it has {', '.join(found)}. Expected: {FILE}.")
    return opened


def _check_shapes(file: Path, num: int) -> None:
    """Refuse arrays that are not of ``num`` frames of one size, before any is read."""
    with _open(file) as opened, reading(file, what="MATLAB 7.3", way_out=AGAIN):
        told = {name: opened[name] for name in ("images", "labels", *DEPTHS) if name in opened}
        shapes = {name: (tuple(one.shape), one.dtype.kind) for name, one in told.items()}
    size = shapes["images"][0][2:]
    for name, (shape, kind) in shapes.items():
        wanted = (num, 3, *size) if name == "images" else (num, *size)
        if shape != wanted or len(size) != 2 or math.prod(size) > MOST_PIXELS or kind not in KINDS[name]:
            raise DataError(
                f"{file}: {name!r} has the shape {shape}; {wanted} is expected, of at most"
                f" {MOST_PIXELS:,} pixels a frame. {AGAIN}"
            )


def _texts(file: Path, name: str) -> list[str]:
    """Texts that an array of references leads to."""
    with _open(file) as opened, reading(file, what=f"MATLAB 7.3: {name!r}", way_out=AGAIN):
        return ["".join(map(chr, np.ravel(opened[one]))) for one in np.ravel(opened[name])]


def _official(file: Path, num: int) -> list[str]:
    """Part of each frame; empty texts where there is no split."""
    if not file.is_file():
        return [""] * num
    parts = [""] * num
    with reading(file, what="the official split", way_out="Fetch it again."):
        found = loadmat(str(file))
        for part, name in ((TRAIN, "trainNdxs"), (TEST, "testNdxs")):
            for row in found[name].ravel():
                parts[int(row) - 1] = part
    if not all(parts):
        raise DataError(f"{file} leaves {parts.count('')} of {num} frames in no part. Fetch it again.")
    return parts


def _read(entry: Entry, sides: Sides) -> Halves:
    """Picture and depth of one frame."""
    name = f"{entry.source}: frame {entry.id}"
    with _open(entry.source) as opened:
        depth = next(one for one in DEPTHS if one in opened)
        with reading(Path(name), what="a frame", way_out=AGAIN):
            picture = np.asarray(opened["images"][int(entry.id)]).transpose(2, 1, 0)
            metres = np.asarray(opened[depth][int(entry.id)]).T
    largest, fit = max(sides.source, sides.target), sides.fit
    check_size((picture.shape[1], picture.shape[0]), side=largest, fit=fit, name=name)
    units = np.rint(np.nan_to_num(metres, nan=0.0, posinf=0.0, neginf=0.0) * 1000.0).astype(np.int64)
    half = make_depth(np.maximum(units, 0), ruler=sides.ruler, side=sides.target, fit=fit, name=name)
    return to_square(Image.fromarray(np.ascontiguousarray(picture)), side=sides.source, fit=fit), half


def _masks(file: Path, entries: Sequence[Entry], config: DataConfig, problems: list[str]) -> Masks | None:
    """Masks of the names that cover most pixels; of two equal ones the earlier name."""
    side = config.image_size
    form = Form(shape=(side, side), dtype=np.dtype(np.uint16))

    def read(row: int) -> Read:
        name = entries[row].id
        told = f"MATLAB 7.3: labels of frame {name}"
        with _open(file) as opened, reading(file, what=told, way_out=AGAIN):
            labels = np.asarray(opened["labels"][int(name)], dtype=np.uint16).T
        return {LABELS: majority(labels, side=side, fit=config.fit, ignored=0)}

    listed = Listed(
        what=f"labels {file.resolve()} {side} {config.fit} {config.max_pairs}",
        files=[(one.id, (file,)) for one in entries],
        config=config,
        row_bytes=form.nbytes,
        read=read,
        forms=lambda: {LABELS: form},
        seen=LABELS,
        nouns="masks",
    )
    found = through_store(listed, problems=problems, notes=[])
    if found is None:
        return None
    counts = np.zeros(np.iinfo(form.dtype).max + 1, np.int64)
    for part in chunks(found[LABELS], at_once(found[LABELS])):
        counts += np.bincount(part.ravel(), minlength=len(counts))
    counts[0] = 0
    frequent = [int(one) for one in np.argsort(-counts, kind="stable")[:NUM_CLASSES] if counts[one]]
    table = np.full(len(counts), IGNORED, dtype=np.uint8)
    table[frequent] = np.arange(len(frequent))
    names = _names(file, _texts(file, "names"), frequent)
    return Masks(values=relabelled(found[LABELS], table), names=names)


def _names(file: Path, names: Sequence[str], frequent: Sequence[int]) -> tuple[str, ...]:
    """Names of labels, which count from 1."""
    if max(frequent, default=0) > len(names):
        raise DataError(f"{file} has label {max(frequent)} and {len(names)} names. {AGAIN}")
    return tuple(names[one - 1] for one in frequent)
