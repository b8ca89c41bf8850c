"""Run an exported edgecmd student. It needs numpy and onnxruntime; PNG and JPEG files also need Pillow.

Python 3.8, numpy 1.21 and ONNX Runtime 1.14, or newer.

As a script::

    python infer.py BUNDLE-OR-MODEL picture-or-folder [more ...] [--json] [--scores] [--profile int8]
    python infer.py BUNDLE pictures/ --prototypes my-classes/   # classes by example, without training
    python infer.py BUNDLE --prototypes my-classes/ --calibrate others/ --save-prototypes mine.npz
    python infer.py BUNDLE pictures/ --prototypes mine.npz --join   # beside the trained classes
    python infer.py BUNDLE pictures/ --save-gallery seen.npz        # then: --gallery seen.npz --top 5
    python infer.py BUNDLE pictures/ --masks out/               # of a dense student: a class for each pixel
    python infer.py BUNDLE --check                              # does this machine compute what it should?

As a module::

    from infer import Student

    student = Student("bundle")
    prediction = student(images)  # uint8, (batch, height, width, student.channels), of any height and width
    prediction.embedding  # float32, (batch, student.embedding_dim), each row of length 1
    prediction.scores  # float32, (batch, len(student.classes)), or None without classes;
    # of a dense student logits (batch, len(student.classes), height, width): scores.argmax(axis=1) are masks
    more = student.with_prototypes(make_prototypes(student, {"cup": cup_images}))
    # with_examples, without_class, calibrated, save_prototypes, load_prototypes, search: see each.

Exit codes: 0 all well; 1 Pillow is missing, it or onnxruntime is too old, or the output cannot be written;
2 wrong usage; 4 a file is missing, no picture, or cannot be computed, or a folder has none; 6 the model is
damaged or was not made by edgecmd, or --check failed; 141 the output was closed. A file that fails does not
stop the others; the code is that of the last failure.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from edgecmd.data.user_files.decode import DecodeError, npz_arrays, picture_frames, printable, reason_of
from export.device.classes import (
    SCALE,
    Gallery,
    Prototypes,
    from_examples,
    joined_scores,
    nearest,
    prototype_scores,
    search,
    threshold_of,
)
from export.device.masks import mask_of, shares, write_mask
from export.device.own_classes import Embedder, add_class_options, asked_classes, read_part, told
from export.device.properties import MASK, read_properties
from export.device.reading import (
    FILE,
    FOLDER,
    InferError,
    inputs_in,
    kind_of,
    out_of_memory,
)
from export.device.runtime import NO_MEMORY, open_session
from export.device.saved_embeddings import (
    MAX_NPZ_BYTES,
    digest_of,
    load_gallery,
    save_gallery,
    save_prototypes,
)
from export.device.sensors import refuse_rate

if sys.version_info < (3, 8):  # noqa: UP036 - a device's Python is older than edgecmd's
    sys.exit("error: infer.py needs Python 3.8 or newer: ONNX Runtime 1.14, which it needs, has none older.")

NUM_TOP_CLASSES = 3
NUM_FIRST_VALUES = 4
CLOSED = 141


class Prediction(NamedTuple):
    """Outputs for a batch: unit embeddings (batch, dim), and class probabilities (batch, classes) or None.

    Of a dense student, scores are logits (batch, classes, height, width).
    """

    embedding: np.ndarray
    scores: np.ndarray | None


class Student:
    """An exported student.

    Args:
        path: A bundle folder or an .onnx file. It is opened by path, never from bytes.
        profile: Which file of the bundle, such as ``int8``; by default student.onnx.
        num_threads: Threads of one inference; 1 is best for a small student.

    Attributes:
        path: The .onnx file.
        profile: How it stores its weights and computes.
        image_size: Side in pixels that the graph resizes every picture to.
        channels: Channels of the input.
        embedding_dim: Dimension of the embedding.
        classes: Names of the classes; empty without.
        preprocess: What the graph does with the bytes.
        sensor: What it takes: pictures, depth maps or recordings.
        rate_hz: Of recordings, samples a second; None for others.
        dense: Whether it tells a class for each pixel.
        prototypes: Classes by example, which `with_prototypes` gave it; None without.

    Raises:
        InferError: The file is missing, damaged, or was not made by edgecmd.
    """

    def __init__(self, path: str | Path, *, profile: str | None = None, num_threads: int = 1) -> None:
        self.path = _find(Path(path), profile)
        self.session = open_session(self.path, num_threads=num_threads)
        properties = self.session.get_modelmeta().custom_metadata_map
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        found = read_properties(self.path, properties, inputs=inputs, outputs=outputs)
        self.profile, self.image_size, self.channels = found.profile, found.image_size, found.channels
        self.embedding_dim, self.classes = found.embedding_dim, found.classes
        self.preprocess, self.sensor, self.rate_hz = found.preprocess, found.sensor, found.rate_hz
        if profile not in (None, self.profile):
            raise InferError(f"{self.path} has profile={self.profile}, not {profile}.", exit_code=2)
        self.outputs = [one.name for one in outputs]
        self.dense = MASK in self.outputs
        self.prototypes: Prototypes | None = None
        self._joined = False

    def __call__(self, inputs: np.ndarray, *, rate_hz: int | float | None = None) -> Prediction:
        """Embed pictures (batch, height, width, channels), depth maps or recordings (batch, samples).

        Args:
            inputs: Of any size; the graph resizes them as the training data was. At least 1.
            rate_hz: Of recordings; give it, and another than the model's is refused.

        Raises:
            InferError: The array has another type, shape or rate, onnxruntime cannot compute it, or the
                result is not finite.
        """
        if rate_hz is not None and self.rate_hz is not None:
            refuse_rate(rate_hz, rate_hz=self.rate_hz, what="The recording")
        given = self.sensor.check(np.asarray(inputs), channels=self.channels, preprocess=self.preprocess)
        try:
            feed = {self.sensor.input_name: np.ascontiguousarray(given)}
            outputs = self.session.run(self.outputs, feed)
        except Exception as error:  # onnxruntime raises a dozen types of its own without a common base
            short = isinstance(error, MemoryError) or NO_MEMORY.search(str(error))
            why = "it needs more memory than there is. Make it smaller." if short else reason_of(error)
            raise InferError(
                f"An input of shape {given.shape} cannot be computed: {why}", exit_code=4
            ) from error
        if not all(np.isfinite(one).all() for one in outputs):
            raise InferError(
                f"The model gives numbers that are not finite for an input of shape {given.shape}. It is"
                " damaged, or this machine does not compute it: try --check.",
                exit_code=4,
            )
        if self.prototypes is not None and self._joined:
            return Prediction(outputs[0], joined_scores(outputs[0], outputs[1], self.prototypes))
        if self.prototypes is not None:
            return Prediction(outputs[0], prototype_scores(outputs[0], self.prototypes))
        return Prediction(outputs[0], outputs[1] if len(self.outputs) > 1 else None)

    def read(self, path: Path) -> np.ndarray:
        """One input from a file: a picture, a depth map, or a WAV of the model's rate."""
        return self.sensor.read(path, channels=self.channels, preprocess=self.preprocess)

    @property
    def digest(self) -> str:
        """SHA-256 of its file, which saved classes and galleries name."""
        return digest_of(self.path)

    def with_prototypes(self, prototypes: Prototypes, *, join: bool = False) -> Student:
        """The same student with other classes; no new export is needed.

        Args:
            prototypes: At least one class, of this student's dimension.
            join: Beside the trained classes (`joined_scores`), and not in place of them.

        Raises:
            InferError: The prototypes have another dimension, or none; or they cannot be joined.
        """
        names, shape = prototypes.names, prototypes.vectors.shape
        if not names or shape != (len(names), self.embedding_dim):
            raise InferError(
                f"The prototypes have {len(names)} names and shape={shape}; allowed is"
                f" (K, {self.embedding_dim}) with K names, K >= 1.",
                exit_code=4,
            )
        if join:
            self._refuse_join(prototypes)
        other = copy.copy(self)
        other.prototypes, other._joined, other.dense = prototypes, join, False
        other.classes = (*self.classes, *names) if join else tuple(names)
        other.outputs = self.outputs if join else ["embedding"]
        return other

    def _refuse_join(self, prototypes: Prototypes) -> None:
        if self.prototypes is not None or self.dense or len(self.outputs) < 2:
            raise InferError(
                f"{self.path} has no trained classes of whole inputs here, so none can be joined.",
                exit_code=2,
            )
        same = [name for name in prototypes.names if name in self.classes]
        if same:
            raise InferError(
                f"The class {same[0]!r} is one of the trained classes too. Give yours another name.",
                exit_code=2,
            )
        threshold_of(prototypes)


