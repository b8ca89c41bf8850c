"""Pairs out of their files into a store on the disk, one at a time; a store that is there is opened.

Shapes: N pairs, S side of a picture, T samples.
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
from edgecmd.data.stored.store import Build, Form, Key, Store, find, key_of, writing
from edgecmd.data.user_files.halves import Half, Halves, Maps, Seen, seen_of, stored_half
from edgecmd.data.user_files.images import stored_colours, to_grey
from edgecmd.settings import DataConfig

# Pairs that take more lie on the disk where data.store is auto.
MOST_IN_MEMORY = 2**26
SOURCE, TARGET = "source", "target"
# Of threads that decode; and pairs a thread that wait to be written.
MOST_THREADS, AHEAD = 4, 4

Look = Callable[[Mapping[str, Seen], Maps, list[str]], None]
"""Told of the targets by id, and of those that are depth maps; adds to problems, and to the notes given."""


def needs_store(num: int, config: DataConfig) -> bool:
    """Whether so many pairs are read into a store.

    It follows from their number and the settings alone, so that it is known before a file is opened.
    """
    if config.store != "auto":
        return config.store == "always"
    return num * pair_bytes(config) > MOST_IN_MEMORY


def pair_bytes(config: DataConfig) -> int:
    """Bytes of a pair with a grey target, about."""
    return 3 * config.source_side**2 + config.image_size**2


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """Pairs that are known by their files.

    Attributes:
        key: Of their files, and of each setting that changes a number of them, see `key_for`.
        ids: One name a pair.
        read: Both halves of a pair, by its row, in their order; raises a DataError that names the file.
        forms: A row of source and target, found without reading all; raises a DataError.
        fitted: A target in that form; None where it cannot be, which `Look` tells, or a DataError does.
        num_threads: How many call ``read`` at a time, 0: as many as there are cores, at most `MOST_THREADS`;
            1: it is called in the order of the rows.
    """

    key: Key
    ids: Sequence[str]
    read: Callable[[int], Halves]
    forms: Callable[[], Mapping[str, Form]]
    fitted: Callable[[int, Half, Form], np.ndarray | None]
    num_threads: int = 1


def key_for(what: str, files: Iterable[tuple[str, Sequence[Path]]]) -> Key:
    """The key of pairs.

    Args:
        what: Where they lie, what set they are, and each setting that changes a number of them.
        files: Id and files of each pair.
    """
    # Another release of Pillow may decode a file to other numbers.
    return key_of(f"{what}, Pillow {PIL.__version__}", list(files))


class EndedError(DataError):
    """A pair cannot be read, nor any behind it."""


def through_store(listed: Listed, *, problems: list[str], notes: list[str], look: Look) -> PairedData | None:
    """The pairs of a store, which is made where it is not there.

    Args:
        listed: Their files.
        problems: Gets a sentence for everything that is wrong.
        notes: Gets a sentence for what a run can live with.
        look: Told of all targets that were read.

    Returns:
        None where there was a problem; then nothing is left on the disk.

    Raises:
        MachineError: The store cannot be made, for lack of space or rights.
    """
    if not listed.ids:
        return None
    key = listed.key
    found = find(key)
    if found is None:
        with writing(key):
            found = find(key) or _built(listed, problems=problems, look=look)
    if found is None:
        return None
    notes += found.told["notes"]
    return PairedData(source=found.arrays[SOURCE], target=found.arrays[TARGET])


def _tried(listed: Listed, row: int) -> Halves | DataError:
    try:
        return listed.read(row)
    except DataError as error:
        return error


def _all_read(listed: Listed, rows: range) -> Generator[Halves | DataError, None, None]:
    """Both halves of the pairs at ``rows`` in turn, or why one cannot be read; threads read ahead."""
    num = listed.num_threads or min(MOST_THREADS, os.cpu_count() or 1)
    if num == 1:
        yield from map(partial(_tried, listed), rows)
        return
    waiting = deque[Future[Halves | DataError]]()
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


def _built(listed: Listed, *, problems: list[str], look: Look) -> Store | None:
    before, notes, num = len(problems), list[str](), len(listed.ids)
    try:
        forms = listed.forms()
    except DataError as error:
        problems.append(str(error))
        return None
    with contextlib.ExitStack() as opened:
        build = opened.enter_context(Build(listed.key, forms=forms, num=num))
        seen = {name: Seen(**fact) for name, fact in zip(listed.ids, build.facts)}
        size = sum(one.nbytes for one in forms.values()) * num
        rows = range(build.done, num)
        every = opened.enter_context(contextlib.closing(_all_read(listed, rows)))
        for row in tracked(rows, f"reading pairs into a store of {size_of(size)}"):
            read = next(every)
            if isinstance(read, DataError):
                problems.append(str(read))
                if isinstance(read, EndedError):
                    break
                continue
            try:
                source, half = read
                seen[listed.ids[row]] = seen_of(half)
                target = listed.fitted(row, half, forms[TARGET])
                if target is not None and len(problems) == before and build.done == row:
                    build.add({SOURCE: source, TARGET: target}, asdict(seen[listed.ids[row]]))
            except DataError as error:
                problems.append(str(error))
        are_maps = forms[TARGET].dtype == DEPTH.dtype
        look(seen, build.rows(TARGET) if are_maps and build.done == num else [], notes)
        if len(problems) > before or build.done < num:
            build.abandon()
            return None
        return build.finish({"notes": notes, "of": listed.key.what})


def picture_form(targets: Iterable[Path], *, side: int, grey: bool) -> Form:
    """A row of targets that are pictures or depth maps, as their headers say what they are.

    Args:
        targets: Their files; one without a header that can be read is passed over: its reader tells.
        side: S.
        grey: Whether colour is turned grey in any case.
    """
    kinds = set[str]()
    for path in tracked(list(targets), "looking at targets"):
        with contextlib.suppress(DataError):
            kinds.add(stored_colours(path))
    if "depth" in kinds:
        return Form(shape=(side, side, 1), dtype=np.dtype(np.uint16))
    return Form(shape=(side, side, 1 if grey or kinds != {"rgb"} else 3), dtype=np.dtype(np.uint8))


def as_kept(half: Half, form: Form) -> np.ndarray | None:
    """A target in the form that the set has; None where it is of another kind."""
    found = stored_half(half)
    is_grey = found.ndim == 3 and found.shape[2] == 1
    if form.dtype == np.uint8 and form.shape[2:] == (1,) and found.dtype == np.uint8 and not is_grey:
        (found,) = to_grey([found])
    return found if (found.shape, found.dtype) == (form.shape, form.dtype) else None
