"""Stores: pairs, masks or public images made into arrays of fixed rows on the disk, once, in bounded memory.

A store lies in the cache folder of the user, in a folder of its own that nobody else may read::

    pairs/<what is read, how>-<state of the files>/
      source.npy target.npy    the halves, a row a pair; or the one array that there is
      store.json               what it is, and what a person should know of the files

While it is made the folder ends in ``.part``, and ``rows.json`` there says how many rows are whole. A build
that was killed goes on from there; what stands behind those rows is cut off. The name holds a digest of the
names, sizes and times of all files, so a changed file gives another store, and the one before it is deleted.

Shapes: N rows.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from edgecmd.core.errors import DataError, MachineError
from edgecmd.core.files import cache_folder, read_json, write_json
from edgecmd.core.machine import at, explain, require_space
from edgecmd.core.progress import stage
from edgecmd.data.stored.array_files import LazyRows, header, private_file, whole_file

FOLDER, TOLD, DONE, FACTS, PART = "pairs", "store.json", "rows.json", "facts.jsonl", ".part"
VERSION = 2
# Rows that are written before the build can go on from them.
SYNCED = 256
WAY_OUT = (
    "Set EDGECMD_CACHE to a folder that can be written on a disk with space, or data.store='never' to hold"
    " the pairs in memory."
)

Told = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What a store is of.

    Attributes:
        what: What is read and how: the path, and every setting that changes a pixel.
        state: Names, sizes and times of the files.
    """

    what: str
    state: str

    @property
    def name(self) -> str:
        """Name of the store's folder."""
        return f"{_digest(self.what)}-{_digest(f'{VERSION}:{self.what}:{self.state}')}"

    @property
    def family(self) -> str:
        """What the names of all stores of the same files begin with."""
        return f"{_digest(self.what)}-"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def key_of(what: str, files: Sequence[tuple[str, Sequence[Path]]]) -> Key:
    """The key of a store.

    Args:
        what: What is read and how.
        files: Id and files of each pair.

    Raises:
        OSError: A file is gone.
    """
    digest = hashlib.sha256()
    for name, paths in files:
        for path in paths:
            found = path.stat()
            line = f"{name}\0{path.name}\0{found.st_size}\0{found.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogatepass"))
    return Key(what=what, state=digest.hexdigest())


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One row of an array: its axes behind the first, and the type of its numbers."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Store:
    """A whole store.

    Attributes:
        arrays: All rows of each array, by its name.
        told: What was written down when it was made.
    """

    arrays: Mapping[str, LazyRows]
    told: Told


def stores_folder() -> Path:
    """Where stores lie."""
    return cache_folder() / FOLDER


