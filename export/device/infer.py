"""Run an exported edgecmd student. It needs numpy and onnxruntime; reading picture files also needs Pillow.

As a script::

    python infer.py student.onnx drawing.png [more.png ...] [--json] [--scores]

As a module::

    from infer import Student

    student = Student("student.onnx")
    prediction = student(images)  # uint8, (batch, student.image_size, student.image_size, student.channels)
    prediction.embedding  # float32, (batch, student.embedding_dim), each row of length 1
    prediction.scores  # float32, (batch, len(student.classes)), or None without a head

Exit codes: 0 all well; 1 Pillow is missing; 2 wrong usage; 4 a file is missing or is not a picture;
6 the model was not made by edgecmd. A picture that cannot be read does not stop the others.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

FORMAT_VERSION = "1"
MODES = {1: "L", 3: "RGB"}
NUM_TOP_CLASSES = 3
NUM_FIRST_VALUES = 4


class InferError(ValueError):
    """A mistake in what was given; the message says what is allowed.

    Attributes:
        exit_code: What the script returns for it.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Prediction(NamedTuple):
    """Outputs for a batch: unit embeddings (batch, dim), and class probabilities (batch, classes) or None."""

    embedding: np.ndarray
    scores: np.ndarray | None


class Picture(NamedTuple):
    """A picture file as the model takes it: uint8 (size, size, channels), and its own (width, height)."""

    image: np.ndarray
    original_size: tuple[int, int]


