"""The small tables beside a user's pairs (``pairs.csv``, ``labels.csv``, ``masks.csv``) and the ids in them.

An id has one form; two that differ by little may mean the same pair, which messages say.

What spreadsheets write is read where it has one meaning, and named in a note: commas, semicolons, tabs or
bars between cells, UTF-8 or UTF-16, any ends of lines, Excel's first line ``sep=;``. What would be a guess
(a code page of one country, lost zeros) is refused with the way out.
"""

import csv
import difflib
import io
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecmd.core.machine import path_trouble
from edgecmd.core.text import counted

FEW = 5
# Endings that a name may carry in a table: those of every file that may lie in a half of the pairs.
ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
HALVES = re.compile(r"^(?:\./)?(?:source|target|target_mask)/", re.IGNORECASE)


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


def without_ending(name: str) -> str:
    r"""A name as a file list has it, as an id: ``source\cat\001.png`` is ``cat/001``."""
    return canonical(ENDING.sub("", HALVES.sub("", name.replace("\\", "/"))))


def without_zeros(name: str) -> str:
    """A name whose numbers lost their leading zeros, as spreadsheets make of ``001``."""
    return ZEROS.sub("", name)


# What spreadsheets make of ids: 1E+00, 1,23457E+12; then 1.0 of 1; then dates, 01.Feb, 2-Jan, 02/01/2026.
SCIENTIFIC = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?[Ee][+-]?[0-9]{1,3}")
DECIMAL = re.compile(r"([0-9]+)[.,]0+")
DATE = re.compile(
    r"[0-9]{1,2}[-./ ]+[^\W\d_]{3,4}\.?(?:[-./ ]+[0-9]{2,4})?|[^\W\d_]{3,4}\.?[-./ ]+[0-9]{2,4}"
    r"|[0-9]{1,2}([-./])[0-9]{1,2}\1[0-9]{2,4}|[0-9]{4}([-./])[0-9]{1,2}\2[0-9]{1,2}(?: 00:00(?::00)?)?"
)
# Ids that are taken for dates: 1-2, 3/4, 1.2.26, MAR1, 2-jan.
LIKE_A_DATE = re.compile(
    r"[0-9]{1,4}[-./_ ][0-9]{1,4}(?:[-./_ ][0-9]{1,4})?|[^\W\d_]{3,9}[-. ]?[0-9]{1,4}"
    r"|[0-9]{1,2}[-. ]?[^\W\d_]{3,9}"
)
# Digits of a number that a spreadsheet keeps; zeros stand in place of all further ones.
KEPT_DIGITS = 15


def made_of_an_id(name: str, absent: Collection[str]) -> str:
    """What a spreadsheet took an id for where ``name`` is in its place; empty where nothing says so.

    Args:
        name: An id of a table that no pair has.
        absent: Ids of pairs without a line.
    """
    decimal = DECIMAL.fullmatch(name)
    whole = {without_zeros(one) for one in absent if one.isdecimal()}
    if SCIENTIFIC.fullmatch(name) or (decimal and without_zeros(decimal[1]) in whole):
        return "a number"
    is_cut = name.isdecimal() and len(name) > KEPT_DIGITS and not name[KEPT_DIGITS:].strip("0")
    if is_cut and any(len(one) == len(name) and one[:14] == name[:14] for one in whole):
        return "a number"
    is_date = DATE.fullmatch(name) and any(LIKE_A_DATE.fullmatch(one) for one in absent)
    return "a date" if is_date else ""


