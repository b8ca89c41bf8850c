"""Worker processes: started, stopped and explained in one place.

Each is a fresh process with one torch thread, prints nothing of a library's own, leaves Ctrl-C to the
process that a person sees, and ends with it, even when that one is killed.
"""

import contextlib
import errno
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, ParamSpec, TypeVar

from edgecmd.core.errors import MachineError
from edgecmd.core.machine import import_torch_quickly

Args = ParamSpec("Args")
Piece = TypeVar("Piece")
Result = TypeVar("Result")
CANNOT_START = (
    "Worker processes cannot be started: {reason}. They need shared memory (/dev/shm) and free processes."
    " Use one process: --set federation.num_workers=1, or --jobs 1."
)


class Workers(ProcessPoolExecutor):
    """A pool of fresh processes of one thread each.

    Ctrl-C is the business of the process that made it. As a context manager it ends running work when the
    block fails or is interrupted, so nobody waits for what will not be used.

    Args:
        num: How many processes.
        begin: What each does before its first piece of work.

    Raises:
        MachineError: The system has no shared memory or no process for them.
    """

    def __init__(self, num: int, *, begin: Callable[[], None] | None = None) -> None:
        # Never a fork: a GPU that this process has begun to use works in no child of it.
        fresh = multiprocessing.get_context("spawn")
        try:
            # As bytes: what they import is imported once the worker has begun.
            super().__init__(
                num, mp_context=fresh, initializer=_begin_worker, initargs=(pickle.dumps(begin),)
            )
        except (OSError, ImportError, NotImplementedError) as error:
            raise _not_started(error) from error

    def submit(
        self, fn: Callable[Args, Result], /, *args: Args.args, **kwargs: Args.kwargs
    ) -> "Future[Result]":
        """Give a piece of work to a worker, which is started where none is idle.

        Raises:
            MachineError: No process can be started.
        """
        try:
            with _interrupts_held():
                return super().submit(fn, *args, **kwargs)
        except OSError as error:
            raise _not_started(error) from error

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> bool | None:  # noqa: ANN401 - of the base
        """Wait for the workers, or end them when the block failed."""
        if kind is not None:
            self.end()
        return super().__exit__(kind, value, traceback)

    def end(self) -> None:
        """End all workers and drop what waits; what they write, they write whole or not at all."""
        running = list((self._processes or {}).values())
        self.shutdown(wait=False, cancel_futures=True)
        for process in running:
            with contextlib.suppress(OSError, ValueError):
                process.terminate()


def mapped(do: Callable[[Piece], Result], work: Sequence[Piece], *, jobs: int) -> Iterator[Result]:
    """Result of each piece of ``work``, in their order.

    Args:
        do: Does one piece; for more than one process a function that can be pickled.
        work: The pieces.
        jobs: Processes at a time; 1 is this one.

    Guarantees:
        Whoever leaves off asking, or is interrupted, ends the processes.
    """
    if jobs <= 1 or len(work) < 2:
        yield from map(do, work)
        return
    with Workers(min(jobs, len(work))) as pool:
        yield from pool.map(do, work)


def _not_started(error: BaseException) -> MachineError:
    number = getattr(error, "errno", None)
    reason = os.strerror(number) if isinstance(number, int) else str(error)
    if number == errno.ENOMEM:
        reason = "there is too little free memory"
    return MachineError(CANNOT_START.format(reason=reason[:1].lower() + reason[1:]))


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started meanwhile never gets Ctrl-C, not even while it imports."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(begin: bytes) -> None:
    import_torch_quickly()
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    logging.raiseExceptions = False
    logging.getLogger().addHandler(logging.NullHandler())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start = pickle.loads(begin)
    if start is not None:
        start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
