"""Progress of long work, reported to a watcher. Nothing here prints, and without a watcher nothing happens.

A watcher is set by the command line (`edgecmd.cli.progress`) for the work below it. It is held in a context
variable, so that the functions between need not hand it on; threads and processes of their own have none.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")
Advance = Callable[[int], None]
Tick = Callable[[int, int], None]
"""Told how many parts of how many are done."""


@runtime_checkable
class Watcher(Protocol):
    """Receives stages, which nest as calls do."""

    def begin(self, what: str, total: int, done: int) -> int:
        """A stage of ``total`` steps begins, ``done`` of them done before; the answer names it."""

    def advance(self, stage: int, num: int) -> None:
        """``num`` more of its steps are done."""

    def end(self, stage: int) -> None:
        """It is over, finished or not, and so is every stage within it."""


_WATCHER: ContextVar[Watcher | None] = ContextVar("edgecmd_progress", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Tell ``watcher`` of every stage in this block."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


@contextmanager
def stage(what: str, total: int = 1, *, done: int = 0) -> Iterator[Advance]:
    """A stage of long work, for as long as the block runs.

    Args:
        what: What is done, in words for a person; no name of a file and nothing of the data.
        total: Number of its steps.
        done: Steps that are done already; how long they took says nothing of the others.

    Returns:
        Function that reports how many more steps are done.
    """
    watcher = _WATCHER.get()
    if watcher is None:
        yield _nothing
        return
    number = watcher.begin(what, total, done)
    try:
        yield lambda num: watcher.advance(number, num)
    finally:
        watcher.end(number)


def _nothing(_: int) -> None:
    """Nobody watches."""


def tracked(items: Iterable[Item], what: str, *, num: int | None = None) -> Iterator[Item]:
    """The items one after another, each reported when it is done.

    Args:
        items: What is worked through.
        what: See `stage`.
        num: How many there are, where ``items`` do not know.
    """
    if _WATCHER.get() is None:
        yield from items
        return
    total = len(items) if isinstance(items, Sized) else num or 1
    with stage(what, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def ticker(what: str) -> Iterator[Tick]:
    """A stage of work that counts for itself, begun when its total is known.

    Args:
        what: See `stage`.

    Returns:
        Function that is told how many parts are done, of how many; another total begins another stage.
    """
    advance: Advance | None = None
    seen, whole = 0, -1
    with ExitStack() as running:

        def tick(done: int, total: int) -> None:
            nonlocal advance, seen, whole
            if advance is None or total != whole or done < seen:
                running.close()
                advance, seen, whole = running.enter_context(stage(what, total)), 0, total
            advance(done - seen)
            seen = done

        yield tick


def silent(_done: int, _total: int) -> None:
    """A `Tick` that reports to nobody."""