class Student:
    """An exported student.

    Args:
        path: The .onnx file. It is opened by path, never from bytes.
        num_threads: Threads of one inference; 1 is best for a small student.

    Attributes:
        image_size: Side of the square input in pixels.
        channels: Channels of the input.
        embedding_dim: Dimension of the embedding.
        classes: Names of the classes; empty without a head.
        preprocess: What the graph does with the bytes.

    Raises:
        InferError: The file is missing, or was not made by edgecmd.
    """

    def __init__(self, path: str | os.PathLike[str], *, num_threads: int = 1) -> None:
        self.session = _open(os.fspath(path), num_threads=num_threads)
        properties = self.session.get_modelmeta().custom_metadata_map
        version = properties.get("edgecmd.format")
        if version is None:
            raise InferError(
                f"{path} is not an edgecmd model: it has no property edgecmd.format."
                " Make one with `edgecmd export`.",
                exit_code=6,
            )
        if version != FORMAT_VERSION:
            raise InferError(
                f"{path} has edgecmd.format={version}; this program reads {FORMAT_VERSION}."
                " Use the infer.py that lies beside the model.",
                exit_code=6,
            )
        try:
            self.image_size = int(properties["edgecmd.image_size"])
            self.channels = int(properties["edgecmd.channels"])
            self.embedding_dim = int(properties["edgecmd.embedding_dim"])
            self.classes = tuple(map(str, json.loads(properties["edgecmd.classes"])))
            self.preprocess: dict[str, Any] = dict(json.loads(properties["edgecmd.preprocess"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InferError(
                f"{path} has broken edgecmd properties ({error!r}). Export it again.", exit_code=6
            ) from error
        self.outputs = ["embedding", "scores"] if self.classes else ["embedding"]

    def __call__(self, images: np.ndarray) -> Prediction:
        """Embed images.

        Args:
            images: uint8, (batch, image_size, image_size, channels), batch at least 1.

        Raises:
            InferError: The array has another type or shape.
        """
        expected = (self.image_size, self.image_size, self.channels)
        given = np.asarray(images)
        if given.dtype != np.uint8 or given.ndim != 4 or given.shape[1:] != expected or not len(given):
            raise InferError(
                f"images has dtype={given.dtype} and shape={given.shape}; allowed is uint8 of shape"
                f" (batch, {', '.join(map(str, expected))}), with 0 to 255 as in a picture file.",
                exit_code=4,
            )
        outputs = self.session.run(self.outputs, {"image": np.ascontiguousarray(given)})
        return Prediction(outputs[0], outputs[1] if self.classes else None)


def _open(path: str, *, num_threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    if not os.path.isfile(path):  # noqa: PTH113 - the model is given as text or path
        raise InferError(f"{path} is missing or not a file. Give the student.onnx of a bundle.", exit_code=4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen types of its own without a common base
        reason = str(error).strip().splitlines()[:1]
        raise InferError(
            f"{path} is not a model that onnxruntime can load: {' '.join(reason)}", exit_code=6
        ) from error


def read_picture(path: str, *, size: int, channels: int) -> Picture:
    """Read a picture file as the model takes it.

    What is transparent becomes white; 16-bit grey becomes 8-bit. A picture of another size is squeezed to
    the model's square: averaged where it is larger, as the training pictures were.

    Args:
        path: PNG, JPEG or anything else that Pillow reads.
        size: Side of the model's input.
        channels: 1 for grey, 3 for colour.

    Raises:
        InferError: Pillow is missing, or the file is missing or not a picture.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise InferError(
            "Reading picture files needs Pillow: pip install pillow. (Arrays need it not.)", exit_code=1
        ) from error
    if channels not in MODES:
        raise InferError(
            f"The model takes {channels} channels; only 1 or 3 can be read from a picture file."
            " Call Student with an array instead.",
            exit_code=4,
        )
    if not os.path.isfile(path):  # noqa: PTH113
        raise InferError(f"{path} is missing or not a file.", exit_code=4)
    try:
        with Image.open(path) as file:
            picture = _plain(ImageOps.exif_transpose(file)).convert(MODES[channels])
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise InferError(f"{path} is not a picture that Pillow can read: {error}", exit_code=4) from error
    original_size = picture.size
    if original_size != (size, size):
        # Pillow's box filter averages; where it would enlarge it repeats pixels, so that is done smoothly.
        smaller = min(original_size) >= size
        picture = picture.resize((size, size), Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR)
    return Picture(np.asarray(picture).reshape(size, size, channels), original_size)


def _plain(picture: Any) -> Any:  # noqa: ANN401 - Pillow is imported only where it is used
    """Picture without transparency and with 8 bits a channel."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise InferError(
                f"mode={picture.mode} has values beyond 16 bits; save it with 8 bits", exit_code=4
            )
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture)
        return white.convert("RGB")
    return picture


def as_json(student: Student, name: str, picture: Picture, prediction: Prediction, *, scores: bool) -> str:
    """One line of JSON about one picture."""
    record: dict[str, object] = {
        "file": name,
        "resized": picture.original_size != (student.image_size, student.image_size),
    }
    if prediction.scores is not None:
        ranked = _ranked(student, prediction)
        record["top"] = [{"class": one, "probability": value} for one, value in ranked[:NUM_TOP_CLASSES]]
        if scores:
            record["scores"] = dict(zip(student.classes, prediction.scores[0].tolist(), strict=True))
    record["embedding"] = prediction.embedding[0].tolist()
    return json.dumps(record)


def as_text(student: Student, picture: Picture, prediction: Prediction, *, scores: bool) -> str:
    """Second column of the table about one picture."""
    if prediction.scores is not None:
        ranked = _ranked(student, prediction)
        shown = ranked if scores else ranked[:NUM_TOP_CLASSES]
        text = ", ".join(f"{one} {value:.1%}" for one, value in shown)
    else:
        row = prediction.embedding[0]
        first = " ".join(f"{value:+.4f}" for value in row[:NUM_FIRST_VALUES])
        text = f"norm {np.linalg.norm(row):.4f}, first values {first}"
    width, height = picture.original_size
    size = student.image_size
    return text if (width, height) == (size, size) else f"{text} (resized from {width}x{height})"


def _ranked(student: Student, prediction: Prediction) -> list[tuple[str, float]]:
    """Classes of the first image with their probabilities, the likeliest first."""
    values = [] if prediction.scores is None else prediction.scores[0].tolist()
    return sorted(zip(student.classes, values, strict=True), key=lambda pair: -pair[1])


def _say(text: str) -> None:
    """Print, also where the terminal cannot show every letter of a name."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _complain(error: InferError) -> int:
    print(f"error: {error}".encode("ascii", "backslashreplace").decode(), file=sys.stderr)
    return error.exit_code


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Embed or classify pictures with an exported edgecmd student."
    )
    parser.add_argument("model", help="student.onnx")
    parser.add_argument("images", nargs="+", metavar="image", help="picture files of the target modality")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with the full embedding")
    parser.add_argument("--scores", action="store_true", help="every class, not only the likeliest")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit code, see the top of the file.
    """
    arguments = _arguments(argv)
    try:
        student = Student(arguments.model)
        if arguments.scores and not student.classes:
            raise InferError(f"{arguments.model} has no head, so there are no --scores.", exit_code=2)
    except InferError as error:
        return _complain(error)
    width = max(len(name) for name in ["file", *arguments.images])
    if not arguments.json:
        _say(f"{'file':<{width}}  {'classes' if student.classes else 'embedding'}")
    exit_code = 0
    for name in arguments.images:
        try:
            picture = read_picture(name, size=student.image_size, channels=student.channels)
        except InferError as error:
            exit_code = _complain(error)
            continue
        prediction = student(picture.image[None])
        if arguments.json:
            _say(as_json(student, name, picture, prediction, scores=arguments.scores))
        else:
            _say(f"{name:<{width}}  {as_text(student, picture, prediction, scores=arguments.scores)}")
    return exit_code


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `infer.py ... | head` ends without a word
    sys.exit(main())
