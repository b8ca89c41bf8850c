"""Reading picture files for an exported student; needs numpy, and Pillow for PNG, JPEG and the like.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgecmd.data.user_files.decode import (
    FRAMES,
    SHRUNK,
    DecodeError,
    decoded_picture,
    decoding,
    flat_picture,
    npy_array,
    picture_frames,
    plain_size,
    reason_of,
)

# A comment ends with its line, so that no text can be split in more than one way.
PNM_HEADER = re.compile(rb"(P[56])" + 3 * rb"\s+(?:#[^\n]*\n\s*)*(\d{1,9})" + rb"\s")
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"),
    *(".bmp", ".gif", ".tif", ".tiff", ".npy", ".pgm", ".ppm", ".pnm"),
)
FOLDER, FILE = "folder", "file"
# The first that can be told which formats a file may hold.
LEAST_PILLOW = (8, 0)
# Pixels that are converted at a time: what a conversion needs beside the picture is then small.
BAND = 2**18
MAX_PIXELS = 2**26
# Of 16 bits in three channels, and a header.
MAX_PNM_BYTES = 6 * MAX_PIXELS + 10_000


class Reading(NamedTuple):
    """An input of a file: its numbers, the frames of the file, by how much the decoder shrank it.

    Of a string also how many of its bytes were cut off; None of others.
    """

    values: np.ndarray
    frames: int = 1
    shrunk: int = 1
    cut_bytes: int | None = None


class InferError(DecodeError):
    """A mistake in what was given; the message says what is allowed.

    Attributes:
        exit_code: What the script returns for it.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def example_files(folder: Path, *, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, list[Path]]:
    """Files of each class: of a sub-folder, or those beside them, each named after its class.

    Raises:
        InferError: There is none, or a class has none.
    """
    found: dict[str, list[Path]] = {}
    for entry in _listed(folder, "*"):
        own = [entry] if entry.suffix.lower() in suffixes else []
        is_folder = kind_of(entry) == FOLDER
        files = pictures_in(entry, suffixes=suffixes) if is_folder else own
        if is_folder and not files and not entry.name.startswith("."):
            raise InferError(
                f"There is nothing of the class {_none_below(entry, suffixes, noun='file')}", exit_code=4
            )
        if files:
            found.setdefault(entry.name if is_folder else entry.stem, []).extend(files)
    if not found:
        raise InferError(
            f"{folder} has no pictures. Give a sub-folder for each class, or a picture named after each.",
            exit_code=4,
        )
    return found


