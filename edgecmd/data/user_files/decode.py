"""Users' files into numbers: pictures, WAV, and numpy's own files. One reader for training and for devices.

It also becomes a part of the bundle's one infer.py (`export.device.assemble`), so that both hear and see the
same. It therefore has the syntax of Python 3.8 and needs numpy alone, and Pillow where a picture is read.

Shapes: T samples, K channels.
"""

from __future__ import annotations

import ast
import contextlib
import math
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Generator, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

# Of one file. More would fill the memory of a small machine.
MOST_PIXELS, MOST_SAMPLES, MOST_SOUND_BYTES = 2**26, 2**27, 200_000_000
# A program that writes into a pipe does not know the length yet: by the standard, of sox, of arecord.
UNKNOWN_SIZES = (0xFFFFFFFF, 0x7FFFF000, 0x7FFFFF00)
MOST_HEADER_BYTES, MOST_ARRAYS, MOST_EMPTY_ROWS = 10_000, 10_000, 2**24
# What a file of another ending may hold; of all others, these. GIF has no ending of its own in training, but
# many a downloaded .png is one.
PICTURES_HOLD = ("PNG", "JPEG", "WEBP", "GIF")
OTHERS_HOLD = {".bmp": ("BMP",), ".gif": ("GIF",), ".tif": ("TIFF",), ".tiff": ("TIFF",)}
WITH_FRAMES = ("PNG", "WEBP", "GIF", "TIFF")
# Where an image says how many frames its file has, if that is known without looking for them.
FRAMES, SEARCHED = "edgecmd_frames", ("GIF", "TIFF")
# What EXIF says of which side is up, and that nothing is to be turned.
ORIENTATION, UPRIGHT = 0x0112, 1
# A first filter by which no warning is shown, as `warnings.simplefilter("ignore")` writes it.
ALL_IGNORED = ("ignore", None, Warning, None, 0)
# Formats whose decoder can give a half, a quarter or an eighth of each side, and where an image then says so.
SHRINKING, SHRUNK = ("JPEG", "MPO"), "edgecmd_shrunk"
GREY_MODES, ALPHA_MODES = ("1", "L", "LA", "La"), ("LA", "La", "PA", "RGBA", "RGBa")
PCM, FLOATS, EXTENSIBLE = 1, 3, 0xFFFE
# Tail of the identifier that an extensible WAV has behind the two bytes of its coding.
EXTENSIBLE_TAIL = bytes.fromhex("000000001000800000aa00389b71")
# Below -60 dB of full scale there is nothing to hear. Far above it nobody scaled the numbers.
FAINTEST, LOUDEST = 1e-3, 2.0**16
# Channels whose mean keeps less than a hundredth of what one of them brought to it have opposite phase.
CANCELLED = 0.01
CHUNK_BYTES = 2**20


class DecodeError(ValueError):
    """A file does not hold what its reader takes. The message says why; whoever catches it adds the name."""


def printable(text: str) -> str:
    r"""``text`` with all that a terminal would obey or hide as escapes: ``\x1b``, ``\u202e``, ``\udcff``."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def reason_of(error: Exception) -> str:
    """The first line of an error, short and printable; of one without words its kind."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return printable(lines[0][:300]) if lines else type(error).__name__


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Turn whatever a library raises on a file into `DecodeError`, and keep its warnings from the screen.

    Put calls of libraries into the block and nothing else: a fault of our own code is no fault of a file.
    """
    try:
        if warnings.filters[:1] == [ALL_IGNORED]:
            # Filters belong to all threads, so what is quiet already is left alone.
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(reason_of(error)) from error


def plain_size(path: Path) -> int:
    """Bytes of a plain file.

    Raises:
        DecodeError: It is missing, a folder, or a pipe, which would be waited for.
    """
    with decoding(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            return found.st_size
    raise DecodeError("it is missing or no plain file")


def _opened_picture(path: Path, formats: tuple[str, ...] | None) -> Any:  # noqa: ANN401 - Pillow may be absent
    from PIL import Image

    allowed: tuple[str, ...] = formats or OTHERS_HOLD.get(path.suffix.lower()) or PICTURES_HOLD
    try:
        return Image.open(path, formats=allowed)
    except KeyError:
        # Some builds of Pillow lack a format, and then refuse the whole list.
        known = tuple(one for one in allowed if one in Image.OPEN)
    lacking = ", ".join(one for one in allowed if one not in known)
    try:
        return Image.open(path, formats=known)
    except Exception as error:
        raise DecodeError(f"this Pillow reads no {lacking}: {reason_of(error)}") from error


@contextlib.contextmanager
def _quiet(path: Path) -> Iterator[None]:
    """Keep libtiff, which writes past Python, from the screen. Only a device reads TIFF."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        yield
        return
    kept = -1
    with contextlib.suppress(OSError):
        kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        if kept >= 0:
            os.dup2(nowhere, 2)
        yield
    finally:
        os.close(nowhere)
        if kept >= 0:
            os.dup2(kept, 2)
            os.close(kept)