def find(key: Key) -> Store | None:
    """The store of a key where it is there and whole; a damaged one is deleted.

    Raises:
        MachineError: Something else stands in its place.
    """
    folder = stores_folder() / key.name
    if folder.is_symlink():
        raise MachineError(f"{folder} is a link, which edgecmd did not make. Delete it.")
    if not folder.is_dir():
        return None
    try:
        told = read_json(folder / TOLD)
        arrays = {name: whole_file(folder / f"{name}.npy") for name in told["arrays"]}
        if any(len(one) != told["rows"] for one in arrays.values()):
            raise DataError(f"{folder} is damaged.")
    except (DataError, MachineError, OSError, KeyError, TypeError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return Store(arrays=arrays, told=told)


@contextlib.contextmanager
def writing(key: Key) -> Iterator[None]:
    """Nobody else makes the store of this key, or one of the same files, while the block runs.

    Raises:
        MachineError: The cache folder cannot be written to, or has no locks.
    """
    folder = stores_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        lock = FileLock(str(folder / f"{key.family}.lock"), mode=0o600)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with stage("waiting for another process that reads the same pairs"):
                lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise _unwritable(error, folder) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(error: Exception, folder: Path) -> MachineError:
    why = (
        str(explain(at(error, folder), doing=f"The store of the pairs in {folder} cannot be written"))
        if (isinstance(error, OSError))
        else f"{folder} cannot be locked: {error}."
    )
    return MachineError(f"{why} {WAY_OUT}")


class Build:
    """A store that is being made, within `writing`; a context manager that closes its files.

    Args:
        key: Of the store.
        forms: A row of each array.
        num: N.

    Attributes:
        done: Rows that are there already.
        facts: What was noted of each of them.

    Raises:
        MachineError: The disk has too little space, or cannot be written to.
    """

    def __init__(self, key: Key, *, forms: Mapping[str, Form], num: int) -> None:
        self._key, self._forms, self._num = key, forms, num
        self._folder = stores_folder() / f"{key.name}{PART}"
        self._files: dict[str, BinaryIO] = {}
        self._headers = {name: header((num, *one.shape), one.dtype) for name, one in forms.items()}
        self._facts_end = 0
        self.done, self.facts = 0, list[Told]()

    def __enter__(self) -> "Build":
        try:
            self._begin()
        except OSError as error:
            self._close()
            raise _unwritable(error, self._folder) from error
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._files:
                self._sync()
        except OSError as error:
            raise _unwritable(error, self._folder) from error
        finally:
            self._close()

    def _begin(self) -> None:
        if self._folder.is_symlink():
            self._folder.unlink()
        self._folder.mkdir(exist_ok=True, mode=0o700)
        self.done, self._facts_end = self._resumable()
        left = self._num - self.done
        require_space(self._folder, sum(one.nbytes for one in self._forms.values()) * left)
        for name in self._forms:
            file = self._files[name] = private_file(self._folder / f"{name}.npy")
            file.write(self._headers[name])
            file.truncate(self._end(name, self.done))
            file.seek(0, os.SEEK_END)
        file = self._files[FACTS] = private_file(self._folder / FACTS)
        file.truncate(self._facts_end)
        self.facts = [json.loads(line) for line in file.read().splitlines()]

    def _end(self, name: str, done: int) -> int:
        """Where so many rows of an array end."""
        return len(self._headers[name]) + done * self._forms[name].nbytes

    def _resumable(self) -> tuple[int, int]:
        """Whole rows that are there, and bytes of the facts about them; none where the build begins anew."""
        try:
            noted = read_json(self._folder / DONE)
            done, facts_end = int(noted["done"]), int(noted["facts"])
            same = noted["forms"] == _plain(self._forms, self._num)
            sizes = {name: (self._folder / f"{name}.npy").stat().st_size for name in self._forms}
            whole = all(size >= self._end(name, done) for name, size in sizes.items())
            whole = whole and (self._folder / FACTS).stat().st_size >= facts_end
        except (DataError, OSError, KeyError, TypeError, ValueError):
            return 0, 0
        return (done, facts_end) if same and whole else (0, 0)

    def add(self, arrays: Mapping[str, np.ndarray], fact: Told) -> None:
        """The next row, and what is to be known of it.

        Raises:
            MachineError: It cannot be written.
        """
        try:
            for name, form in self._forms.items():
                row = arrays[name]
                assert (row.shape, row.dtype) == (form.shape, form.dtype)
                self._files[name].write(np.ascontiguousarray(row).data)
            line = f"{json.dumps(fact)}\n".encode()
            self._files[FACTS].write(line)
            # What was written of a row is cut off unless all of it was.
            self.facts.append(fact)
            self.done, self._facts_end = self.done + 1, self._facts_end + len(line)
            if not self.done % SYNCED:
                self._sync()
        except OSError as error:
            raise _unwritable(error, self._folder) from error

    def _sync(self) -> None:
        """Bring all rows to the disk, then note how many there are."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        noted = {"done": self.done, "facts": self._facts_end, "forms": _plain(self._forms, self._num)}
        write_json(self._folder / DONE, noted)

    def rows(self, name: str) -> LazyRows:
        """The array of that name, all of whose rows were added."""
        self._sync()
        return whole_file(self._folder / f"{name}.npy")

    def finish(self, told: Told) -> Store:
        """Put the whole store in its place, and delete those of the same files before they changed.

        Raises:
            MachineError: It cannot be written.
        """
        try:
            self._sync()
            self._close()
            write_json(self._folder / TOLD, {**told, "arrays": list(self._forms), "rows": self._num})
            for name in (DONE, FACTS):
                (self._folder / name).unlink()
            final = stores_folder() / self._key.name
            shutil.rmtree(final, ignore_errors=True)
            self._folder.replace(final)
        except OSError as error:
            raise _unwritable(error, self._folder) from error
        for other in stores_folder().glob(f"{self._key.family}*"):
            if other != final and other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
        found = find(self._key)
        assert found is not None
        return found

    def abandon(self) -> None:
        """Delete what was written: the files cannot be used as they are."""
        self._close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _close(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        self._files = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A store as a person sees it.

    Attributes:
        name: Of its folder.
        what: What it is of.
        nbytes: Bytes on the disk, features of teachers included.
        whole: Whether it was finished.
    """

    name: str
    what: str
    nbytes: int
    whole: bool


def listing() -> list[Listing]:
    """All stores, those that were begun and not finished among them."""
    folder = stores_folder()
    found = []
    for one in sorted(folder.iterdir()) if folder.is_dir() else ():
        if one.is_symlink() or not one.is_dir():
            continue
        told: Told = {}
        with contextlib.suppress(DataError):
            told = read_json(one / TOLD)
        nbytes = sum(path.stat().st_size for path in one.iterdir())
        what = str(told.get("of", "")) if isinstance(told, dict) else ""
        found.append(Listing(name=one.name, what=what, nbytes=nbytes, whole=bool(what)))
    return found


def remove(name: str) -> bool:
    """Delete a store of `listing`; False where another process is making it.

    Raises:
        OSError: It cannot be deleted.
    """
    lock = FileLock(str(stores_folder() / f"{name.partition('-')[0]}-.lock"), mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        shutil.rmtree(stores_folder() / name)
    finally:
        lock.release()
    return True


def _plain(forms: Mapping[str, Form], num: int) -> Told:
    return {"num": num, **{name: [list(one.shape), one.dtype.str] for name, one in forms.items()}}
