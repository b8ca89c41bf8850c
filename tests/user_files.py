"""Users' files made up for the tests of readers: WAV and PNG by hand, and damage drawn from a seed."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from edgecmd.core.errors import EdgecmdError
from edgecmd.data.experiment import load_experiment
from edgecmd.data.findings import ProblemsError, problems_of
from edgecmd.data.pairs import PairedData
from edgecmd.data.user_files.folder import Reading, load_folder, read_own
from edgecmd.settings import DataConfig

TAIL = bytes.fromhex("000000001000800000aa00389b71")


def told(error: EdgecmdError, notes: list[str] | None) -> list[str]:
    """Sentences of an error; notes that it carries go to ``notes``."""
    if notes is not None and isinstance(error, ProblemsError):
        notes += error.notes
    return list(problems_of(error))


def check_folder(
    path: Path,
    config: DataConfig | None = None,
    *,
    image_size: int = DataConfig().image_size,
    notes: list[str] | None = None,
) -> list[str]:
    """What `edgecmd data check` lists of a folder or .npz: it reads on after problems."""
    settings = replace(config or DataConfig(image_size=image_size), name="folder", path=str(path))
    try:
        found = load_folder(settings, whole=True)
    except EdgecmdError as error:
        return told(error, notes)
    if notes is not None:
        notes += found.notes
    return []


def check_layout(config: DataConfig, *, notes: list[str]) -> list[str]:
    """What `edgecmd data check` lists of a public set on disk."""
    try:
        notes += load_experiment(config).notes
    except EdgecmdError as error:
        return told(error, notes)
    return []


def read_pairs(path: Path, config: DataConfig) -> PairedData:
    """Pairs of a folder or .npz in the order of the sorted ids, before they are counted and split."""
    reading = Reading(path=path, config=config, whole=True)
    own = read_own(reading)
    reading.refuse(complete=True)
    assert own is not None
    return own.data


def samples(num: int = 800, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Shares of full scale, (T, K), multiples of 1/128, so that every coding holds them exactly."""
    drawn = np.random.default_rng(seed).integers(-100, 100, (num, channels))
    return (drawn / 128.0).astype(np.float32)


def coded(shares: np.ndarray, bits: int, *, is_float: bool = False, order: str = "<") -> bytes:
    """Samples as a WAV holds them."""
    if is_float:
        return shares.astype(f"{order}f{bits // 8}").tobytes()
    if bits == 8:
        return (shares * 128 + 128).astype(np.uint8).tobytes()
    whole = np.rint(shares.astype(np.float64) * 2.0 ** (bits - 1)).astype(np.int64)
    if bits == 24:
        wide = whole.astype(f"{order}i4").view(np.uint8).reshape(-1, 4)
        return wide[:, :3].tobytes() if order == "<" else wide[:, 1:].tobytes()
    return whole.astype(f"{order}i{bits // 8}").tobytes()


def chunk(name: bytes, body: bytes, *, size: int | None = None, order: str = "<") -> bytes:
    told = len(body) if size is None else size
    return name + struct.pack(order + "I", told) + body + b"\0" * (len(body) % 2)


def form(
    tag: int = 1,
    *,
    channels: int = 1,
    rate: int = 8000,
    bits: int = 16,
    ext: int | None = None,
    order: str = "<",
) -> bytes:
    block = channels * bits // 8
    body = struct.pack(order + "HHIIHH", tag, channels, rate, rate * block, block, bits)
    return body if ext is None else body + struct.pack(order + "HHIH", 22, bits, 4, ext) + TAIL


def riff(*chunks: bytes, kind: bytes = b"RIFF", size: int | None = None, order: str = "<") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return kind + struct.pack(order + "I", len(body) if size is None else size) + body


def wav(shares: np.ndarray, *, bits: int = 16, is_float: bool = False, rate: int = 8000) -> bytes:
    head = form(3 if is_float else 1, channels=shares.shape[1], bits=bits, rate=rate)
    return riff(chunk(b"fmt ", head), chunk(b"data", coded(shares, bits, is_float=is_float)))


def png(width: int, height: int, rows: bytes, *, bits: int, colour: int, extra: bytes = b"") -> bytes:
    """A PNG of raw ``rows``, each of which begins with its filter."""

    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = part(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def damaged(good: bytes, num: int, *, header: int, seed: int) -> Iterator[bytes]:
    """``num`` damaged copies: bytes of the header changed, bits flipped anywhere, cut off, parts doubled."""
    rng = np.random.default_rng(seed)
    for index in range(num):
        data, how = bytearray(good), index % 4
        if how == 0:
            for place in rng.integers(0, min(header, len(data)), rng.integers(1, 5)):
                data[place] = rng.integers(0, 256)
        elif how == 1:
            for place in rng.integers(0, len(data), rng.integers(1, 9)):
                data[place] ^= 1 << int(rng.integers(0, 8))
        elif how == 2:
            del data[rng.integers(0, len(data)) :]
        else:
            start, end = sorted(rng.integers(0, len(data), 2).tolist())
            data[start:end] = data[start:end] * int(rng.integers(0, 3))
        yield bytes(data)