def _find(path: Path, profile: str | None) -> Path:
    """The file that was meant: of a bundle student.onnx, or the one of ``profile``."""
    is_folder = kind_of(path) == FOLDER
    folder = path if is_folder else path.parent
    if profile is not None and kind_of(folder / f"student.{profile}.onnx") == FILE:
        return folder / f"student.{profile}.onnx"
    found = path / "student.onnx" if is_folder else path
    if kind_of(found) != FILE:
        raise InferError(f"{found} is missing or not a file. Give a bundle or its student.onnx.", exit_code=4)
    return found


def make_prototypes(
    student: Student, examples: Mapping[str, Iterable[np.ndarray]], *, scale: float = SCALE
) -> Prototypes:
    """Mean unit embedding of the pictures (height, width, channels) of each class."""
    rows = {name: [student(one[None]).embedding[0] for one in few] for name, few in examples.items()}
    return from_examples(rows, dim=student.embedding_dim, scale=scale)


def _embedded(student: Student, path: Path) -> np.ndarray:
    """Embedding (dim,) of a file."""
    return np.asarray(_predicted(student, path, student.read(path)).embedding[0])


def _predicted(student: Student, path: Path, given: np.ndarray) -> Prediction:
    """What the student says of ``given``, which was read from ``path``; an error names the file."""
    try:
        return student(given[None])
    except MemoryError as error:
        raise out_of_memory(path) from error
    except InferError as error:
        raise InferError(f"{path}: {error}", exit_code=error.exit_code) from error


