"""One process at a time works in a run folder: rounds of two would interleave in its log and checkpoints.

The lock is one of the operating system, which forgets it when its process ends, however it ends. The
process id lies beside it in a file of its own, for the message alone.
"""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from edgecmd.artefacts import declare
from edgecmd.errors import FederationError

LOCK, OWNER = ".lock", ".owner"
# How often a folder is made again that another process, which began nothing in it, has just removed.
TRIES, PAUSE_S = 40, 0.005


@dataclass(kw_only=True, slots=True)
class _Hold:
    lock: FileLock
    thread: int
    depth: int = 1


_held: dict[Path, _Hold] = {}


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own the run folder ``folder``, which is made where it is missing, until the block ends.

    A block inside a block of the same folder and thread is part of it.

    Guarantees:
        At most one process is inside such a block of a folder. A process that was killed blocks nobody.

    Raises:
        FederationError: Another process owns it (the message has its id), or the folder cannot be locked.
    """
    key = folder.resolve()
    hold = _held.get(key)
    if hold is not None and hold.thread == threading.get_ident():
        hold.depth += 1
    else:
        _held[key] = _Hold(lock=_acquire(key, shown=folder), thread=threading.get_ident())
    try:
        yield
    finally:
        _leave(key)


def _leave(key: Path) -> None:
    hold = _held[key]
    hold.depth -= 1
    if hold.depth == 0:
        del _held[key]
        with contextlib.suppress(OSError):
            (key / OWNER).unlink()
        _forget(key)
        hold.lock.release()


def _forget(folder: Path) -> None:
    """Remove a folder in which nothing was begun."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()


def _acquire(folder: Path, *, shown: Path) -> FileLock:
    declare(LOCK, may_leave=False)
    declare(OWNER, may_leave=False)
    lock = FileLock(str(folder / LOCK))
    try:
        _make_and_lock(folder, lock)
    except Timeout:
        raise FederationError(
            f"{shown} is in use by {_owner(folder)}. Wait until it has ended, stop it, or choose another name"
            " with --set name=..."
        ) from None
    # Without flock, as on some network file systems, some releases of filelock raise the second.
    except (OSError, NotImplementedError) as error:
        with contextlib.suppress(OSError):
            lock.release()
        raise FederationError(
            f"{shown} cannot be locked: {error}. A run folder must be writable and on a file system with"
            " locks: set out to a folder on a local disk."
        ) from error
    return lock


def _make_and_lock(folder: Path, lock: FileLock) -> None:
    """Make the folder, lock it and sign it; again where `_forget` of another process came in between."""
    for left in reversed(range(TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            (folder / OWNER).write_text(f"{os.getpid()}\n", encoding="ascii")
            return
        except (FileNotFoundError, FileExistsError):
            lock.release()
            if not left:
                raise
            time.sleep(PAUSE_S)


def _owner(folder: Path) -> str:
    try:
        return f"process {int((folder / OWNER).read_text(encoding='ascii'))}"
    except (OSError, ValueError):
        return "another process"


def empty(folder: Path) -> None:
    """Delete all that a run folder holds, but not the lock of the process that owns it."""
    for path in folder.iterdir():
        if path.name in (LOCK, OWNER):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
