"""The small CSV files beside a user's pairs: ``pairs.csv`` and ``labels.csv``."""

import csv
import difflib
import io
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

FEW = 5
Table = dict[str, dict[str, str]]


def few(names: Iterable[str]) -> str:
    """Number of ``names`` and the first of them, for a message."""
    listed = sorted(names)
    rest = ", ..." if len(listed) > FEW else ""
    return f"{len(listed)} ({', '.join(listed[:FEW])}{rest})"


def canonical(name: str) -> str:
    """``name`` without outer blanks and in one Unicode form: macOS spells file names differently."""
    return unicodedata.normalize("NFC", name.strip())


def misspelt(found: Collection[str], allowed: Sequence[str]) -> list[str]:
    """A sentence for each name in ``found`` that is close to one of ``allowed`` that is absent."""
    absent = [name for name in allowed if name not in found]
    close = {name: difflib.get_close_matches(name, absent, n=1) for name in found if name not in allowed}
    return [f"has {name!r}. Did you mean {match[0]!r}?" for name, match in close.items() if match]


def repeated(names: Iterable[str]) -> list[str]:
    """Names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def read_table(path: Path, *, required: Sequence[str], optional: Sequence[str], problems: list[str]) -> Table:
    """Rows of a CSV file by their ``id``.

    Args:
        path: Comma-separated UTF-8 text with a header.
        required: Columns that must be there, ``id`` among them.
        optional: Columns that may be there; any others are ignored.
        problems: Gets a sentence for everything that is wrong with the file.

    Returns:
        For each id the cells of the known columns; empty where the file cannot be used.
    """
    lines = _read_lines(path, problems)
    header = [canonical(name).lower() for name in lines[0]] if lines else []
    missing = [name for name in required if name not in header]
    problems += [f"{path} {sentence}" for sentence in misspelt(header, optional)]
    if lines is not None and missing:
        problems.append(
            f"{path} lacks the column {' and '.join(missing)}; its first line is {','.join(header)!r}."
            f" It must name {','.join((*required, *optional))}, separated by commas."
        )
    if not lines or missing:
        return {}
    rows = _rows(path, lines, problems)
    known = [(name, header.index(name)) for name in (*required, *optional) if name in header]
    cells = [{name: canonical(row[column]) for name, column in known} for row in rows]
    twice = repeated(row["id"] for row in cells)
    if twice:
        problems.append(f"{path} names an id more than once: {few(twice)}. Keep one line for each.")
    return {row["id"]: row for row in cells}


def _read_lines(path: Path, problems: list[str]) -> list[list[str]] | None:
    """All lines with any content, or None where the file cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if any(line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{path} cannot be read as CSV ({error}). Save it as comma-separated UTF-8 text.")
        return None


def _rows(path: Path, lines: list[list[str]], problems: list[str]) -> list[list[str]]:
    """Lines below the header that have as many cells as it."""
    width = len(lines[0])
    odd = [line for line in lines[1:] if len(line) != width]
    if odd:
        problems.append(
            f"{path} has {len(odd)} lines without exactly {width} cells, the first is {','.join(odd[0])!r}."
            " Put a cell that contains a comma into double quotes."
        )
    return [line for line in lines[1:] if len(line) == width]


def check_ids(path: Path, table: Table, *, ids: Collection[str], complete: bool, problems: list[str]) -> None:
    """Compare the ids of ``table`` with those of the pairs.

    Args:
        path: Where the table was read from.
        table: Rows by id.
        ids: Ids of the pairs.
        complete: Every pair must have a line.
        problems: Gets a sentence for unknown and for absent ids.
    """
    unknown = [name for name in table if name not in ids]
    if unknown:
        problems.append(
            f"{path} names ids without a pair: {few(unknown)}. An id is a file name without its suffix."
        )
    absent = [name for name in ids if name not in table]
    if complete and table and absent:
        problems.append(
            f"{path} has no line for {few(absent)}. Add them; leave a cell empty where its value is unknown."
        )
