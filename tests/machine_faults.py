"""A machine that fails at the n-th thing it is asked to write, within one folder."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Faults:
    """Counts what is written below ``root``, and fails at one of these.

    Args:
        root: Only what lies below it counts.
        fail_at: Which, from 0; None for none.
        number: Of the system's error.
    """

    def __init__(self, root: Path, *, fail_at: int | None, number: int = errno.ENOSPC) -> None:
        self.root, self.fail_at, self.number = str(root), fail_at, number
        self.seen: list[str] = []

    def ask(self, kind: str, path: object) -> None:
        """Count one, and fail where it is the one."""
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not os.path.abspath(text).startswith(self.root):  # noqa: PTH100 - links stay as they are
            return
        self.seen.append(f"{kind} {os.path.relpath(text, self.root)}")
        if self.fail_at == len(self.seen) - 1:
            raise OSError(self.number, os.strerror(self.number), text)


@contextmanager
def failing(faults: Faults) -> Iterator[Faults]:
    """Within the block this process's writes are counted, and one of them fails."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("mkdir", "replace", "rename"):
            patched.setattr(os, name, _asking(getattr(os, name), lambda path, *_, n=name: (n, path), faults))
        patched.setattr(os, "open", _asking(os.open, _low_level, faults))
        opened = _asking(io.open, _high_level, faults)
        patched.setattr(io, "open", opened)
        patched.setattr(builtins, "open", opened)
        fsync = os.fsync

        def sync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            faults.ask("fsync of a folder" if path.is_dir() else "fsync", str(path))
            fsync(descriptor)

        patched.setattr(os, "fsync", sync)
        yield faults


def _low_level(path: object, flags: int, *_: object, **__: object) -> tuple[str, object] | None:
    return ("open", path) if flags & WRITING else None


def _high_level(path: object, mode: str = "r", *_: object, **__: object) -> tuple[str, object] | None:
    return ("open", path) if set(mode) & set("wxa+") and not isinstance(path, int) else None


def _asking(
    real: Callable[..., Any], kind_of: Callable[..., tuple[str, object] | None], faults: Faults
) -> Callable[..., Any]:
    def asked(*args: Any, **kwargs: Any) -> Any:
        told = kind_of(*args, **kwargs)
        if told is not None:
            faults.ask(*told)
        return real(*args, **kwargs)

    return asked


def left_overs(root: Path) -> list[str]:
    """Temporary files and folders below ``root``."""
    marks = (".tmp", ".partial")
    return [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.name.endswith(marks) or path.name.startswith(".export-")
    ]