def embedder_of(student: Student) -> Embedder:
    """What reads and embeds files of examples."""
    sensor = student.sensor
    return Embedder(
        lambda path: _embedded(student, path),
        sensor.suffixes,
        sensor.noun,
        student.embedding_dim,
        student.digest,
    )


def read_prototypes(path: Path, student: Student) -> Prototypes:
    """Classes of an .npz (`load_prototypes`), or of a folder as `example_files` reads it."""
    return read_part(path, embedder_of(student))[0]


def check(student: Student) -> float:
    """Run the bundle's golden inputs and compare with what they gave where the bundle was made.

    Returns:
        The largest difference.

    Raises:
        InferError: golden.npz is missing or broken, or a difference exceeds its tolerance.
    """
    worst = 0.0
    try:
        golden = npz_arrays(student.path.with_name("golden.npz"), most_bytes=MAX_NPZ_BYTES)
        tolerance = float(golden[f"tolerance/{student.profile}"])
        for size in ("", "/resized"):
            found = _golden(student, golden[f"{student.sensor.input_name}{size}"])
            for name, output in zip(student.outputs, found):
                gap = np.abs(output - golden[f"{name}/{student.profile}{size}"]).max()
                worst = max(worst, float(gap) if np.isfinite(gap) else float("inf"))
    except InferError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InferError(
            f"golden.npz beside {student.path} cannot be used: {reason_of(error)}", exit_code=6
        ) from error
    if not worst <= tolerance:
        raise InferError(
            f"{student.path} differs from its golden values by {worst:.3g}; allowed is {tolerance:g}."
            + " This processor computes another model: use profile w8 or fp32." * (student.profile == "int8"),
            exit_code=6,
        )
    return worst


def _golden(student: Student, given: np.ndarray) -> Prediction:
    try:
        return student(given)
    except InferError as error:
        raise InferError(
            f"{student.path} cannot compute the inputs of golden.npz: {error}", exit_code=6
        ) from error