def without_folder(name: str) -> str:
    """The last part of a name."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


# Why two names differ, as a message says it -> what makes them equal.
KINDS_OF_NEAR: dict[str, Callable[[str], str]] = {
    "leading zeros": without_zeros,
    "upper and lower case": str.casefold,
    "an ending or a folder of the name": lambda name: without_folder(without_ending(name)),
    "blanks, dashes or underscores": lambda name: re.sub(r"[\s_-]+", "", name).casefold(),
    "lookalike letters of Unicode": lambda name: unicodedata.normalize("NFKC", name),
}


def unambiguous(names: Iterable[str], others: Iterable[str], *, form: Callable[[str], str]) -> dict[str, str]:
    """For each of ``names`` the one of ``others`` that ``form`` makes equal to it, and to no other name."""
    forms: defaultdict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, listed in enumerate((names, others)):
        for name in listed:
            forms[form(name)][side].append(name)
    return {one[0]: other[0] for one, other in forms.values() if len(one) == len(other) == 1}


def near_names(names: Collection[str], others: Collection[str]) -> str:
    """A sentence on how ``names`` differ from ``others`` where something small is all; empty otherwise."""
    for what, form in KINDS_OF_NEAR.items():
        found = unambiguous(names, others, form=form)
        if found:
            shown = ", ".join(f"{one!r} for {other!r}" for one, other in sorted(found.items())[:FEW])
            rest = ", ..." if len(found) > FEW else ""
            return f"{len(found)} of them differ only by {what}: {shown}{rest}."
    return ""


def same_but_case(names: Iterable[str]) -> list[str]:
    """Names that differ from another in upper and lower case alone."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[name.casefold()].append(name)
    return [name for group in groups.values() if len(group) > 1 for name in group]


def grouped(names: Mapping[str, Sequence[str]]) -> str:
    """Groups with their counts and first names: ``2 .txt (a.txt, b.txt), 1 .md (c.md)``."""
    parts = [f"{len(group)} {what} ({_first(group)})" for what, group in sorted(names.items())]
    return ", ".join(parts)


def _first(group: Sequence[str]) -> str:
    listed = sorted(group)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")