def decoded_picture(path: Path, *, formats: tuple[str, ...] | None = None, least: int = 0) -> Any:  # noqa: ANN401
    """The first frame of a picture by Pillow, upright as its EXIF says. Colour profiles are ignored.

    Args:
        path: The file.
        formats: What it may hold, by Pillow's names; None for what suits its ending.
        least: A JPEG is decoded at a half, a quarter or an eighth of its sides where they are whole numbers
            of pixels, at least twice this, and multiples of it if the sides are. 0: at its own.

    Raises:
        ImportError: Pillow is missing.
        DecodeError: The file is broken, has more than `MOST_PIXELS`, or 16 bits in each of several channels.

    Guarantees:
        Size and bits are looked at before a pixel is decoded.
    """
    from PIL import ImageOps

    plain_size(path)
    with decoding(), _quiet(path), _opened_picture(path, formats) as image:
        _refuse_large_or_deep(image)
        _shrink(image, least)
        if image.format not in SEARCHED:
            image.info[FRAMES] = _frames(image)
        image.load()
        if image.format in SEARCHED or _frames(image) > 1 or image.getexif().get(ORIENTATION, 1) != UPRIGHT:
            return ImageOps.exif_transpose(image)
        # As it is: a copy would take as long as the conversion.
        return image


def _frames(image: Any) -> int:  # noqa: ANN401
    return int(getattr(image, "n_frames", 1)) if image.format in WITH_FRAMES else 1


