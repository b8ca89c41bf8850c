"""What is to be answered: files, strings, the standard input, frames; read while the engine computes.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from edgecmd.data.user_files.decode import reason_of
from export.device.reading import (
    FOLDER,
    MAX_PNM_BYTES,
    InferError,
    Reading,
    kind_of,
    out_of_memory,
)
from export.device.sensors import RawForm, line_of, named, string_reading, text_of
from export.device.student import Student

STDIN = "-"
# Width and height of frames and, if they are not the model's, channels; or the samples of a recording.
RAW = re.compile(r"(\d{1,9})(?:x(\d{1,9})(?:x([13]))?)?")
# A line of strings that is longer is no line of strings.
MOST_LINE = 2**20
# A group of inputs is computed as soon as it has so many bytes: some 20 colour images of 0.5 megapixels.
GROUP_BYTES = 2**25
# How files begin, and the ending that tells their reader.
BEGINNINGS = (
    (rb"\x89PNG", ".png"),
    (rb"\xff\xd8\xff", ".jpg"),
    (rb"GIF8", ".gif"),
    (rb"RIFF.{4}WEBP", ".webp"),
    (rb"BM", ".bmp"),
    (rb"II\*\0|MM\0\*", ".tif"),
    (rb"P[56]\s", ".pnm"),
    (rb"\x93NUMPY", ".npy"),
    (rb"(?:RIFF|RIFX|RF64|BW64).{4}WAVE", ".wav"),
)
# Their decoder keeps the whole process from the screen for a moment: so not while others tell something.
ALONE = (".tif", ".tiff")


class Given(NamedTuple):
    """An input that was read: what it is called, the stem of its mask, its numbers, which frame it is."""

    name: str
    stem: str
    reading: Reading
    frame: int | None = None


class Failed(NamedTuple):
    """One that was not."""

    name: str
    error: InferError


class Task(NamedTuple):
    """Reads one input. What is ``alone`` is read when its turn comes, and not beside others."""

    read: Callable[[], Given | Failed]
    alone: bool = True


def tried(name: str, read: Callable[[], Given]) -> Given | Failed:
    """What ``read`` gives, or why it does not."""
    try:
        return read()
    except InferError as error:
        return Failed(name, error)
    except MemoryError:
        return Failed(name, out_of_memory(Path(name)))
    except OSError as error:
        return Failed(name, InferError(f"{name} cannot be read: {reason_of(error)}.", exit_code=4))


def file_task(student: Student, path: Path, *, draft: bool = False) -> Task:
    """Reads a file."""

    def read() -> Given:
        return Given(str(path), path.stem, student.reading(path, draft=draft))

    return Task(partial(tried, str(path), read), alone=path.suffix.lower() in ALONE)


def stdin_task(student: Student, *, draft: bool = False) -> Task:
    """Reads the one file that the standard input holds; what it is, its first bytes say."""

    def read() -> Given:
        data = standard_input().read(MAX_PNM_BYTES + 1)
        if len(data) > MAX_PNM_BYTES:
            raise InferError(f"{STDIN} has more than {MAX_PNM_BYTES:,} bytes.", exit_code=4)
        found = [ending for begin, ending in BEGINNINGS if re.match(begin, data, re.DOTALL)]
        if not found or found[0] not in student.sensor.suffixes:
            raise InferError(
                f"{STDIN} is no {student.sensor.noun} that can be read: its first bytes are {data[:8]!r}."
                " Frames without a header need --raw.",
                exit_code=4,
            )
        with tempfile.TemporaryDirectory(prefix="infer-") as folder:
            path = Path(folder) / f"stdin{found[0]}"
            path.write_bytes(data)
            try:
                return Given(STDIN, "stdin", student.reading(path, draft=draft))
            except InferError as error:
                raise InferError(str(error).replace(str(path), STDIN), exit_code=error.exit_code) from error

    return Task(partial(tried, STDIN, read))


def standard_input() -> BufferedIOBase:
    """The standard input as bytes.

    Raises:
        InferError: There is none, or a person sits there.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InferError("- is the standard input, and nothing is piped into it.", exit_code=2)
    return cast("BufferedIOBase", sys.stdin.buffer)


def raw_form(text: str, student: Student) -> RawForm:
    """The form of frames that ``--raw`` tells, for this kind of input.

    Raises:
        InferError: It is another form, or there is none; the message has those that are allowed.
    """
    sensor, match = student.sensor, RAW.fullmatch(text)
    if sensor.raw is None:
        raise InferError(f"--raw is for frames without a header; a {sensor.noun} is none.", exit_code=2)
    form = sensor.raw([int(one) for one in match.groups() if one], student.channels) if match else None
    if form is None:
        allowed = sensor.raw_words.format(**student.preprocess)
        raise InferError(f"--raw {text} is not allowed; it is {allowed}.", exit_code=2)
    return form


