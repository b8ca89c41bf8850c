"""One grid of learning rates and temperatures for all methods, the choice made on the validation split.

The criterion is the few-label probe within the validation split: k labels per class are drawn, the other
validation examples, but for those of the concepts that were drawn, are classified. It asks what a method is
for, it is defined for every method alike (retrieval is not: a loss that only fits relations lives in a
rotated space), and it does not look at the test split. It does use labels, so "label-free" is how a method
trains, not how its numbers were chosen.

Every method makes as many trials: one without a temperature tries as many learning rates instead.

Shapes: N examples, D embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, nearest
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.experiment import Experiment
from edgecmd.evaluation.metrics import Embedding, draw_labels, known, linear_predict
from edgecmd.experiments.compare.methods import loss_row
from edgecmd.settings import DistillConfig

RATES = (3e-3, 1e-2, 3e-2)
LABELLING = "group"
NUM_DRAWS = 20
# What else than the probe a rate can be chosen by: retrieval on the validation split.
CHOICES = ("recall@1", "recall@5", "recall@10", "class_recall@1")


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Trial:
    """One point of a method's grid.

    Attributes:
        rate: Peak learning rate; 0 for that of the settings.
        temperature: 0 for those of the settings.
    """

    rate: float = 0.0
    temperature: float = 0.0

    @property
    def suffix(self) -> str:
        """What the name of a result has of it."""
        temperature = f"-t{self.temperature:g}" if self.temperature else ""
        return (f"-lr{self.rate:g}" if self.rate else "") + temperature

    def applied(self, config: RunConfig) -> RunConfig:
        """``config`` with its rate, federated and central, and its temperature on both sides of a loss."""
        distill = config.distill
        if self.rate:
            distill = replace(distill, learning_rate=self.rate, central_learning_rate=self.rate)
        if self.temperature:
            one = self.temperature
            distill = replace(distill, temperature=one, teacher_temperature=one, baseline_temperature=one)
        return replace(config, distill=distill)


def read_temperatures(text: str) -> tuple[float, ...]:
    """Temperatures of ``--temperatures``, each once; empty for none.

    Raises:
        ConfigError: One is not a number, or none that ``distill.temperature`` may be.
    """
    found = _numbers(text)
    if text and not found:
        raise ConfigError(f"--temperatures={text!r} must be numbers such as 0.05,0.1,0.2.")
    for one in found:
        DistillConfig(temperature=one)
    return tuple(dict.fromkeys(found))


def read_rates(text: str) -> tuple[float, ...]:
    """Learning rates of ``--rates``, each once and in ascending order; empty for none.

    Raises:
        ConfigError: One is not a number above 0, or none that ``distill.learning_rate`` may be.
    """
    found = _numbers(text)
    if text and (not found or min(found) == 0.0):
        raise ConfigError(f"--rates={text!r} must be numbers above 0 such as 0.03,0.1,0.3.")
    for one in found:
        DistillConfig(learning_rate=one)
    return tuple(sorted(set(found)))


def _numbers(text: str) -> list[float]:
    """Numbers between commas; none where one of them is no number."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        return []


def check_choice(metric: str) -> None:
    """Refuse a metric that no learning rate can be chosen by.

    Raises:
        ConfigError: It is neither a retrieval metric nor a few-label one.
    """
    if metric not in CHOICES and not few_labels_of(metric):
        raise ConfigError(f"--choose-by={metric!r}. {nearest(metric, [*CHOICES, 'linear_<labels>'])}")


def has_temperature(method: str) -> bool:
    """Whether there is a temperature in the loss of ``method``."""
    row = loss_row(method)
    known = () if row is None else fields(row)  # type: ignore[arg-type]
    return any(one.name in ("temperature", "baseline_temperature") for one in known)


def trials_of(method: str, rates: Sequence[float], temperatures: Sequence[float]) -> list[Trial]:
    """What is tried of ``method``: every rate with every temperature, or as many rates.

    Args:
        method: A method whose learning rate is chosen.
        rates: In ascending order.
        temperatures: None: that of the settings.
    """
    if not temperatures:
        return [Trial(rate=rate) for rate in rates]
    if has_temperature(method):
        return [Trial(rate=rate, temperature=one) for rate in rates for one in temperatures]
    if len(temperatures) > 1:
        spread = np.geomspace(rates[0], rates[-1], len(rates) * len(temperatures))
        rates = [float(f"{rate:.3g}") for rate in spread]
    return [Trial(rate=rate) for rate in rates]


def best_trial(scores: Mapping[Trial, float]) -> Trial:
    """The trial with the highest score; of equal ones that with the smallest rate, then temperature."""
    return min(scores, key=lambda trial: (-scores[trial], trial))


def trial_rows(scores: Mapping[Trial, float]) -> list[dict[str, float]]:
    """All trials of a method with their scores, for the file of results."""
    return [{**asdict(trial), "validation": score} for trial, score in scores.items()]


def few_labels_of(metric: str) -> int:
    """Labels per class of a few-label metric such as ``linear_10``; 0 for any other metric."""
    start, _, count = metric.rpartition("_")
    return int(count) if start == "linear" and count.isdigit() else 0


def retrieval_score(table: Mapping[str, Any], metric: str) -> float:
    """A retrieval metric on the validation split, out of the tables of `edgecmd.evaluation.evaluate.assess`.

    Raises:
        ConfigError: The method has none: it does not live in the teacher's space, or it is not a retrieval.
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
        num_labels: Labels per class.
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
        num_labels: Labels per class.
        seed: Of the run.
    """
    values = whole.validation.labelled.labels[LABELLING].values
    scores = []
    for draw in range(NUM_DRAWS):
        drawn, rest = validation_draw(whole, num_labels=num_labels, draw=draw, seed=seed)
        predicted = linear_predict(pool[drawn], values[drawn], pool[rest], 1)
        scores.append(float((predicted == values[rest]).mean()))
    return float(np.mean(scores))
