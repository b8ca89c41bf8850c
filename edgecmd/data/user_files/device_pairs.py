"""A device's own pairs, read one by one: a pair affects only its own gradient.

Kind and shape of the target are settings, never found out from the data. A pair that cannot be read, has
another kind or shape, or lacks its other half is left out by itself; how many there were is for the
device's own log. No pair and one pair are answers like any other. Labels beside the pairs are not read.

Shapes: N pairs, S side of an image, T samples of a recording.
"""

import csv
import hashlib
import math
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from edgecmd.core.errors import DataError, PrivacyError, choose
from edgecmd.data.modalities.image import IMAGE
from edgecmd.data.modalities.table import target_kinds
from edgecmd.data.pairs import PairedData
from edgecmd.data.stored.decoded_pairs import Decoded, DecodedPairs
from edgecmd.data.user_files import images as image_files
from edgecmd.data.user_files.csv_tables import (
    canonical,
    delimiter_of,
    names_in,
    without_ending,
    without_last_empty,
)
from edgecmd.data.user_files.decode import ArrayHeader, DecodeError, npz_arrays, npz_headers, npz_rows
from edgecmd.data.user_files.halves import (
    CELLS,
    READERS,
    Cell,
    Half,
    form_of,
    half_modality,
    read_halves,
    read_source,
    stored_half,
)
from edgecmd.data.user_files.images import (
    Sides,
    check_pair_aspect,
    check_size,
    sides_of,
    to_grey,
    to_rgb,
    to_square,
)
from edgecmd.data.user_files.npz import RATE, is_depth, is_line, measured
from edgecmd.data.user_files.pair_files import MEDIA, is_hidden
from edgecmd.settings import DataConfig

SHOWN_REASONS = 5
# Of one file. More could fill the memory of a device, and one pair would end its answer.
MOST_BYTES, MOST_PIXELS = 200_000_000, 50_000_000
# Of a line of pairs.csv.
MOST_LINE_BYTES = 65_536


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DevicePairs:
    """What a device reads of its folder or .npz.

    Attributes:
        data: The pairs that can be used, in the order of their names; any number, none included.
        digests: For each pair 32 hexadecimal digits of SHA-256 over its two halves as they are stored.
        present: The same of all pairs that are there, those included that these settings cannot use. A
            server chooses settings, so what a folder is recognised by must not depend on them.
        skipped: Why each other pair was left out. Private: for the device's own log.
    """

    data: PairedData
    digests: tuple[str, ...]
    present: tuple[str, ...]
    skipped: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, rows: np.ndarray, *, why: str) -> "DevicePairs":
        """The pairs at ``rows``; the others are skipped, because of ``why``."""
        missing = len(self) - len(rows)
        return DevicePairs(
            data=self.data.take(rows),
            digests=tuple(self.digests[row] for row in rows),
            present=self.present,
            skipped=(*self.skipped, *[why] * missing),
        )

    def about_skipped(self) -> str:
        """A sentence on what was left out, for the device's own log; empty where nothing was."""
        if not self.skipped:
            return ""
        first = "; ".join(self.skipped[:SHOWN_REASONS])
        more = f"; and {len(self.skipped) - SHOWN_REASONS} more" if len(self.skipped) > SHOWN_REASONS else ""
        return f"Pairs used: {len(self)}, left out: {len(self.skipped)} ({first}{more})"


def read_device_pairs(path: Path, config: DataConfig, *, kind: str, keep: Path | None = None) -> DevicePairs:
    """Read the pairs of a device.

    Args:
        path: A folder with ``source/`` and ``target/``, or one .npz, as in `edgecmd.data.user_files.folder`.
        config: Sides, clip, unit of depth and direction (``reverse``) are used.
        kind: A key of `edgecmd.data.modalities.table.target_kinds`: what ``target/`` holds.
        keep: File that keeps decoded pairs of a folder for the next time; None keeps nothing.

    Raises:
        ConfigError: The kind is unknown.
        PrivacyError: ``path`` is neither a folder nor a readable .npz, whatever is in it.

    Guarantees:
        Whether a pair is used, and as what, is a function of its own two files and of the settings. So
        adding or removing one pair, a broken or foreign one included, adds or removes one row or none: its
        own, or, where the names of two pairs become the same one (``é`` in two forms of Unicode), that of
        the other, which is then ambiguous.
    """
    choose("data.target_kind", kind, target_kinds())
    sides = sides_of(config)
    memory = DecodedPairs(path=keep, what=f"{path.resolve()} {sides!r} {kind}")
    if path.is_dir():
        rows = _folder_rows(path, sides=sides, kind=kind, memory=memory)
    elif path.suffix.lower() == ".npz" and path.is_file():
        rows = _archive_rows(path, sides=sides, kind=kind)
    else:
        raise PrivacyError(
            f"data-dir={str(path)!r} is not a folder with source/ and target/ or an .npz file. Correct"
            " data-dir in the node's config.",
            code="node-config",
        )
    found = _collected(rows, sides=sides, kind=kind)
    memory.save()
    return replace(found, data=found.data.reversed()) if sides.reverse else found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Seen:
    """What was found of one pair.

    Attributes:
        digest: Of its stored halves; empty where there are not two that can be read.
        halves: Source and target as these settings take them; None where they cannot be used.
        why: Why not.
    """

    digest: str = ""
    halves: tuple[np.ndarray, np.ndarray] | None = None
    why: str = ""


