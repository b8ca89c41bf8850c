"""Strings as they are stored: UTF-8 bytes, 0 behind the last.

Shapes: N examples, L bytes.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from edgecmd.core.errors import DataError
from edgecmd.core.text import counted
from edgecmd.data.modalities.row import Stored
from edgecmd.data.modalities.string_bytes import MOST_BYTES as MOST_BYTES
from edgecmd.data.modalities.string_bytes import cut as cut
from edgecmd.data.modalities.string_bytes import padded, plain, problem_of

Strings = UInt8[np.ndarray, "num bytes"]


def encode_strings(strings: Sequence[str], num_bytes: int) -> Strings:
    """Strings as they are stored, (N, L), each as `row_of` has it.

    Args:
        strings: At least one character each, other than white space.
        num_bytes: L.

    Raises:
        DataError: One cannot be stored; the message has its place.

    Guarantees:
        `decode_strings` gives what was kept, and that is stored as the same bytes again.
    """
    stored = np.zeros((len(strings), num_bytes), dtype=np.uint8)
    for row, text in enumerate(strings):
        try:
            stored[row] = row_of(text, num_bytes)
        except DataError as error:
            raise DataError(f"String {row + 1} of {len(strings)}: {error}") from error
    return stored


def row_of(text: str, num_bytes: int) -> UInt8[np.ndarray, " bytes"]:
    """A string as it is stored, (L,): `plain`, UTF-8, cut before the first character that is too many.

    A cut may part a letter from a combining mark behind it, but never the bytes of one character.

    Raises:
        DataError: It is empty, has a control character, the end of a line or half of a surrogate pair, or
            begins with a character of more than L bytes.
    """
    problem = problem_of(text)
    if problem:
        raise DataError(f"The text {text[:40]!r} {problem}.")
    kept = cut(plain(text).encode(), num_bytes)
    if not kept:
        raise DataError(
            f"The text {text[:40]!r} begins with a character of more than {counted(num_bytes, 'byte')}. Raise"
            " data.text_bytes."
        )
    return padded(kept, num_bytes)


def is_cut(text: str, num_bytes: int) -> bool:
    """Whether a string has more than L bytes."""
    return len(plain(text).encode()) > num_bytes


def decode_strings(stored: Stored) -> list[str]:
    """The strings of stored rows; bytes that are no UTF-8, as only a degraded string has, become U+FFFD."""
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in np.asarray(stored)]


def check_strings(stored: Stored, *, name: str) -> None:
    """Refuse rows of bytes that `encode_strings` would never give; empty ones are for `is_constant`.

    Args:
        stored: (N, L).
        name: What an error calls them.

    Raises:
        DataError: A row has a 0 before its last byte, is no UTF-8, not as `plain` makes it, or has a
            character that no string may have.
    """
    for row, one in enumerate(np.asarray(stored)):
        text = text_of(one, name=f"{name}: row {row}")
        if text and (text != plain(text) or problem_of(text)):
            why = problem_of(text) or "is not NFC, or begins or ends with white space"
            raise DataError(f"{name}: row {row}: the text {text[:40]!r} {why}.")


def text_of(row: Stored, *, name: str) -> str:
    """The string of a row of bytes.

    Raises:
        DataError: It has a 0 before its last byte, or is no UTF-8.
    """
    encoded = row.tobytes().rstrip(b"\0")
    try:
        text = encoded.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is no UTF-8 at byte {error.start}. Save text.encode().") from error
    if "\0" in text:
        raise DataError(f"{name} has a 0 before its last byte; zeros are padding. Leave them out.")
    return text
