"""Progress of a long measurement: a bar with the remaining time, or a plain line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from edgecmd.cli.output import on_terminal, warn

LINES = 10
QUIET_S = 2.0


@runtime_checkable
class Tick(Protocol):
    """Told how far the work is."""

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` parts are finished."""


@contextmanager
def ticker(label: str) -> Iterator[Tick]:
    """A progress bar on a terminal; elsewhere at most ten lines with the remaining time."""
    if on_terminal(sys.stderr):
        with _bar(label) as tick:
            yield tick
        return
    yield _lines(label)


@contextmanager
def _bar(label: str) -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(label: str) -> Tick:
    started = last = time.monotonic()
    shown = 0

    def tick(done: int, total: int) -> None:
        nonlocal shown, last
        part, now = LINES * done // max(1, total), time.monotonic()
        if part <= shown or now - last < QUIET_S:
            return
        shown, last = part, now
        left = (now - started) / max(1, done) * (total - done)
        # Beside the result, which may be JSON.
        warn(f"{label}: {done}/{total}, about {left:.0f} s left")

    return tick
