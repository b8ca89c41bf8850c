"""Run an exported edgecmd student. It needs numpy and onnxruntime; PNG and JPEG files also need Pillow.

Python 3.8, numpy 1.21 and ONNX Runtime 1.14, or newer.

As a script::

    python infer.py BUNDLE-OR-MODEL picture-or-folder [more ...] [--json] [--scores] [--profile int8]
    python infer.py BUNDLE - < picture.png                      # a file from the standard input
    ffmpeg -i in.mp4 -f rawvideo -pix_fmt gray - | python infer.py BUNDLE - --raw 640x480 --format jsonl
    python infer.py BUNDLE pictures/ --batch 32 --readers 2 --format csv --output answers.csv
    python infer.py BUNDLE pictures/ --format npy > embeddings.npy  # fields: file, embedding
    python infer.py BUNDLE pictures/ --prototypes my-classes/   # classes by example, without training
    python infer.py BUNDLE --prototypes my-classes/ --calibrate others/ --save-prototypes mine.npz
    python infer.py BUNDLE pictures/ --prototypes mine.npz --join   # beside the trained classes
    python infer.py BUNDLE pictures/ --save-gallery seen.npz        # then: --gallery seen.npz --top 5
    python infer.py BUNDLE pictures/ --masks out/               # of a dense student: a class for each pixel
    python infer.py BUNDLE "dog" "a cat"        # of a student of strings: each word is one; never a file
    python infer.py BUNDLE --lines strings.txt  # the same, one a line, UTF-8; --lines - is the standard input
    python infer.py BUNDLE --check                              # does this machine compute what it should?
    python infer.py "dog"                       # where infer.py lies in a bundle, BUNDLE may be left out

As a module::

    from infer import Student

    student = Student("bundle")
    prediction = student(images)  # uint8, (batch, height, width, student.channels), of any height and width
    prediction.embedding  # float32, (batch, student.embedding_dim), each row of length 1
    prediction.scores  # float32, (batch, len(student.classes)), or None without classes;
    student(["dog", "a cat"])  # of a student of strings
    # of a dense student logits (batch, len(student.classes), height, width): scores.argmax(axis=1) are masks
    more = student.with_prototypes(make_prototypes(student, {"cup": cup_images}))
    # with_examples, without_class, calibrated, save_prototypes, load_prototypes, search: see each.

Exit codes: 0 all well; 1 Pillow is missing, it or onnxruntime is too old, or the output cannot be written;
2 wrong usage; 4 a file is missing, no picture, or cannot be computed, or a folder has none; 6 the model is
damaged or was not made by edgecmd, or --check failed; 130 interrupted; 141 the output was closed. A file that
fails does not stop the others, nor does one that the engine cannot compute; the code is that of the last
failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgecmd.data.user_files.decode import printable, reason_of
from export.device.answers import Wanted, answer, predicted, sayable
from export.device.classes import Gallery
from export.device.intake import (
    STDIN,
    Failed,
    Task,
    file_task,
    groups,
    line_tasks,
    loaded,
    raw_form,
    raw_tasks,
    stdin_task,
    word_task,
)
from export.device.own_classes import add_class_options, asked_classes, told
from export.device.printing import (
    CSV,
    FORMATS,
    JSONL,
    NPY,
    TEXT,
    OutputError,
    Printer,
    Sink,
    complain,
    say,
    tell,
    without_output,
)
from export.device.reading import FOLDER, InferError, inputs_in, kind_of
from export.device.saved_embeddings import load_gallery, save_gallery, save_prototypes
from export.device.student import Student, check, embedder_of

if sys.version_info < (3, 8):  # noqa: UP036 - a device's Python is older than edgecmd's
    sys.exit("error: infer.py needs Python 3.8 or newer: ONNX Runtime 1.14, which it needs, has none older.")

INTERRUPTED = 130
# Small inputs together take half the time a piece; more gain little and take more memory.
FILES_TOGETHER = 8
RAW_WIDTH = len("-#000000")


class _Parser(argparse.ArgumentParser):
    """One whose errors go where all others go, with escapes for what a terminal would obey."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the words."""
        raise InferError(f"{message}. `{self.prog} --help` tells what is allowed.", exit_code=2)


