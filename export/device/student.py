"""An exported student: opened, called with arrays, given classes by example, compared with golden values.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgecmd.data.user_files.decode import npz_arrays, reason_of
from export.device.classes import (
    SCALE,
    Prototypes,
    from_examples,
    joined_scores,
    prototype_scores,
    threshold_of,
)
from export.device.own_classes import Embedder, read_part
from export.device.properties import MASK, read_properties
from export.device.reading import FILE, FOLDER, InferError, Reading, kind_of, out_of_memory
from export.device.runtime import NO_MEMORY, open_session
from export.device.saved_embeddings import MAX_NPZ_BYTES, digest_of
from export.device.sensors import refuse_rate


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
        front_end: The kind of its input, a key of `SENSORS`.
        sensor: What it takes: pictures, depth maps, recordings or strings.
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
        self.preprocess, self.front_end, self.sensor = found.preprocess, found.front_end, found.sensor
        self.rate_hz = found.rate_hz
        if profile not in (None, self.profile):
            raise InferError(f"{self.path} has profile={self.profile}, not {profile}.", exit_code=2)
        self.outputs = [one.name for one in outputs]
        self.dense = MASK in self.outputs
        self.prototypes: Prototypes | None = None
        self._joined = False

    def __call__(
        self, inputs: np.ndarray | Sequence[str], *, rate_hz: int | float | None = None
    ) -> Prediction:
        """Embed pictures (batch, height, width, channels), depth maps, recordings (batch, samples), strings.

        Args:
            inputs: Of any size; the graph resizes them as the training data was. At least 1. Strings are a
                list of str, or bytes (batch, bytes).
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
        """One input from a file: a picture, a depth map, a WAV of the model's rate, or a line of text."""
        return self.reading(path).values

    def reading(self, path: Path, *, draft: bool = False) -> Reading:
        """One input from a file, and what is to be told of it.

        Args:
            path: The file.
            draft: Let the decoder skip of a large JPEG what would be averaged away, as training does.
        """
        least = self.image_size if draft else 0
        return self.sensor.read(path, channels=self.channels, preprocess=self.preprocess, least=least)

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
    """Embeddings (N, dim) of the inputs of a file: 1, or of strings one a line."""
    sensor = student.sensor
    every = sensor.read_all(path, channels=student.channels, preprocess=student.preprocess)
    return np.concatenate([_predicted(student, path, one.values).embedding for one in every])


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