def pictures_in(folder: Path, *, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Files with one of these endings in a folder and below, in the order of their names."""
    return [one for one in _listed(folder, "**/*") if one.suffix.lower() in suffixes and _may_be_file(one)]


def inputs_in(
    folder: Path, *, suffixes: tuple[str, ...], noun: str, tell: Callable[[str], None]
) -> list[Path]:
    """Files of a folder that can be read; ``tell`` gets one note on all the others that are seen.

    Raises:
        InferError: There is none; the message has the endings that are there, and those that can be read.
    """
    files = pictures_in(folder, suffixes=suffixes)
    if not files:
        raise InferError(f"No {noun} files below {_none_below(folder, suffixes, noun=noun)}", exit_code=4)
    others = _endings(folder, without=files)
    if others:
        tell(f"note: {folder} has files that are not read: {others}.")
    return files


def _none_below(folder: Path, suffixes: tuple[str, ...], *, noun: str) -> str:
    there = _endings(folder, without=())
    held = f"it has {there}" if there else "it has no file"
    return f"{folder}: {held}. Each {noun} needs one of these endings: {' '.join(suffixes)}."


def _endings(folder: Path, *, without: Sequence[Path]) -> str:
    """Endings of the files of a folder that are not hidden, each with its count."""
    known = set(without)
    others = [one for one in _listed(folder, "**/*") if one not in known and not _is_hidden(one, folder)]
    counts = Counter(one.suffix.lower() or "without an ending" for one in others if _may_be_file(one))
    return ", ".join(f"{num} {ending}" for ending, num in sorted(counts.items()))


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def kind_of(path: Path) -> str:
    """`FOLDER`, `FILE`, or nothing where nothing is there or another kind of thing.

    Raises:
        InferError: The system does not let it be looked at, such as a name that is too long.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        raise InferError(f"{path} cannot be opened: {reason_of(error)}.", exit_code=4) from error
    return FOLDER if stat.S_ISDIR(mode) else FILE if stat.S_ISREG(mode) else ""


def _may_be_file(path: Path) -> bool:
    """Also what may not be looked at: its reader then says so."""
    try:
        return kind_of(path) == FILE
    except InferError:
        return True


def _listed(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder, in the order of the names."""
    try:
        with decoding():
            return sorted(folder.glob(pattern))
    except DecodeError as error:
        raise InferError(f"{folder} cannot be listed: {error}.", exit_code=4) from error


def read_image(path: Path, *, channels: int) -> np.ndarray:
    """A picture file: uint8, (height, width, channels), at its own size; see `image_reading`."""
    return image_reading(path, channels=channels).values


def image_reading(path: Path, *, channels: int, least: int = 0) -> Reading:
    """Read a picture file: uint8, (height, width, channels).

    PGM, PPM and .npy (uint8) are read without Pillow. What is transparent becomes white; of an animation the
    first frame is read; 16 bits of a PGM or PPM become 8, while 16 bits of any other file are refused.

    Args:
        path: The file.
        channels: 1 for grey, 3 for colour.
        least: A JPEG of at least four times this is decoded smaller (`decoded_picture`). 0: at its own size.

    Raises:
        InferError: Pillow is missing, or the file is missing or not a picture.
    """
    if channels not in (1, 3):
        raise InferError(
            f"The model takes {channels} channels; only 1 or 3 can be read from a picture file."
            " Call Student with an array instead.",
            exit_code=4,
        )
    kind = path.suffix.lower()
    readers = {".npy": _read_array, ".pgm": _read_pnm, ".ppm": _read_pnm, ".pnm": _read_pnm}
    with naming(path, "picture"):
        if kind in readers:
            return Reading(with_channels(readers[kind](path), channels))
        return _read_with_pillow(path, channels, least)


@contextlib.contextmanager
def naming(path: Path, what: str) -> Iterator[None]:
    """Name the file in an error of its decoder."""
    if kind_of(path) != FILE:
        raise InferError(f"{path} is missing or not a file.", exit_code=4)
    try:
        yield
    except InferError:
        raise
    except (DecodeError, MemoryError) as error:
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            raise out_of_memory(path) from error
        raise InferError(f"{path} is not a {what} that can be read: {error}", exit_code=4) from error


def out_of_memory(path: Path) -> InferError:
    """What is said of a file that is too large for this machine."""
    return InferError(f"{path}: it needs more memory than there is. Make it smaller.", exit_code=4)


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Grey as colour, or colour as grey (ITU-R 601, rounded as Pillow does)."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    weights = np.array([19595, 38470, 7471])
    return _by_band(image, lambda band: (band.astype(np.int64) @ weights + 2**15) >> 16)[..., None]


def _by_band(values: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``convert`` of the pixels (N, channels), a band at a time, as uint8 of (height, width, ...)."""
    height, width, depth = values.shape
    flat = values.reshape(-1, depth)
    shape = convert(flat[:0]).shape[1:]
    found = np.empty((len(flat), *shape), np.uint8)
    for start in range(0, len(flat), BAND):
        found[start : start + BAND] = convert(flat[start : start + BAND])
    return found.reshape(height, width, *shape)


def _read_array(path: Path) -> np.ndarray:
    array = npy_array(path, most_bytes=3 * MAX_PIXELS + 10_000)
    image = array[..., None] if array.ndim == 2 else array
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise InferError(
            f"{path} has dtype={array.dtype} and shape={array.shape}; allowed is uint8 of shape"
            " (height, width), (height, width, 1) or (height, width, 3).",
            exit_code=4,
        )
    return np.asarray(image)


def _read_pnm(path: Path) -> np.ndarray:
    """A binary PGM or PPM with 8 bits; 16 become 8."""
    values, largest = pnm_values(path)
    if largest == 255:
        return values
    return _by_band(values, lambda band: np.rint(band * (255.0 / largest)).clip(0, 255))


def pnm_values(path: Path) -> tuple[np.ndarray, int]:
    """Numbers of a binary PGM (P5) or PPM (P6) of 8 or 16 bits, (height, width, 1 or 3), and their maximum.

    Raises:
        DecodeError: It is none, is cut off, or has too many pixels.
    """
    size = plain_size(path)
    if size > MAX_PNM_BYTES:
        raise DecodeError(f"it has {size:,} bytes; allowed are {MAX_PNM_BYTES:,}")
    with decoding():
        data = path.read_bytes()
    header = PNM_HEADER.match(data)
    width, height, largest = map(int, header.groups()[1:]) if header else (0, 0, 0)
    if header is None or not 0 < largest < 65536 or not 0 < width * height <= MAX_PIXELS:
        raise DecodeError(f"it has no header of a binary PGM or PPM of 1 to {MAX_PIXELS:,} pixels")
    depth, dtype = (1 if header[1] == b"P5" else 3), (">u2" if largest > 255 else "u1")
    with decoding():
        values = np.frombuffer(data, dtype, count=width * height * depth, offset=header.end())
    return values.reshape(height, width, depth), largest


def open_pillow(path: Path, *, least: int = 0) -> Any:  # noqa: ANN401 - Pillow need not be there
    """A picture opened by Pillow, turned as its camera was held; ``least`` is that of `decoded_picture`.

    Raises:
        InferError: Pillow is missing or too old.
        DecodeError: The file is broken, or too large.
    """
    try:
        import PIL

        refuse_old_pillow(str(PIL.__version__))
        return decoded_picture(path, least=least)
    except ImportError as error:
        raise InferError(
            f"Reading {path.suffix or 'this'} files needs Pillow: pip install pillow. (.pgm, .ppm, .npy and"
            " arrays need it not.)",
            exit_code=1,
        ) from error


def refuse_old_pillow(version: str) -> None:
    """Refuse a Pillow that cannot be told which formats a file may hold.

    Raises:
        InferError: The message names the version that is needed.
    """
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < LEAST_PILLOW:
        least = ".".join(map(str, LEAST_PILLOW))
        raise InferError(
            f"Pillow {version} is too old to read picture files: {least} or newer is needed. Install it: pip"
            f" install 'pillow>={least}'.",
            exit_code=1,
        )


def _read_with_pillow(path: Path, channels: int, least: int) -> Reading:
    picture = open_pillow(path, least=least)
    frames, shrunk = picture.info.get(FRAMES, 0), picture.info.get(SHRUNK, 1)
    if not frames:
        with contextlib.suppress(DecodeError):
            frames = picture_frames(path)
    if picture.mode.startswith(("I", "F")):
        raise InferError(
            f"{path} has mode={picture.mode}: a depth map or beyond 16 bits, and no picture. Scale it"
            " to 0..255 and save it with 8 bits.",
            exit_code=4,
        )
    flat = flat_picture(picture)
    with decoding():
        mode = "L" if channels == 1 else "RGB"
        array = np.asarray(flat if flat.mode == mode else flat.convert(mode))
    return Reading(array[..., None] if array.ndim == 2 else array, frames or 1, shrunk)
