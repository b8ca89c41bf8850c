"""What the machine refuses, in one sentence: the path, the need and the way out.

A full disk, a folder that may not be written, a name that is too long, too little memory or a killed
process is not a fault of the data and none of the program. Writers attach what they know with `at`; whoever
tells a person turns the error into a `MachineError` with `explain`.

And what makes a process of ours quick to start: `import_torch_quickly`.
"""

import contextlib
import errno
import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from edgecmd.core.errors import MachineError
from edgecmd.core.text import size_of

SPACE = "Free some space, or choose a folder on another disk."
ELSEWHERE = "Choose another folder, or change its permissions."
DISK = "Check the disk or the network share, then start again."
# Number of the system -> what it means for a path, and the way out.
MEANING: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("there is no space left", SPACE),
    errno.EDQUOT: ("the quota of this user is used up", SPACE),
    errno.EFBIG: ("the file would be larger than this system allows (see `ulimit -f`)", SPACE),
    errno.EACCES: ("this user has no permission", ELSEWHERE),
    errno.EPERM: ("this user has no permission", ELSEWHERE),
    errno.EROFS: ("the file system is read-only", "Choose a folder on another disk."),
    errno.ENAMETOOLONG: ("the name is too long for this file system", "Choose a shorter name."),
    errno.ENOTDIR: ("a part of it is not a folder", "Choose another path."),
    errno.EISDIR: ("it is a folder, where a file is needed", "Choose another name."),
    errno.ENOENT: ("it does not exist", "Check the path, or create the folder."),
    errno.ELOOP: ("its links go in a circle", "Choose another path."),
    errno.EBUSY: ("another program is using it", "Close that program, or choose another path."),
    errno.ENOTEMPTY: ("the folder is not empty", "Choose another folder."),
    errno.EIO: ("the disk reports an error", DISK),
    errno.ESTALE: ("it no longer exists on the network share", DISK),
    errno.ENODEV: ("its disk is gone", DISK),
    errno.ENXIO: ("its disk is gone", DISK),
    errno.ETIMEDOUT: ("the network share does not answer", DISK),
    errno.EINVAL: ("this file system does not support that name or operation", "Choose another folder."),
}
# Without a path: limits of this process or of the whole machine.
LIMITS: dict[int, str] = {
    errno.EMFILE: "Too many files are open. Raise the limit (`ulimit -n 4096`) or use fewer workers.",
    errno.ENFILE: "Too many files are open on this machine. Close other programs, then start again.",
    errno.EAGAIN: "No more processes can be started. Raise the limit (`ulimit -u`) or use fewer workers.",
    errno.ENOSYS: "This system does not support this. Use one worker (federation.num_workers=1).",
}
LESS = (
    "Lower distill.batch_size, data.image_size, data.max_pairs or federation.num_workers, or use a machine"
    " with more memory."
)
# How torch, numpy and onnxruntime say that memory is short: each in a RuntimeError of its own.
_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "out of memory",
    "bad_alloc",
    "bad allocation",
)
KILLED = (
    "A worker process was killed, probably for lack of memory. Use fewer workers (--set"
    " federation.num_workers=1, or --jobs 1), then start again: finished work is kept."
)
NO_TEMPORARY = "no usable temporary directory"


def at(error: OSError, path: Path, *, need: int = 0) -> OSError:
    """The same error with the path that it is about, and how many bytes were to be written there.

    Args:
        error: Of the system; one that already names a parent of ``path`` keeps that.
        path: What was to be written, under its final name.
        need: Bytes.
    """
    if error.errno is None:
        return error
    named = error.filename
    parents = {str(one) for one in path.parents}
    if not isinstance(named, str) or named not in parents:
        error.filename = str(path)
        error.filename2 = None
    if need and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        error.add_note(f"{size_of(need)} were to be written{_free(path)}")
    return error


def _free(path: Path) -> str:
    for folder in path.parents:
        with contextlib.suppress(OSError):
            return f", {size_of(shutil.disk_usage(folder).free)} are free"
    return ""


def is_of_machine(error: BaseException) -> bool:
    """Whether the machine refused, and neither the data nor the program is to blame."""
    if isinstance(error, OSError | MemoryError | BrokenProcessPool):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return any(word in text for word in (*_NO_MEMORY, "can't start new thread", "could not determine home"))


def explain(error: BaseException, *, doing: str = "") -> MachineError:
    """One sentence about an error for which `is_of_machine` holds.

    Args:
        error: As Python or a library raised it.
        doing: What was being done, such as ``runs/demo/export cannot be written``.

    Returns:
        An error to raise ``from`` it, or to print.
    """
    if isinstance(error, BrokenProcessPool):
        return MachineError(KILLED)
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        return MachineError(_of_system(error, doing=doing))
    text = str(error).lower()
    if "can't start new thread" in text:
        return MachineError(LIMITS[errno.EAGAIN])
    if "could not determine home" in text:
        return MachineError(
            "This user has no home folder. Set HOME, or EDGECMD_CACHE, EDGECMD_DATA and EDGECMD_STATE, to"
            " folders that can be written."
        )
    where = "The GPU" if "cuda" in text or "mps" in text else "This machine"
    asked = f" ({_first_line(error)})" if _first_line(error) else ""
    return MachineError(f"{where} has too little free memory for this{asked}. {LESS}")


