"""Arrays that lie on the disk: read a few rows at a time, written row after row, never held as a whole.

A file is a plain .npy. It is read by position and not mapped: what was read long ago then does not count as
memory of the process, and a file that was cut off is an error and no crash.

Shapes: N rows, R rows of one request.
"""

import io
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int
from numpy.lib import format as npy

from edgecmd.core.errors import MachineError

CHUNK = 256
# A short read is taken up again; Linux gives at most 2 GiB at once.
MOST_AT_ONCE = 2**30

Rows = Int[np.ndarray, " _"]


class ArrayFile:
    """A .npy file whose rows are read by their number.

    Attributes:
        path: The file; a pickle holds this alone, and another process opens it anew.
        shape: Of the whole array.
        dtype: Of its numbers.

    Raises:
        MachineError: It is no array, or another number of bytes is there than its header says.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.shape, self.dtype, self._start = _header(file, path)
            size = os.fstat(file.fileno()).st_size
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        if size != self._start + self.shape[0] * self._row_bytes:
            raise MachineError(f"{path} is cut off or was written to. Delete it, then start again.")

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> tuple[type["ArrayFile"], tuple[Path]]:
        return ArrayFile, (self.path,)

    def read(self, rows: Rows) -> np.ndarray:
        """The rows of those numbers, in that order.

        Raises:
            MachineError: The file was cut off meanwhile.
        """
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if not found.size:
            return found
        view = memoryview(found.reshape(-1).view(np.uint8).data)
        # Neighbours in the file are read together.
        starts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1)
        for first, last in zip(starts, [*starts[1:], len(rows)], strict=True):
            part = view[int(first) * self._row_bytes : int(last) * self._row_bytes]
            self._fill(part, self._start + int(rows[first]) * self._row_bytes)
        return found

    def _fill(self, part: memoryview, position: int) -> None:
        while part:
            num = _read_at(self._descriptor, part[:MOST_AT_ONCE], position)
            if not num:
                raise MachineError(f"{self.path} was cut off while it was in use. Start again.")
            part, position = part[num:], position + num


def _read_at(descriptor: int, part: memoryview, position: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [part], position)
    os.lseek(descriptor, position, os.SEEK_SET)
    data = os.read(descriptor, len(part))
    part[: len(data)] = data
    return len(data)


def _header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and where the numbers start."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except (ValueError, EOFError) as error:
        raise MachineError(f"{path} is not a numpy array. Delete it, then start again.") from error
    if by_columns or dtype.hasobject or not shape:
        raise MachineError(f"{path} is not an array of rows. Delete it, then start again.")
    return shape, dtype, file.tell()


def header(shape: Sequence[int], dtype: np.dtype) -> bytes:
    """What a .npy of that shape begins with; the numbers follow it."""
    file = io.BytesIO()
    told = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    npy.write_array_header_1_0(file, told)
    return file.getvalue()


class FilledFile:
    """A .npy file of this user alone whose rows are filled in any order; those that are, are noted beside it.

    It is for one process at a time: whoever fills rows holds a lock.

    Args:
        path: The file; one of another shape or type is made anew.
        shape: Of the whole array.
        dtype: Of its numbers.

    Guarantees:
        A row that is noted is whole, also after a crash.

    Raises:
        OSError: It cannot be made, or the disk is full.
    """

    def __init__(self, path: Path, *, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self._marks = path, path.with_suffix(".rows")
        self._first = header(shape, dtype)
        self._row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._size = len(self._first) + shape[0] * self._row_bytes
        self._num, self._dtype = shape[0], dtype
        if not self._is_whole():
            self._begin()
        self.filled = np.frombuffer(self._marks.read_bytes(), np.uint8).astype(bool)

    def _is_whole(self) -> bool:
        try:
            with self.path.open("rb") as file:
                known = file.read(len(self._first)) == self._first
            return known and (self.path.stat().st_size, self._marks.stat().st_size) == (self._size, self._num)
        except OSError:
            return False

    def _begin(self) -> None:
        for path, size, first in ((self._marks, self._num, b""), (self.path, self._size, self._first)):
            path.unlink(missing_ok=True)
            with private_file(path) as file:
                file.write(first)
                file.truncate(size)

    def fill(self, rows: Rows, values: np.ndarray) -> None:
        """Write the rows of those numbers, then note them.

        Raises:
            OSError: The disk is full.
        """
        plain = np.ascontiguousarray(values, self._dtype).reshape(len(rows), -1)
        with private_file(self.path) as file:
            for row, value in zip(rows, plain, strict=True):
                file.seek(len(self._first) + int(row) * self._row_bytes)
                file.write(value.data)
            file.flush()
            os.fsync(file.fileno())
        self.filled[rows] = True
        with private_file(self._marks) as file:
            file.write(self.filled.astype(np.uint8).tobytes())


def private_file(path: Path) -> BinaryIO:
    """A file that is read and written by this user alone; what is there stays.

    Raises:
        OSError: It cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    return os.fdopen(descriptor, "r+b")