def _collected(every: Iterator[_Seen], *, sides: Sides, kind: str) -> DevicePairs:
    kept, digests, present, skipped = [], [], [], []
    form = form_of(kind, sides)
    for one in every:
        if one.digest:
            present.append(one.digest)
        if one.halves is None:
            skipped.append(one.why)
        else:
            kept.append(one.halves)
            digests.append(one.digest)
    data = PairedData(
        source=np.stack([source for source, _ in kept])
        if kept
        else np.zeros((0, sides.source, sides.source, 3), np.uint8),
        target=np.stack([target for _, target in kept]) if kept else np.zeros((0, *form.shape), form.dtype),
    )
    return DevicePairs(data=data, digests=tuple(digests), present=tuple(present), skipped=tuple(skipped))


def _folder_rows(path: Path, *, sides: Sides, kind: str, memory: DecodedPairs) -> Iterator[_Seen]:
    """Each id of ``source/`` and ``target/`` as a pair, or why it is none."""
    sources = _files(path / "source", image_files.SUFFIXES)
    cell = CELLS.get(target_kinds()[kind].reader)
    if cell is not None:
        yield from _table_rows(path / "pairs.csv", cell, sources, sides=sides, memory=memory)
        return
    targets = _files(path / "target", tuple(one for reader in READERS.values() for one in reader.suffixes))
    for name in sorted(sources.keys() | targets.keys()):
        halves = (sources.get(name, []), targets.get(name, []))
        if [len(one) for one in halves] == [1, 1]:
            yield _seen_files(halves[0][0], halves[1][0], sides=sides, kind=kind, memory=memory)
        else:
            counts = f"{len(halves[0])} source and {len(halves[1])} target files"
            yield _Seen(why=f"{name}: {counts} in place of one each")


