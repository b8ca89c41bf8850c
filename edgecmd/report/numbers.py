"""How numbers are written, alone and in the cell of a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

NOTHING = "\u2013"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: Plain text.
        note: Plain text below it in small letters.
        best: Whether to mark it as the best of its column.
    """

    text: str
    note: str = ""
    best: bool = False


# The header of a row, and the cells behind it.
Row: TypeAlias = tuple[str, Sequence[Cell | str]]


def share(value: float) -> str:
    """A share between 0 and 1 with three decimals; more where three would show nothing but zeros."""
    if value <= 0 or value >= 0.0005:
        return f"{value:.3f}"
    return f"{value:.{1 - math.floor(math.log10(value))}f}"


def duration(seconds: float) -> str:
    """Seconds, from two minutes on with minutes, such as ``3 min 20 s``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def plain(value: object) -> str:
    """A setting or a figure of any type; `NOTHING` where there is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, list):
        return ", ".join(plain(one) for one in value)
    return NOTHING if value is None or value == "" else str(value)
