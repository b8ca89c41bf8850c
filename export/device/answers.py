"""What a student says of inputs: together where they have one shape, as a record and as a line for a person.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgecmd.data.user_files.decode import printable
from export.device.classes import Gallery, nearest, search
from export.device.intake import Failed, Given
from export.device.masks import mask_of, shares, write_mask
from export.device.reading import InferError, out_of_memory
from export.device.student import Prediction, Student

NUM_TOP_CLASSES, NUM_FIRST_VALUES = 3, 4


class Wanted(NamedTuple):
    """What is to be told of each input.

    Attributes:
        scores: Every class.
        masks: Folder for ``<name>.mask.png``; of a dense student alone.
        gallery: Saved embeddings, of which the ``top`` nearest are told.
        top: How many.
    """

    scores: bool = False
    masks: Path | None = None
    gallery: Gallery | None = None
    top: int = NUM_TOP_CLASSES


def predicted(
    student: Callable[[np.ndarray], Prediction], group: Sequence[Given | Failed]
) -> list[tuple[Given, Prediction] | Failed]:
    """Each with its prediction, rows of (1, ...): those of one shape are computed together.

    Guarantees:
        A call of the engine that fails costs the inputs alone that fail by themselves too: the others of its
        group are computed again, one at a time.
    """
    found: dict[int, tuple[Given, Prediction] | Failed] = {}
    shapes: dict[tuple[int, ...], list[int]] = {}
    for place, one in enumerate(group):
        if isinstance(one, Failed):
            found[place] = one
        else:
            shapes.setdefault(one.reading.values.shape, []).append(place)
    for places in shapes.values():
        alike = [one for one in (group[place] for place in places) if isinstance(one, Given)]
        found.update(zip(places, _together(student, alike)))
    return [found[place] for place in range(len(group))]


def _together(
    student: Callable[[np.ndarray], Prediction], alike: Sequence[Given]
) -> list[tuple[Given, Prediction] | Failed]:
    if len(alike) == 1:
        return [_alone(student, alike[0])]
    try:
        whole = student(np.stack([one.reading.values for one in alike]))
    except (InferError, MemoryError):
        return [_alone(student, one) for one in alike]
    scores = whole.scores
    rows = [slice(row, row + 1) for row in range(len(alike))]
    return [
        (one, Prediction(whole.embedding[row], None if scores is None else scores[row]))
        for one, row in zip(alike, rows)
    ]


def _alone(student: Callable[[np.ndarray], Prediction], one: Given) -> tuple[Given, Prediction] | Failed:
    try:
        return one, student(one.reading.values[None])
    except MemoryError:
        return Failed(one.name, out_of_memory(Path(one.name)))
    except InferError as error:
        return Failed(one.name, InferError(f"{one.name}: {error}", exit_code=error.exit_code))


def answer(
    student: Student, given: Given, prediction: Prediction, wanted: Wanted
) -> tuple[dict[str, Any], str]:
    """What the student says of one input: a record for a program, and a line for a person.

    In the record all but the embedding, float32 (D,), may go into JSON as it is.
    """
    values, side, cut_bytes = given.reading.values, student.image_size, given.reading.cut_bytes
    embedding = prediction.embedding[0]
    own = values.ndim == 1 or student.preprocess.get("resize") == "none" or values.shape[:2] == (side, side)
    record: dict[str, Any] = {student.sensor.key: sayable(given.name)}
    record.update({"resized": not own} if cut_bytes is None else {"cut_bytes": cut_bytes})
    record.update({} if given.frame is None else {"frame": given.frame})
    if student.dense and prediction.scores is not None:
        text = _masked(student, prediction.scores[0], given, record, wanted)
    elif prediction.scores is not None:
        text = _ranked(student, prediction.scores[0], record, every=wanted.scores)
    else:
        text = f"norm {np.linalg.norm(embedding):.4f}, first values "
        text += " ".join(f"{value:+.4f}" for value in embedding[:NUM_FIRST_VALUES])
    text = _near(student, embedding, record, text)
    if wanted.gallery is not None:
        found = search(wanted.gallery, embedding, top=wanted.top)
        record["similar"] = [{"name": sayable(one), "cosine": cosine} for one, cosine in found]
        text += "; similar: " + ", ".join(f"{printable(one)} {cosine:.3f}" for one, cosine in found)
    record["embedding"] = embedding
    if own:
        return record, text
    height, width = (size * given.reading.shrunk for size in values.shape[:2])
    return record, f"{text} (resized from {width}x{height})"


def _ranked(student: Student, scores: np.ndarray, record: dict[str, Any], *, every: bool) -> str:
    """Put the likeliest classes, or all, into the record; the same in words."""
    order = np.argsort(-scores, kind="stable").tolist()
    values = scores.tolist()
    ranked = [(student.classes[place], values[place]) for place in order]
    likeliest = ranked[:NUM_TOP_CLASSES]
    record["top"] = [{"class": sayable(one), "probability": value} for one, value in likeliest]
    if every:
        record["scores"] = {sayable(one): value for one, value in zip(student.classes, values)}
    return ", ".join(f"{printable(one)} {value:.1%}" for one, value in (ranked if every else likeliest))


def _masked(
    student: Student, logits: np.ndarray, given: Given, record: dict[str, Any], wanted: Wanted
) -> str:
    """Put the classes of the pixels into the record, and write the mask; the same in words."""
    mask = mask_of(logits)
    told = shares(mask, student.classes)
    record["pixels"] = {sayable(one): value for one, value in told}
    if wanted.masks is not None:
        path = wanted.masks / f"{given.stem}.mask.png"
        write_mask(path, mask)
        record["mask"] = sayable(str(path))
    shown = told if wanted.scores else told[:NUM_TOP_CLASSES]
    return ", ".join(f"{printable(one)} {value:.1%}" for one, value in shown)


def _near(student: Student, embedding: np.ndarray, record: dict[str, Any], text: str) -> str:
    """Put the nearest class by example into the record; the text, or that it is none of the classes."""
    if student.prototypes is None:
        return text
    name, cosine, accepted = nearest(embedding[None], student.prototypes)[0]
    record["nearest"] = {"class": sayable(name), "cosine": cosine, "accepted": accepted}
    if accepted is not False or len(student.classes) > len(student.prototypes.names):
        return text
    return f"none of the classes (nearest: {printable(name)}, cosine {cosine:.3f})"


def sayable(name: str) -> str:
    """``name`` as JSON may hold it: bytes of a file name that are no text become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
