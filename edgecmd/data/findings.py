"""What is found in a user's data: problems that stop a run, and notes that do not."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from edgecmd.core.errors import DataError

CHECK_COMMAND = "edgecmd data check"
# A sentence about one file or row begins with it; what follows is the kind of fault.
FILE = re.compile(r"^.*?(?:\.[A-Za-z0-9]{2,5}|(?<=target )\d+)(?=:? )", re.DOTALL)
SHOWN = 3


class ProblemsError(DataError):
    """Data cannot be used. The text has the first problem and how to see the others.

    Args:
        problems: A sentence for each, at least one.
        notes: What else was seen.
        command: What lists all of them.
        complete: Whether everything was read; otherwise what is cheap to see alone was looked at.
    """

    def __init__(
        self, problems: Sequence[str], *, notes: Sequence[str] = (), command: str, complete: bool
    ) -> None:
        more = len(problems) - 1
        super().__init__(f"{problems[0]} {more} more: `{command}` lists all." if more else problems[0])
        self.problems, self.notes, self.complete = tuple(problems), tuple(notes), complete


def problems_of(error: Exception) -> tuple[str, ...]:
    """Every sentence of an error that refuses data."""
    return error.problems if isinstance(error, ProblemsError) else (str(error),)


def by_kind(problems: Iterable[str]) -> list[str]:
    """Sentences for a person: of many with the same fault the first few, and how many there are."""
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for text in problems:
        file = FILE.match(text)
        folder = file.group().rpartition("/")[0] if file else ""
        groups[folder, re.sub(r"\d+", "0", FILE.sub("", text))].append(text)
    told: list[str] = []
    for texts in groups.values():
        told += texts if len(texts) <= SHOWN + 1 else texts[:SHOWN]
        rest = len(texts) - SHOWN
        if rest > 1:
            names = [found.group() for found in map(FILE.match, texts[SHOWN : SHOWN + 2]) if found]
            told.append(f"... and {rest:,} more of this kind: {', '.join(names)}, ...")
    return told
