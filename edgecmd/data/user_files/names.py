"""Names of pairs: one form for each, lists for messages, and which two names may mean the same pair."""

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

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
    """What a spreadsheet took an id for where ``name`` stands in its place; empty where nothing says so.

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
            return f"{len(found)} of them differ by {what} alone: {shown}{rest}."
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