def _arguments(argv: Sequence[str] | None, *, prog: str) -> argparse.Namespace:
    parser = _Parser(prog=prog, description="Embed or classify pictures with an exported edgecmd student.")
    parser.add_argument(
        "model",
        nargs="?",
        help="a bundle folder or a student.onnx; may be left out of the infer.py of a bundle",
    )
    parser.add_argument(
        "images",
        nargs="*",
        help="files of the target modality, folders with such, or - (standard input); of a student of strings"
        " the strings",
    )
    parser.add_argument("--lines", metavar="FILE", help="strings, one a line, UTF-8; - is the standard input")
    parser.add_argument("--format", choices=FORMATS, default=TEXT, help="form of the answers; default text")
    parser.add_argument(
        "--json", dest="format", action="store_const", const=JSONL, help="short for --format jsonl"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write answers there when all are there")
    parser.add_argument("--raw", metavar="FORM", help="inputs are frames without header: 640x480, 640x480x3")
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help=f"inputs computed together; default {FILES_TOGETHER} files, 1 frame",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of one inference")
    parser.add_argument(
        "--readers", type=int, default=0, metavar="N", help="threads that read files ahead; default none"
    )
    parser.add_argument(
        "--draft", action="store_true", help="decode large JPEG files smaller: faster, not equal"
    )
    parser.add_argument("--scores", action="store_true", help="every class, not only the likeliest")
    parser.add_argument("--profile", help="file of the bundle: fp32, w8, int8, ...; default student.onnx")
    parser.add_argument(
        "--prototypes", type=Path, action="append", help="folder or .npz of classes; repeatable"
    )
    add_class_options(parser)
    parser.add_argument("--masks", type=Path, help="folder for <name>.mask.png, of a dense student")
    parser.add_argument("--check", action="store_true", help="compare with the bundle's golden values")
    arguments = parser.parse_intermixed_args(argv)
    _settle_model(arguments, parser)
    made = (arguments.check, arguments.save_prototypes, arguments.calibrate, arguments.classes)
    if not arguments.images and arguments.lines is None and not any(made):
        parser.error(
            f"{printable(str(arguments.model))} is taken for the bundle; give at least one image, folder or"
            " string behind it, or --check"
        )
    if arguments.batch is None:
        arguments.batch = 1 if arguments.raw else FILES_TOGETHER
    for name, least in (("batch", 1), ("threads", 1), ("readers", 0)):
        if not least <= getattr(arguments, name) <= 1024:
            parser.error(f"--{name} {getattr(arguments, name)} is not from {least} to 1024")
    if [*arguments.images, arguments.lines].count(STDIN) > 1:
        parser.error("- is given twice, and the standard input is read once")
    return arguments


def _settle_model(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Find the bundle: the first word, or this file's folder where that word is none; then all are inputs.

    A first word that may be the path of a bundle that is not there is refused, not answered.
    """
    own, word = _own_bundle(), arguments.model
    if word is None and own is None:
        parser.error("give a bundle or its student.onnx first")
    is_input = word is not None and own is not None and not _names_model(word)
    if is_input and ("/" in word or "\\" in word) and not _is_there(word):
        name = printable(word)
        parser.error(
            f"{name} is neither a bundle nor a file that is there. If it is an input, put the bundle before"
            f" it: {parser.prog} {printable(str(own))} {name}"
        )
    arguments.images = [word, *arguments.images] if is_input else arguments.images
    arguments.model = own if word is None or is_input else Path(word)


def _own_bundle() -> Path | None:
    """The folder that this file lies in, where it is a bundle."""
    file = globals().get("__file__")
    folder = Path(file).parent if file else None
    return folder if folder is not None and _names_model(str(folder)) else None


def _names_model(word: str) -> bool:
    """Whether it is a folder that holds a student, or the name of an .onnx file, there or not."""
    is_folder = _is_there(word) and Path(word).is_dir()
    return any(Path(word).glob("student*.onnx")) if is_folder else word.endswith(".onnx")


def _is_there(word: str) -> bool:
    """Whether it is the path of something; a long string is none."""
    try:
        return bool(word) and kind_of(Path(word)) != ""
    except InferError:
        return False


def _prepare(arguments: argparse.Namespace) -> Student:
    """The student that was asked for, with its classes."""
    student = Student(arguments.model, profile=arguments.profile, num_threads=arguments.threads)
    if arguments.check:
        gap = check(student)
        record = {"golden_difference": gap}
        _report(arguments, record, f"golden values: largest difference {gap:.2g}")
    student = _with_classes(arguments, student)
    if arguments.scores and not student.classes:
        raise InferError(f"{student.path} has no classes, so there are no --scores.", exit_code=2)
    if arguments.masks is not None and not student.dense:
        raise InferError(f"{student.path} tells no class for each pixel, so no --masks.", exit_code=2)
    if arguments.lines is not None and student.sensor.many is None:
        raise InferError(
            f"--lines is for a student of strings; {student.path} takes a {student.sensor.noun}.", exit_code=2
        )
    if arguments.draft and (not student.sensor.drafts or arguments.raw):
        raise InferError(
            "--draft is for JPEG files of a student that resizes them, and not for this.", exit_code=2
        )
    return student


def _report(arguments: argparse.Namespace, record: dict[str, Any], text: str) -> None:
    """Tell what is no answer, where it does not get into a table of answers."""
    if arguments.format in (CSV, NPY):
        tell(text)
    else:
        say(json.dumps(record) if arguments.format == JSONL else text)


def _with_classes(arguments: argparse.Namespace, student: Student) -> Student:
    """The student with the classes by example that were asked for, which are told and saved."""
    embedder = embedder_of(student)
    classes = asked_classes(arguments, embedder, tell=tell)
    if classes is None:
        return student
    other = student.with_prototypes(classes, join=arguments.join)
    if arguments.classes or arguments.calibrate is not None:
        _report(arguments, *told(classes, say=sayable))
    if arguments.save_prototypes is not None:
        save_prototypes(arguments.save_prototypes, classes, model=embedder.model)
    return other


def _files(names: Sequence[str], student: Student) -> tuple[list[Path | None], int]:
    """Files that were given or lie in folders that were; and the code of the last folder that has none.

    The standard input is None.
    """
    files: list[Path | None] = []
    suffixes, noun, exit_code = student.sensor.suffixes, student.sensor.noun, 0
    for path in (None if name == STDIN else Path(name) for name in names):
        try:
            is_folder = path is not None and kind_of(path) == FOLDER
            found = inputs_in(path, suffixes=suffixes, noun=noun, tell=tell) if path and is_folder else [path]
            files += found
        except InferError as error:
            exit_code = complain(error)
    return files, exit_code


def _tasks(arguments: argparse.Namespace, student: Student) -> tuple[Iterable[Task], int, int]:
    """What reads the inputs, letters of the longest name, and the code of the last folder without any."""
    if arguments.raw is not None:
        form = raw_form(arguments.raw, student)
        width = max([0, *(len(printable(name)) for name in arguments.images)]) + RAW_WIDTH - len(STDIN)
        return (task for name in arguments.images for task in raw_tasks(name, form)), width, 0
    if student.sensor.many is not None:
        return _strings(arguments, student), max([0, *(len(printable(one)) for one in arguments.images)]), 0
    files, exit_code = _files(arguments.images, student)
    _refuse_same_masks(arguments.masks, [one for one in files if one is not None])
    width = max([0, *(len(printable(str(one or STDIN))) for one in files)])
    tasks = (
        stdin_task(student, draft=arguments.draft)
        if one is None
        else file_task(student, one, draft=arguments.draft)
        for one in files
    )
    return tasks, width, exit_code


def _strings(arguments: argparse.Namespace, student: Student) -> Iterator[Task]:
    """Words that are inputs themselves, and the lines of a file or of the standard input."""
    for word in arguments.images:
        if word == STDIN:
            yield from line_tasks(student, word)
        else:
            yield word_task(student, word)
    if arguments.lines is not None:
        yield from line_tasks(student, arguments.lines)


def _refuse_same_masks(masks: Path | None, files: Sequence[Path]) -> None:
    """Refuse files whose masks would overwrite each other."""
    seen: dict[str, Path] = {}
    for one in files if masks is not None else ():
        if seen.setdefault(one.stem, one) != one:
            raise InferError(
                f"{seen[one.stem]} and {one} would both write {one.stem}.mask.png. Rename one, or give"
                " each a --masks folder of its own.",
                exit_code=2,
            )


def _answer_all(arguments: argparse.Namespace, student: Student) -> int:
    """Answer every input; the code of the last failure, or 0."""
    gallery = None
    if arguments.gallery is not None:
        gallery = load_gallery(arguments.gallery, dim=student.embedding_dim, model=student.digest)
    wanted = Wanted(arguments.scores, arguments.masks, gallery, arguments.top)
    tasks, width, before = _tasks(arguments, student)
    sink = Sink(arguments.output)
    try:
        printer = Printer(sink, form=arguments.format, student=student, width=width)
        exit_code, kept = _tell_all(arguments, student, tasks, wanted, printer)
        printer.end()
    finally:
        sink.drop()
    if arguments.save_gallery is not None:
        rows = np.array([*kept.values()], dtype=np.float32)
        save_gallery(arguments.save_gallery, Gallery(tuple(kept), rows), model=student.digest)
    return exit_code or before


def _tell_all(
    arguments: argparse.Namespace, student: Student, tasks: Iterable[Task], wanted: Wanted, printer: Printer
) -> tuple[int, dict[str, Any]]:
    """The code of the last failure, and the embeddings by name if a gallery is to be saved."""
    exit_code, kept = 0, {}
    for group in groups(loaded(tasks, readers=arguments.readers), num=arguments.batch):
        for found in predicted(student, group):
            if isinstance(found, Failed):
                exit_code = complain(found.error)
                continue
            given, prediction = found
            if given.reading.frames > 1:
                tell(f"note: {given.name} has {given.reading.frames} frames; the first is used.")
            if given.reading.cut_bytes:
                tell(f"note: {given.name} is too long; its last {given.reading.cut_bytes} bytes are cut off.")
            try:
                record, text = answer(student, given, prediction, wanted)
            except InferError as error:
                exit_code = complain(error)
                continue
            if arguments.save_gallery is not None:
                kept[record[student.sensor.key]] = record["embedding"]
            printer.answer(record, text)
    return exit_code, kept


def main(argv: Sequence[str] | None = None, *, prog: str = "infer.py") -> int:
    """Run the script.

    Args:
        argv: Its words, by default those of the process.
        prog: What it is called in messages.

    Returns:
        The exit code, see above.
    """
    try:
        arguments = _arguments(argv, prog=prog)
        # Libraries warn of odd files; what is odd comes as an error. Filters belong to all threads.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _answered(arguments, _prepare(arguments))
    except InferError as error:
        return complain(error)
    except OutputError as error:
        return without_output(error.__cause__)
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError:
        return complain(InferError("The model needs more memory than there is.", exit_code=4))
    except OSError as error:
        return complain(InferError(f"The model cannot be used: {reason_of(error)}.", exit_code=4))


def _answered(arguments: argparse.Namespace, student: Student) -> int:
    """Answer what is given; without an input all is done."""
    return _answer_all(arguments, student) if arguments.images or arguments.lines is not None else 0


if __name__ == "__main__":
    sys.exit(main())