def _first_line(error: BaseException) -> str:
    """What a library says of the memory it wanted, without its own advice and its file names."""
    if isinstance(error, OSError):
        return ""
    text = str(error).split("\n")[0]
    start = text.find("DefaultCPUAllocator")
    return text[max(0, start) :].split(". ")[0].rstrip(". ")


def _of_system(error: OSError, *, doing: str) -> str:
    if NO_TEMPORARY in str(error).lower():
        return (
            "No folder for temporary files can be written (TMPDIR, /tmp, /var/tmp and this folder were"
            " tried). Set TMPDIR to a folder that exists and has space."
        )
    number = error.errno or 0
    path = _path_of(error)
    if number in LIMITS and (not path or number in (errno.EMFILE, errno.ENFILE)):
        return LIMITS[number]
    what, way = _meaning(number, path, error)
    need = "; ".join(getattr(error, "__notes__", ()))
    subject = doing or (f"{path} cannot be used" if path else "The system refused")
    beside = f" ({path})" if doing and path and path not in doing else ""
    return f"{subject}{beside}: {what}{f' ({need})' if need else ''}. {way}"


def _path_of(error: OSError) -> str:
    named = error.filename
    return os.fsdecode(named) if isinstance(named, str | bytes) else ""


def _meaning(number: int, path: str, error: OSError) -> tuple[str, str]:
    blocking = _file_above(path) if path else ""
    if number in (errno.ENOTDIR, errno.EEXIST) and blocking:
        return f"{blocking} is a file, where a folder is needed", "Choose another path, or move that file."
    if number == errno.EEXIST:
        return "it already exists", "Choose another name, or move it away."
    if number in MEANING:
        return MEANING[number]
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:], "Check the path and the disk, then start again."


def path_trouble(error: OSError | ValueError) -> str:
    """Why a path that a person named cannot be used, and the way out, without naming it again."""
    if not isinstance(error, OSError):
        return str(error)
    if error.errno in LIMITS:
        return LIMITS[error.errno]
    what, way = _meaning(error.errno or 0, "", error)
    return f"{what}. {way}"


def _file_above(path: str) -> str:
    """The part of ``path`` that is a file, where a folder would have to be."""
    for one in (Path(path), *Path(path).parents):
        with contextlib.suppress(OSError, ValueError):
            if one.is_file():
                return str(one)
    return ""


def require_space(folder: Path, need: int) -> None:
    """Refuse what will not fit, before hours of work.

    Args:
        folder: Where it will be written; it may not exist yet.
        need: Bytes, about.

    Raises:
        MachineError: Less is free there. Where the system does not say, nothing is refused.
    """
    for existing in (folder, *folder.absolute().parents):
        try:
            free = shutil.disk_usage(existing).free
        except OSError:
            continue
        if free < need:
            raise MachineError(
                f"{folder} does not have enough space: about {size_of(need)} are needed, {size_of(free)} are"
                f" free. {SPACE}"
            )
        return


ROOMS = ("clients", "server", "export")


def strange_rooms() -> list[str]:
    """A sentence for each package of edgecmd that is missing or hidden by another of the same name.

    Nothing is imported.
    """
    home = Path(__file__).resolve().parents[2]
    return [text for name in ROOMS if (text := _wrong(name, home / name))]


def require_own_rooms() -> None:
    """Refuse to work with code of others that only has the name.

    Raises:
        MachineError: With the path that was found, and the way out.
    """
    found = strange_rooms()
    if found:
        raise MachineError(" ".join(found))


def _wrong(name: str, own: Path) -> str:
    found = _found(name)
    if found is None:
        return f"The package {name!r}, which comes with edgecmd, is missing at {own}. Install edgecmd again."
    if found.resolve() == own:
        return ""
    return (
        f"Python finds another {name!r} at {found} in place of edgecmd's own at {own}. Rename it, take its"
        " folder off PYTHONPATH, or start edgecmd in another folder or an environment of its own."
    )


def _found(name: str) -> Path | None:
    """Folder of the package that an import would give, or the file of a module; None where there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # it is imported already, and does not say from where
        file = getattr(sys.modules.get(name), "__file__", None)
        return Path(file) if file else Path(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin or name)


def import_torch_quickly() -> None:
    """When torch is imported, no garbage is looked for meanwhile, nor in torch later.

    Torch makes hundreds of thousands of objects that stay to the end. Python looks through them several times
    during the imports, which is a third of the time that a command needs to start, and again during the work.

    Only for processes that are ours as a whole: what they have when torch is imported is never collected.
    """
    if "torch" not in sys.modules and not any(isinstance(one, _Torch) for one in sys.meta_path):
        sys.meta_path.insert(0, _Torch())


class _Torch:
    """Finds torch where it is, once, and has it executed without collections."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """Asked before all other finders, which it asks in turn."""
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader = spec.loader
            vars(loader)["exec_module"] = lambda module: _uncollected(
                type(loader).exec_module, loader, module
            )
        return spec


def _uncollected(execute: Callable[[Any, ModuleType], object], loader: object, module: ModuleType) -> None:
    del vars(loader)["exec_module"]
    was_on = gc.isenabled()
    gc.disable()
    try:
        execute(loader, module)
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
