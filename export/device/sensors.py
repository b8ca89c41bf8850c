"""Inputs of an exported student by kind: pictures, depth maps, recordings, strings; needs numpy.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgecmd.data.modalities.string_bytes import MOST_GIVEN, cut, padded, plain, problem_of
from edgecmd.data.user_files.decode import (
    FAINTEST,
    DecodeError,
    decode_wav,
    decoding,
    npy_array,
    one_channel,
    printable,
)
from export.device.reading import (
    MAX_PIXELS,
    SUFFIXES,
    InferError,
    Reading,
    image_reading,
    naming,
    open_pillow,
    pnm_values,
    with_channels,
)

FULL_SCALE = 32768.0
# Of a file of strings.
MOST_TEXT, BYTE_ORDER_MARK = 2**26, b"\xef\xbb\xbf"


def check_images(images: np.ndarray, *, channels: int, preprocess: Mapping[str, Any]) -> np.ndarray:  # noqa: ARG001
    """Pictures as the graph takes them: uint8, (batch, height, width, channels)."""
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == channels
    if not fits or not images.size or images[0].size > MAX_PIXELS * channels:
        raise InferError(
            f"images has dtype={images.dtype} and shape={images.shape}; allowed is uint8 of shape"
            f" (batch, height, width, {channels}), with 0 to 255 as in a picture file, and at most"
            f" {MAX_PIXELS:,} pixels a picture.",
            exit_code=4,
        )
    return images


def check_depth(maps: np.ndarray, *, channels: int, preprocess: Mapping[str, Any]) -> np.ndarray:  # noqa: ARG001
    """Depth maps as the graph takes them: uint16 millimetres, (batch, height, width, 1), 0 where missing."""
    fits = maps.dtype == np.uint16 and maps.ndim == 4 and maps.shape[3] == 1
    if not fits or not maps.size or maps[0].size > MAX_PIXELS:
        raise InferError(
            f"depth has dtype={maps.dtype} and shape={maps.shape}; allowed is uint16 of shape"
            " (batch, height, width, 1), in millimetres, 0 where nothing was measured, and at most"
            f" {MAX_PIXELS:,} pixels a map. Metres in float: np.uint16(np.rint(1000 * metres)).",
            exit_code=4,
        )
    return maps


def check_wave(waves: np.ndarray, *, channels: int, preprocess: Mapping[str, Any]) -> np.ndarray:  # noqa: ARG001
    """Recordings as the graph takes them: float32 shares of full scale, (batch, samples); int16 too."""
    least = int(preprocess["least_samples"])
    fits = waves.dtype in (np.float32, np.int16) and waves.ndim == 2 and waves.size
    if not fits or not least <= waves.shape[1] <= MAX_PIXELS or not np.isfinite(waves).all():
        raise InferError(
            f"wave has dtype={waves.dtype} and shape={waves.shape}; allowed are finite float32 from -1 to 1,"
            f" or int16, of shape (batch, samples) with {least:,} to {MAX_PIXELS:,} samples at"
            f" {preprocess['rate_hz']} Hz.",
            exit_code=4,
        )
    return np.asarray(waves / np.float32(FULL_SCALE), np.float32) if waves.dtype == np.int16 else waves


def refuse_rate(given_hz: int | float, *, rate_hz: int | float, what: str) -> None:
    """Refuse a recording of another rate: the student would hear another pitch and say nothing.

    Raises:
        InferError: The message names both rates.
    """
    if given_hz != rate_hz:
        raise InferError(
            f"{what} has rate_hz={given_hz:g}; the model takes {rate_hz:g}. Resample it first, such as"
            f" `ffmpeg -i in.wav -ar {rate_hz:g} -ac 1 out.wav`.",
            exit_code=4,
        )


def read_picture(path: Path, *, channels: int, preprocess: Mapping[str, Any], least: int = 0) -> Reading:  # noqa: ARG001
    """A picture file, uint8, (height, width, channels); ``least`` is that of `image_reading`."""
    return image_reading(path, channels=channels, least=least)


def read_depth(path: Path, *, channels: int, preprocess: Mapping[str, Any], least: int = 0) -> Reading:  # noqa: ARG001
    """A depth map, uint16 millimetres, (height, width, 1): 16-bit PNG (with Pillow) or PGM, or .npy.

    Raises:
        InferError: The file is missing, no depth map, or has 8 bits a pixel.
    """
    kind = path.suffix.lower()
    with naming(path, "depth map"):
        if kind == ".npy":
            values = npy_array(path, most_bytes=2 * MAX_PIXELS + 10_000)
        elif kind in (".pgm", ".pnm"):
            values, largest = pnm_values(path)
            values = values.astype(np.uint16) if largest > 255 else values
        else:
            picture = open_pillow(path)
            with decoding():
                values = np.asarray(picture)
            if picture.mode.startswith("I") and values.min() >= 0 and values.max() < 65536:
                values = values.astype(np.uint16)
        return Reading(measured_depth(str(path), values))


def measured_depth(name: str, values: np.ndarray) -> np.ndarray:
    """What was read as a depth map with a measurement, (height, width, 1).

    Raises:
        InferError: It is none, or has no measurement.
    """
    values = values[..., None] if values.ndim == 2 else values
    if values.dtype != np.uint16 or values.ndim != 3 or values.shape[2] != 1:
        raise InferError(
            f"{name} has dtype={values.dtype} and shape={values.shape}; allowed is one channel of 16 bits, in"
            " millimetres.",
            exit_code=4,
        )
    if not values.any():
        raise InferError(f"{name} has no measurement: 0 is missing. Take it again.", exit_code=4)
    return np.asarray(values)


def read_wave(path: Path, *, channels: int, preprocess: Mapping[str, Any], least: int = 0) -> Reading:  # noqa: ARG001
    """A recording, float32 shares of full scale, (samples,): a WAV as training reads it; its channels' mean.

    Raises:
        InferError: The file is missing, no such WAV, of another rate than the model's, or silent.
    """
    with naming(path, "WAV file"):
        samples, given_hz = decode_wav(path)
        refuse_rate(given_hz, rate_hz=float(preprocess["rate_hz"]), what=str(path))
        try:
            mono = one_channel(samples)
        except DecodeError as error:
            raise InferError(f"{path} {error}", exit_code=4) from error
        return Reading(heard(str(path), mono))


def heard(name: str, samples: np.ndarray) -> np.ndarray:
    """Shares of full scale that are loud enough.

    Raises:
        InferError: They are silent.
    """
    if samples.size and np.abs(samples).max() < FAINTEST:
        raise InferError(f"{name} is silent: at least -60 dB of full scale are needed.", exit_code=4)
    return samples


def finish_wave(name: str, samples: np.ndarray) -> np.ndarray:
    """Samples of 16 bits as shares of full scale; see `heard`."""
    return heard(name, np.asarray(samples / np.float32(FULL_SCALE), np.float32))


def check_text(strings: Any, *, channels: int, preprocess: Mapping[str, Any]) -> np.ndarray:  # noqa: ANN401, ARG001
    """Strings as the graph takes them: uint8, (batch, bytes), 0 behind the last byte; also a list of str."""
    rows = np.asarray(strings)
    if rows.dtype.kind == "U" and rows.ndim == 1 and rows.size:
        return np.stack([string_reading(str(one), preprocess=preprocess).values for one in strings])
    fits = rows.dtype == np.uint8 and rows.ndim == 2 and rows.size and rows.shape[1] <= MOST_GIVEN
    # What is behind a 0 must be 0 too, and something before it.
    if not fits or not rows[:, 0].all() or ((rows[:, :-1] == 0) & (rows[:, 1:] > 0)).any():
        raise InferError(
            f"text has dtype={rows.dtype} and shape={rows.shape}; allowed are a list of str, or uint8 of"
            f" shape (batch, bytes), 1 to {MOST_GIVEN} bytes a string: UTF-8, and 0 behind the last alone.",
            exit_code=4,
        )
    return rows


def string_reading(text: str, *, preprocess: Mapping[str, Any]) -> Reading:
    """A string as training stored it: NFC, without white space around, cut at a whole character.

    Raises:
        InferError: It is empty, or has a character that no string may have.
    """
    num_bytes, problem = int(preprocess["bytes"]), problem_of(text)
    if problem:
        raise InferError(f'The string "{printable(text[:40])}" {problem}.', exit_code=4)
    whole = plain(text).encode()
    kept = cut(whole, num_bytes)
    return Reading(padded(kept, num_bytes), cut_bytes=len(whole) - len(kept))


def read_text(path: Path, *, channels: int, preprocess: Mapping[str, Any], least: int = 0) -> Reading:  # noqa: ARG001
    """The one string of a UTF-8 file.

    Raises:
        InferError: It has another number of lines, or its string cannot be used.
    """
    found = lines_of(path)
    if len(found) != 1:
        raise InferError(f"{path} has {len(found)} lines; allowed is 1, with one string.", exit_code=4)
    return named(path, 1, found[0], preprocess=preprocess)


def read_texts(path: Path, *, preprocess: Mapping[str, Any]) -> list[Reading]:
    """The strings of a UTF-8 file, one a line."""
    every = [
        named(path, num, line, preprocess=preprocess) for num, line in enumerate(lines_of(path), start=1)
    ]
    if not every:
        raise InferError(f"{path} is empty; allowed is one string a line.", exit_code=4)
    return every


def lines_of(path: Path) -> list[bytes]:
    """Lines of a file of strings, without their ends and without a byte order mark."""
    with naming(path, "text file"):
        with decoding(), path.open("rb") as stream:
            data = stream.read(MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            raise DecodeError(f"it has more than {MOST_TEXT:,} bytes")
    lines = data.split(b"\n")
    # A file ends with the end of a line, or without one.
    lines = lines if lines[-1] else lines[:-1]
    return [line_of(one, first=not num) for num, one in enumerate(lines)]


def line_of(line: bytes, *, first: bool) -> bytes:
    """A line without its end and, the first, without a byte order mark."""
    if line.endswith(b"\n"):
        line = line[:-1]
    if line.endswith(b"\r"):
        line = line[:-1]
    return line[len(BYTE_ORDER_MARK) :] if first and line.startswith(BYTE_ORDER_MARK) else line


def text_of(line: bytes, *, where: str) -> str:
    """A line as text.

    Raises:
        InferError: It is no UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InferError(
            f"{where} is no UTF-8 at its byte {error.start + 1}. Save the file as UTF-8.", exit_code=4
        ) from error