def _shrink(image: Any, least: int) -> None:  # noqa: ANN401
    """Have the decoder leave out what would be averaged away, and note by how much."""
    if not least or image.format not in SHRINKING:
        return
    width, height = image.size
    for part in (8, 4, 2):
        # What is a whole number of blocks of the result's pixels stays one: blocks are averaged otherwise.
        whole = all(not one % part and (one % least or not one % (part * least)) for one in (width, height))
        if whole and min(width, height) >= 2 * part * least:
            image.draft(None, (width // part, height // part))
            image.info[SHRUNK] = part
            return


def _refuse_large_or_deep(image: Any) -> None:  # noqa: ANN401
    """Refuse what would take too much memory, and what Pillow would cut to 8 bits without a word."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise DecodeError(
            f"it has {width} x {height} pixels; allowed are {MOST_PIXELS:,} in all. Make it smaller"
        )
    codings = [one[3] for one in image.tile]
    packed = [str(one[0] if isinstance(one, tuple) and one else one) for one in codings]
    if not image.mode.startswith(("I", "F")) and any(";16" in one for one in packed):
        raise DecodeError(
            f"it has 16 bits in each of its channels (mode {image.mode}); allowed are 8, and 16 in"
            " one channel for depth. Convert it, such as `magick in.png -depth 8 out.png`"
        )


def picture_frames(path: Path) -> int:
    """How many pictures follow each other in a file: 1 but for animations and files of several pages.

    Raises:
        ImportError: Pillow is missing.
        DecodeError: The file is broken.
    """
    plain_size(path)
    with decoding(), _quiet(path), _opened_picture(path, None) as image:
        return _frames(image)


def flat_picture(image: Any) -> Any:  # noqa: ANN401
    """``image`` as mode ``L`` where it is grey, else ``RGB``; transparent pixels over white paper."""
    from PIL import Image

    with decoding():
        mode = "L" if image.mode in GREY_MODES else "RGB"
        palette = image.palette.mode if image.mode == "P" and image.palette else ""
        if not (image.mode in ALPHA_MODES or "transparency" in image.info or palette.endswith("A")):
            return image if image.mode == mode else image.convert(mode)
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB").convert(mode)


class WavForm(NamedTuple):
    """How samples lie in a WAV file: ``width`` is the bytes of one, ``order`` that of its bytes."""

    channels: int
    rate_hz: int
    width: int
    is_float: bool
    order: str


def decode_wav(path: Path) -> tuple[np.ndarray, int]:
    """Samples of a WAV file as shares of full scale, float32, (T, K), and its sampling rate in Hz.

    Whole numbers of 8, 16, 24 and 32 bits and floats of 32 and 64, plain or extensible; RIFF, RIFX and RF64.
    Chunks before and after the samples are passed over. Where the length says that it was not known yet, as
    programs write it into a pipe, the samples go to the end of the file.

    Raises:
        DecodeError: It is none, is cut off, or has too many bytes or samples.
    """
    if plain_size(path) > MOST_SOUND_BYTES:
        raise DecodeError(
            f"it has more than {MOST_SOUND_BYTES / 1e6:.0f} MB. Cut it into one file a recording"
        )
    with decoding():
        data = path.read_bytes()
    order = ">" if data[:4] == b"RIFX" else "<"
    if data[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or data[8:12] != b"WAVE":
        raise DecodeError("it does not begin as a WAV file does")
    form, (start, size) = _wav_parts(data, order)
    values = _wav_values(memoryview(data)[start : start + size], form)
    return values.reshape(-1, form.channels), form.rate_hz


def _wav_parts(data: bytes, order: str) -> tuple[WavForm, tuple[int, int]]:
    """Format of the samples, and where they start and how many bytes they have."""
    form: WavForm | None = None
    samples: tuple[int, int] | None = None
    for name, start, size in _chunks(data, order):
        if name == b"fmt ":
            form = _wav_form(data[start : start + size], order)
        elif name == b"data" and (form is None or samples is not None):
            raise DecodeError("its samples come before their format, or it has two parts of samples")
        elif name == b"data":
            samples = (start, size)
    if form is None or samples is None:
        raise DecodeError("it has no samples")
    return form, samples


def _chunks(data: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and bytes of each part of a RIFF file; zeros behind the last are passed over."""
    place, long_size = 12, -1
    while place + 8 <= len(data) and data[place : place + 4] != b"\0\0\0\0":
        name, size = struct.unpack_from(order + "4sI", data, place)
        place += 8
        if not all(32 <= one < 127 for one in name):
            raise DecodeError(f"at byte {place - 8} it has no part of a WAV file, or a part before is longer")
        if name == b"data":
            size = _data_size(data, order, place=place, size=size, long_size=long_size)
        if place + size > len(data):
            raise DecodeError(f"its part {name!r} should have {size} bytes, {len(data) - place} are there")
        if name == b"ds64" and size >= 16:
            long_size = struct.unpack_from(order + "Q", data, place + 8)[0]
        yield name, place, size
        place += size + size % 2


def _data_size(data: bytes, order: str, *, place: int, size: int, long_size: int) -> int:
    """Bytes of the samples at ``place``."""
    whole = struct.unpack_from(order + "I", data, 4)[0]
    if size == 0xFFFFFFFF and long_size not in (-1, 0, 2**64 - 1):
        return long_size
    is_unknown = size in UNKNOWN_SIZES or (size == 0 and whole in (0, *UNKNOWN_SIZES))
    return len(data) - place if is_unknown else size


def _wav_form(body: bytes, order: str) -> WavForm:
    """Format out of the part ``fmt``."""
    if len(body) < 16:
        raise DecodeError(f"its format has {len(body)} bytes; 16 are needed")
    coding, channels, rate_hz, _, block, bits = struct.unpack_from(order + "HHIIHH", body)
    if coding == EXTENSIBLE:
        if len(body) < 40 or body[26:40] != EXTENSIBLE_TAIL:
            raise DecodeError("its extensible format is cut off or unknown")
        coding = struct.unpack_from(order + "H", body, 24)[0]
    if coding not in (PCM, FLOATS):
        raise DecodeError(
            f"its samples are coded as {coding}; allowed are 1 (whole numbers) and 3 (floats). Convert it,"
            " such as `ffmpeg -i in.wav -c:a pcm_s16le out.wav`"
        )
    width = (bits + 7) // 8
    allowed = (4, 8) if coding == FLOATS else (1, 2, 3, 4)
    if not channels or width not in allowed or (coding == FLOATS and bits % 8) or block != channels * width:
        raise DecodeError(
            f"its format is impossible or unknown: channels={channels}, bits of a sample={bits}, bytes of a"
            f" sample of all channels={block}"
        )
    return WavForm(channels, rate_hz, width, coding == FLOATS, order)


def _wav_values(raw: memoryview, form: WavForm) -> np.ndarray:
    """Samples of all channels in turn, as shares of full scale; a last one that is cut off is left out."""
    frame = form.width * form.channels
    num = len(raw) // frame * form.channels
    if num > MOST_SAMPLES:
        raise DecodeError(
            f"it has {num:,} samples; allowed are {MOST_SAMPLES:,}. Cut it into one file a recording"
        )
    raw = raw[: num * form.width]
    if form.is_float:
        with np.errstate(all="ignore"):
            return np.frombuffer(raw, f"{form.order}f{form.width}").astype(np.float32)
    if form.width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if form.width == 3:
        # As the upper part of 32 bits.
        filled = np.zeros((num, 4), np.uint8)
        place = slice(1, 4) if form.order == "<" else slice(0, 3)
        filled[:, place] = np.frombuffer(raw, np.uint8).reshape(num, 3)
        values = filled.view(f"{form.order}i4")[:, 0]
    else:
        values = np.frombuffer(raw, f"{form.order}i{form.width}")
    return values.astype(np.float32) / np.float32(2.0 ** (8 * min(form.width + form.width % 2, 4) - 1))


def one_channel(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels, float32, (T,).

    Args:
        samples: Shares of full scale, (T, K).

    Raises:
        DecodeError: They are not finite or far beyond full scale, or the channels cancel each other.
    """
    if not np.isfinite(samples).all():
        raise DecodeError("holds numbers that are not finite. Save it again as 16-bit PCM.")
    peak = float(np.abs(samples).max()) if samples.size else 0.0
    if peak > LOUDEST:
        raise DecodeError(
            f"holds samples of {peak:.3g} times full scale. Floats are shares of full scale, -1 to 1;"
            " divide them."
        )
    mono = samples.mean(axis=1, dtype=np.float32)
    left = float(np.abs(mono).max()) if mono.size else 0.0
    if peak >= FAINTEST and left * samples.shape[1] < CANCELLED * peak:
        raise DecodeError(
            "has channels of opposite phase: their mean is silence. Turn one of them over, or keep one"
            " channel, such as `ffmpeg -i in.wav -af pan=mono|c0=c0 out.wav`."
        )
    return np.asarray(mono)


class ArrayHeader(NamedTuple):
    """What a file of numpy says of its array. ``by_columns``: Fortran's order; ``size``: of the header."""

    shape: tuple[int, ...]
    dtype: np.dtype
    by_columns: bool
    size: int


def array_header(stream: IO[bytes] | BufferedIOBase, size: int) -> ArrayHeader:
    """Header of the array in ``stream``, which has ``size`` bytes in all.

    Raises:
        DecodeError: It is none, needs pickle, or claims another number of bytes than there are.

    Guarantees:
        No more than `MOST_HEADER_BYTES` are read, and nothing is made of what the header claims.
    """
    with decoding():
        start = stream.read(8)
        if start[:6] != b"\x93NUMPY" or len(start) < 8 or start[6] not in (1, 2, 3):
            raise DecodeError("it does not begin as an array of numpy does")
        wide = start[6] > 1
        (length,) = struct.unpack("<I" if wide else "<H", stream.read(4 if wide else 2))
        if length > MOST_HEADER_BYTES:
            raise DecodeError(f"its header has {length:,} bytes; allowed are {MOST_HEADER_BYTES:,}")
        text = stream.read(length).decode("utf-8" if start[6] == 3 else "latin-1")
        told = ast.literal_eval(text.strip())
        kind, shape, by_columns = told["descr"], told["shape"], told["fortran_order"]
        if not isinstance(kind, str):
            raise DecodeError("it holds records; allowed are numbers and text")
        dtype = np.dtype(kind)
    if dtype.hasobject:
        raise DecodeError("it holds Python objects, which need pickle")
    if (
        not isinstance(shape, tuple)
        or not all(type(one) is int and one >= 0 for one in shape)
        or len(shape) > 16
    ):
        raise DecodeError(f"it claims the shape {str(shape)[:80]}")
    header = ArrayHeader(shape, dtype, bool(by_columns), 8 + (4 if wide else 2) + length)
    claimed, there = math.prod(shape) * dtype.itemsize, size - header.size
    if claimed != there or (0 in shape and max(shape) > MOST_EMPTY_ROWS):
        raise DecodeError(
            f"it claims the shape {shape} of {dtype}, which is {claimed:,} bytes; {there:,} are there"
        )
    return header


def _filled(stream: IO[bytes] | BufferedIOBase, header: ArrayHeader) -> np.ndarray:
    """The array behind a header."""
    flat = np.zeros(math.prod(header.shape), header.dtype)
    if flat.size and header.dtype.itemsize:
        place, view = 0, flat.view(np.uint8)
        while place < len(view):
            part = stream.read(min(CHUNK_BYTES, len(view) - place))
            if not part:
                raise DecodeError("it is cut off")
            view[place : place + len(part)] = np.frombuffer(part, np.uint8)
            place += len(part)
    # One more byte makes a zip archive compare its checksum.
    stream.read(1)
    return flat.reshape(header.shape, order="F" if header.by_columns else "C")


def npy_array(path: Path, *, most_bytes: int) -> np.ndarray:
    """The array of a .npy file, of at most ``most_bytes``; pickle is never read.

    Raises:
        DecodeError: It is none, is larger, or its header claims what is not there.
    """
    size = plain_size(path)
    with decoding(), path.open("rb") as stream:
        header = array_header(stream, size)
        if size > most_bytes:
            raise DecodeError(f"it has {size:,} bytes; allowed are {most_bytes:,}")
        return _filled(stream, header)


def npz_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Members of an .npz by the names of their arrays.

    Raises:
        DecodeError: It is no archive, or has too many members or two of one name.
    """
    plain_size(path)
    with decoding(), zipfile.ZipFile(path) as archive:
        members = [one for one in archive.infolist() if one.filename.endswith(".npy")]
    names = [one.filename[:-4] for one in members]
    if len(names) > MOST_ARRAYS or len(set(names)) < len(names):
        raise DecodeError(f"it has {len(names)} arrays, two of one name or more than {MOST_ARRAYS:,}")
    return dict(zip(names, members))


def npz_headers(path: Path, names: tuple[str, ...]) -> dict[str, ArrayHeader]:
    """Headers of those of ``names`` that an .npz has, without reading the arrays.

    Raises:
        DecodeError: The archive or a header is broken; the message names the array.
    """
    members, found = npz_members(path), {}
    for name in (one for one in names if one in members):
        try:
            with decoding(), zipfile.ZipFile(path) as archive, archive.open(members[name]) as stream:
                found[name] = array_header(stream, members[name].file_size)
        except DecodeError as error:
            raise DecodeError(f"the array {name!r} cannot be read: {error}") from error
    return found


def npz_arrays(path: Path, *, names: tuple[str, ...] = (), most_bytes: int) -> dict[str, np.ndarray]:
    """Arrays of an .npz, of at most ``most_bytes`` in all as they are unpacked; pickle is never read.

    Args:
        path: The file.
        names: Those that are wanted, as far as they are there; none for all.
        most_bytes: What they may take together.

    Raises:
        DecodeError: The archive is broken, or the arrays are larger; the message names the array.

    Guarantees:
        All headers are compared with what is there before memory is taken.
    """
    members = npz_members(path)
    wanted = tuple(one for one in members if not names or one in names)
    total = sum(members[one].file_size for one in wanted)
    headers = npz_headers(path, wanted)
    if total > most_bytes:
        raise DecodeError(
            f"its arrays have {total / 1e9:.3g} GB unpacked; allowed are {most_bytes / 1e9:.3g}"
        )
    found = {}
    for name in wanted:
        try:
            with decoding(), zipfile.ZipFile(path) as archive, archive.open(members[name]) as stream:
                stream.read(headers[name].size)
                found[name] = _filled(stream, headers[name])
        except DecodeError as error:
            raise DecodeError(f"the array {name!r} cannot be read: {error}") from error
    return found


def npz_rows(path: Path, name: str) -> Generator[np.ndarray, None, None]:
    """Rows of one array of an .npz, one in memory at a time; an array in Fortran's order is read whole.

    Raises:
        DecodeError: The archive is broken.
    """
    header = npz_headers(path, (name,))[name]
    if header.by_columns or not header.shape:
        yield from (npz_arrays(path, names=(name,), most_bytes=2**62)[name] if header.shape else ())
        return
    size = math.prod(header.shape[1:]) * header.dtype.itemsize
    with contextlib.ExitStack() as opened:
        with decoding():
            archive = opened.enter_context(zipfile.ZipFile(path))
            stream = opened.enter_context(archive.open(npz_members(path)[name]))
            stream.read(header.size)
        for _ in range(header.shape[0]):
            with decoding():
                row = np.frombuffer(stream.read(size), header.dtype).reshape(header.shape[1:])
            yield row
        with decoding():
            stream.read(1)
