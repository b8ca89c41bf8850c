"""One learning-rate grid for every method, the choice made on the validation split.

The criterion is the few-label probe within the validation split: k labels a class are drawn, the other
validation examples, but for those of the concepts that were drawn, are classified. It asks what a method is
for, it is defined for every method alike (retrieval is not: a loss that only fits relations lives in a
rotated space), and it does not look at the test split. It does use labels, so "label-free" is how a method
trains, not how its learning rate was chosen.

Shapes: N examples, D embedding dimension.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, nearest
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.experiment import Experiment
from edgecmd.evaluation.metrics import Embedding, draw_labels, known, linear_predict

RATES = (3e-3, 1e-2, 3e-2)
LABELLING = "group"
NUM_DRAWS = 20


def with_rate(config: RunConfig, rate: float) -> RunConfig:
    """``config`` with the peak learning rate ``rate``, federated and central."""
    distill = replace(config.distill, learning_rate=rate, central_learning_rate=rate)
    return replace(config, distill=distill)


def best_rate(scores: Mapping[float, float]) -> float:
    """The rate with the highest score; of equal ones the smallest."""
    return min(scores, key=lambda rate: (-scores[rate], rate))


def few_labels_of(metric: str) -> int:
    """Labels a class of a few-label metric such as ``linear_10``; 0 for any other metric."""
    start, _, count = metric.rpartition("_")
    return int(count) if start == "linear" and count.isdigit() else 0


def retrieval_score(table: Mapping[str, Any], metric: str) -> float:
    """A retrieval metric on the validation split, out of the tables of `edgecmd.evaluation.evaluate.assess`.

    Raises:
        ConfigError: The method has none: it does not live in the teacher's space, or it is no retrieval.
    """
    found = table.get("retrieval_validation", {})
    if metric not in found:
        raise ConfigError(
            f"A learning rate cannot be chosen by {metric!r}. {nearest(metric, [*found, 'linear_<labels>'])}"
            " Add --no-tune, or leave simclr and presimclr out."
        )
    return float(found[metric])


def validation_draw(
    whole: Experiment, *, num_labels: int, draw: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the validation split that are labelled, and those that are classified.

    A class keeps at least half of its examples to be classified, so that fewer than ``num_labels`` may be
    drawn of a rare one.

    Args:
        whole: The experiment; its validation split needs the labelling ``group``.
        num_labels: Labels a class.
        draw: Index of the draw.
        seed: Seed of the run.

    Guarantees:
        No row is in both, no copy, and no concept where the set has concepts.
    """
    labels = whole.validation.labelled.labels
    values, rows = labels[LABELLING].values, np.flatnonzero(known(labels[LABELLING]))
    rarest = int(np.unique(values[rows], return_counts=True)[1].min())
    few = max(1, min(num_labels, rarest // 2))
    generator = numpy_generator(seed, f"validation-labels-{num_labels}", client=draw)
    shown, twins = whole.validation.shown, whole.validation.twins
    copies = None if twins is None else twins[rows]
    drawn = rows[draw_labels(values[rows], num_labels=few, generator=generator, twins=copies)]
    rest = np.setdiff1d(rows, drawn)
    if "concept" in labels:
        concepts = labels["concept"].values
        rest = rest[~np.isin(concepts[rest], concepts[drawn])]
    for codes in (shown, twins):
        if codes is not None:
            rest = rest[~np.isin(codes[rest], codes[drawn])]
    return drawn, rest


def validation_score(pool: Embedding, whole: Experiment, *, num_labels: int, seed: int) -> float:
    """Mean accuracy of the linear probe within the validation split.

    Args:
        pool: Unit embeddings of the validation targets, (N, D).
        whole: The experiment.
        num_labels: Labels a class.
        seed: Of the run.
    """
    values = whole.validation.labelled.labels[LABELLING].values
    scores = []
    for draw in range(NUM_DRAWS):
        drawn, rest = validation_draw(whole, num_labels=num_labels, draw=draw, seed=seed)
        predicted = linear_predict(pool[drawn], values[drawn], pool[rest], 1)
        scores.append(float((predicted == values[rest]).mean()))
    return float(np.mean(scores))
