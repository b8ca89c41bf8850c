"""Files that are either complete or absent: written beside the target, then renamed."""

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, NoReturn

from edgecmd.errors import DataError


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``; missing parent folders are made.

    Guarantees:
        Whoever opens ``path`` finds the old content or all of the new, also after a crash. When
        writing fails, the old content stays and no other file is left behind.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a renaming in ``folder`` survive a power cut, where the system can do that."""
    if os.name != "posix":
        return
    # The file is in place by now; some network file systems cannot synchronise a folder.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, line ends as they are; otherwise like `write_bytes_atomically`."""
    # A file name that is no text stands in JSON as the escape that it is read back from.
    write_bytes_atomically(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON: indented by two, keys in the order given, with a final newline.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot hold.
        TypeError: A value has no JSON form.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot be written: {error}. Write None in place of NaN.") from error
    write_text_atomically(path, text + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read a JSON file.

    Raises:
        DataError: The file is missing or cannot be read, is not JSON, or holds NaN.
    """
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}. Restore it or make it again.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
