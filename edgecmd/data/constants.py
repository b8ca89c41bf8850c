"""Inputs without information: white pages, maps without a measurement, silence, or one input over and over.

A few among others are noted. Where a half of the pairs is nothing else, every loss and every ranking is
about rounding, and a run is refused before it trains. This is about the whole of a user's data; on a device
no refusal may follow from its pairs, and none does (`edgecmd.data.user_files.device_pairs`).

Shapes: N examples, H height, W width, C channels, T samples.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from edgecmd.core.errors import DataError
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import PairedData, Targets
from edgecmd.data.stored.array_files import chosen, chunks
from edgecmd.data.stored.kept_rows import at_once, of_each_row
from edgecmd.data.stored.store import Form


def constant_rows(inputs: Targets) -> Bool[np.ndarray, " num"]:
    """Which inputs are constant, (N,).

    Args:
        inputs: Of either half, of any modality.

    Returns:
        True for an image whose channels each span at most 2 of 255 levels, for a depth map in which all that
        was measured (if anything was) is equal, and for a recording that spans at most 2 of 65,535 steps.

    Raises:
        DataError: The inputs are of no modality that is known.
    """
    form = Form(shape=(), dtype=np.dtype(bool))
    return of_each_row(inputs, "constant", modality_of(inputs).is_constant, form=form)


def _words(inputs: Targets) -> tuple[str, str]:
    """What a message says of constant inputs, and what it calls them."""
    modality = modality_of(inputs)
    return modality.constant_words, modality.nouns


def all_equal(inputs: Targets) -> bool:
    """Whether every input is the first one over again; False where there are fewer than two."""
    parts = chunks(inputs, at_once(inputs))
    return len(inputs) > 1 and all(bool((one == inputs[0]).all()) for one in parts)


def constant_inputs(data: PairedData, *, reverse: bool = False) -> list[str]:
    """Why pairs cannot teach or test anything, because one half never changes.

    Args:
        data: Pairs as a run uses them: at its sizes, and turned round under ``data.reverse``.
        reverse: Whether they were turned round, so that a sentence names the user's own folder.

    Returns:
        A sentence for each half that is at fault; empty where both halves change.
    """
    problems = (_problem(name, half) for name, half in _halves(data, reverse=reverse).items())
    return [problem for problem in problems if problem]


def constant_parts(data: PairedData, rows: Mapping[str, np.ndarray], *, reverse: bool = False) -> list[str]:
    """The same of the parts of a run: both halves of what is trained on, targets of what is held out.

    Sources of a held-out part may all be equal: five sketches of one photograph are a question all the same.

    Args:
        data: All pairs, see `constant_inputs`.
        rows: Rows of each part by its name, that of the training pairs first.
        reverse: See `constant_inputs`.

    Returns:
        A sentence for each fault, with the part.
    """
    first, *others = rows
    problems = [f"{first}: {one}" for one in constant_inputs(data.take(rows[first]), reverse=reverse)]
    name = "source" if reverse else "target"
    found = {part: _problem(name, chosen(data.target, rows[part])) for part in others}
    return [*problems, *(f"{part}: {problem}" for part, problem in found.items() if problem)]


def refuse_constant(problems: list[str]) -> None:
    """Refuse pairs that `constant_inputs` or `constant_parts` finds fault with.

    Raises:
        DataError: The first of the sentences.
    """
    if problems:
        raise DataError(problems[0][0].upper() + problems[0][1:])


def constant_notes(*parts: PairedData, reverse: bool = False) -> list[str]:
    """Sentences on constant inputs among others, with how many there are.

    Args:
        parts: Pairs, all together or in parts.
        reverse: See `constant_inputs`.
    """
    notes = []
    for name in ("source", "target"):
        halves = [_halves(part, reverse=reverse)[name] for part in parts]
        number = sum(int(constant_rows(half).sum()) for half in halves)
        if number:
            which, what = _words(halves[0])
            notes.append(
                f"{number} of {sum(map(len, halves))} {what} of {name}/ are {which}: nothing can be learnt"
                " from them, and in a test they can only be guessed."
            )
    return notes


def _halves(data: PairedData, *, reverse: bool) -> Mapping[str, Targets]:
    names = ("target", "source") if reverse else ("source", "target")
    return dict(zip(names, (data.source, data.target), strict=True))


def _problem(name: str, half: Targets) -> str:
    """A sentence where a half never changes; empty where it does."""
    which, what = _words(half)
    if len(half) and constant_rows(half).all():
        return (
            f"all {len(half)} {what} of {name}/ are {which}, so there is nothing to learn from. Check the"
            " files, and create them again."
        )
    if all_equal(half):
        return (
            f"all {len(half)} {what} of {name}/ are equal, so no pair can be told from another. Check the"
            " files, and give each pair its own."
        )
    return ""
