"""One command of the command line within the test's own process."""

import contextlib
import io
import math
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgecmd.cli.app import main
from edgecmd.core.kept import Kept

PACKAGES = ("edgecmd", "clients", "server", "export")
# Numbers made of numbers alone, words of new processes, and the table of commands: no file and no setting can
# make them wrong.
PURE = ("edgecmd.privacy.accounting", "edgecmd.audits.step.random_source", "edgecmd.cli.app")


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Exit code of one command. It never says how far it is, so that a slow machine changes no text."""
    monkeypatch.setattr(sys, "argv", ["edgecmd", *map(str, words)])
    monkeypatch.setattr("edgecmd.cli.progress.QUIET_S", math.inf)
    before = signal.getsignal(signal.SIGINT)
    try:
        main()
    except SystemExit as leave:
        return int(leave.code or 0)
    finally:
        signal.signal(signal.SIGINT, before)
    return 0


def edgecmd(*words: object, folder: Path) -> Done:
    """One command in ``folder``, which finds of earlier ones what lies on the disk and nothing else."""
    out, err = io.StringIO(), io.StringIO()
    with (
        alone(),
        pytest.MonkeyPatch.context() as monkeypatch,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run(monkeypatch, *words)
    return Done(code, out.getvalue(), err.getvalue())


# The command line in a process of its own that never says how far it is, however slow the machine.
QUIET = "import math; from edgecmd.cli import main, progress; progress.QUIET_S = math.inf; main()"


def take_interrupts() -> None:
    """A shell that runs tests in the background has Ctrl-C ignored; a child would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within the block nothing that this process keeps is of earlier commands, and nothing stays after it."""
    path = list(sys.path)
    forget()
    try:
        yield
    finally:
        forget()
        sys.path[:] = path


def forget() -> None:
    """Empty what functions of the four packages keep for their process."""
    from edgecmd.config import assemble

    assemble.WORKER.__init__()  # type: ignore[misc]
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in PACKAGES and name not in PURE:
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
                elif isinstance(value, Kept):
                    value.__init__(2)  # type: ignore[misc]
