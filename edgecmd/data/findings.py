"""What is found in a user's data: problems that refuse a run, and notes that it can live with."""

from collections.abc import Sequence

from edgecmd.errors import DataError

CHECK_COMMAND = "edgecmd data check"


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
