"""Files that are either complete or absent: written beside the target, then renamed."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.machine import at


def named_path(name: str, value: object) -> Path:
    """The path that an argument names, with ``~`` for the user's home.

    Args:
        name: Of the argument, for messages.
        value: What was given.

    Raises:
        ConfigError: It is not a path that a system takes.
    """
    if not isinstance(value, str | Path):
        raise ConfigError(f"{name}={value!r} is of type {type(value).__name__}; allowed is a path.")
    if not str(value) or "\0" in str(value):
        way = "contains a NUL character, which no path can" if str(value) else "is empty"
        raise ConfigError(f"{name}={str(value)!r} {way}. Give the path of a file or folder.")
    return Path(value).expanduser()


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``; missing parent folders are made.

    Guarantees:
        Whoever opens ``path`` finds the old content or all of the new, also after a crash. When
        writing fails, the old content stays and no other file or folder is left behind.

    Raises:
        OSError: The folder cannot be written to, or the disk is full. It names ``path`` and the need.
    """
    write_files_atomically({path: data})


def require_writable(path: Path) -> None:
    """Refuse a file that could not be written, before the work for it is done.

    Raises:
        OSError: It names ``path``, or the parent that is to blame.

    Guarantees:
        Nothing is left behind, and a file that is there stays as it is.
    """
    try:
        _refuse_other_than_file(path)
        folder = next(one for one in path.absolute().parents if one.exists())
        trial = folder / f".{secrets.token_hex(8)}.tmp"
        try:
            trial.touch(exist_ok=False)
        except FileNotFoundError:
            # The folder is there, yet nothing can be made in it, as in /proc.
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
        trial.unlink()
    except OSError as error:
        raise at(error, path) from None


def _refuse_other_than_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, os.strerror(number))


def write_files_atomically(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together; missing parent folders are made.

    Guarantees:
        When writing fails, or is interrupted, every file is as it was before and no other file or folder
        is left behind. All content is on the disk before the first file is put in place.

    Raises:
        OSError: A folder cannot be written to, or the disk is full. It names the file and the need.
    """
    staged: dict[Path, Path] = {}
    with made_folders(*(path.parent for path in files)):
        try:
            for path, data in files.items():
                staged[path] = _beside(path)
                _write_new(staged[path], data, final=path)
            _put_in_place(staged)
        finally:
            for temporary in staged.values():
                with contextlib.suppress(OSError):
                    temporary.unlink()
    for folder in {path.parent for path in files}:
        _sync_folder(folder)


def _beside(path: Path) -> Path:
    return path.parent / f".{secrets.token_hex(8)}.tmp"


def _write_new(temporary: Path, data: bytes, *, final: Path) -> None:
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise at(error, final, need=len(data)) from None


def _put_in_place(staged: Mapping[Path, Path]) -> None:
    """Rename all of ``staged`` to their final names, or none."""
    if len(staged) == 1:
        ((path, temporary),) = staged.items()
        _rename(temporary, path)
        return
    older: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path, temporary in staged.items():
            if path.is_file():
                attic = _beside(path)
                # Noted first: an interrupt between the two lines would else lose the older file.
                older[path] = attic
                _rename(path, attic, final=path)
            placed.append(path)
            _rename(temporary, path)
    except BaseException:
        _put_back(placed, staged, older)
        raise
    for attic in older.values():
        with contextlib.suppress(OSError):
            attic.unlink()


def _put_back(placed: list[Path], staged: Mapping[Path, Path], older: Mapping[Path, Path]) -> None:
    """As it was: new files go, older ones come back."""
    for path in placed:
        if not staged[path].exists():
            with contextlib.suppress(OSError):
                path.unlink()
    for path, attic in older.items():
        if attic.exists():
            with contextlib.suppress(OSError):
                attic.replace(path)


def _rename(source: Path, target: Path, *, final: Path | None = None) -> None:
    try:
        source.replace(target)
    except OSError as error:
        raise at(error, final or target) from None


@contextlib.contextmanager
def made_folders(*folders: Path) -> Iterator[None]:
    """Make ``folders`` with their parents; when the block fails, those that were new and are empty go.

    Raises:
        OSError: One cannot be made.
    """
    new = [one for folder in folders for one in (folder, *folder.parents) if not one.exists()]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in sorted(set(new), key=lambda one: len(one.parts), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def files_in_one_piece(folder: Path) -> Iterator[Path]:
    """A new folder inside ``folder``, whose files move into ``folder`` together when the block ends well.

    Guarantees:
        When the block fails, or is interrupted, every file of ``folder`` is as it was and nothing is left.

    Raises:
        OSError: It cannot be made, or a file cannot be put in place.
    """
    staging = folder / f".{secrets.token_hex(8)}.tmp"
    with made_folders(folder):
        try:
            try:
                staging.mkdir()
            except OSError as error:
                raise at(error, folder) from None
            yield staging
            _put_in_place({folder / path.name: path for path in sorted(staging.iterdir())})
        except OSError as error:
            # The folder that is known by this name, and not the one beside it that is gone.
            if isinstance(error.filename, str):
                error.filename = error.filename.replace(str(staging), str(folder))
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    _sync_folder(folder)


@contextlib.contextmanager
def folder_in_one_piece(final: Path) -> Iterator[Path]:
    """A new folder beside ``final`` to write into, which takes its place when the block ends well.

    Guarantees:
        ``final`` is the old folder or all of the new one. When the block fails, or is interrupted, the
        old one stays and nothing else is left behind.

    Raises:
        OSError: It cannot be made or put in place.
    """
    staging, attic = _beside(final), _beside(final)
    with made_folders(final.parent):
        try:
            try:
                staging.mkdir()
            except OSError as error:
                raise at(error, final) from None
            yield staging
            replaced = final.exists()
            if replaced:
                _rename(final, attic, final=final)
            try:
                _rename(staging, final)
            except BaseException:
                if replaced:
                    attic.replace(final)
                raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if final.exists():
                shutil.rmtree(attic, ignore_errors=True)
    _sync_folder(final.parent)


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
    r"""Write ``text`` as UTF-8, line ends as they are; otherwise like `write_bytes_atomically`.

    A half of a surrogate pair, as a file name has it that is not UTF-8, is written out as ``\\udcff``.
    """
    write_bytes_atomically(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON: indented by two, keys in the order given, with a final newline.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot hold.
        TypeError: A value has no JSON form.
    """
    write_bytes_atomically(path, json_bytes(value, path=path))


def json_bytes(value: object, *, path: Path) -> bytes:
    """The content that `write_json` gives ``path``.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot hold.
        TypeError: A value has no JSON form.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot be written: {error}. Write None instead of NaN.") from error
    # A half of a surrogate pair is written as JSON escapes it, and read back as it was.
    return f"{text}\n".encode("utf-8", "backslashreplace")


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
        raise DataError(f"{path} is not valid JSON: {error}. Restore it or create it again.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Folder for what can be made again: ``EDGECMD_CACHE`` or the user's cache folder."""
    return Path(os.environ.get("EDGECMD_CACHE") or Path.home() / ".cache" / "edgecmd")
