"""A user's own pairs: what was read, how it is split, and the experiment made of it.

Shapes: N pairs, S side of an image.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from edgecmd.config import DataConfig
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels
from edgecmd.data.pairs import PairedData, PublicSource
from edgecmd.data.strict import near_duplicates
from edgecmd.errors import DataError

COLUMNS = ("owner", "concept", "label")
MIN_PAIRS = 20
# Retrieval among one is no retrieval, and a contrastive loss needs two pairs.
MIN_PART = 2

Rows = Int[np.ndarray, " _"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OwnPairs:
    """A user's pairs in the order of their sorted ids.

    Attributes:
        ids: One name a pair.
        data: The images.
        columns: Text a pair under ``owner``, ``concept`` or ``label``, empty where unknown; a
            column that the user did not give is absent.
        public: Public source images that came with the pairs, if any.
    """

    ids: tuple[str, ...]
    data: PairedData
    columns: Mapping[str, Sequence[str]]
    public: PublicSource | None = None

    def labels(self, column: str) -> Labels:
        """Labels out of a column; all `UNLABELLED` where it is absent."""
        texts = self.columns.get(column, [""] * len(self.ids))
        names = sorted({text for text in texts if text})
        codes = {"": UNLABELLED} | {name: index for index, name in enumerate(names)}
        return Labels(values=np.array([codes[text] for text in texts], dtype=np.int64), names=tuple(names))

    def concepts(self) -> list[str]:
        """What the split follows: the concept of each pair, or its id where there is none."""
        texts = self.columns.get("concept", self.ids)
        return [text or name for text, name in zip(texts, self.ids, strict=True)]


def position(concept: str) -> float:
    """Where ``concept`` lies in [0, 1): its SHA-256, read as a fraction."""
    return int.from_bytes(hashlib.sha256(concept.encode()).digest()[:6], "big") / 2**48


def split_rows(
    concepts: Sequence[str], *, val_fraction: float, test_fraction: float
) -> tuple[Rows, Rows, Rows]:
    """Cut pairs into training, validation and test, whole concepts each.

    Args:
        concepts: Concept of each pair, (N,).
        val_fraction: Share of the concepts for validation.
        test_fraction: Share of the concepts for testing.

    Returns:
        Sorted rows of training, validation and test.

    Raises:
        DataError: There are too few concepts for three parts of `MIN_PART` pairs.

    Guarantees:
        No concept is in two parts. A concept's part depends neither on the order of the pairs nor,
        but for sets so small that a part would have fewer than `MIN_PART` pairs, on the others.
    """
    members: defaultdict[str, list[int]] = defaultdict(list)
    for row, concept in enumerate(concepts):
        members[concept].append(row)
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    for concept in sorted(members, key=position):
        place = position(concept)
        if place < test_fraction or len(test) < MIN_PART:
            test += members[concept]
        elif place < test_fraction + val_fraction or len(validation) < MIN_PART:
            validation += members[concept]
        else:
            train += members[concept]
    if len(train) < MIN_PART:
        raise DataError(
            f"{len(members)} concepts over {len(concepts)} pairs give {len(train)} training,"
            f" {len(validation)} validation and {len(test)} test pairs; each needs {MIN_PART}."
            " Name finer concepts or leave the column concept out;"
            " or lower data.val_fraction and data.test_fraction."
        )
    return np.sort(np.array(train)), np.sort(np.array(validation)), np.sort(np.array(test))


def to_experiment(own: OwnPairs, config: DataConfig, *, public: PublicSource, name: str) -> Experiment:
    """The experiment of a user's pairs.

    Args:
        own: The pairs.
        config: ``val_fraction``, ``test_fraction`` and ``strict`` are used.
        public: Public source images.
        name: Name of the data set.

    Raises:
        DataError: There are too few concepts to split, or the test targets all look like training
            targets.
    """
    train, validation, test = split_rows(
        own.concepts(), val_fraction=config.val_fraction, test_fraction=config.test_fraction
    )
    strict = _strict_rows(own, train, test) if config.strict else test
    return Experiment(
        name=name,
        kind="user",
        public=public,
        train=own.data.take(train),
        train_owner=own.labels("owner").take(train),
        train_labels=own.labels("label").take(train),
        train_subgroup=own.labels("subgroup").take(train),
        validation=_held_out(own, validation),
        test=_held_out(own, test),
        test_strict=_held_out(own, strict),
        train_ids=tuple(own.ids[row] for row in train),
        train_concept=own.labels("concept").take(train) if "concept" in own.columns else None,
    )


def _held_out(own: OwnPairs, rows: Rows) -> HeldOut:
    """Pairs at ``rows`` with the labellings that the user gave."""
    data = own.data.take(rows)
    given = {"group": "label", "concept": "concept"}
    labels = {name: own.labels(column).take(rows) for name, column in given.items() if column in own.columns}
    labelled = LabelledTarget(target=data.target, labels=labels)
    return HeldOut(pairs=data, labelled=labelled, ids=tuple(own.ids[row] for row in rows))


def _strict_rows(own: OwnPairs, train: Rows, test: Rows) -> Rows:
    """Rows of ``test`` whose target looks like none of ``train``."""
    novel = test[~near_duplicates(own.data.target[test], own.data.target[train])]
    if len(novel) < MIN_PART:
        raise DataError(
            f"{len(test) - len(novel)} of {len(test)} test targets have a correlation above 0.9 to a training"
            " target. Name the column concept in pairs.csv, so that look-alikes share a concept,"
            " or set data.strict to false."
        )
    return np.asarray(novel)
