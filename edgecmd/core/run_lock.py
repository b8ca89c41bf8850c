"""One process at a time uses a run folder: rounds of two would interleave in its log and checkpoints.

The lock is one of the operating system, which forgets it when its process ends, however it ends. The
process id is beside it in a separate file, only for the message.
"""

import contextlib
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from edgecmd.core.artefacts import artefact_of, declare
from edgecmd.core.errors import ConfigError, FederationError, PrivacyError
from edgecmd.core.files import made_folders
from edgecmd.core.machine import at, explain

LOCK, OWNER, SETTINGS = ".lock", ".owner", "config.toml"
# What a file system without locks answers.
NO_LOCKS = frozenset({None, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
# What a desktop leaves in any folder, and what a killed process leaves of a file.
STRAYS = re.compile(r"\.DS_Store|Thumbs\.db|desktop\.ini|\.[0-9a-f]{16}\.tmp|__pycache__|.*\.pyc")
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
        FederationError: Another process owns it (the message has its id), or the file system has no locks.
        MachineError: The folder cannot be made or written to.
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
            f"{shown} is in use by {_owner(folder)}. Wait until it ends, stop it, or choose another name"
            " with --set name=..."
        ) from None
    # Without flock, as on some network file systems, some releases of filelock raise the second.
    except (OSError, NotImplementedError) as error:
        with contextlib.suppress(OSError):
            lock.release()
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise explain(at(error, folder), doing=f"The run folder {shown} cannot be written") from error
        raise FederationError(
            f"{shown} cannot be locked: {error}. A run folder must be writable and on a file system with"
            " locks: set out to a folder on a local disk."
        ) from error
    return lock


def _make_and_lock(folder: Path, lock: FileLock) -> None:
    """Make the folder, lock it and sign it; again where `_forget` of another process came in between."""
    for left in reversed(range(TRIES)):
        try:
            with made_folders(folder):
                lock.acquire(timeout=0)
                _sign(folder)
            return
        except (FileNotFoundError, FileExistsError):
            lock.release()
            if not left:
                raise
            time.sleep(PAUSE_S)


def _sign(folder: Path) -> None:
    """Write the process id; a folder in which that fails is left as it was found."""
    try:
        (folder / OWNER).write_text(f"{os.getpid()}\n", encoding="ascii")
    except BaseException:
        with contextlib.suppress(OSError):
            (folder / OWNER).unlink()
        _forget(folder)
        raise


def _owner(folder: Path) -> str:
    try:
        return f"process {int((folder / OWNER).read_text(encoding='ascii'))}"
    except (OSError, ValueError):
        return "another process"


def seems_owned(folder: Path) -> bool:
    """Whether a process of this machine works in the folder, as far as its id tells; nothing is locked."""
    try:
        os.kill(int((folder / OWNER).read_text(encoding="ascii")), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


def empty(folder: Path) -> None:
    """Delete all that a run folder holds, but not the lock of the process that owns it.

    Guarantees:
        A folder that holds anything else than a run's own files is left as it is. When deleting fails,
        the settings of the run are still there, so that nobody takes the rest for another run.

    Raises:
        ConfigError: Something in it is not a file of a run.
        OSError: A file cannot be deleted.
    """
    _refuse_foreign(folder)
    for path in sorted(folder.iterdir(), key=lambda one: one.name == SETTINGS):
        if path.name in (LOCK, OWNER):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _refuse_foreign(folder: Path) -> None:
    """Refuse to delete what somebody else put there.

    Raises:
        ConfigError: With the first such file.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.is_symlink():  # of a link nothing but itself is lost
            continue
        name = path.relative_to(folder).as_posix()
        try:
            if not any(STRAYS.fullmatch(part) for part in name.split("/")):
                artefact_of(name)
        except PrivacyError:
            raise ConfigError(
                f"{folder} holds {name}, which is not a file of a run; --fresh would delete it. Move it"
                " away, or choose another name with --set name=..."
            ) from None