def answer(
    student: Student,
    name: Path,
    *,
    scores: bool,
    masks: Path | None = None,
    gallery: Gallery | None = None,
    top: int = NUM_TOP_CLASSES,
) -> tuple[dict[str, object], str]:
    """What the student says of one file: a record for JSON, and a line for a person.

    Args:
        student: The model.
        name: The file.
        scores: Tell every class.
        masks: Folder for ``<name>.mask.png``; of a dense student alone.
        gallery: Saved embeddings, of which the ``top`` nearest are told.
        top: How many.
    """
    given = student.read(name)
    prediction = _predicted(student, name, given)
    embedding, side = prediction.embedding[0], student.image_size
    own = given.ndim == 1 or student.preprocess.get("resize") == "none" or given.shape[:2] == (side, side)
    record: dict[str, object] = {"file": _sayable(str(name)), "resized": not own}
    text = f"norm {np.linalg.norm(embedding):.4f}, first values "
    text += " ".join(f"{value:+.4f}" for value in embedding[:NUM_FIRST_VALUES])
    if student.dense and prediction.scores is not None:
        mask = mask_of(prediction.scores[0])
        told = shares(mask, student.classes)
        record["pixels"] = {_sayable(one): value for one, value in told}
        text = ", ".join(
            f"{printable(one)} {value:.1%}" for one, value in told[: None if scores else NUM_TOP_CLASSES]
        )
        if masks is not None:
            write_mask(masks / f"{name.stem}.mask.png", mask)
            record["mask"] = _sayable(str(masks / f"{name.stem}.mask.png"))
    elif prediction.scores is not None:
        every = dict(zip(student.classes, prediction.scores[0].tolist()))
        ranked = sorted(every.items(), key=lambda pair: -pair[1])
        likeliest = ranked[:NUM_TOP_CLASSES]
        record["top"] = [{"class": _sayable(one), "probability": value} for one, value in likeliest]
        record.update({"scores": {_sayable(one): every[one] for one in every}} if scores else {})
        shown = ranked if scores else ranked[:NUM_TOP_CLASSES]
        text = ", ".join(f"{printable(one)} {value:.1%}" for one, value in shown)
    text = _near(student, embedding, record, text)
    if gallery is not None:
        found = search(gallery, embedding, top=top)
        record["similar"] = [{"name": _sayable(one), "cosine": cosine} for one, cosine in found]
        text += "; similar: " + ", ".join(f"{printable(one)} {cosine:.3f}" for one, cosine in found)
    record["embedding"] = embedding.tolist()
    return record, text if own else f"{text} (resized from {given.shape[1]}x{given.shape[0]})"


def _near(student: Student, embedding: np.ndarray, record: dict[str, object], text: str) -> str:
    """Put the nearest class by example into the record; the text, or that it is none of the classes."""
    if student.prototypes is None:
        return text
    name, cosine, accepted = nearest(embedding[None], student.prototypes)[0]
    record["nearest"] = {"class": _sayable(name), "cosine": cosine, "accepted": accepted}
    if accepted is not False or len(student.classes) > len(student.prototypes.names):
        return text
    return f"none of the classes (nearest: {printable(name)}, cosine {cosine:.3f})"


def _sayable(name: str) -> str:
    """``name`` as JSON may hold it: bytes of a file name that are no text become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


class OutputError(Exception):
    """The output takes no more; the error of the system is its cause."""


def _say(text: str) -> None:
    """Print, also where the terminal cannot show every letter of a name, and where there is no output."""
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding or "utf-8"
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(shown, flush=True)
    except (OSError, ValueError) as error:
        raise OutputError from error


def _tell(text: str) -> None:
    """Print for a person beside the output. Nobody need listen there."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(printable(text).encode("ascii", "backslashreplace").decode(), file=sys.stderr, flush=True)


def _complain(error: InferError) -> int:
    _tell(f"error: {error}")
    return error.exit_code


class _Parser(argparse.ArgumentParser):
    """One whose errors go where all others go, with escapes for what a terminal would obey."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the words."""
        raise InferError(f"{message}. `{self.prog} --help` tells what is allowed.", exit_code=2)


