"""From files to classes by example: read examples, put the parts together, measure, and tell what there is.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.

Shapes: D embedding dimension, N files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgecmd.data.user_files.decode import printable
from export.device.classes import (
    FALSE_ACCEPTS,
    Prototypes,
    calibrated,
    from_examples,
    left_out,
    merged,
    with_examples,
    without_class,
)
from export.device.reading import FOLDER, InferError, example_files, inputs_in, kind_of
from export.device.saved_embeddings import load_prototypes

NUM_TOP_SIMILAR = 3


class Embedder(NamedTuple):
    """What embeds the inputs of a file: a function to (N, D); endings, noun, D, the model's digest."""

    embed: Callable[[Path], np.ndarray]
    suffixes: tuple[str, ...]
    noun: str
    dim: int
    model: str


def read_examples(folder: Path, embedder: Embedder) -> dict[str, np.ndarray]:
    """Embeddings (N, D) of the files of each class; the folder is as `example_files` reads it.

    Raises:
        InferError: There is none, a class has none, or a file cannot be read.
    """
    files = example_files(folder, suffixes=embedder.suffixes)
    return {name: np.concatenate([embedder.embed(one) for one in few]) for name, few in files.items()}


def read_part(path: Path, embedder: Embedder) -> tuple[Prototypes, dict[str, np.ndarray]]:
    """Classes of an .npz, or of a folder together with the embeddings that they are made of."""
    if kind_of(path) == FOLDER:
        examples = read_examples(path, embedder)
        return from_examples(examples, dim=embedder.dim), examples
    return load_prototypes(path, dim=embedder.dim, model=embedder.model), {}


def chosen_classes(
    embedder: Embedder, *, prototypes: Sequence[Path], add: Sequence[Path], remove: Sequence[str]
) -> tuple[Prototypes | None, dict[str, np.ndarray]]:
    """The classes that options name, or None without any; and the examples among their files.

    Args:
        embedder: What embeds examples.
        prototypes: Folders or files of classes; of two classes with one name the later is used.
        add: Folders of more examples: the mean of a class goes on over them, and a new class is added.
        remove: Names of classes to leave out, last of all.

    Raises:
        InferError: A file or folder cannot be used, or a class to remove is not there or is the only one.
    """
    if not prototypes and not add:
        if remove:
            raise InferError("--remove needs classes to remove from: give --prototypes.", exit_code=2)
        return None, {}
    parts: list[Prototypes] = []
    examples: dict[str, np.ndarray] = {}
    for path in prototypes:
        part, found = read_part(path, embedder)
        parts.append(part)
        examples = {name: rows for name, rows in examples.items() if name not in part.names}
        examples.update(found)
    classes = merged(parts) if parts else from_examples({}, dim=embedder.dim)
    for folder in add:
        for name, rows in read_examples(folder, embedder).items():
            classes = with_examples(classes, name, rows)
            examples[name] = np.concatenate([examples[name], rows]) if name in examples else rows
    for name in remove:
        classes = without_class(classes, name)
        examples.pop(name, None)
    if not classes.names:
        raise InferError("--remove leaves no class. Keep at least one.", exit_code=2)
    return classes, examples


def measured(
    classes: Prototypes,
    examples: Mapping[str, np.ndarray],
    embedder: Embedder,
    *,
    strangers: Path,
    known: Path | None,
    false_accepts: float,
    tell: Callable[[str], None],
) -> Prototypes:
    """The classes with a threshold that inputs of no class set; see `calibrated`.

    Args:
        classes: At least one.
        examples: Embeddings of examples; without ``known`` each is left out in turn.
        embedder: What embeds files.
        strangers: Folder of inputs of no class.
        known: Folder of inputs of the classes that are no examples of them, as `example_files` reads it.
        false_accepts: Allowed share of inputs of no class that are accepted.
        tell: Gets a note on files that are not read.

    Raises:
        InferError: A file cannot be read, or there are too few.
    """
    files = inputs_in(strangers, suffixes=embedder.suffixes, noun=embedder.noun, tell=tell)
    rows = np.concatenate([embedder.embed(one) for one in files])
    if known is None:
        cosines = [left_out(classes, name, found) for name, found in examples.items()]
    else:
        held_out = read_examples(known, embedder)
        others = sorted(set(held_out) - set(classes.names))
        if others:
            raise InferError(
                f"{known} has the class {others[0]!r}; there are: {', '.join(classes.names)}.", exit_code=4
            )
        vectors = classes.vectors.T.astype(np.float64)
        cosines = [(found.astype(np.float64) @ vectors).max(axis=1) for found in held_out.values()]
    every = np.concatenate([np.zeros(0), *cosines])
    return calibrated(classes, rows, known=every, false_accepts=false_accepts)


