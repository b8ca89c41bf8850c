"""``edgecmd init`` and ``edgecmd doctor``."""

import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import AsJson, print_json, print_table, say
from edgecmd.core.errors import ConfigError
from edgecmd.core.machine import at, explain
from edgecmd.core.text import size_of


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("edgecmd.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a TOML file with every setting, its default and its meaning."""
    from edgecmd.config.reader import template
    from edgecmd.core.files import write_text_atomically

    if path.exists() and not force:
        raise ConfigError(f"{path} exists already. Choose another name or add --force.")
    write_text_atomically(path, template())
    say(f"Wrote {path}. Run it with `edgecmd run --config {path}`.")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show versions, processors, memory, folders and optional parts, and say what is wrong."""
    facts = machine_facts()
    if as_json:
        print_json(facts)
        return
    memory = facts["memory_bytes"]
    rows = [[name, version] for name, version in facts["packages"].items()]
    rows += [["python", facts["python"]], ["cores", str(facts["cores"])]]
    rows += [["memory", "not known" if memory is None else size_of(memory)]]
    rows += [["OMP_NUM_THREADS", facts["omp_num_threads"]], ["cuda", str(facts["cuda"])]]
    rows += [[f"{name} (optional)", "yes" if found else "no"] for name, found in facts["optional"].items()]
    for name, one in facts["folders"].items():
        free = "not known" if one["free_bytes"] is None else size_of(one["free_bytes"])
        rows.append([f"{name} folder", f"{one['path']}: {one['problem'] or f'{free} free'}"])
    print_table("edgecmd doctor", ["what", "found"], rows)
    for line in facts["advice"]:
        say(line)


def machine_facts() -> dict[str, Any]:
    """What `doctor` shows, as plain values."""
    import torch

    from edgecmd.training.environment import environment

    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    folders = {name: look_at_folder(find) for name, find in FOLDERS.items()}
    advice = [] if threads == "1" else ["Set OMP_NUM_THREADS=1: more threads slow small students down."]
    advice += [f"The {name} folder: {one['problem']}" for name, one in folders.items() if one["problem"]]
    return {
        **environment(),
        "cores": os.cpu_count(),
        "cuda": torch.cuda.is_available(),
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


def _cache() -> Path:
    from edgecmd.training.task import cache_folder

    return cache_folder()


def _state() -> Path:
    from edgecmd.privacy.device_ledger import device_state

    return device_state()


def _data() -> Path:
    from edgecmd.catalogue.data_files import data_home

    return data_home()


OPTIONAL = ("ray", "resvg_py", "fontTools", "soundfile")
FOLDERS: dict[str, Callable[[], Path]] = {
    "run": lambda: Path("runs").absolute(),
    "cache": _cache,
    "state": _state,
    "data": _data,
    "temporary": lambda: Path(tempfile.gettempdir()),
}
"""Folders that commands write into, and how each is found."""


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
