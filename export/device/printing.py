"""Where answers go and in which form: the standard output or a file; text, JSON lines, CSV or an array.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgecmd.data.user_files.decode import printable, reason_of
from export.device.answers import sayable
from export.device.reading import FOLDER, InferError, kind_of
from export.device.student import Student

TEXT, JSONL, CSV, NPY = "text", "jsonl", "csv", "npy"
FORMATS = (TEXT, JSONL, CSV, NPY)
CLOSED = 141


class OutputError(Exception):
    """The output takes no more; the error of the system is its cause."""


def say(text: str) -> None:
    """Print, also where the terminal cannot show every letter of a name, and where there is no output."""
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding or "utf-8"
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(shown, flush=True)
    except (OSError, ValueError) as error:
        raise OutputError from error


def tell(text: str) -> None:
    """Print for a person beside the output. Nobody need listen there."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(printable(text).encode("ascii", "backslashreplace").decode(), file=sys.stderr, flush=True)


def complain(error: InferError) -> int:
    """Tell an error; its exit code."""
    tell(f"error: {error}")
    return error.exit_code


def without_output(error: BaseException | None) -> int:
    """End where nothing more can be printed: quietly where the reader has gone."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return CLOSED
    why = reason_of(error) if isinstance(error, Exception) else "it is closed"
    tell(f"error: the output cannot be written: {why}.")
    return 1


class Sink:
    """The standard output, or a file that is written beside its place and takes it with `keep`.

    What is there and no plain file, such as a named pipe, is written into.

    Args:
        path: The file; None for the standard output.

    Raises:
        InferError: It cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path.resolve() if path is not None else None
        self._beside: Path | None = None
        self._stream: IO[bytes] | None = None
        if self.path is None:
            return
        if kind_of(self.path) == FOLDER:
            raise InferError(f"--output {self.path} is a folder; give a file.", exit_code=2)
        try:
            if self.path.exists() and not self.path.is_file():
                self._stream = self.path.open("wb")
            else:
                self._beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
                self._stream = self._beside.open("wb")
        except (OSError, ValueError) as error:
            raise InferError(
                f"--output {self.path} cannot be written: {reason_of(error)}.", exit_code=4
            ) from error

    def line(self, text: str) -> None:
        """Write a line; at once where somebody may wait for it."""
        if self._stream is None:
            say(text)
        else:
            self.data(f"{text}\n".encode("utf-8", "backslashreplace"))

    def data(self, data: bytes) -> None:
        """Write bytes."""
        try:
            if self._stream is not None:
                self._stream.write(data)
            elif sys.stdout is not None:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
        except (OSError, ValueError) as error:
            raise OutputError from error

    def keep(self) -> None:
        """Put the file in its place."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
            if self._beside is not None and self.path is not None:
                os.fsync(self._stream.fileno())
                self._stream.close()
                self._beside.replace(self.path)
            self._stream.close()
        except (OSError, ValueError) as error:
            raise OutputError from error
        self._stream = self._beside = None

    def drop(self) -> None:
        """Leave nothing behind of what was not kept."""
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.close()
        with contextlib.suppress(OSError, ValueError):
            if self._beside is not None:
                self._beside.unlink()


class Printer:
    """Answers in one form, told one after another.

    Args:
        sink: Where they go.
        form: One of `FORMATS`.
        student: Whose answers.
        width: Letters of the longest name, for `TEXT`.

    Raises:
        InferError: An array would go to a terminal.
    """

    def __init__(self, sink: Sink, *, form: str, student: Student, width: int = 0) -> None:
        self.sink, self.student, self.key = sink, student, student.sensor.key
        self.width = max(width, len(self.key))
        self._write: Callable[[Mapping[str, Any], str], None] = {
            TEXT: self._text,
            JSONL: self._json,
            CSV: self._csv,
            NPY: self._keep,
        }[form]
        self._form, self._num = form, 0
        self._rows: list[tuple[str, np.ndarray]] = []
        if form == NPY and sink.path is None and sys.stdout is not None and sys.stdout.isatty():
            raise InferError("--format npy is no text: give --output FILE, or a pipe.", exit_code=2)

    def answer(self, record: Mapping[str, Any], text: str) -> None:
        """Tell an answer."""
        self._write(record, text)
        self._num += 1

    def end(self) -> None:
        """Tell what goes behind all answers."""
        if self._form == NPY:
            self.sink.data(npy_bytes(self._rows, dim=self.student.embedding_dim, key=self.key))
        self.sink.keep()

    def _text(self, record: Mapping[str, Any], text: str) -> None:
        if not self._num:
            what = "classes" if self.student.classes else "embedding"
            self.sink.line(f"{self.key:<{self.width}}  {what}")
        self.sink.line(f"{printable(record[self.key]):<{self.width}}  {text}")

    def _json(self, record: Mapping[str, Any], _: str) -> None:
        self.sink.line(json.dumps({**record, "embedding": record["embedding"].tolist()}))

    def _csv(self, record: Mapping[str, Any], _: str) -> None:
        cells = cells_of(record, self.student)
        if not self._num:
            self.sink.line(_row([*cells]))
        self.sink.line(_row([*cells.values()]))

    def _keep(self, record: Mapping[str, Any], _: str) -> None:
        self._rows.append((record[self.key], record["embedding"]))


def cells_of(record: Mapping[str, Any], student: Student) -> dict[str, object]:
    """An answer as the cells of a table; of one student and one choice of options always the same columns."""
    first = (student.sensor.key, "frame", "resized", "cut_bytes")
    cells: dict[str, object] = {name: record[name] for name in first if name in record}
    if record.get("top"):
        cells.update(record["top"][0])
    cells.update({f"score:{name}": value for name, value in record.get("scores", {}).items()})
    if "pixels" in record:
        cells.update(
            {f"pixels:{sayable(one)}": record["pixels"].get(sayable(one), 0.0) for one in student.classes}
        )
    cells.update({"mask": record["mask"]} if "mask" in record else {})
    cells.update({f"nearest:{name}": value for name, value in record.get("nearest", {}).items()})
    for rank, one in enumerate(record.get("similar", ()), start=1):
        cells.update({f"similar:{rank}": one["name"], f"similar:{rank}:cosine": one["cosine"]})
    cells.update({f"e{place}": f"{value:.9g}" for place, value in enumerate(record["embedding"])})
    return cells


def _row(cells: list[object]) -> str:
    """A row of a CSV (RFC 4180), without the end of its line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def npy_bytes(rows: list[tuple[str, np.ndarray]], *, dim: int, key: str = "file") -> bytes:
    """An .npy of records with the fields ``key`` and ``embedding`` (D,); it needs no pickle.

    Names and rows are in one file, so that they cannot get out of step.
    """
    width = max([1, *(len(name) for name, _ in rows)])
    table = np.zeros(len(rows), dtype=[(key, f"<U{width}"), ("embedding", "<f4", (dim,))])
    for place, (name, embedding) in enumerate(rows):
        table[place] = (name, embedding)
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    return buffer.getvalue()
