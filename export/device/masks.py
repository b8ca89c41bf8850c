"""Masks of a dense student: a class for each pixel, told in words and written as a PNG; numpy alone.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.device.saved_embeddings import write_beside

# Colours of the classes from 1 on, which repeat; class 0 is black.
COLOURS = ("e6194b", "3cb44b", "ffe119", "4363d8", "f58231", "911eb4", "46f0f0", "f032e6", "bcf60c", "fabebe")


def mask_of(logits: np.ndarray) -> np.ndarray:
    """Likeliest class of each pixel, uint8, (height, width), of logits (classes, height, width)."""
    return np.asarray(logits.argmax(axis=0), dtype=np.uint8)


def shares(mask: np.ndarray, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Classes that occur, with their share of the pixels, the largest first."""
    counts = np.bincount(mask.ravel(), minlength=len(classes)) / mask.size
    found = [(name, float(share)) for name, share in zip(classes, counts) if share]
    return sorted(found, key=lambda pair: -pair[1])


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask as a PNG with a palette: each pixel's number is its class, and it is shown in colour.

    Raises:
        InferError: It cannot be written; nothing is left behind.
    """
    height, width = mask.shape
    palette = bytes(3) + b"".join(bytes.fromhex(COLOURS[index % len(COLOURS)]) for index in range(255))
    rows = np.concatenate([np.zeros((height, 1), np.uint8), mask], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    data = b"\x89PNG\r\n\x1a\n" + data
    write_beside(path, data, hint="Give --masks a folder with room.")
