"""Pairs, masks and public images out of their files, one at a time, into memory or into a store on the disk.

A store that is there is opened.

Shapes: N rows, S side of a picture, T samples.
"""

import contextlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL

from edgecmd.core.errors import DataError
from edgecmd.core.progress import tracked
from edgecmd.core.text import size_of
from edgecmd.data.modalities.depth import DEPTH
from edgecmd.data.pairs import PairedData
from edgecmd.data.stored.array_files import Examples
from edgecmd.data.stored.store import Build, Form, Key, Told, find, key_of, writing
from edgecmd.data.user_files.halves import Half, Maps, Seen, seen_of, stored_half
from edgecmd.data.user_files.images import Sides, stored_colours, to_grey
from edgecmd.data.user_files.pair_files import SOUNDS, FileKind
from edgecmd.settings import DataConfig

# Pairs that take more lie on the disk where data.store is auto.
MOST_IN_MEMORY = 2**26
SOURCE, TARGET = "source", "target"
# Of threads that decode; and pairs a thread that wait to be written.
MOST_THREADS, AHEAD = 4, 4

Look = Callable[[Mapping[str, Seen], Maps, list[str]], None]
"""Told of what `Listed.seen` names by id, and of its depth maps; adds to problems, and to the notes given."""
Read = Mapping[str, Half]
"""What is read of a row, by the names of the arrays."""


def needs_store(nbytes: int, config: DataConfig) -> bool:
    """Whether so many bytes are read into a store.

    It follows from their number and the settings alone, so that it is known before a file is opened.
    """
    if config.store != "auto":
        return config.store == "always"
    return nbytes > MOST_IN_MEMORY


def pair_bytes(config: DataConfig) -> int:
    """Bytes of a pair with a grey target, about."""
    return source_bytes(config) + config.image_size**2


def source_bytes(config: DataConfig) -> int:
    """Bytes of a source or a public image in colour."""
    return 3 * config.source_side**2


def as_kept(half: Half, form: Form) -> np.ndarray | None:
    """What was read in the form that the set has; None where it is of another kind."""
    found = stored_half(half)
    is_grey = found.ndim == 3 and found.shape[2] == 1
    if form.dtype == np.uint8 and form.shape[2:] == (1,) and found.dtype == np.uint8 and not is_grey:
        (found,) = to_grey([found])
    return found if (found.shape, found.dtype) == (form.shape, form.dtype) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """Pairs, or what else is read row by row, that are known by their files.

    Attributes:
        what: Where they lie, what set they are, and each setting that changes a number of them.
        files: Name and files of each row.
        config: Whether they lie in a store, and how many threads read them.
        row_bytes: Bytes of a row, about.
        read: What there is of a row, by its number; raises a DataError that names the file.
        forms: A row of each array, found without reading all; raises a DataError where no row can be read.
        fitted: What was read, by the number of its row, in that form; None where it cannot be, which `Look`
            tells, or a DataError does.
        in_order: Whether ``read`` is called in the order of the rows, by one thread.
        seen: The array that `Look` is told of.
        nouns: What a message calls the rows.
    """

    what: str
    files: Sequence[tuple[str, Sequence[Path]]]
    config: DataConfig
    row_bytes: int
    read: Callable[[int], Read]
    forms: Callable[[], Mapping[str, Form]]
    fitted: Callable[[int, Half, Form], np.ndarray | None] = lambda _, half, form: as_kept(half, form)
    in_order: bool = False
    seen: str = TARGET
    nouns: str = "pairs"

    def __len__(self) -> int:
        return len(self.files)

    @property
    def stored(self) -> bool:
        """Whether the rows go through a store."""
        return needs_store(len(self) * self.row_bytes, self.config)


class EndedError(DataError):
    """A row cannot be read, nor any behind it."""


def through_store(
    listed: Listed, *, problems: list[str], notes: list[str], look: Look = lambda *_: None
) -> Mapping[str, Examples] | None:
    """The rows, of many those of a store, which is made where it is not there.

    Args:
        listed: Their files.
        problems: Gets a sentence for everything that is wrong.
        notes: Gets a sentence for what a run can live with.
        look: Told of all rows that were read.

    Returns:
        Arrays by name. None where there was a problem; then nothing is left on the disk.

    Raises:
        MachineError: The store cannot be made, for lack of space or rights.
    """
    if not len(listed):
        return None
    if not listed.stored:
        return _read(listed, None, problems=problems, notes=notes, look=look)
    # Another release of Pillow may decode a file to other numbers.
    key = key_of(f"{listed.what}, Pillow {PIL.__version__}", listed.files)
    found = find(key)
    if found is None:
        with writing(key):
            found = find(key)
            if found is None:
                return _read(listed, key, problems=problems, notes=notes, look=look)
    notes += found.told["notes"]
    return found.arrays


def pairs_of(found: Mapping[str, Examples] | None) -> PairedData | None:
    """Both halves that `through_store` gave as pairs."""
    return None if found is None else PairedData(source=found[SOURCE], target=found[TARGET])


