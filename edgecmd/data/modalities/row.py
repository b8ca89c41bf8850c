"""What edgecmd needs from a modality: everything that differs between kinds of input.

A modality is one module beside this one and its row in `edgecmd.data.modalities.table.MODALITIES`. All else
asks the row and knows no modality by name.

Shapes: N examples, B batch, C channels, H height, W width.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from edgecmd.data.modalities.motion import Batch, Motion
from edgecmd.data.modalities.signature import Rows, Signature
from edgecmd.data.stored.array_files import Examples
from edgecmd.data.stored.kept_rows import Work, of_each_row
from edgecmd.data.stored.store import Form

# Anonymous axes: two sets of one call may differ in every dimension.
Pictures = UInt8[np.ndarray, "_ _ _ _"]
Stored = Shaped[np.ndarray, "_ *_"]
"""Examples of any modality as they are stored, N in the first axis."""
Lying = Shaped[Examples, "_ *_"]
"""The same, in memory or on the disk."""

# (C, H, W) of one example as a student sees it.
InputShape = tuple[int, int, int]
Look = Callable[[Lying, Rows], Signature]
Invent = Callable[[int, tuple[int, ...], np.random.Generator], Stored]
Degradation = Callable[[Stored, float, np.random.Generator], Stored]


@runtime_checkable
class StoredShape(Protocol):
    """Shape of one stored example."""

    def __call__(self, *, channels: int, side: int, samples: int, text_bytes: int) -> tuple[int, ...]:
        """Its axes behind N."""


@runtime_checkable
class ToInput(Protocol):
    """Stored numbers to the student's input; ``offset`` and ``scale`` are ``data.target_*``."""

    def __call__(
        self, stored: Stored, /, *, offset: float, scale: float
    ) -> Float[Tensor, "batch channels height width"]:
        """The input, float32."""


@runtime_checkable
class View(Protocol):
    """Views of a batch of inputs, drawn from ``generator`` alone; ``strength`` 0 leaves it as it is."""

    def __call__(self, batch: Batch, /, *, strength: float, generator: torch.Generator) -> Batch:
        """A batch of the same shape; each row's view is independent of the others."""


@runtime_checkable
class FromPictures(Protocol):
    """Public RGB images, scaled as a teacher sees them, (B, 3, H, W), as inputs of so many channels."""

    def __call__(
        self,
        image_B3HW: Float[Tensor, "batch 3 height width"],
        channels: int,
        /,
        *,
        offset: float,
        scale: float,
    ) -> Float[Tensor, "batch _ height width"]:
        """A batch of the same sides."""


@runtime_checkable
class DegradationAtRate(Protocol):
    """A degradation of what has a sampling rate."""

    def __call__(self, stored: Stored, level: float, /, *, rate_hz: int) -> Stored:
        """Examples of the same type and shape."""


def size_in_numbers(shape: InputShape) -> str:
    """Sides of an input in words."""
    return " x ".join(map(str, shape))


def equal_to_one(
    test: Lying, train: Lying, *, name: str = "sha256", work: Work | None = None
) -> Bool[np.ndarray, " num"]:
    """Which of ``test`` equal one of ``train``, (N,): to the byte, or in the digests that ``work`` gives.

    A correlation of samples says nothing about recordings: one that is moved by a millisecond has none.
    Nor does it about depth: whatever room a camera looks into, it is farther away above than below.
    """
    known = set(digests(train, name=name, work=work))
    return np.array([one in known for one in digests(test, name=name, work=work)], dtype=bool)


def digests(examples: Lying, *, name: str = "sha256", work: Work | None = None) -> list[bytes]:
    """A digest of each example: equal ones are the same example.

    Args:
        examples: Of one modality.
        name: Under which digests are kept.
        work: Digests of some examples; None: SHA-256 of their numbers.
    """
    form = Form(shape=(32,), dtype=np.dtype(np.uint8))
    return [one.tobytes() for one in of_each_row(examples, name, work or _of_numbers, form=form)]


def sha256_rows(contents: Sequence[bytes | memoryview]) -> UInt8[np.ndarray, "num 32"]:
    """SHA-256 of each, (N, 32)."""
    every = b"".join(hashlib.sha256(one).digest() for one in contents)
    return np.frombuffer(every, np.uint8).reshape(len(contents), 32)


def _of_numbers(part: np.ndarray) -> np.ndarray:
    return sha256_rows([np.ascontiguousarray(one).data for one in part])