def add_class_options(parser: argparse.ArgumentParser) -> None:
    """The options of `asked_classes` and of the gallery."""
    parser.add_argument(
        "--add", type=Path, action="append", help="folder of more examples of classes, old or new; repeatable"
    )
    parser.add_argument("--remove", metavar="CLASS", action="append", help="leave a class out; repeatable")
    parser.add_argument("--join", action="store_true", help="the trained classes beside those by example")
    parser.add_argument("--calibrate", type=Path, help="folder of no class: sets when nothing is recognised")
    parser.add_argument("--known", type=Path, help="folder of classes, no examples: measures false rejects")
    parser.add_argument(
        "--false-accepts", type=float, default=FALSE_ACCEPTS, help="share that --calibrate allows, 0 to 1"
    )
    parser.add_argument("--classes", action="store_true", help="tell classes, examples and threshold")
    parser.add_argument("--save-prototypes", type=Path, metavar="FILE", help=".npz for --prototypes")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="tell the nearest of these embeddings")
    parser.add_argument("--top", type=int, default=NUM_TOP_SIMILAR, help="how many of the gallery")
    parser.add_argument("--save-gallery", type=Path, metavar="FILE", help="save the embeddings of all files")


def asked_classes(
    arguments: argparse.Namespace, embedder: Embedder, *, tell: Callable[[str], None]
) -> Prototypes | None:
    """The classes by example that options name, with a threshold where they ask for one; None without any.

    Raises:
        InferError: The options do not go together, or a file cannot be used.
    """
    classes, examples = chosen_classes(
        embedder,
        prototypes=arguments.prototypes or (),
        add=arguments.add or (),
        remove=arguments.remove or (),
    )
    asked = [arguments.calibrate, arguments.known, arguments.save_prototypes]
    if classes is None and (arguments.join or arguments.classes or any(asked)):
        raise InferError(
            "--join, --calibrate, --known, --classes and --save-prototypes need --prototypes or --add.",
            exit_code=2,
        )
    if arguments.known is not None and arguments.calibrate is None:
        raise InferError("--known needs --calibrate, which sets the threshold.", exit_code=2)
    if classes is None or arguments.calibrate is None:
        return classes
    return measured(
        classes,
        examples,
        embedder,
        strangers=arguments.calibrate,
        known=arguments.known,
        false_accepts=arguments.false_accepts,
        tell=tell,
    )


def told(classes: Prototypes, *, say: Callable[[str], str]) -> tuple[dict[str, Any], str]:
    """The classes and what was measured of them: a record for JSON, and lines for a person.

    Args:
        classes: Any number.
        say: Makes a name one that JSON may hold.
    """
    counts: Sequence[int | None] = classes.counts or [None] * len(classes.names)
    record: dict[str, Any] = {
        "classes": [{"class": say(name), "examples": num} for name, num in zip(classes.names, counts)]
    }
    lines = [
        f"{printable(name)}: {'an unknown number of' if num is None else num} example{'s' * (num != 1)}"
        for name, num in zip(classes.names, counts)
    ]
    if classes.rejection is None:
        return {**record, "threshold": None}, "\n".join([*lines, "no threshold: nothing is rejected"])
    threshold, accepts, rejects = classes.rejection
    record.update({"threshold": threshold, "false_accepts": accepts, "false_rejects": rejects})
    text = f"threshold {threshold:.4f}: {_rate('accepted', accepts)} inputs of no class, "
    text += f"{_rate('rejected', rejects)} inputs of the classes" if rejects[1] else "rejection not measured"
    return record, "\n".join([*lines, text])


def _rate(what: str, counts: tuple[int, int]) -> str:
    return f"{what} {counts[0]} ({counts[0] / counts[1]:.1%}) of {counts[1]}"