def _arguments(argv: Sequence[str] | None, *, prog: str) -> argparse.Namespace:
    parser = _Parser(prog=prog, description="Embed or classify pictures with an exported edgecmd student.")
    parser.add_argument("model", type=Path, help="a bundle folder or a student.onnx")
    parser.add_argument(
        "images", nargs="*", type=Path, help="picture files of the target modality, or folders"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with the full embedding")
    parser.add_argument("--scores", action="store_true", help="every class, not only the likeliest")
    parser.add_argument("--profile", help="file of the bundle: fp32, w8, int8, ...; default student.onnx")
    parser.add_argument(
        "--prototypes", type=Path, action="append", help="folder or .npz of classes; repeatable"
    )
    add_class_options(parser)
    parser.add_argument("--masks", type=Path, help="folder for <name>.mask.png, of a dense student")
    parser.add_argument("--check", action="store_true", help="compare with the bundle's golden values")
    arguments = parser.parse_intermixed_args(argv)
    made = (arguments.check, arguments.save_prototypes, arguments.calibrate, arguments.classes)
    if not arguments.images and not any(made):
        parser.error("give at least one image or folder, or --check")
    return arguments


def _prepare(arguments: argparse.Namespace) -> Student:
    """The student that was asked for, with its classes."""
    student = Student(arguments.model, profile=arguments.profile)
    if arguments.check:
        gap = check(student)
        record = json.dumps({"golden_difference": gap})
        _say(record if arguments.json else f"golden values: largest difference {gap:.2g}")
    student = _with_classes(arguments, student)
    if arguments.scores and not student.classes:
        raise InferError(f"{student.path} has no classes, so there are no --scores.", exit_code=2)
    if arguments.masks is not None and not student.dense:
        raise InferError(f"{student.path} tells no class for each pixel, so no --masks.", exit_code=2)
    return student


def _with_classes(arguments: argparse.Namespace, student: Student) -> Student:
    """The student with the classes by example that were asked for, which are told and saved."""
    embedder = embedder_of(student)
    classes = asked_classes(arguments, embedder, tell=_tell)
    if classes is None:
        return student
    other = student.with_prototypes(classes, join=arguments.join)
    if arguments.classes or arguments.calibrate is not None:
        record, text = told(classes, say=_sayable)
        _say(json.dumps(record) if arguments.json else text)
    if arguments.save_prototypes is not None:
        save_prototypes(arguments.save_prototypes, classes, model=embedder.model)
    return other


def _files(paths: Sequence[Path], student: Student) -> tuple[list[Path], int]:
    """Files that were given or lie in folders that were; and the code of the last folder that has none."""
    files: list[Path] = []
    suffixes, noun, exit_code = student.sensor.suffixes, student.sensor.noun, 0
    for path in paths:
        try:
            is_folder = kind_of(path) == FOLDER
            files += inputs_in(path, suffixes=suffixes, noun=noun, tell=_tell) if is_folder else [path]
        except InferError as error:
            exit_code = _complain(error)
    return files, exit_code


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


def _tell_frames(name: Path, student: Student) -> None:
    """A note where a file has more pictures than the first, which is used."""
    if student.sensor.input_name == "wave" or name.suffix.lower() in (".npy", ".pgm", ".ppm", ".pnm"):
        return
    with contextlib.suppress(DecodeError):
        num = picture_frames(name)
        if num > 1:
            _tell(f"note: {name} has {num} frames; the first is used.")


def _answer_all(arguments: argparse.Namespace, student: Student, files: Sequence[Path]) -> int:
    """Answer every file; the code of the last failure, or 0."""
    shown = [printable(str(name)) for name in files]
    width, exit_code = max(map(len, ["file", *shown])), 0
    gallery = None
    if arguments.gallery is not None:
        gallery = load_gallery(arguments.gallery, dim=student.embedding_dim, model=student.digest)
    words = {"scores": arguments.scores, "masks": arguments.masks, "gallery": gallery, "top": arguments.top}
    kept: dict[str, Any] = {}
    if files and not arguments.json:
        _say(f"{'file':<{width}}  {'classes' if student.classes else 'embedding'}")
    for name, plain in zip(files, shown):
        try:
            record, text = answer(student, name, **words)
            line = json.dumps(record) if arguments.json else f"{plain:<{width}}  {text}"
            _tell_frames(name, student)
        except InferError as error:
            exit_code = _complain(error)
        except MemoryError:
            exit_code = _complain(out_of_memory(name))
        except OSError as error:
            exit_code = _complain(InferError(f"{name} cannot be read: {reason_of(error)}.", exit_code=4))
        else:
            kept[_sayable(str(name))] = record["embedding"]
            _say(line)
    if arguments.save_gallery is not None:
        rows = np.array([*kept.values()], dtype=np.float32)
        save_gallery(arguments.save_gallery, Gallery(tuple(kept), rows), model=student.digest)
    return exit_code


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
        student = _prepare(arguments)
        files, before = _files(arguments.images, student)
        _refuse_same_masks(arguments.masks, files)
        return _answer_all(arguments, student, files) or before
    except InferError as error:
        return _complain(error)
    except OutputError as error:
        return _without_output(error.__cause__)
    except MemoryError:
        return _complain(InferError("The model needs more memory than there is.", exit_code=4))
    except OSError as error:
        return _complain(InferError(f"The model cannot be used: {reason_of(error)}.", exit_code=4))


def _without_output(error: BaseException | None) -> int:
    """End where nothing more can be printed: quietly where the reader has gone."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return CLOSED
    why = reason_of(error) if isinstance(error, Exception) else "it is closed"
    _tell(f"error: the output cannot be written: {why}.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
