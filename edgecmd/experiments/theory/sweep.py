"""One point of the sweep: a world with a gap, a student trained in it, its distance and its target error.

Shapes: N examples, D embedding dimension.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import DataError
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.data.labelled import Labels
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import PairedData
from edgecmd.evaluation.metrics import (
    Embedding,
    Probe,
    accuracies,
    draw_labels,
    fit_linear,
    make_probe,
    probe_accuracy,
)
from edgecmd.experiments.theory.distance import Distance, Relations, fit_temperature, measure
from edgecmd.experiments.theory.gaps import MISMATCH, degrade, mismatched
from edgecmd.run import Run
from edgecmd.training.distill import LocalData, Place, distil, make_optimizer
from edgecmd.training.task import Task

NO_GAP = "none"
FEW = 10
TIMED_STEPS = 4
FAST_SIDE, FAST_BATCH = 32, 128


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPlan:
    """What every point of a sweep shares.

    Attributes:
        num_steps: Optimiser steps of each student.
        batch_size: Pairs per step.
        num_pairs: Training pairs where they are not varied.
        num_labels: Labels per class; 0 for all.
        num_draws: Draws of the labels.
        relation_batch: Pairs whose relations are compared at a time.
    """

    num_steps: int
    batch_size: int
    num_pairs: int
    num_labels: tuple[int, ...] = (1, 2, 5, FEW, 20, 0)
    num_draws: int = 10
    relation_batch: int = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Position of one student in the sweep.

    Attributes:
        gap: A name of `edgecmd.experiments.theory.gaps.gap_names`, or ``none``.
        level: From 0 to 1.
        seed: Of weights, batches, pairs and labels.
        num_pairs: Training pairs, M.
    """

    gap: str
    level: float
    seed: int
    num_pairs: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.gap}-{self.level:.3f}-pairs-{self.num_pairs}-seed-{self.seed}"


def cheap(config: RunConfig, whole: Experiment) -> RunConfig:
    """The same data with a small student and, where there are pixels, 32 a side: minutes instead of hours.

    Args:
        config: Settings of the run.
        whole: The data that they name.
    """
    modality = modality_of(whole.train.target)
    data = config.data
    if modality.motion is not None and data.image_size > FAST_SIDE:
        data = replace(data, image_size=FAST_SIDE, source_size=data.source_side)
    student = replace(config.student, architecture=modality.cheap_student, path="")
    return replace(config, data=data, student=student)


def plan_sweep(run: Run, *, fast: bool) -> SweepPlan:
    """Steps, batch and pairs: those of central training, or cheap ones."""
    train = run.task.data.train
    num_train = len(train)
    if fast:
        modality = modality_of(train.target)
        num_pairs = min(num_train, modality.cheap_pairs)
        return SweepPlan(num_steps=modality.cheap_steps, batch_size=FAST_BATCH, num_pairs=num_pairs)
    federation = run.federation
    return SweepPlan(
        num_steps=federation.num_rounds * federation.local_steps,
        batch_size=run.distill.batch_size * federation.answers_a_round,
        num_pairs=num_train,
    )


def sweep_points(
    plan: SweepPlan, *, gaps: tuple[str, ...], num_levels: int, seeds: Iterable[int]
) -> list[Point]:
    """Every point: the world without a gap once, each gap at the other levels, and fewer and fewer pairs."""
    levels = [float(level) for level in np.linspace(0.0, 1.0, num_levels)[1:]]
    places = [
        (NO_GAP, 0.0, plan.num_pairs),
        *((gap, level, plan.num_pairs) for gap in gaps for level in levels),
    ]
    places += [(NO_GAP, 0.0, num) for num in fewer_pairs(plan)]
    return [
        Point(gap=gap, level=level, seed=seed, num_pairs=num) for seed in seeds for gap, level, num in places
    ]


def fewer_pairs(plan: SweepPlan) -> list[int]:
    """Numbers of pairs below all of them, each half of the one before, down to a 32nd."""
    return [num for num in (plan.num_pairs >> shift for shift in range(1, 6)) if num >= 8]


def seconds_a_point(run: Run, plan: SweepPlan) -> float:
    """About how long a point takes here: a few optimiser steps, timed, times their number."""
    train = run.task.data.train.take(np.arange(min(plan.num_pairs, plan.batch_size)))
    data = LocalData(
        target=run.task.inputs(train.target),
        teacher=torch.ones(len(train), run.new_student().embedding_dim),
        modality=modality_of(train.target).name,
    )
    # The first step of a process, and the teacher's features of the anchors, cost more than all others.
    _trained(run, data, replace(plan, num_steps=1))
    started = time.monotonic()
    _trained(run, data, replace(plan, num_steps=TIMED_STEPS))
    return (time.monotonic() - started) / TIMED_STEPS * plan.num_steps