def named(path: Path | str, num: int, line: bytes, *, preprocess: Mapping[str, Any]) -> Reading:
    """A string of a file; an error names file and line."""
    where = f"{path}, line {num},"
    try:
        return string_reading(text_of(line, where=where), preprocess=preprocess)
    except InferError as error:
        told = str(error) if str(error).startswith(where) else f"{where} {error}"
        raise InferError(told, exit_code=error.exit_code) from error


class RawForm(NamedTuple):
    """What a frame without a header is: its shape, the type of its numbers, what makes an input of it."""

    shape: tuple[int, ...]
    dtype: str
    finish: Callable[[str, np.ndarray], np.ndarray]


def raw_image(sizes: Sequence[int], channels: int) -> RawForm | None:
    """The form of frames of these sizes; None where they are none of pictures."""
    if len(sizes) < 2 or not 0 < sizes[0] * sizes[1] <= MAX_PIXELS:
        return None
    shape = (sizes[1], sizes[0], sizes[2] if len(sizes) > 2 else channels)
    return RawForm(shape, "u1", lambda _, values: with_channels(values, channels))


def raw_depth(sizes: Sequence[int], channels: int) -> RawForm | None:  # noqa: ARG001
    """The same of depth maps."""
    fits = len(sizes) >= 2 and 0 < sizes[0] * sizes[1] <= MAX_PIXELS and list(sizes[2:]) in ([], [1])
    return RawForm((sizes[1], sizes[0], 1), "<u2", measured_depth) if fits else None


