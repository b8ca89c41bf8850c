"""Where the files of data sets are: those that ship with edgecmd, and those that were built on this machine.

A built set may be used, but not handed on with edgecmd. Each has a folder of its own with a manifest that
names its files by their SHA-256. The manifest is written last, so a set is either whole or absent.
"""

import json
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from edgecmd.catalogue.data_sets import DATA_SETS
from edgecmd.core.errors import DataError
from edgecmd.core.files import read_json, sha256_file, write_json

SHIPPED_VARIABLE, BUILT_VARIABLE = "EDGECMD_FILES", "EDGECMD_DATA"
MANIFEST = "built.json"
SHIPPED_FOLDER = Path("edgecmd", "datasets", "files")
BESIDE = Path(__file__).parents[2] / SHIPPED_FOLDER


def shipped_file(name: str) -> Path:
    """Path of a file that ships with edgecmd, whichever copy of the code runs.

    It is looked for in the folder that the environment variable ``EDGECMD_FILES`` names, beside this
    package, and in the installed distribution, also where that is an editable one. Flower carries an app as
    a bundle of source files alone: there, this package shadows the installed one and has no data beside it.

    Args:
        name: Such as ``emoji_64.npz``.

    Raises:
        DataError: It is in none of these places.
    """
    folders = list(dict.fromkeys(_folders()))
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{name} is missing; looked in {', '.join(map(str, folders))}. Install edgecmd here, or set"
        f" {SHIPPED_VARIABLE} to the folder that holds the file."
    )


def _folders() -> Iterator[Path]:
    if os.environ.get(SHIPPED_VARIABLE):
        yield Path(os.environ[SHIPPED_VARIABLE])
    yield BESIDE
    try:
        installed = distribution("edgecmd")
    except PackageNotFoundError:
        return
    yield Path(str(installed.locate_file(SHIPPED_FOLDER.as_posix())))
    source = urlsplit(json.loads(installed.read_text("direct_url.json") or "{}").get("url", ""))
    if source.scheme == "file":
        yield Path(url2pathname(source.path)) / SHIPPED_FOLDER


def data_home() -> Path:
    """Folder of built sets: ``EDGECMD_DATA``, or the user's data folder."""
    return Path(os.environ.get(BUILT_VARIABLE) or Path.home() / ".local" / "share" / "edgecmd")


def built_folder(name: str) -> Path:
    """Folder of the built set ``name``."""
    return data_home() / name


def is_built(name: str) -> bool:
    """Whether the set ``name`` is there."""
    return (built_folder(name) / MANIFEST).is_file()


def status(name: str) -> str:
    """Whether a run can use the set at once, or what to do first."""
    row = DATA_SETS[name]
    if row.build:
        return "built" if is_built(name) else f"`{row.build}`"
    return "data.path" if row.needs_path else "ships"


def write_manifest(folder: Path, files: Mapping[str, Path], *, facts: Mapping[str, object]) -> None:
    """Write the manifest of a built set: its files with their checksums, and how it was made.

    Args:
        folder: Folder of the set; all files are in it.
        files: Path by the name that the code gives a file, such as ``teacher``.
        facts: What else is recorded.
    """
    table = {name: {"file": path.name, "sha256": sha256_file(path)} for name, path in files.items()}
    write_json(folder / MANIFEST, {"files": table, **facts})


def read_manifest(name: str) -> dict[str, Any]:
    """Manifest of the built set ``name``.

    Raises:
        DataError: The set was not built; the message has the command.
    """
    path, command = built_folder(name) / MANIFEST, DATA_SETS[name].build
    if not path.is_file():
        raise DataError(
            f"data.name={name!r} is not built yet: {path} is missing. Build it with `{command}`,"
            f" or set {BUILT_VARIABLE} to the folder that holds {name}/."
        )
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError(f"{path} is damaged. Build the set again with `{command}`.")
    return manifest


def built_file(name: str, key: str) -> tuple[Path, str]:
    """Path of a file of the built set ``name`` and the checksum that it must have.

    Args:
        name: Data set.
        key: The file's name in the manifest, such as ``teacher``.

    Raises:
        DataError: The set was not built, or its manifest lacks the file.
    """
    entry = read_manifest(name)["files"].get(key)
    if not isinstance(entry, dict) or {"file", "sha256"} - entry.keys():
        raise DataError(
            f"{built_folder(name) / MANIFEST} names no {key}. Build the set again with"
            f" `{DATA_SETS[name].build}`."
        )
    return built_folder(name) / Path(str(entry["file"])).name, str(entry["sha256"])


def checked_file(name: str, key: str) -> Path:
    """Like `built_file`, with the checksum compared.

    Raises:
        DataError: The file is missing or is not the one that was built.
    """
    path, expected = built_file(name, key)
    found = sha256_file(path) if path.is_file() else "none: it is missing"
    if found != expected:
        raise DataError(
            f"{path} has sha256={found}; allowed is {expected}. Build the set again with"
            f" `{DATA_SETS[name].build}`."
        )
    return path
