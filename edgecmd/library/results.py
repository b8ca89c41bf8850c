"""What training returns: the student, its scores, and the privacy guarantee for the pairs.

Shapes: N examples, D embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgecmd.arguments import refuse_other, refuse_seed
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.files import read_json
from edgecmd.core.seeding import numpy_generator
from edgecmd.core.statistics import SHARE, mean_interval
from edgecmd.data.modalities.table import input_shape, modality_of
from edgecmd.data.pairs import PairedData
from edgecmd.evaluation.metrics import Embedding, embed_target, knn_predict, linear_predict, recall, unit_rows
from edgecmd.library.data import Labelled
from edgecmd.library.task import Task
from edgecmd.models.students import Student
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.run import Run
from edgecmd.settings import DistillConfig

NUM_FOLDS = 5
NUM_NEIGHBOURS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scores of a student on labelled examples.

    Attributes:
        recall_at_1: Share of the examples whose nearest neighbour is right. With sources: the nearest source
            in the teacher's space is the example's own. Without: the nearest other example has its class.
        recall: ``recall@1``, ``recall@5``, ... likewise, as long as there are more things to find.
        knn: Accuracy of five nearest neighbours, with each example left out in turn.
        linear: Accuracy of a linear probe, the mean over five folds.
        linear_interval: 95% interval of ``linear`` over the folds.
        num: Number of examples.
        num_classes: Number of classes among them.
        chance: Share of the largest class: the accuracy of always guessing it.
    """

    recall_at_1: float
    recall: Mapping[str, float]
    knn: float
    linear: float
    linear_interval: tuple[float, float] | None
    num: int
    num_classes: int
    chance: float

    def __str__(self) -> str:
        return (
            f"R@1 {self.recall_at_1:.3f}  kNN {self.knn:.3f}  linear {self.linear:.3f}"
            f"  (chance {self.chance:.3f}; {self.num} examples of {self.num_classes} classes)"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Origin:
    """What a trained student remembers about how it was made.

    Attributes:
        task: The task it was distilled on.
        seed: Seed of the run.
        run: The federation that made it; None if it was distilled in one place.
        privacy: Content of ``privacy.json``; empty without privacy.

    Guarantees:
        Copies of the student share it; a pickle of the student leaves it out, since it would contain the
        pairs.
    """

    task: Task
    seed: int = 0
    run: Run | None = None
    privacy: Mapping[str, Any] = field(default_factory=dict)

    def __deepcopy__(self, memo: object) -> "Origin":
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()


def origin_of(student: nn.Module, task: Task | None) -> Origin:
    """What a student was distilled on: ``task`` where it is given, else what the student remembers.

    Raises:
        ConfigError: Neither is there.
    """
    known = getattr(student, "origin", None)
    if task is not None:
        refuse_other("task", task, Task, what="an edgecmd.Task")
        return replace(known, task=task) if isinstance(known, Origin) else Origin(task=task)
    if not isinstance(known, Origin):
        raise ConfigError(
            f"This {type(student).__name__} does not record which inputs it takes. Give the task too:"
            " task=..."
        )
    return known


def evaluate(student: nn.Module, labelled: Labelled, *, task: Task | None = None, seed: int = 0) -> Scores:
    """Evaluate a student on labelled examples that no client saw.

    Args:
        student: (B, C, H, W) to (B, D).
        labelled: At least two classes with two examples each; with sources, retrieval is across modalities.
        task: Defines how targets become inputs; its teacher embeds the sources. None: the task that the
            student was distilled on.
        seed: Seed of the folds.

    Raises:
        DataError: There are fewer than two classes, or a class has only one example; or the examples are not
            of the same kind as the task's targets.
        ConfigError: The student was not distilled here, and no task is given.
    """
    refuse_seed(seed)
    for name, made, wanted in (("student", student, nn.Module), ("labelled", labelled, Labelled)):
        if not isinstance(made, wanted):
            raise ConfigError(
                f"{name} is of type {type(made).__name__}; allowed is a {wanted.__name__}. For a result,"
                " give result.student."
            )
    task = origin_of(student, task).task
    classes = labelled.classes().labels["group"].values
    counts = np.bincount(classes[classes >= 0])
    if len(counts) < 2 or counts.min() < 2:
        raise DataError(
            f"labelled has {len(counts)} classes, the smallest with {min(counts, default=0)} examples; at"
            " least two classes with two examples each are needed."
        )
    for half in ("target", "source"):
        held, known = getattr(labelled, half), getattr(task.data.train, half)
        if held is not None and (held.dtype, held.shape[1:]) != (known.dtype, known.shape[1:]):
            raise DataError(
                f"labelled.{half} is {held.dtype} of shape {held.shape[1:]} each, but the task's {half}s are"
                f" {known.dtype} of shape {known.shape[1:]}. Read both with the same size."
            )
    found = embed_target(student, labelled.target, offset=task.target_offset, scale=task.target_scale)
    width = task.teacher_dim if labelled.source is not None else found.shape[-1]
    if found.ndim != 2 or found.shape[1] != width or not np.isfinite(found).all():
        raise DataError(
            f"The student gives {found.shape} for {len(labelled)} examples, or numbers that are not finite;"
            f" allowed is ({len(labelled)}, {width}). Train it on this task first."
        )
    ranks = _across(found, labelled, task) if labelled.source is not None else _within(found, classes)
    folds = numpy_generator(seed, "folds").permutation(len(found)) % NUM_FOLDS
    accuracies = [_probe(found, classes, folds == fold) for fold in range(NUM_FOLDS)]
    told = mean_interval(accuracies, bounds=SHARE, num_items=len(found))
    low, high = getattr(told, "low", None), getattr(told, "high", None)
    return Scores(
        recall_at_1=ranks["recall@1"],
        recall=ranks,
        knn=_left_out(found, classes),
        linear=float(np.mean(accuracies)),
        linear_interval=None if low is None or high is None else (float(low), float(high)),
        num=len(found),
        num_classes=len(counts),
        chance=float(counts.max() / counts.sum()),
    )


def embed_with(student: nn.Module, task: Task, target: np.ndarray) -> Embedding:
    """Unit embeddings of stored targets, (N, D), scaled as the task defines."""
    known = task.data.train.target
    same = modality_of(target).name == task.modality and input_shape(target)[0] == task.in_channels
    if not same or not len(target):
        raise DataError(
            f"target is {target.dtype} of shape {target.shape}, and the task's targets are {known.dtype} of"
            f" shape {known.shape[1:]} each. Give one or more of these."
        )
    return unit_rows(embed_target(student, target, offset=task.target_offset, scale=task.target_scale))


def _across(found: Embedding, labelled: Labelled, task: Task) -> dict[str, float]:
    """Recall of each example's own source among all."""
    assert labelled.source is not None
    pairs = PairedData(source=labelled.source, target=labelled.target)
    return recall(found, task.teacher.embed(pairs.source))


def _within(found: Embedding, classes: np.ndarray) -> dict[str, float]:
    """Share of the examples that have one of their class among the k nearest others."""
    similarity = found @ found.T
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
    right = classes[order] == classes[:, None]
    return {f"recall@{k}": float(right[:, :k].any(axis=1).mean()) for k in (1, 5, 10) if k < len(found)}


def _left_out(found: Embedding, classes: np.ndarray) -> float:
    """Accuracy of the nearest neighbours, each example left out in turn."""
    rows = np.arange(len(found))
    right = [
        knn_predict(found[rows != row], classes[rows != row], found[[row]], NUM_NEIGHBOURS)[0] == classes[row]
        for row in rows
    ]
    return float(np.mean(right))


def _probe(found: Embedding, classes: np.ndarray, held: np.ndarray) -> float:
    """Accuracy on one fold of a linear probe that was fitted on the others."""
    if not held.any() or len(np.unique(classes[~held])) < 2:
        return float("nan")
    return float((linear_predict(found[~held], classes[~held], found[held], 1) == classes[held]).mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Distilled:
    """A student that was distilled in one place.

    Attributes:
        task: The task it was distilled on.
        student: The trained student, in evaluation mode; inputs (B, C, H, W), outputs (B, D).
        settings: The training settings.
        loss: Mean loss of the last steps.
        seed: Seed of the run.
    """

    task: Task
    student: Student
    settings: DistillConfig
    loss: float
    seed: int

    def __post_init__(self) -> None:
        self.student.origin = self._origin()

    def _origin(self) -> Origin:
        return Origin(task=self.task, seed=self.seed)

    def evaluate(self, labelled: Labelled) -> Scores:
        """Scores of the student, see `edgecmd.evaluate`."""
        return evaluate(self.student, labelled, task=self.task, seed=self.seed)

    def embed(self, target: np.ndarray) -> Embedding:
        """Unit embeddings of stored targets, (N, D)."""
        return embed_with(self.student, self.task, target)


@dataclass(frozen=True, kw_only=True, eq=False)
class Federated(Distilled):
    """A student that was distilled over clients.

    Attributes:
        run: The run, for audits.
        folder: Run folder; None if it was temporary.
        history: Mean loss of each round that this call ran; NaN under privacy, where it is not reported.
        plan: The privacy plan; None without privacy.
        privacy: Content of ``privacy.json``; empty without privacy.
    """

    run: Run
    folder: Path | None
    history: Sequence[float] = ()
    plan: PrivacyPlan | None = None
    privacy: Mapping[str, Any] = field(default_factory=dict)

    def _origin(self) -> Origin:
        return Origin(task=self.task, seed=self.seed, run=self.run, privacy=self.privacy)

    @classmethod
    def of(
        cls, run: Run, student: Student, *, task: Task, kept: bool, history: Sequence[float]
    ) -> "Federated":
        """The result of a finished run whose folder still exists."""
        told = run.folder / "privacy.json"
        return cls(
            task=task,
            student=student.eval(),
            settings=run.distill,
            loss=history[-1] if history else float("nan"),
            seed=run.seed,
            run=run,
            folder=run.folder if kept else None,
            history=tuple(history),
            plan=run.plan,
            privacy=read_json(told) if told.exists() else {},
        )

    @property
    def epsilon(self) -> float:
        """Epsilon of everything that was released; infinite without a guarantee."""
        return float(self.privacy["epsilon"]) if self.privacy.get("private") else float("inf")

    @property
    def statement(self) -> str:
        """The guarantee in words: epsilon and delta, for which unit, under which relation, against whom."""
        if self.plan is None:
            return "No privacy was requested: nothing bounds what the student reveals about a pair."
        if not self.privacy.get("private"):
            return " ".join(str(one) for one in self.privacy.get("warnings", ())) or "NOT PRIVATE."
        said = self.privacy
        return (
            f"epsilon = {said['epsilon']:.4g} at delta = {said['delta']:g}, for each {said['unit']}"
            f" ({said['relation']}), against {said['against']}."
        )

    def require_folder(self) -> Path:
        """The run folder.

        Raises:
            ConfigError: It was temporary and is gone.
        """
        if self.folder is None:
            raise ConfigError(
                "This run's folder was temporary and is gone. Name one: federate(..., out='runs/mine')."
            )
        return self.folder
