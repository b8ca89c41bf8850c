"""Text for people: hostile characters are shown instead of obeyed, and numbers agree with their nouns."""

import unicodedata
from collections.abc import Mapping
from typing import Any

# Control characters, format characters (bidi marks, zero width), halves of pairs, line and paragraph ends.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str, *, keep: str = "") -> str:
    r"""``text`` with everything that is not seen as itself written out, such as ``\x1b`` or ``\u202e``.

    Args:
        text: Any text, also a name of a file that is not UTF-8.
        keep: Characters that stay as they are, such as a newline.

    Guarantees:
        The result has no control character, no ANSI escape, no bidi or zero-width mark, no half of a
        surrogate pair and, unless ``keep`` has it, no end of a line. Other text is unchanged.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        one.encode("unicode_escape").decode()
        if unicodedata.category(one) in _UNSEEN and one not in keep
        else one
        for one in text
    )


def one_line(text: str) -> str:
    """``text`` as one printable line; the line ends of a library's laid-out message become spaces."""
    lines = text.replace("\r\n", "\n").split("\n")
    joined = lines[0]
    for line in lines[1:]:
        # A library sets the next line in; a name that somebody gave a file hardly does.
        joined += f" {line.strip()}" if line[:1].isspace() or not line else f"\n{line}"
    return printable(joined.rstrip())


def markdown_text(text: str) -> str:
    """``text`` as one line of Markdown that means nothing but itself: no HTML, link, code or table cell."""
    escaped = printable(text).replace("\\", "\\\\")
    for mark in "`*_[]|#~":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def printable_values(value: Any) -> Any:  # noqa: ANN401 - plain values of any depth
    """Plain values, as JSON gives them, with every text and every name `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable_values(name): printable_values(one) for name, one in value.items()}
    return [printable_values(one) for one in value] if isinstance(value, list | tuple) else value


def counted(num: int, noun: str, plural: str = "") -> str:
    """``1 pair``, ``2 pairs``, ``12,000 pairs``.

    Args:
        num: How many.
        noun: Of one.
        plural: Of more, where it is not ``noun`` with an s.
    """
    return f"{num:,} {noun if num == 1 else plural or noun + 's'}"


def unseen_text(unseen: str, shared: str = "") -> str:
    """What a test shares with no training pair, in the plural, and what it shares after all.

    Args:
        unseen: Such as ``concepts``.
        shared: A sentence's end, such as ``12 of 40 test sources are also in training``; empty: nothing.
    """
    return f"{unseen}, but {shared}" if shared else unseen


def size_of(num_bytes: int | float) -> str:
    """A number of bytes as a person would say it: ``512 bytes``, ``1.4 MB``."""
    if num_bytes < 1000:
        return counted(int(num_bytes), "byte")
    size, units = num_bytes / 1000, ["kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.1f} {units[0]}"
