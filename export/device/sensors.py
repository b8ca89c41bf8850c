"""Inputs of an exported student by kind: pictures, depth maps, recordings; numpy and the standard library.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgecmd.data.user_files.decode import FAINTEST, DecodeError, decode_wav, decoding, npy_array, one_channel
from export.device.reading import (
    MAX_PIXELS,
    SUFFIXES,
    InferError,
    Reading,
    image_reading,
    naming,
    open_pillow,
    pnm_values,
)

FULL_SCALE = 32768.0


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


class Sensor(NamedTuple):
    """A kind of input: its name in the graph, its noun, endings of its files, check of arrays, reader."""

    input_name: str
    noun: str
    suffixes: tuple[str, ...]
    check: Callable[..., np.ndarray]
    read: Callable[..., Reading]


SENSORS = {
    "image": Sensor("image", "picture", SUFFIXES, check_images, read_picture),
    "depth16": Sensor(
        "depth", "depth map", (".png", ".pgm", ".pnm", ".npy", ".tif", ".tiff"), check_depth, read_depth
    ),
    "image-dense": Sensor("image", "picture", SUFFIXES, check_images, read_picture),
    "depth16-dense": Sensor(
        "depth", "depth map", (".png", ".pgm", ".pnm", ".npy", ".tif", ".tiff"), check_depth, read_depth
    ),
    "wave": Sensor("wave", "recording", (".wav",), check_wave, read_wave),
}
