"""Strings into bytes. One rule for training and for devices.

It also becomes a part of the bundle's one infer.py (`export.device.assemble`), so that both read the same. It
therefore has the syntax of Python 3.8 and needs numpy alone.
"""

from __future__ import annotations

import unicodedata

import numpy as np

# Longer rows of bytes are something else.
MOST_BYTES = 512
# Of an array that a device takes: what is beyond is padding.
MOST_GIVEN = 2 * MOST_BYTES
# Control characters, halves of pairs, ends of lines and paragraphs: none of them is part of a string.
REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})


def plain(text: str) -> str:
    """A string as it is stored: NFC, and no white space at either end. Case stays, views vary it."""
    return unicodedata.normalize("NFC", text).strip()


def problem_of(text: str) -> str:
    """Why a string cannot be stored, as the end of a sentence; empty: it can."""
    if not plain(text):
        return "is empty. Leave it out"
    for place, one in enumerate(text):
        if unicodedata.category(one) in REFUSED:
            shown = one.encode("unicode_escape").decode()
            return f"has the character {shown} at place {place + 1}, which no string may have. Remove it"
    return ""


def cut(encoded: bytes, num_bytes: int) -> bytes:
    """The longest beginning of UTF-8, of at most ``num_bytes``, that ends with a whole character."""
    return encoded[:num_bytes].decode(errors="ignore").rstrip().encode()


def padded(kept: bytes, num_bytes: int) -> np.ndarray:
    """Bytes with zeros behind them, uint8, (num_bytes,)."""
    return np.frombuffer(kept.ljust(num_bytes, b"\0"), np.uint8)