def raw_wave(sizes: Sequence[int], channels: int) -> RawForm | None:  # noqa: ARG001
    """The same of recordings."""
    fits = len(sizes) == 1 and 0 < sizes[0] <= MAX_PIXELS
    return RawForm((sizes[0],), "<i2", finish_wave) if fits else None


class Sensor(NamedTuple):
    """A kind of input. All that a device does differently for one kind is in its row of `SENSORS`.

    Attributes:
        input_name: Name in the graph.
        noun: What messages call one.
        suffixes: Endings of its files.
        check: Arrays as the graph takes them.
        read: One input of a file.
        raw: The form of frames without a header, by sizes and channels; None where there are none such.
        raw_words: What messages say of these; it may name numbers of ``edgecmd.preprocess``.
        one_channel: Whether an input has one channel, whatever the student sees.
        needs: Numbers above 0 that ``edgecmd.preprocess`` must have.
        drafts: Whether the decoder of large files may shrink them.
        key: What answers call the name of an input.
        many: All inputs of a file, one a line. Words of the command line are then inputs, and no files.
    """

    input_name: str
    noun: str
    suffixes: tuple[str, ...]
    check: Callable[..., np.ndarray]
    read: Callable[..., Reading]
    raw: Callable[[Sequence[int], int], RawForm | None] | None = None
    raw_words: str = ""
    one_channel: bool = True
    needs: tuple[str, ...] = ()
    drafts: bool = False
    key: str = "file"
    many: Callable[..., list[Reading]] | None = None

    def read_all(self, path: Path, *, channels: int, preprocess: Mapping[str, Any]) -> list[Reading]:
        """Every input of a file."""
        if self.many is not None:
            return self.many(path, preprocess=preprocess)
        return [self.read(path, channels=channels, preprocess=preprocess)]


_IMAGE = Sensor(
    "image",
    "picture",
    SUFFIXES,
    check_images,
    read_picture,
    raw=raw_image,
    raw_words="WIDTHxHEIGHT of 8-bit pixels, or WIDTHxHEIGHTx1 (grey) and x3 (red, green, blue)",
    one_channel=False,
)
_DEPTH = Sensor(
    "depth",
    "depth map",
    (".png", ".pgm", ".pnm", ".npy", ".tif", ".tiff"),
    check_depth,
    read_depth,
    raw=raw_depth,
    raw_words="WIDTHxHEIGHT of 16-bit millimetres, low byte first",
)
SENSORS = {
    "image": _IMAGE._replace(drafts=True),
    "depth16": _DEPTH,
    "image-dense": _IMAGE,
    "depth16-dense": _DEPTH,
    "wave": Sensor(
        "wave",
        "recording",
        (".wav",),
        check_wave,
        read_wave,
        raw=raw_wave,
        raw_words="the number of samples of a recording, 16 bits, low byte first, at {rate_hz} Hz",
        needs=("rate_hz", "least_samples"),
    ),
    "text": Sensor(
        "text", "string", (".txt",), check_text, read_text, needs=("bytes",), key="text", many=read_texts
    ),
}