def word_task(student: Student, word: str) -> Task:
    """A word of the command line that is an input itself."""

    def read() -> Given:
        return Given(word, "", string_reading(word, preprocess=student.preprocess))

    return Task(partial(tried, word, read))


def line_tasks(student: Student, path: str) -> Iterator[Task]:
    """Strings of a file or of the standard input, one a line; each is read when its turn comes.

    A line is answered before the next is there, so a program may ask one after another through a pipe.
    """
    try:
        if path != STDIN and kind_of(Path(path)) == FOLDER:
            raise InferError(f"{path} is a folder; --lines takes a file.", exit_code=2)
        with standard_input() if path == STDIN else open(path, "rb") as stream:  # noqa: PTH123 - "./-" too
            num = 0
            for num, line in enumerate(iter(partial(stream.readline, MOST_LINE), b""), start=1):
                yield _line_task(student, path, num, line)
        if not num:
            raise InferError(f"{path} is empty; allowed is one string a line.", exit_code=4)
    except (InferError, OSError, ValueError) as error:
        why = error if isinstance(error, InferError) else None
        why = why or InferError(f"{path} cannot be read: {reason_of(error)}.", exit_code=4)
        yield Task(partial(Failed, path, why))


def _line_task(student: Student, path: str, num: int, line: bytes) -> Task:
    def read() -> Given:
        where = f"{path}, line {num},"
        if len(line) == MOST_LINE:
            raise InferError(f"{where} has {MOST_LINE:,} bytes or more.", exit_code=4)
        bare = line_of(line, first=num == 1)
        reading = named(path, num, bare, preprocess=student.preprocess)
        return Given(text_of(bare, where=where), "", reading)

    return Task(partial(tried, f"{path}, line {num}", read))


def raw_tasks(path: str, form: RawForm) -> Iterator[Task]:
    """Reads frames one after another from a file, a named pipe or the standard input, to its end.

    Each is waited for when its turn comes, so that a camera's frame is answered before the next is there.
    """
    try:
        if path != STDIN and kind_of(Path(path)) == FOLDER:
            raise InferError(f"{path} is a folder; --raw reads files and -.", exit_code=2)
        with standard_input() if path == STDIN else open(path, "rb") as stream:  # noqa: PTH123 - "./-" too
            yield from _frames_of(stream, path, form)
    except (InferError, OSError, ValueError) as error:
        why = error if isinstance(error, InferError) else None
        why = why or InferError(f"{path} cannot be read: {reason_of(error)}.", exit_code=4)
        yield Task(partial(Failed, path, why))


def _frames_of(stream: BufferedIOBase, path: str, form: RawForm) -> Iterator[Task]:
    size, num = int(np.prod(form.shape)) * np.dtype(form.dtype).itemsize, 0
    while True:
        data = stream.read(size)
        if len(data) < size:
            break
        yield _frame_task(data, path, num, form)
        num += 1
    if data or not num:
        raise InferError(
            f"{path} ends within frame {num}: {len(data):,} of {size:,} bytes. Does --raw fit?", exit_code=4
        )


def _frame_task(data: bytes, path: str, num: int, form: RawForm) -> Task:
    name = f"{path}#{num}"

    def read() -> Given:
        values = np.frombuffer(data, form.dtype).reshape(form.shape)
        return Given(name, f"{Path(path).stem if path != STDIN else 'stdin'}-{num:06}", _made(values), num)

    def _made(values: np.ndarray) -> Reading:
        return Reading(form.finish(name, values))

    return Task(partial(tried, name, read))


def loaded(tasks: Iterable[Task], *, readers: int) -> Iterator[Given | Failed]:
    """What the tasks read, in their order.

    Args:
        tasks: Pulled as needed.
        readers: Threads that read ahead while the caller computes. 0: each is read when its turn comes.

    Guarantees:
        Twice as many inputs as readers are held at most, beside the caller's.
    """
    if not readers:
        yield from (task.read() for task in tasks)
        return
    waiting: deque[Task | Future[Given | Failed]] = deque()
    pool = ThreadPoolExecutor(readers)
    try:
        for task in tasks:
            waiting.append(task if task.alone else pool.submit(task.read))
            if len(waiting) >= 2 * readers:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        for one in waiting:
            if isinstance(one, Future):
                one.cancel()
        pool.shutdown()


def _result(one: Task | Future[Given | Failed]) -> Given | Failed:
    return one.result() if isinstance(one, Future) else one.read()


def groups(items: Iterable[Given | Failed], *, num: int) -> Iterator[list[Given | Failed]]:
    """Up to ``num`` at a time, fewer where they are large; in their order."""
    group: list[Given | Failed] = []
    size = 0
    for one in items:
        group.append(one)
        size += one.reading.values.nbytes if isinstance(one, Given) else 0
        if len(group) >= num or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