@dataclass(frozen=True, kw_only=True, slots=True)
class Modality:
    """One kind of input.

    Attributes:
        name: Its key in `MODALITIES`, in settings and in files of teachers.
        noun: What messages call one example.
        dtype: Type of stored examples.
        rank: Number of axes of stored examples, including N.
        allowed: What errors say about type and shape.
        has_form: Whether an array of this type and rank really is of this modality.
        kinds: Values of ``data.target_kind``, each with the channels of the student's input; the first
            stands for every other number of channels.
        input_shape: (C, H, W) of one example as a student sees it, from a stored array.
        size: The same in words, for people.
        stored_shape: Of one stored example at the sizes of the settings: channels of its kind,
            side in pixels, samples of a clip, bytes of a string.
        to_input: Stored numbers to the student's input.
        view: Augmentation of a batch of inputs.
        motion: How a view is moved at strength 1; None where an example is not a grid of pixels. Masks and
            dense students are for what has one.
        from_pictures: Public images as inputs of this modality; None where no image can be made one.
        is_drawn: Whether outlines and tones of public images can stand in for it: a warm start, a sample
            to repair a student with, calibration.
        front: What students and teachers have before the convolutions, see `edgecmd.models.students.FRONTS`.
        has_rate: Whether ``data.sampling_rate_hz`` says what an example is.
        as_pictures: Examples as images for people, uint8, (N, H, W, C).
        as_words: Examples as text for people, where a picture cannot show all of them; None: a picture can.
        is_constant: Which examples carry no information, (N,).
        constant_words: What messages say about these.
        looks: Signatures, any of which can make two examples near-equal. Equal examples need none.
        looks_known: Mask of test examples that duplicate a training example, (N,).
        degradations: What widens the gap in the theory, by name.
        degradations_at_rate: The same, for those that need the sampling rate.
        invented: Made-up examples that nobody has by chance, all different, of a stored shape without N: what
            an audit plants. None: none can be made.
        is_smooth: Whether a search may move an example a little, as a gradient of an image says.
        cheap_student: Student for a quick sweep of the theory.
        cheap_steps: Its optimiser steps.
        cheap_pairs: Training pairs that it gets at most, of those that there are.
        reader: How a user's files are read, a key of `edgecmd.data.user_files.halves.READERS`; empty if
            there are none.
        front_end: Front end of the exported file, a key of `export.graph.frontends.FRONT_ENDS`; empty: none.
        dense_front_end: The same for a dense student.
    """

    name: str
    noun: str
    dtype: type
    rank: int
    allowed: str
    has_form: Callable[[Examples], bool] = lambda _: True
    kinds: Mapping[str, int]
    input_shape: Callable[[Examples], InputShape]
    size: Callable[[InputShape], str] = size_in_numbers
    stored_shape: StoredShape
    to_input: ToInput
    view: View
    motion: Motion | None = None
    from_pictures: FromPictures | None = None
    is_drawn: bool = False
    front: str = "none"
    has_rate: bool = False
    as_pictures: Callable[[Stored], Pictures]
    as_words: Callable[[Stored], list[str]] | None = None
    is_constant: Callable[[Stored], Bool[np.ndarray, " num"]]
    constant_words: str
    looks: tuple[Look, ...] = ()
    looks_known: Callable[[Lying, Lying], Bool[np.ndarray, " num"]] = equal_to_one
    degradations: Mapping[str, Degradation] = field(default_factory=dict)
    degradations_at_rate: Mapping[str, DegradationAtRate] = field(default_factory=dict)
    invented: Invent | None = None
    is_smooth: bool = True
    cheap_student: str = "ws-50k"
    cheap_steps: int = 400
    cheap_pairs: int = 2048
    reader: str = ""
    front_end: str = ""
    dense_front_end: str = ""

    @property
    def nouns(self) -> str:
        """What a message calls several examples."""
        return f"{self.noun}s"

    def takes(self, stored: Examples) -> bool:
        """Whether an array is of this modality: by its type, its axes, and no value of it."""
        return stored.dtype == self.dtype and stored.ndim == self.rank and self.has_form(stored)

    def kind(self, channels: int) -> str:
        """Key of `kinds` for inputs of so many channels."""
        first = next(iter(self.kinds))
        return next((kind for kind, number in self.kinds.items() if number == channels), first)
