"""Where data sets lie that a user built: they may be used, but not handed on with edgecmd.

Each has a folder of its own with a manifest that names its files by their SHA-256. The manifest is
written last, so a set is either whole or absent.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecmd.core.errors import DataError
from edgecmd.core.files import read_json, sha256_file, write_json
from edgecmd.data.user_files.decode import DecodeError, npz_arrays
from edgecmd.data.user_files.reading import most_array_bytes

VARIABLE = "EDGECMD_DATA"
MANIFEST = "built.json"
# Data set -> the command that builds it, for messages.
COMMANDS = {
    "digits": "edgecmd data build digits --recordings DIR",
    "emoji-full": "edgecmd data build emoji --full",
    "stamps": "edgecmd data build stamps",
}


def data_home() -> Path:
    """Folder of built sets: ``EDGECMD_DATA``, or the user's data folder."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".local" / "share" / "edgecmd")


def built_folder(name: str) -> Path:
    """Folder of the built set ``name``."""
    return data_home() / name


def is_built(name: str) -> bool:
    """Whether the set ``name`` is there."""
    return (built_folder(name) / MANIFEST).is_file()


def read_arrays(name: str, key: str) -> dict[str, Any]:
    """Arrays of an .npz of the built set ``name``, whose checksum is compared.

    Raises:
        DataError: The set was not built, or the file is missing or not the one that was built.
    """
    path = checked_file(name, key)
    try:
        return dict(npz_arrays(path, most_bytes=most_array_bytes()))
    except DecodeError as error:
        raise DataError(f"{path} cannot be read ({error}). Build it again: `{COMMANDS[name]}`.") from error


def write_manifest(folder: Path, files: Mapping[str, Path], *, facts: Mapping[str, object]) -> None:
    """Write the manifest of a built set: its files with their checksums, and how it was made.

    Args:
        folder: Folder of the set; all files lie in it.
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
    path = built_folder(name) / MANIFEST
    if not path.is_file():
        raise DataError(
            f"data.name={name!r} is not built yet: {path} is missing. Build it with `{COMMANDS[name]}`,"
            f" or set {VARIABLE} to the folder that holds {name}/."
        )
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError(f"{path} is damaged. Build the set again with `{COMMANDS[name]}`.")
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
            f"{built_folder(name) / MANIFEST} names no {key}. Build the set again with `{COMMANDS[name]}`."
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
            f"{path} has sha256={found}; allowed is {expected}. Build the set again with `{COMMANDS[name]}`."
        )
    return path