MAX_BYTES = 64_000_000
# Characters between cells, in the order of preference, as a note calls them.
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# Longest first: the mark of UTF-32 begins like that of UTF-16.
MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
WAY_OUT = "Save it as comma-separated UTF-8 text (in Excel: CSV UTF-8)."
Table = dict[str, dict[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lines:
    """Cells of the lines with any content, the number of each in the file, and what is between them."""

    cells: list[list[str]]
    numbers: list[int]
    delimiter: str


def read_table(
    path: Path,
    *,
    required: Sequence[str],
    optional: Sequence[str],
    problems: list[str],
    notes: list[str] | None = None,
) -> Table:
    """Rows of a CSV file by their ``id``.

    Args:
        path: Text with a header.
        required: Columns that must be there, ``id`` among them.
        optional: Columns that may be there; any others are ignored, and noted.
        problems: Gets a sentence for everything that is wrong with the file.
        notes: Gets a sentence for what was recognised, and for columns that are not used.

    Returns:
        For each id the cells of the known columns; empty where the file cannot be used.
    """
    told = [] if notes is None else notes
    try:
        lines = _lines(_text(path, told), required=required)
    except (OSError, ValueError) as error:
        problems.append(f"{path} cannot be read as CSV: {path_trouble(error)}")
        return {}
    if not lines.cells:
        problems.append(f"{path} is empty. Its first line must name {','.join((*required, *optional))}.")
        return {}
    header = [canonical(name).lower() for name in without_last_empty(lines.cells[0])]
    before = len(problems)
    problems += [f"{path} {sentence}" for sentence in misspelt(header, optional)]
    problems += [f"{path} {sentence}" for sentence in _header_problems(lines, header, required, optional)]
    if any(name not in header for name in required) or repeated(name for name in header if name):
        return {}
    if lines.delimiter != ",":
        told.append(f"{path} has {DELIMITERS[lines.delimiter]} between its cells and was read accordingly.")
    others = [name for name in header if name and name not in (*required, *optional)]
    if others and len(problems) == before:
        told.append(f"{path} has columns that are not used: {few(others)}.")
    return _table(path, lines, header, known=(*required, *optional), problems=problems)


def _text(path: Path, notes: list[str]) -> str:
    """Text of a file; raises a ValueError with what is wrong."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file. Put the table itself there.")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"it has {status.st_size:,} bytes; allowed are {MAX_BYTES:,}. Make it smaller.")
    raw = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), _unmarked(raw))
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line} is not {encoding.removesuffix('-sig').upper()} text: byte {raw[error.start]:#04x}"
            f" belongs to some other code page. {WAY_OUT}"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"line {line} has a NUL character, so the file is damaged or is not text. {WAY_OUT}")
    if encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"{path} is {encoding[:6].upper()} text and was read as such.")
    return text


def _unmarked(raw: bytes) -> str:
    """Encoding of text without a mark: UTF-16 has a NUL in nearly every second byte of a table."""
    start = raw[:200]
    for parity, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        half, other = start[parity::2], start[1 - parity :: 2]
        if len(half) > 3 and half.count(0) > 0.8 * len(half) and not other.count(0):
            return name
    return "utf-8"


def _lines(text: str, *, required: Sequence[str]) -> _Lines:
    """Lines with any content, cut where the header has the required names; else where it has most cells."""
    first = next(iter(text.splitlines()), "")
    choices, skipped = list(DELIMITERS), 0
    # Excel's own first line says what is between the cells.
    if first.strip('" ').lower().startswith("sep="):
        named = first.strip('" ')[4:5] or "\t"
        choices, skipped = [named if named in DELIMITERS else ","], 1
        text = text[len(first) :].lstrip("\r\n")
    head = next((line for line in io.StringIO(text, newline=None) if line.strip()), "")
    delimiter = delimiter_of(head, required=required, choices=choices)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    cells, numbers, first_number = [], [], 1 + skipped
    try:
        for line in reader:
            if any(one.strip() for one in line):
                cells.append(line)
                numbers.append(reader.line_num + skipped)
            first_number = reader.line_num + skipped + 1
    except csv.Error as error:
        raise ValueError(_csv_trouble(error, first=first_number, last=reader.line_num + skipped)) from error
    return _Lines(cells=cells, numbers=numbers, delimiter=delimiter)


def delimiter_of(head: str, *, required: Sequence[str], choices: Iterable[str] = DELIMITERS) -> str:
    """What is between the names of a header: what gives most of the required ones, else most cells."""

    def fit(delimiter: str) -> tuple[int, int]:
        names = names_in(head, delimiter)
        return (sum(name in names for name in required), len(names))

    # The first of equal ones: commas before the others.
    return max(choices, key=fit)


def names_in(head: str, delimiter: str) -> list[str]:
    """Names of columns in a header; none where it cannot be cut so."""
    try:
        return [canonical(one).lower() for one in next(csv.reader([head], delimiter=delimiter), [])]
    except csv.Error:
        return []


def header_of(path: Path) -> list[str]:
    """Names of the columns of a CSV file; none where it is absent or cannot be read."""
    try:
        lines = _lines(_text(path, []), required=("id",))
    except (OSError, ValueError):
        return []
    return [canonical(name).lower() for name in lines.cells[0]] if lines.cells else []


def _csv_trouble(error: csv.Error, *, first: int, last: int) -> str:
    """What is wrong with a row that begins in line ``first`` and was read up to line ``last``."""
    limit = csv.field_size_limit()
    if "field larger" in str(error) and first == last:
        return f"line {first} has a cell of more than {limit:,} characters. Shorten it."
    if "unexpected end" in str(error) or "field larger" in str(error):
        return (
            f"a double quote that opens in or after line {first} is never closed. Remove it, close it, or"
            " write it twice where the text itself has one."
        )
    if "expected after" in str(error):
        rows = f"line {first}" if first == last else f"the row of the lines {first} to {last}"
        return (
            f"{rows} has text behind a closing double quote. Remove the quote, or write it twice where the"
            " text itself has one."
        )
    return f"line {last}: {error}. {WAY_OUT}"


def without_last_empty(cells: Sequence[str], width: int = 0) -> list[str]:
    """Cells without the empty ones beyond ``width``, which spreadsheets add at the end."""
    kept = list(cells)
    while len(kept) > width and not kept[-1].strip():
        kept.pop()
    return kept


def _header_problems(
    lines: _Lines, header: list[str], required: Sequence[str], optional: Sequence[str]
) -> list[str]:
    """Sentences about names of columns that are absent or twice there, and about a table without rows."""
    missing = [name for name in required if name not in header]
    if missing:
        columns = "column" if len(missing) == 1 else "columns"
        return [
            f"lacks the {columns} {' and '.join(missing)}; its first line is {','.join(header)!r}."
            f" It must name {','.join((*required, *optional))}, separated by commas."
        ]
    twice = [name for name in repeated(header) if name]
    if twice:
        return [f"has columns of one name: {few(twice)}. Keep one of each."]
    if len(lines.cells) == 1:
        return ["has no line below the header. Add one for each id, or remove the file."]
    return []


def _table(
    path: Path, lines: _Lines, header: list[str], *, known: Sequence[str], problems: list[str]
) -> Table:
    """The rows by id, of lines with as many cells as the header."""
    width = len(header)
    full = [without_last_empty(cells, width) for cells in lines.cells[1:]]
    odd = [index for index, row in enumerate(full) if len(row) != width]
    if odd:
        first = odd[0]
        problems.append(
            f"{path} has {counted(len(odd), 'line')} without exactly {counted(width, 'cell')}, the first is"
            f" {','.join(lines.cells[first + 1])[:200]!r} in line {lines.numbers[first + 1]}. Put a cell that"
            " contains a comma into double quotes."
        )
    names = [(name, header.index(name)) for name in known if name in header]
    table = [{name: canonical(row[at]) for name, at in names} for row in full if len(row) == width]
    if any(not row["id"] for row in table):
        problems.append(
            f"{path} has {counted(sum(not row['id'] for row in table), 'line')} with an empty id. Fill it in."
        )
    twice = repeated(row["id"] for row in table if row["id"])
    if twice:
        problems.append(f"{path} names an id more than once: {few(twice)}. Keep one line for each.")
    return {row["id"]: row for row in table if row["id"]}


def check_ids(
    path: Path,
    table: Table,
    *,
    ids: Collection[str],
    complete: bool,
    problems: list[str],
    notes: list[str] | None = None,
) -> Table:
    """Compare the ids of ``table`` with those of the pairs.

    Args:
        path: Where the table was read from.
        table: Rows by id.
        ids: Ids of the pairs.
        complete: Every pair must have a line.
        problems: Gets a sentence for unknown and for absent ids.
        notes: Gets a sentence where ids were read as names of files.

    Returns:
        The rows by the ids of the pairs. Names of files (``001.png``, ``source/001.png``) are taken for ids
        where each fits one pair that has no other line.
    """
    strange = [name for name in table if name not in ids]
    found = unambiguous(strange, [one for one in ids if one not in table], form=without_ending)
    if found and notes is not None:
        one, other = next(iter(sorted(found.items())))
        notes.append(
            f"{path} has {counted(len(found), 'id')} with an ending or folder, such as {one!r}, taken for"
            f" {other!r}."
        )
    table = {found.get(name, name): row | {"id": found.get(name, name)} for name, row in table.items()}
    problems += [f"{path} {sentence}" for sentence in _id_problems(table, ids, complete=complete)]
    return table


def _id_problems(table: Table, ids: Collection[str], *, complete: bool) -> list[str]:
    unknown = [name for name in table if name not in ids]
    absent = [name for name in ids if name not in table]
    lost = unambiguous(unknown, absent, form=without_zeros)
    if lost:
        one, other = next(iter(sorted(lost.items())))
        return [
            f"has {counted(len(lost), 'id')} without leading zeros, such as {one!r} for {other!r}: a"
            " spreadsheet turned them into numbers. Make the column id text before you type or import it"
            f" (in Excel: Format Cells, Text), or write names of files there ({other}.png), which stay as"
            " they are."
        ]
    problems = []
    made = [(one, what) for one in unknown if (what := made_of_an_id(one, absent))]
    if made:
        one, what = min(made)
        return [
            f"has {counted(len(made), 'id')} that a spreadsheet turned into {what}, such as {one!r}: the"
            " original text is lost. Make the column id text before you type or import it (in Excel: Format"
            " Cells, Text), or write names of files there (001.png), which stay as they are."
        ]
    if unknown:
        near = near_names(unknown, absent)
        problems.append(
            f"names ids without a pair: {few(unknown)}. {near}{' ' if near else ''}An id is a file name"
            " without its suffix."
        )
    if complete and table and absent:
        problems.append(
            f"has no line for {few(absent)}. Add them; leave a cell empty where its value is unknown."
        )
    return problems