def _files(folder: Path, suffixes: tuple[str, ...]) -> Mapping[str, list[Path]]:
    """Files with one of ``suffixes`` by id. A missing folder is an empty one: one pair could make it."""
    found: dict[str, list[Path]] = {}
    try:
        every = sorted(folder.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PrivacyError(
            f"{folder} cannot be listed: {error.strerror}. Let the node's user read it.", code="node-config"
        ) from error
    for one in every:
        inside = _inside(one)
        for path, name in [(one, one.stem), *((path, f"{one.name}/{path.stem}") for path in inside)]:
            if path.suffix.lower() in suffixes and not is_hidden(path.name):
                found.setdefault(canonical(name), []).append(path)
    return found


def _inside(folder: Path) -> list[Path]:
    """What is in a folder of a half; nothing where it cannot be listed, for one pair could have made it."""
    try:
        if is_hidden(folder.name) or folder.suffix.lower() in MEDIA or not folder.is_dir():
            return []
        return sorted(folder.iterdir())
    except OSError:
        return []


def _seen_files(source: Path, target: Path, *, sides: Sides, kind: str, memory: DecodedPairs) -> _Seen:
    # Before they are read: whoever changes a file after this makes it another one.
    state, digest = memory.state_of((source, target)), ""
    known = memory.find(state)
    if known is not None:
        memory.keep(state, known)
        return _Seen(digest=known.digest, halves=known.halves)
    # Whatever a file does to a decoder, it does to its own pair alone.
    try:
        digest = _digest(_content(source), _content(target))
        picture, half = read_halves(source, target, sides)
        halves = (picture, _as_kind(half, kind, name=str(target)))
        memory.keep(state, Decoded(digest=digest, halves=halves))
        return _Seen(digest=digest, halves=halves)
    except Exception as error:
        return _Seen(digest=digest, why=f"{target.name}: {error}")


def _table_rows(
    file: Path, cell: Cell, sources: Mapping[str, list[Path]], *, sides: Sides, memory: DecodedPairs
) -> Iterator[_Seen]:
    """Each id of ``pairs.csv`` as a pair of an image and a cell, or why it is none."""
    lines: dict[str, list[_Line]] = {}
    for line in _lines(file, cell):
        if line.why:
            yield _Seen(why=line.why)
        else:
            lines.setdefault(line.name, []).append(line)
    for name, found in sorted(lines.items()):
        if len(found) > 1:
            for _ in found:
                yield _Seen(why=f"{name}: {len(found)} lines in place of one")
            continue
        (line,) = found
        files = sources.get(line.source) or sources.get(without_ending(line.source)) or []
        if len(files) == 1:
            yield _seen_cell(line, files[0], cell, sides=sides, memory=memory)
        else:
            yield _Seen(why=f"{name}: {len(files)} files of the image {line.source} in place of one")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """A line of ``pairs.csv``: its id, its image and its cell, or why it has none."""

    name: str = ""
    source: str = ""
    text: str = ""
    why: str = ""


def _lines(file: Path, cell: Cell) -> Iterator[_Line]:
    """The lines of a table, each read by itself, so that whatever one has in it says nothing of another.

    Raises:
        PrivacyError: The file cannot be read, or its header lacks a column: that is no pair's, but the
            owner's fault. A missing file is one without lines: one pair could make it.
    """
    needed = ("id", cell.column)
    try:
        with file.open("rb") as stream:
            head = stream.readline(MOST_LINE_BYTES).decode("utf-8-sig", "replace").strip()
            delimiter = delimiter_of(head, required=needed)
            names = without_last_empty(names_in(head, delimiter))
            if any(names.count(one) != 1 for one in needed):
                raise PrivacyError(
                    f"{file} begins with {head[:200]!r}; its first line must name the columns id and"
                    f" {cell.column}, each once, in UTF-8. Run `edgecmd data check`.",
                    code="node-config",
                )
            number = 1
            while raw := stream.readline(MOST_LINE_BYTES):
                number += 1
                if raw.strip():
                    yield _line(raw, names, cell, delimiter=delimiter, name=f"{file.name} line {number}")
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(MOST_LINE_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise PrivacyError(
            f"{file} cannot be read: {error.strerror}. Let the node's user read it.", code="node-config"
        ) from error


def _line(raw: bytes, names: list[str], cell: Cell, *, delimiter: str, name: str) -> _Line:
    try:
        if len(raw) == MOST_LINE_BYTES:
            raise DataError(f"it has {MOST_LINE_BYTES:,} bytes or more")
        cells = next(csv.reader([raw.decode().rstrip("\r\n")], delimiter=delimiter, strict=True))
        cells = without_last_empty(cells, len(names))
        if len(cells) != len(names):
            raise DataError(f"it has {len(cells)} cells for {len(names)} columns")
        row = dict(zip(names, map(canonical, cells), strict=True))
        if not row["id"]:
            raise DataError("its id is empty")
        return _Line(name=row["id"], source=row.get("source") or row["id"], text=row[cell.column])
    except Exception as error:
        return _Line(why=f"{name}: {error}")


def _seen_cell(line: _Line, source: Path, cell: Cell, *, sides: Sides, memory: DecodedPairs) -> _Seen:
    told = line.text.encode()
    # Before it is read, as of two files; the cell is here.
    state, digest = memory.state_of((source,)), ""
    state = state and f"{state} {hashlib.sha256(told).hexdigest()}"
    known = memory.find(state)
    if known is not None:
        memory.keep(state, known)
        return _Seen(digest=known.digest, halves=known.halves)
    try:
        digest = _digest(_content(source), told)
        target = cell.read(line.text, sides)
        picture, _ = read_source(source, side=sides.source, fit=sides.fit)
        memory.keep(state, Decoded(digest=digest, halves=(picture, target)))
        return _Seen(digest=digest, halves=(picture, target))
    except Exception as error:
        return _Seen(digest=digest, why=f"{line.name}: {error}")


def _content(path: Path) -> bytes:
    """Bytes of a file that one pair may have.

    Raises:
        DataError: It is not a plain file, or so large that reading or decoding it could end the device's
            answer: that would let one pair decide about all.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a regular file.")
    if status.st_size > MOST_BYTES:
        raise DataError(f"{path} has {status.st_size:,} bytes; allowed are {MOST_BYTES:,}.")
    if path.suffix.lower() in image_files.SUFFIXES:
        width, height = image_files.size_of(path)
        if width * height > MOST_PIXELS:
            raise DataError(f"{path} has {width} x {height} pixels; allowed are {MOST_PIXELS:,} in all.")
    return path.read_bytes()


def _digest(source: bytes, target: bytes) -> str:
    parts = hashlib.sha256(source).digest() + hashlib.sha256(target).digest()
    return hashlib.sha256(parts).hexdigest()[:32]


def _as_kind(half: Half, kind: str, *, name: str) -> np.ndarray:
    """A target as its kind has it.

    Raises:
        DataError: It is of another kind; a colour image alone can be made a grey one.
    """
    found, wanted, stored = half_modality(half), target_kinds()[kind], stored_half(half)
    if found is not wanted:
        raise DataError(f"{name} holds {found.nouns}; data.target_kind={kind!r} takes {wanted.nouns}.")
    if wanted is not IMAGE:
        return stored
    if kind == "rgb":
        if stored.ndim != 3:
            raise DataError(f"{name} is grey; data.target_kind='rgb' takes colour.")
        return stored
    (grey,) = to_grey([stored])
    return np.asarray(grey)


def _archive_rows(path: Path, *, sides: Sides, kind: str) -> Iterator[_Seen]:
    """Each row of ``source`` and ``target`` of an .npz as a pair, or why it is none.

    Raises:
        PrivacyError: The file is not an archive, is damaged, or lacks an array: a whole file, which is the
            owner's fault.

    Guarantees:
        Rows are read one at a time, so that how many there are decides nothing.
    """
    try:
        headers = npz_headers(path, ("source", "target", RATE))
        lacking = [name for name in ("source", "target") if name not in headers]
        if lacking:
            raise DecodeError(f"it lacks {' and '.join(lacking)}")
        rate = npz_arrays(path, names=(RATE,), most_bytes=MOST_BYTES).get(RATE, np.int64(0))
        if rate.ndim or rate.dtype.kind not in "iu":
            raise DecodeError(f"{RATE} is not a single whole number")
        lengths = [_length(headers[name]) for name in ("source", "target")]
        rows = [npz_rows(path, name) for name in ("source", "target")]
        for row in range(max(lengths)):
            halves = [next(one) if row < length else None for one, length in zip(rows, lengths, strict=True)]
            yield _seen_arrays(row, *halves, rate=int(rate), sides=sides, kind=kind)
        # What lies behind the last row says whether all of them were whole.
        for one in rows:
            next(one, None)
    except DecodeError as error:
        raise PrivacyError(
            f"data-dir={str(path)!r} is not an .npz file with the arrays source and target ({error}). Make"
            " it with numpy.savez_compressed(path, source=..., target=...).",
            code="node-config",
        ) from error


def _length(header: ArrayHeader) -> int:
    """Rows of an array; rows of absurd size are not pairs.

    Raises:
        DecodeError: A row has nothing in it, or more than `MOST_BYTES`.
    """
    if not header.shape:
        return 0
    size = math.prod(header.shape[1:]) * header.dtype.itemsize
    if header.shape[0] and not 0 < size <= MOST_BYTES:
        raise DecodeError(f"its rows have {size:,} bytes; allowed are 1 to {MOST_BYTES:,}")
    return header.shape[0]


def _seen_arrays(
    row: int,
    source: np.ndarray | None,
    target: np.ndarray | None,
    *,
    rate: int,
    sides: Sides,
    kind: str,
) -> _Seen:
    digest = ""
    try:
        if source is None or target is None:
            raise DataError("it has one half")
        digest = _digest(source.tobytes(), target.tobytes())
        name = f"row {row}"
        picture = _array_picture(source, side=sides.source, fit=sides.fit, name=name)
        half = _array_half(target, rate=rate, sides=sides, name=name)
        if not is_line(target[None]):
            check_pair_aspect(_size(source), _size(target), name=name)
        # A grey source, (S, S), is shown to the teacher in three channels.
        colour = to_rgb(picture.reshape(1, *picture.shape[:2], -1))[0]
        return _Seen(digest=digest, halves=(colour, _as_kind(half, kind, name=name)))
    except Exception as error:
        return _Seen(digest=digest, why=f"row {row}: {error}")


def _array_half(target: np.ndarray, *, rate: int, sides: Sides, name: str) -> Half:
    """The target of one row."""
    if is_depth(target[None]):
        check_size(_size(target), side=sides.target, fit=sides.fit, name=name)
    elif not is_line(target[None]):
        return _array_picture(target, side=sides.target, fit=sides.fit, name=name)
    return measured(target, rate=rate, sides=sides, name=name)


def _array_picture(image: np.ndarray, *, side: int, fit: str, name: str) -> np.ndarray:
    if image.dtype != np.uint8 or image.shape[2:] not in {(), (1,), (3,)} or image.ndim < 2:
        raise DataError(f"{name} has dtype={image.dtype} and shape={image.shape}; allowed are images.")
    check_size(_size(image), side=side, fit=fit, name=name)
    flat = image[..., 0] if image.shape[2:] == (1,) else image
    return to_square(Image.fromarray(flat), side=side, fit=fit)


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]
