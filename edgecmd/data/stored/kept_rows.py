"""Figures of each row of a set: computed some rows at a time, and kept beside the rows of a store.

So no figure is computed twice, whatever part of a store is asked for and by whichever process.

Shapes: N rows.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from filelock import FileLock

from edgecmd.core.errors import MachineError
from edgecmd.core.files import write_bytes_atomically
from edgecmd.core.progress import tracked
from edgecmd.data.stored.array_files import (
    CHUNK,
    ArrayFile,
    Examples,
    FilledFile,
    LazyRows,
    Rows,
    all_rows,
    chunks,
    header,
    whole_file,
)
from edgecmd.data.stored.store import Form

# Of one chunk: more than fits into the cache of a processor is slower, not faster.
NUMBERS_AT_ONCE = 2**22

Work = Callable[[np.ndarray], np.ndarray]


def at_once(examples: Examples | ArrayFile) -> int:
    """Rows of a chunk, so that what is made of it stays small however large a row is."""
    numbers = int(np.prod(examples.shape[1:], dtype=np.int64))
    return max(1, min(CHUNK, NUMBERS_AT_ONCE // max(1, numbers)))


def of_each_row(examples: Examples, name: str, work: Work, *, form: Form) -> np.ndarray:
    """What ``work`` makes of each row.

    Args:
        examples: Rows in memory or on the disk.
        name: Of the figure and how it is computed; another computation has another name.
        work: Figures of some rows, a row each, of that row alone.
        form: Of a figure.
    """
    lazy = all_rows(examples)
    found = np.empty((len(lazy), *form.shape), form.dtype)
    for base, at, rows in lazy.parts():
        if isinstance(base, ArrayFile) and (kept := beside(base, rows, name, work, form=form)) is not None:
            found[at] = kept
            continue
        # A row that is there many times is looked at once.
        once, which = np.unique(rows, return_inverse=True)
        if len(once) < len(rows):
            found[at] = of_each_row(LazyRows((base,), once), name, work, form=form)[which]
            continue
        own, start = LazyRows((base,), rows), 0
        for part in chunks(own, at_once(own)):
            found[at[start : start + len(part)]] = work(part)
            start += len(part)
    return found


def beside(
    file: ArrayFile, rows: Rows, name: str, work: Work, *, form: Form, num: int = 0, told: str = ""
) -> LazyRows | None:
    """Figures at ``rows`` of a store's array; those that are missing are computed and written first.

    Args:
        file: The array.
        rows: Which rows.
        name: See `of_each_row`.
        work: See `of_each_row`.
        form: Of a figure.
        num: Rows that ``work`` gets at once; 0: as suits their size.
        told: What a person is told who waits; empty: nothing.

    Returns:
        None where they cannot be written: a full disk costs what is kept and not the run.
    """
    path = file.path.parent / f"{name}-{file.path.stem}.npy"
    size = num or at_once(file)
    try:
        with FileLock(str(path.with_suffix(".lock")), mode=0o600):
            table = FilledFile(path, shape=(len(file), *form.shape), dtype=form.dtype)
            missing = rows[~table.filled[rows]]
            # In the order that was asked for, so that each row is beside those it would be in memory.
            missing = missing[np.sort(np.unique(missing, return_index=True)[1])]
            starts = range(0, len(missing), size)
            for start in tracked(starts, told) if told and starts else starts:
                part = missing[start : start + size]
                table.fill(part, work(file.read(part)))
        return LazyRows((ArrayFile(path),), rows)
    except (OSError, NotImplementedError):
        return None


def relabelled(values: Examples, table: np.ndarray) -> Examples:
    """What ``table`` says of each number; of rows of a store it is kept beside them.

    Args:
        values: Whole numbers, which index ``table``.
        table: (K,).
    """
    form = Form(shape=values.shape[1:], dtype=table.dtype)
    name = f"relabelled-{hashlib.sha256(table.tobytes()).hexdigest()[:32]}"
    for base, _, rows in all_rows(values).parts():
        if isinstance(base, ArrayFile) and len(rows) == len(values):
            kept = beside(base, rows, name, lambda part: table[part], form=form)
            if kept is not None:
                return kept
    return np.asarray(table[np.asarray(values)])


def kept_whole(name: str, sets: Sequence[Examples], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """What ``compute`` makes of sets as a whole, whole numbers; of rows of one store it is kept beside them.

    Args:
        name: Of what is made and how.
        sets: All that it is made of.
        compute: Makes it.
    """
    parts = [part for one in sets if isinstance(one, LazyRows) for part in one.parts()]
    files = [base for base, _, _ in parts if isinstance(base, ArrayFile)]
    if len(files) < len(parts) or len(parts) != len(sets):
        return compute()
    digest = hashlib.sha256()
    for file, (_, _, rows) in zip(files, parts, strict=True):
        digest.update(f"{file.path.name}:{len(rows)}:".encode() + rows.astype(np.int64).tobytes())
    path = files[0].path.parent / f"{name}-{digest.hexdigest()[:32]}.npy"
    try:
        return np.asarray(whole_file(path))
    except (OSError, MachineError):
        found = compute()
        with contextlib.suppress(OSError):
            write_bytes_atomically(path, header(found.shape, found.dtype) + found.tobytes())
        return found
