"""Emergent retrieval: targets of two students that share a teacher and were never paired.

A student of strings and one of drawings both learnt to be near the same teacher's features of images. So a
string may find the drawing of what it names, though no pair of a string and a drawing was ever seen (as for
the modalities of ImageBind, Girdhar et al. 2023, arXiv 2305.05665). Measured over things that neither
training set shows.

Shapes: N examples, C things, D embedding dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse import csr_array

from edgecmd.core.errors import DataError
from edgecmd.core.text import counted
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.data.labelled import UNLABELLED, Labels
from edgecmd.evaluation.evaluate import Embed, finite
from edgecmd.evaluation.metrics import RECALL_AT, Embedding, by_thing, chance, rank_of_right, unit_rows
from edgecmd.training.task import Task

CONCEPT = "concept"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Half:
    """One student, and the test targets that it is asked for.

    Attributes:
        task: Its data and teacher.
        embed: Targets as they are stored to unit embeddings.
    """

    task: Task
    embed: Embed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Side:
    """Test targets of one run that show things which both runs test and neither trains on.

    Attributes:
        embedding: The student's, unit rows, (N, D).
        teacher: The teacher's of the same pairs' sources, unit rows, (N, D).
        shows: Which things each shows, (N, C).
    """

    embedding: Embedding
    teacher: Embedding
    shows: Bool[np.ndarray, "num things"]


def emergent_retrieval(first: Half, second: Half, *, ranks: Sequence[int] = RECALL_AT) -> dict[str, Any]:
    """How often targets of one run find those of another of the same thing among its nearest.

    Things are ranked, each by the nearest of its targets; equal ones come before the right one. Things have a
    name in both sets: the labelling ``concept``, or the names of a gallery. Those that training pairs of
    either run show are left out, as questions and as answers.

    Args:
        first: Whose targets ask.
        second: Whose targets are found.
        ranks: How many nearest things are looked at.

    Returns:
        ``num_things``, ``num_asked``, ``num_among`` (targets of the second); recall by row: ``students``,
        ``teacher_asks`` (the teacher's feature of the source takes the place of the asking target: what the
        second student allows), ``teacher_answers`` (the same of those that are found: what the first allows),
        and ``chance``, a random order of the things.

    Raises:
        DataError: The teachers differ, a set does not say what its pairs show, or fewer than two things are
            left.
    """
    if first.task.teacher.sha256 != second.task.teacher.sha256:
        raise DataError(
            f"The runs have different teachers ({first.task.teacher.sha256[:12]} and"
            f" {second.task.teacher.sha256[:12]}), so their embeddings have nothing in common. Distil both"
            " from the same teacher."
        )
    names = _shared_unseen(first.task.data, second.task.data)
    asks, among = _side(first, names), _side(second, names)
    rows = {
        "students": (asks.embedding, among.embedding),
        "teacher_asks": (asks.teacher, among.embedding),
        "teacher_answers": (asks.embedding, among.teacher),
    }
    found: dict[str, Any] = {
        "num_things": len(names),
        "num_asked": len(asks.shows),
        "num_among": len(among.shows),
    }
    for name, (question, answer) in rows.items():
        rank = rank_of_right(_best_of_things(question @ answer.T, among.shows), asks.shows)
        found[name] = {f"recall@{at}": float(np.mean(rank <= at)) for at in ranks}
    return found | {"chance": chance(asks.shows.sum(axis=1), len(names), ranks=ranks)}


def _best_of_things(
    similarity: Float[np.ndarray, "asked among"], shows: Bool[np.ndarray, "among things"]
) -> Float[np.ndarray, "asked things"]:
    """Similarity to the nearest target of each thing; a target that shows several counts for each."""
    row, thing = np.nonzero(shows)
    return by_thing(similarity[:, row], thing)


def _side(half: Half, names: Sequence[str]) -> Side:
    """The test targets of one run that show some of ``names``."""
    held = half.task.data.test
    own, right = _shown(half.task.data.name, held)
    place = {name: index for index, name in enumerate(own)}
    shows = right[:, [place[name] for name in names]].toarray().astype(bool)
    rows = np.flatnonzero(shows.any(axis=1))
    embedding = finite(half.embed(held.pairs.target[rows]))
    teacher = unit_rows(half.task.held_out_features("test")[rows])
    return Side(embedding=embedding, teacher=teacher, shows=shows[rows])


def _shared_unseen(first: Experiment, second: Experiment) -> tuple[str, ...]:
    """Names of things that both test sets show and neither training set, sorted.

    Raises:
        DataError: Fewer than two.
    """
    tested = [_tested(one) for one in (first, second)]
    trained = [_trained(one) for one in (first, second)]
    both = tested[0] & tested[1]
    left = sorted(both - trained[0] - trained[1])
    if len(left) < 2:
        raise DataError(
            f"The test sets of {first.name!r} and {second.name!r} have {counted(len(both), 'thing')} in"
            f" common, of which {len(left)} are in no training pair; at least 2 are needed. Split both by"
            " what the pairs show (data.split='concept'), with equal names for equal things."
        )
    return tuple(left)


def _tested(whole: Experiment) -> frozenset[str]:
    names, right = _shown(whole.name, whole.test)
    return frozenset(names[index] for index in np.unique(right.indices))


def _trained(whole: Experiment) -> frozenset[str]:
    """Names of what training pairs show.

    Raises:
        DataError: It is not known.
    """
    if whole.train_concept is None:
        raise DataError(
            f"The set {whole.name!r} does not say what its training pairs show, so nothing can be said about"
            f" things that they do not show. Give it a column {CONCEPT!r}."
        )
    return _names_of(whole.train_concept)


def _names_of(labels: Labels) -> frozenset[str]:
    codes = np.unique(labels.values)
    return frozenset(labels.names[code] for code in codes[codes != UNLABELLED])


def _shown(name: str, held: HeldOut) -> tuple[tuple[str, ...], csr_array]:
    """Names of things, and which of them each held-out example shows, (N, names).

    Raises:
        DataError: The set does not say.
    """
    if held.gallery is not None and held.gallery.names:
        return held.gallery.names, held.gallery.right
    labels = held.labelled.labels.get(CONCEPT)
    if labels is None:
        raise DataError(
            f"The set {name!r} does not say what its test pairs show, so nothing in another set can be the"
            f" same. Give it a column {CONCEPT!r}."
        )
    rows = np.flatnonzero(labels.values != UNLABELLED)
    cells = (np.ones(len(rows), dtype=bool), (rows, labels.values[rows]))
    return labels.names, csr_array(cells, shape=(len(held), len(labels.names)))
