"""What is to be answered: files, standard input, frames one after another; read while the engine computes.

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
    MAX_PIXELS,
    MAX_PNM_BYTES,
    InferError,
    Reading,
    kind_of,
    out_of_memory,
    with_channels,
)
from export.device.sensors import FULL_SCALE, heard, measured_depth
from export.device.student import Student

STDIN = "-"
# Width and height of frames and, if they are not the model's, channels; or the samples of a recording.
RAW = re.compile(r"(\d{1,9})(?:x(\d{1,9})(?:x([13]))?)?")
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


class RawForm(NamedTuple):
    """What a frame without a header is: its shape, the type of its numbers, what makes an input of it."""

    shape: tuple[int, ...]
    dtype: str
    finish: Callable[[str, np.ndarray], np.ndarray]


def raw_form(text: str, student: Student) -> RawForm:
    """The form of frames that ``--raw`` tells, for this kind of input.

    Raises:
        InferError: It is another form; the message has those that are allowed.
    """
    match = RAW.fullmatch(text)
    sizes = [int(one) for one in match.groups() if one] if match else []
    kind, channels = student.sensor.input_name, student.channels
    if kind == "wave" and len(sizes) == 1 and 0 < sizes[0] <= MAX_PIXELS:
        return RawForm((sizes[0],), "<i2", _finish_wave)
    if kind != "wave" and len(sizes) >= 2 and 0 < sizes[0] * sizes[1] <= MAX_PIXELS:
        if kind == "depth" and sizes[2:] in ([], [1]):
            return RawForm((sizes[1], sizes[0], 1), "<u2", measured_depth)
        if kind == "image":
            shape = (sizes[1], sizes[0], sizes[2] if len(sizes) > 2 else channels)
            return RawForm(shape, "u1", lambda _, values: with_channels(values, channels))
    allowed = {
        "image": "WIDTHxHEIGHT of 8-bit pixels, or WIDTHxHEIGHTx1 (grey) and x3 (red, green, blue)",
        "depth": "WIDTHxHEIGHT of 16-bit millimetres, low byte first",
        "wave": f"the number of samples of a recording, 16 bits, low byte first, at {student.rate_hz} Hz",
    }
    raise InferError(f"--raw {text} is not allowed; it is {allowed[kind]}.", exit_code=2)


def _finish_wave(name: str, samples: np.ndarray) -> np.ndarray:
    return heard(name, np.asarray(samples / np.float32(FULL_SCALE), np.float32))


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