def _tried(listed: Listed, row: int) -> Read | DataError:
    try:
        return listed.read(row)
    except DataError as error:
        return error


def _all_read(listed: Listed, rows: range) -> Generator[Read | DataError, None, None]:
    """What there is of ``rows`` in turn, or why one cannot be read; threads read ahead."""
    num = listed.config.num_threads or min(MOST_THREADS, os.cpu_count() or 1)
    if num == 1 or listed.in_order or not listed.stored:
        yield from map(partial(_tried, listed), rows)
        return
    waiting = deque[Future[Read | DataError]]()
    # Readers silence warnings while a library decodes. Here, so that no thread ends the silence of another.
    with warnings.catch_warnings(), ThreadPoolExecutor(num) as pool:
        warnings.simplefilter("ignore")
        try:
            for row in rows:
                waiting.append(pool.submit(_tried, listed, row))
                if len(waiting) == AHEAD * num:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class _InMemory:
    """Rows in arrays that are made once, so that no row is held twice; filled as a `Build` is."""

    facts: Sequence[Told] = ()

    def __init__(self, forms: Mapping[str, Form], num: int) -> None:
        self.arrays = {name: np.empty((num, *one.shape), one.dtype) for name, one in forms.items()}
        self.done = 0

    def add(self, arrays: Mapping[str, np.ndarray], _fact: Told) -> None:
        """The next row; nothing is noted of it."""
        for name, array in self.arrays.items():
            array[self.done] = arrays[name]
        self.done += 1

    def rows(self, name: str) -> np.ndarray:
        """Those that were added."""
        return self.arrays[name][: self.done]


def _read(
    listed: Listed, key: Key | None, *, problems: list[str], notes: list[str], look: Look
) -> Mapping[str, Examples] | None:
    """The rows out of their files into the store of ``key``, or into memory."""
    before, num, own = len(problems), len(listed), list[str]()
    try:
        forms = listed.forms()
    except DataError:
        # No row can be read, and each says why.
        every = _all_read(listed, range(num))
        problems += [str(one) for one in every if isinstance(one, DataError)]
        return None
    if key is None:
        memory = _InMemory(forms, num)
        _feed(listed, memory, forms, problems=problems, notes=notes, look=look)
        return None if len(problems) > before else memory.arrays
    with Build(key, forms=forms, num=num) as build:
        _feed(listed, build, forms, problems=problems, notes=own, look=look)
        if len(problems) > before:
            build.abandon()
            return None
        notes += own
        return build.finish({"notes": own, "of": key.what}).arrays


def _feed(
    listed: Listed,
    build: Build | _InMemory,
    forms: Mapping[str, Form],
    *,
    problems: list[str],
    notes: list[str],
    look: Look,
) -> None:
    """Read the rows that ``build`` lacks; behind the first problem, for the other problems alone."""
    before, num, names = len(problems), len(listed), [name for name, _ in listed.files]
    seen = {name: Seen(**fact) for name, fact in zip(names, build.facts)}
    size = size_of(sum(one.nbytes for one in forms.values()) * num)
    told = f"reading {listed.nouns}{f' into a store of {size}' if listed.stored else ''}"
    with contextlib.closing(_all_read(listed, rows := range(build.done, num))) as every:
        for row in tracked(rows, told):
            read = next(every)
            if isinstance(read, DataError):
                problems.append(str(read))
                if isinstance(read, EndedError):
                    break
                continue
            try:
                fact = seen[names[row]] = seen_of(read[listed.seen])
                arrays = {name: listed.fitted(row, half, forms[name]) for name, half in read.items()}
                whole = {name: one for name, one in arrays.items() if one is not None}
                # What is in memory is thrown away as a whole, so it may have gaps.
                is_next = len(problems) == before and build.done == row
                if len(whole) == len(arrays) and (is_next or not listed.stored):
                    build.add(whole, asdict(fact))
            except DataError as error:
                problems.append(str(error))
    are_maps = forms[listed.seen].dtype == DEPTH.dtype and (build.done == num or not listed.stored)
    look(seen, build.rows(listed.seen) if are_maps else np.empty(0), notes)
    if build.done < num and len(problems) == before:
        problems.append(f"Files of {listed.nouns} changed while they were read. Start again.")


def target_form(targets: Iterable[Path], kind: FileKind, sides: Sides, *, grey: bool = False) -> Form:
    """A row of targets: of pictures and depth maps their headers say what they are.

    Args:
        targets: Their files; one without a header that can be read is passed over: its reader tells.
        kind: Of the files.
        sides: What they are made into.
        grey: Whether colour is turned grey in any case.
    """
    if kind is SOUNDS:
        return Form(shape=(sides.clip.num_samples,), dtype=np.dtype(np.int16))
    kinds, side = set[str](), sides.target
    for path in tracked(list(targets), "looking at targets"):
        with contextlib.suppress(DataError):
            kinds.add(stored_colours(path))
    if "depth" in kinds:
        return Form(shape=(side, side, 1), dtype=np.dtype(np.uint16))
    return Form(shape=(side, side, 1 if grey or kinds != {"rgb"} else 3), dtype=np.dtype(np.uint8))
