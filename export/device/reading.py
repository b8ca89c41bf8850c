"""Reading picture files for an exported student; needs numpy, and Pillow for PNG, JPEG and the like.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

PNM_HEADER = re.compile(rb"(P[56])" + 3 * rb"\s+(?:#[^\n]*\s+)*(\d+)" + rb"\s")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".npy", ".pgm", ".ppm", ".pnm")
MAX_PIXELS = 2**26


class InferError(ValueError):
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
        InferError: There is none.
    """
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        own = [entry] if entry.suffix.lower() in suffixes else []
        files = pictures_in(entry, suffixes=suffixes) if entry.is_dir() else own
        if files:
            found.setdefault(entry.name if entry.is_dir() else entry.stem, []).extend(files)
    if not found:
        raise InferError(
            f"{folder} has no pictures. Give a sub-folder for each class, or a picture named after each.",
            exit_code=4,
        )
    return found


def pictures_in(folder: Path, *, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Files with one of these endings in a folder and below, in the order of their names."""
    return [one for one in sorted(folder.rglob("*")) if one.suffix.lower() in suffixes and one.is_file()]


def read_image(path: Path, *, channels: int) -> np.ndarray:
    """Read a picture file: uint8, (height, width, channels), at its own size.

    PGM, PPM and .npy (uint8) are read without Pillow. What is transparent becomes white; 16 bits become 8.

    Args:
        path: The file.
        channels: 1 for grey, 3 for colour.

    Raises:
        InferError: Pillow is missing, or the file is missing or not a picture.
    """
    if channels not in (1, 3):
        raise InferError(
            f"The model takes {channels} channels; only 1 or 3 can be read from a picture file."
            " Call Student with an array instead.",
            exit_code=4,
        )
    if not path.is_file():
        raise InferError(f"{path} is missing or not a file.", exit_code=4)
    kind = path.suffix.lower()
    readers = {".npy": _read_array, ".pgm": _read_pnm, ".ppm": _read_pnm, ".pnm": _read_pnm}
    try:
        image = readers[kind](path) if kind in readers else _read_with_pillow(path, channels)
    except InferError:
        raise
    except Exception as error:  # a broken file makes Pillow and numpy raise almost anything
        raise InferError(f"{path} is not a picture that can be read: {error}", exit_code=4) from error
    return _with_channels(image, channels)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Grey as colour, or colour as grey (ITU-R 601, rounded as Pillow does)."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    weighted = image.astype(np.int64) @ np.array([19595, 38470, 7471])
    return np.asarray((weighted[..., None] + 2**15) >> 16, dtype=np.uint8)


def _read_array(path: Path) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
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
    return np.asarray(np.rint(values * (255.0 / largest)).clip(0, 255).astype(np.uint8))


def pnm_values(path: Path) -> tuple[np.ndarray, int]:
    """Numbers of a binary PGM (P5) or PPM (P6) of 8 or 16 bits, (height, width, 1 or 3), and their maximum.

    Raises:
        ValueError: It is none.
    """
    data = path.read_bytes()
    header = PNM_HEADER.match(data)
    width, height, largest = map(int, header.groups()[1:]) if header else (0, 0, 0)
    if header is None or not 0 < largest < 65536 or not 0 < width * height <= MAX_PIXELS:
        raise ValueError("it has no header of a binary PGM or PPM")
    depth, dtype = (1 if header[1] == b"P5" else 3), (">u2" if largest > 255 else "u1")
    values = np.frombuffer(data, dtype, count=width * height * depth, offset=header.end())
    return values.reshape(height, width, depth), largest


def open_pillow(path: Path) -> Any:  # noqa: ANN401 - Pillow need not be there
    """A picture opened by Pillow, turned as its camera was held.

    Raises:
        InferError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise InferError(
            f"Reading {path.suffix or 'this'} files needs Pillow: pip install pillow. (.pgm, .ppm, .npy and"
            " arrays need it not.)",
            exit_code=1,
        ) from error
    with Image.open(path) as file:
        return ImageOps.exif_transpose(file)


def _read_with_pillow(path: Path, channels: int) -> np.ndarray:
    picture = open_pillow(path)
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise InferError(
                f"{path} has mode={picture.mode} and values beyond 16 bits; save it with 8 bits", exit_code=4
            )
        return np.rint(values / 257).astype(np.uint8)[..., None]
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        from PIL import Image

        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        picture = white.convert("RGB")
    array = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return array[..., None] if array.ndim == 2 else array