def measure_point(run: Run, plan: SweepPlan, point: Point) -> dict[str, Any]:
    """Train the student of one point, and measure its distance and its errors.

    Args:
        run: With the point's seed.
        plan: What all points share.
        point: This one.

    Returns:
        A plain table: ``distances`` by form of the relations, each on held-out and on training pairs,
        ``error`` by labels per class (mean over the draws, beside the number of labels in all), the norm of
        the head and the mean loss.

    Raises:
        DataError: The data have no labels, or too few held-out pairs.
    """
    task = run.task
    whole = task.data
    rows = numpy_generator(point.seed, "theory-pairs").permutation(len(whole.train))[: point.num_pairs]
    features = task.training_features[torch.from_numpy(rows)]
    train = _world(task, whole.train.take(rows), features, point=point, part=0)
    held, pool = (
        _world(task, one.pairs, task.pair_features(one.pairs, one.ids), point=point, part=part)
        for part, one in ((1, whole.test), (2, whole.validation))
    )
    student, loss = _trained(run, train, plan)
    seen = LocalData(
        target=train.target[: len(held)], teacher=train.teacher[: len(held)], modality=train.modality
    )
    table = {
        "point": asdict(point),
        "loss": loss,
        "distances": {
            relations.form: {
                "held_out": asdict(_distance(student, held, relations, seed=point.seed)),
                "training": asdict(_distance(student, seen, relations, seed=point.seed)),
            }
            for relations in _relations(student, pool, run, plan)
        },
    }
    probe = _probe(whole.validation, _embed(student, pool), whole.test, _embed(student, held))
    return table | _errors(probe, plan, seed=point.seed)


def _world(task: Task, pairs: PairedData, features: Tensor, *, point: Point, part: int) -> LocalData:
    """Pairs of one part as they are in the world of ``point``."""
    coins = numpy_generator(point.seed, f"gap-{point.gap}", client=part)
    if point.gap == MISMATCH:
        rows = mismatched(len(pairs), share=point.level, generator=coins)
        features = features[torch.from_numpy(rows)]
    elif point.gap != NO_GAP:
        target = degrade(
            pairs.target,
            gap=point.gap,
            level=point.level,
            generator=coins,
            rate_hz=task.sampling_rate_hz,
        )
        pairs = PairedData(source=pairs.source, target=target)
    return LocalData(
        target=task.target_input(pairs.target), teacher=features, modality=modality_of(pairs.target).name
    )


def _trained(run: Run, data: LocalData, plan: SweepPlan) -> tuple[nn.Module, float]:
    distill = replace(
        run.distill, batch_size=plan.batch_size, learning_rate=run.distill.central_learning_rate
    )
    student = run.new_student()
    place = Place(seed=run.seed, round_index=1, client=0, first_step=0, total_steps=plan.num_steps)
    loss = distil(
        student,
        data,
        run.anchors,
        distill,
        loss=run.loss,
        num_steps=plan.num_steps,
        place=place,
        optimizer=make_optimizer(student, distill),
    )
    return student.eval(), loss


@torch.no_grad()
def _embed(student: nn.Module, data: LocalData) -> Embedding:
    starts = range(0, len(data), 256)
    chunks = [student(data.target[start : start + 256]).cpu() for start in starts]
    return np.asarray(nn.functional.normalize(torch.cat(chunks), dim=1).numpy())


def _relations(student: nn.Module, pool: LocalData, run: Run, plan: SweepPlan) -> list[Relations]:
    """Within the batch and, where the student lives in the teacher's space, to anchors.

    The student's temperature is fitted on the pairs of the validation split, which nothing else uses.
    """
    within = Relations(
        batch_size=min(plan.relation_batch, len(pool) // 2),
        temperature=run.distill.temperature,
        teacher_temperature=run.distill.teacher_temperature,
    )
    forms = [within]
    if run.loss.aligns:
        forms.append(replace(within, anchors=run.anchors.cpu()))
    mine, theirs = torch.from_numpy(_embed(student, pool)), pool.features.cpu()
    return [fit_temperature(mine, theirs, one) for one in forms]


def _distance(student: nn.Module, data: LocalData, relations: Relations, *, seed: int) -> Distance:
    fitting = replace(relations, batch_size=min(relations.batch_size, len(data) // 2))
    return measure(torch.from_numpy(_embed(student, data)), data.features.cpu(), fitting, seed=seed)


def labelling_of(held: HeldOut) -> str:
    """The labelling that errors are told by: ``group``, or the first that there is.

    Raises:
        DataError: The data have no labels.
    """
    labels = held.labelled.labels
    if not labels:
        raise DataError(
            "The data have no labels, so there is no target error. Add labels, or use `edgecmd distance`,"
            " which needs none."
        )
    return "group" if "group" in labels else next(iter(labels))


def _probe(validation: HeldOut, pool: Embedding, test: HeldOut, embedding: Embedding) -> Probe:
    name = labelling_of(test)
    labels: tuple[Labels, Labels] = (validation.labelled.labels[name], test.labelled.labels[name])
    return make_probe(pool, labels[0], embedding, labels[1])


def _errors(probe: Probe, plan: SweepPlan, *, seed: int) -> dict[str, Any]:
    """Error of the linear probe by labels per class, with the labels in all and the norm of the head."""
    error, total = {}, {}
    accuracy = probe_accuracy(probe, method="linear", num_neighbours=1, seed=seed)
    for count in plan.num_labels:
        rows = draw_labels(
            probe.pool_labels, num_labels=count, generator=np.random.default_rng(0), twins=probe.twins
        )
        error[str(count or "all")] = 1.0 - float(
            np.mean(accuracies(accuracy, count, num_draws=plan.num_draws))
        )
        total[str(count or "all")] = len(rows)
    head = fit_linear(probe.pool, probe.pool_labels)
    return {"error": error, "num_labels": total, "head_norm": float(np.linalg.norm(head.coef_))}
