"""What ``edgecmd doctor`` looks at: versions, processors, memory, folders, optional parts."""

import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from edgecmd.catalogue.data_files import data_home
from edgecmd.core.files import cache_folder
from edgecmd.core.machine import at, explain, strange_rooms
from edgecmd.models.devices import has_bf16, resolve_device
from edgecmd.privacy.device_ledger import device_state
from edgecmd.training.environment import environment

OPTIONAL = ("ray", "resvg_py", "fontTools", "soundfile")
# Folders that commands write into, and how each is found.
FOLDERS: dict[str, Callable[[], Path]] = {
    "run": lambda: Path("runs").absolute(),
    "cache": cache_folder,
    "state": device_state,
    "data": data_home,
    "temporary": lambda: Path(tempfile.gettempdir()),
}


def machine_facts() -> dict[str, Any]:
    """What `doctor` shows, as plain values."""
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    folders = {name: look_at_folder(find) for name, find in FOLDERS.items()}
    advice = [] if threads == "1" else ["Set OMP_NUM_THREADS=1: more threads slow small students down."]
    advice += [f"The {name} folder: {one['problem']}" for name, one in folders.items() if one["problem"]]
    advice += strange_rooms()
    return {
        **environment(),
        "cores": os.cpu_count(),
        "cuda": torch.cuda.is_available(),
        "bf16": has_bf16(resolve_device("auto")),
        "cuda_devices": [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())],
        "memory_bytes": _memory_bytes(),
        "omp_num_threads": threads,
        "optional": {name: find_spec(name) is not None for name in OPTIONAL},
        "folders": folders,
        "advice": advice,
    }


def _memory_bytes() -> int | None:
    """Memory of the machine, where the system says; a container may allow less."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def look_at_folder(find: Callable[[], Path]) -> dict[str, Any]:
    """Whether a folder can be written: a file is made in it, or in the nearest parent there is, and removed.

    Returns:
        ``path``, ``writable``, ``free_bytes`` (None where the system does not say) and ``problem``.
    """
    path: Path | None = None
    try:
        path = find()
        there = next(one for one in (path, *path.parents) if one.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"edgecmd")
        free = shutil.disk_usage(there).free
    except (OSError, RuntimeError) as error:
        told = str(explain(at(error, path) if path and isinstance(error, OSError) else error))
        return {"path": str(path or ""), "writable": False, "free_bytes": None, "problem": told}
    return {"path": str(path), "writable": True, "free_bytes": free, "problem": ""}
