r"""The one place that prints: results to standard output, all else to standard error.

What is printed is one line of printable text: control characters, ANSI escapes and bidi marks of names
are written out (``\x1b``, ``\u202e``), and so is what the code page of the output does not have. A
closed or missing output takes nothing and ends nothing. A reader that has gone (`edgecmd ... | head -1`)
ends the command quietly with exit code 141, as with other programs.
"""

import contextlib
import json
import logging
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from edgecmd.core.errors import MachineError
from edgecmd.core.machine import explain
from edgecmd.core.text import one_line, printable

PIPE_CLOSED = 141


@runtime_checkable
class Stream(Protocol):
    """What can be printed to."""

    def write(self, text: str, /) -> int:
        """Take ``text``."""

    def flush(self) -> None:
        """Hand it on."""

    def isatty(self) -> bool:
        """Whether a person looks at it."""


class OutputClosedError(Exception):
    """Nobody reads standard output any more."""


def say(text: str = "") -> None:
    """Print one line for a person, at once.

    Raises:
        OutputClosedError: Its reader has gone.
        MachineError: It cannot be written, as on a full disk.
    """
    _print(printable(text))


def warn(text: str) -> None:
    """Print one line to standard error, at once, where nobody takes it for a result."""
    # Nothing is left to tell it by, and the work goes on.
    with contextlib.suppress(OSError, ValueError):
        _write(sys.stderr, one_line(text))


def complain(message: str, *, debug: bool = False) -> None:
    """Print what went wrong as one line to standard error; under ``debug`` after the traceback."""
    if debug:
        for line in traceback.format_exc().splitlines():
            with contextlib.suppress(OSError, ValueError):
                _write(sys.stderr, printable(line))
    warn(f"edgecmd: {message}")


def write_progress(text: str) -> None:
    r"""Write to standard error as it is: ``\r`` begins the line again, and ``\n`` ends it."""
    with contextlib.suppress(OSError, ValueError):
        _write(sys.stderr, printable(text, keep="\r\n"), end="")


def can_write_over() -> bool:
    """Whether standard error is a terminal on which a line can be written over."""
    with contextlib.suppress(ValueError, AttributeError):
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return False


def print_json(value: object) -> None:
    """Print one JSON document, in ASCII."""
    _print(json.dumps(value, indent=2, allow_nan=False))


def print_help(text: str, *, to_error: bool) -> None:
    """Print the help of a command, with its line ends."""
    if to_error:
        with contextlib.suppress(OSError, ValueError):
            _write(sys.stderr, printable(text, keep="\n"))
        return
    _print(printable(text, keep="\n"))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; plain columns where the output is no terminal, or too narrow to show all of it.

    Nothing is cut off: on a narrow terminal columns that do not fit follow below, beside the first one again,
    and a cell that is longer than the line goes on in the next one.
    """
    table = [[printable(cell) for cell in row] for row in [columns, *rows]]
    if on_terminal() and _rich_table(printable(title), table):
        return
    from rich.cells import cell_len, set_cell_size

    widths = [max(cell_len(row[index]) for row in table) for index in range(len(columns))]
    say(title)
    for block in _blocks(widths, room=shutil.get_terminal_size().columns if on_terminal() else None):
        for row in table:
            cells = [set_cell_size(row[index], widths[index]) for index in block]
            say("  " + "  ".join(cells).rstrip())


def _blocks(widths: Sequence[int], *, room: int | None) -> Iterator[list[int]]:
    """Columns that stand beside the first one, as many as there is room for; None: all of them."""
    block, used = [0], widths[0]
    for index, width in enumerate(widths[1:], start=1):
        if room is not None and len(block) > 1 and used + width + 4 > room:
            yield block
            block, used = [0], widths[0]
        block.append(index)
        used += width + 2
    yield block


def on_terminal(stream: Stream | None = None) -> bool:
    """Whether ``stream`` (standard output where none is given) shows more than plain lines.

    It does on a terminal, without ``NO_COLOR`` in the environment and with a ``TERM`` that is not dumb.
    """
    stream = stream or sys.stdout
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    with contextlib.suppress(ValueError):  # a closed stream
        return stream is not None and stream.isatty() and not plain
    return False


def _rich_table(title: str, rows: Sequence[Sequence[str]]) -> bool:
    """Print it with lines and colours; False where the terminal is too narrow for its longest words."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As Text: in a plain string "[red]" would be a command and not a name.
    table = Table(title=Text(title), title_justify="left")
    for index, column in enumerate(rows[0]):
        table.add_column(Text(column), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    text = captured.get().removesuffix("\n")
    if not all(word in text for row in rows for cell in row for word in cell.split()):
        return False
    _print(text)
    return True


def _print(text: str) -> None:
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        raise OutputClosedError from None
    except ValueError:
        return  # closed by somebody in this process
    except OSError as error:
        raise MachineError(f"What is printed cannot be written: {explain(error)}") from error


def _write(stream: Stream | None, text: str, *, end: str = "\n") -> None:
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + end)
    stream.flush()


class _Plain(logging.Handler):
    """Warnings of edgecmd itself as a line each; those of libraries only where a developer asked."""

    def __init__(self, *, debug: bool) -> None:
        super().__init__(logging.WARNING)
        self._debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        """Print it, or not."""
        own = record.name.split(".")[0] == "edgecmd"
        if own or self._debug:
            warn(record.getMessage() if own else f"{record.name}: {record.getMessage()}")


@contextlib.contextmanager
def quiet_libraries(*, debug: bool) -> Iterator[None]:
    """Neither warnings nor log lines of a library reach a user raw.

    Args:
        debug: Show them, a line each.
    """
    root, flower, handler = logging.getLogger(), logging.getLogger("flwr"), _Plain(debug=debug)

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if debug:
            warn(f"{category.__name__}: {message}")

    def only_debug(_: logging.LogRecord) -> bool:
        return debug

    with warnings.catch_warnings():
        warnings.showwarning = show
        root.addHandler(handler)
        flower.addFilter(only_debug)
        try:
            yield
        finally:
            root.removeHandler(handler)
            flower.removeFilter(only_debug)


def open_streams() -> None:
    """Give this process all three standard streams, and let them print what their code page lacks.

    Where one was closed (``>&-``) or never there (pythonw), the first file that is opened would get its
    number, and what a library prints would land in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def settle_streams() -> None:
    """Empty both outputs now; what cannot be written is dropped, and Python says nothing of it at its end."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
                os.close(null)


def reader_has_gone() -> bool:
    """Whether standard output is a pipe or socket that nobody reads any more."""
    import select

    if not hasattr(select, "poll"):
        return True
    with contextlib.suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False
