"""Progress of a measurement that counts for itself: its ``tick(done, total)`` as a stage that is shown."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, runtime_checkable

from edgecmd.core.progress import Advance, stage


@runtime_checkable
class Tick(Protocol):
    """Told how far the work is."""

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` parts are finished."""


@contextmanager
def ticker(label: str) -> Iterator[Tick]:
    """A stage of that name for whoever watches (`edgecmd.cli.progress`), begun when its total is known."""
    advance: Advance | None = None
    seen, whole = 0, -1
    with ExitStack() as running:

        def tick(done: int, total: int) -> None:
            nonlocal advance, seen, whole
            if advance is None or total != whole or done < seen:
                running.close()
                advance, seen, whole = running.enter_context(stage(label, total)), 0, total
            advance(done - seen)
            seen = done

        yield tick