class LazyRows:
    """Some rows of arrays on the disk or in memory, in any order: indexing reads them, `take` does not.

    It has shape, type and length of the array that it stands for. ``numpy.asarray`` reads all of it.

    Args:
        bases: What rows are of; all of one type and shape but for the first axis.
        rows: Number of each row in its base, (N,).
        which: Index of the base of each row, (N,); None: the first.
    """

    def __init__(
        self, bases: Sequence[np.ndarray | ArrayFile], rows: Rows, which: Rows | None = None
    ) -> None:
        self._bases, self._rows, self._which = tuple(bases), rows, which
        self.dtype: np.dtype = self._bases[0].dtype
        self.shape: tuple[int, ...] = (len(rows), *self._bases[0].shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, were they read."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | np.integer | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        picked = np.arange(len(self))[key]
        found = self._read(np.atleast_1d(picked))
        return found if np.ndim(picked) else found[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in chunks(self):
            yield from part

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return self._read(np.arange(len(self))).astype(dtype or self.dtype, copy=False)

    def take(self, rows: np.ndarray) -> "LazyRows":
        """The rows at ``rows``, in that order; nothing is read."""
        return LazyRows(self._bases, self._rows[rows], None if self._which is None else self._which[rows])

    def parts(self) -> list[tuple[np.ndarray | ArrayFile, Rows, Rows]]:
        """For each base: which rows are of it, and their numbers in it."""
        if self._which is None:
            return [(self._bases[0], np.arange(len(self)), self._rows)]
        places = [np.flatnonzero(self._which == index) for index in range(len(self._bases))]
        return [(base, at, self._rows[at]) for base, at in zip(self._bases, places, strict=True)]

    def _read(self, picked: Rows) -> np.ndarray:
        rows = self._rows[picked]
        if self._which is None:
            return _read(self._bases[0], rows)
        which = self._which[picked]
        found = np.empty((len(picked), *self.shape[1:]), self.dtype)
        for index, base in enumerate(self._bases):
            at = which == index
            if at.any():
                found[at] = _read(base, rows[at])
        return found


Examples = np.ndarray | LazyRows
"""Examples in memory or on the disk, N in the first axis; what is common to both is safe to use."""


def _read(base: np.ndarray | ArrayFile, rows: Rows) -> np.ndarray:
    return base.read(rows) if isinstance(base, ArrayFile) else base[rows]


def whole_file(path: Path) -> LazyRows:
    """All rows of a .npy file, in their order.

    Raises:
        MachineError: It is no whole array.
    """
    file = ArrayFile(path)
    return LazyRows((file,), np.arange(len(file)))


def all_rows(examples: Examples) -> LazyRows:
    """The examples as rows, of which any may be taken without a copy."""
    return examples if isinstance(examples, LazyRows) else LazyRows((examples,), np.arange(len(examples)))


def chosen(examples: Examples, rows: np.ndarray) -> Examples:
    """The examples at ``rows``: of an array in memory a copy, else nothing is read."""
    return examples.take(rows) if isinstance(examples, LazyRows) else examples[rows]


def one_after_another(parts: Sequence[Examples]) -> Examples:
    """Examples of several sets in one: read only where all of them are in memory."""
    if not any(isinstance(one, LazyRows) for one in parts):
        return np.concatenate([np.asarray(one) for one in parts])
    lazy = [all_rows(one) for one in parts]
    bases, which, rows = list[np.ndarray | ArrayFile](), [], []
    for one in lazy:
        places = [_place(bases, base) for base in one._bases]
        own = np.zeros(len(one), np.int64) if one._which is None else one._which
        which.append(np.asarray(places)[own])
        rows.append(one._rows)
    index = None if len(bases) == 1 else np.concatenate(which)
    return LazyRows(bases, np.concatenate(rows), index)


def _place(bases: list[np.ndarray | ArrayFile], base: np.ndarray | ArrayFile) -> int:
    """Where ``base`` stands among ``bases``, behind which it is put if it is new."""
    for index, known in enumerate(bases):
        if known is base:
            return index
    bases.append(base)
    return len(bases) - 1


def chunks(examples: Examples, size: int = CHUNK) -> Iterator[np.ndarray]:
    """The examples in memory, ``size`` of them at a time."""
    return (np.asarray(examples[start : start + size]) for start in range(0, len(examples), size))
