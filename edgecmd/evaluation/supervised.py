"""Baseline without distillation: the same student trained from scratch on the few labels alone.

Shapes: N examples, D embedding dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.augment import augment
from edgecmd.data.labelled import Labels
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.stored.array_files import chosen
from edgecmd.evaluation.metrics import draw_labels, known
from edgecmd.losses import unit
from edgecmd.models.devices import device_of, forward, place
from edgecmd.run import Run
from edgecmd.training.distill import Inputs, LazyTensor, taken
from edgecmd.training.optimise import mean_gradient, one_cycle, optimise

NUM_STEPS = 200
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
# Inputs (N, C, H, W) and their classes, (N,).
# The first axis is anonymous: what is learnt from and what is asked differ in length.
Part = tuple[Float[Tensor, "_ channels height width"] | LazyTensor, np.ndarray]
Fit = Callable[[Inputs, np.ndarray], nn.Module]
"""Makes of inputs and their classes, from 0, what gives scores of those classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        num_steps: Optimiser steps of AdamW, the learning rate by a one-cycle schedule.
        batch_size: Examples per step; of fewer labels all are used.
        learning_rate: Peak.
    """

    num_steps: int = NUM_STEPS
    batch_size: int = BATCH_SIZE
    learning_rate: float = LEARNING_RATE


DEFAULT_RECIPE = Recipe()


class Classifier(nn.Module):
    """A student with a linear layer on its unit embedding, scaled as a probe would be."""

    def __init__(self, student: nn.Module, *, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        self.student = student
        self.head = nn.Linear(embedding_dim, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Scores of each class, (B, classes)."""
        return self.head(unit(self.student(image)) * 10.0)  # type: ignore[no-any-return]


def scratch_accuracy(
    run: Run, *, labelling: str, num_labels: int, draw: int, recipe: Recipe = DEFAULT_RECIPE
) -> float:
    """Test accuracy of a student trained on one draw of labels, the draw that the probes see too.

    Args:
        run: Settings of the run.
        labelling: Labelling of the data set, such as ``group``.
        num_labels: Labels per class; 0 for all.
        draw: Index of the draw.
        recipe: Steps, batch and learning rate.
    """
    fit = partial(fit_classifier, run, draw=draw, recipe=recipe)
    return accuracy_of_draw(run, fit, labelling=labelling, num_labels=num_labels, draw=draw)


def accuracy_of_draw(
    run: Run,
    fit: Fit,
    *,
    labelling: str,
    num_labels: int,
    draw: int,
) -> float:
    """Test accuracy of what ``fit`` makes of one draw of labels, on the test items of the classes drawn.

    Args:
        run: Settings of the run.
        fit: Takes inputs (N, C, H, W) and their classes from 0, (N,); gives scores of those classes.
        labelling: Labelling of the data set, such as ``group``.
        num_labels: Labels per class; 0 for all.
        draw: Index of the draw.
    """
    whole = run.task.data
    pool, test = whole.validation.labelled.labels[labelling], whole.test.labelled.labels[labelling]
    rows, _ = drawn_rows(pool, num_labels=num_labels, draw=draw, seed=run.seed, twins=whole.validation.twins)
    target = run.task.inputs(chosen(whole.validation.pairs.target, rows))
    shown = run.task.inputs(whole.test.pairs.target)
    return accuracy_of(fit, (target, pool.values[rows]), (shown, test.values))


def accuracy_of(fit: Fit, pool: Part, test: Part) -> float:
    """Share of ``test`` that what ``fit`` makes of ``pool`` gets right, of the classes that ``pool`` has.

    Args:
        fit: As in `accuracy_of_draw`.
        pool: Inputs and classes to learn from.
        test: Inputs and classes to be told.
    """
    (target, values), (shown, wanted) = pool, test
    classes = np.unique(values)
    model = fit(target, np.searchsorted(classes, values))
    asked = np.isin(wanted, classes)
    predicted = predict_classes(model, taken(shown, np.flatnonzero(asked)))
    return float((classes[predicted] == wanted[asked]).mean())


def num_asked(run: Run, labelling: str) -> int:
    """Test items that carry ``labelling``, which bear the interval of an accuracy."""
    return int(known(run.task.data.test.labelled.labels[labelling]).sum())


def drawn_rows(
    pool: Labels, *, num_labels: int, draw: int, seed: int, twins: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pool that are labelled, and the classes among them; as in `metrics.probe_accuracy`."""
    labelled = np.flatnonzero(known(pool))
    generator = numpy_generator(seed, f"labels-{num_labels}", client=draw)
    copies = None if twins is None else twins[labelled]
    rows = labelled[
        draw_labels(pool.values[labelled], num_labels=num_labels, generator=generator, twins=copies)
    ]
    return rows, np.unique(pool.values[rows])


def fit_classifier(
    run: Run,
    target: Inputs,
    labels: Int[np.ndarray, " num"],
    *,
    draw: int,
    recipe: Recipe = DEFAULT_RECIPE,
) -> Classifier:
    """A new student with a linear head, all layers trained on labelled targets alone.

    Args:
        run: Student, seed and strength of the augmentation.
        target: Inputs, (N, C, H, W).
        labels: Their classes, from 0, (N,).
        draw: Index of the draw of labels; batches and views follow from it.
        recipe: Steps, batch and learning rate.
    """
    student = run.new_student()
    num_classes = int(labels.max()) + 1
    model = Classifier(student, embedding_dim=student.embedding_dim, num_classes=num_classes)
    place(model, device_of(student))
    classes = torch.from_numpy(labels).to(target.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=1e-2)
    schedule = one_cycle(optimizer, peak=recipe.learning_rate, num_steps=recipe.num_steps)
    rows = numpy_generator(run.seed, "scratch-batches", client=draw)
    views = torch_generator(run.seed, "scratch-views", client=draw, device=target.device)
    kind = modality_of(run.task.data.train.target).name
    size = min(recipe.batch_size, len(target))

    def gradient(_: int) -> Tensor:
        batch = torch.from_numpy(rows.choice(len(target), size=size, replace=False))
        view = augment(kind, target[batch], strength=run.distill.augment, generator=views)
        return mean_gradient(
            functional.cross_entropy(forward(model, view, run.distill.precision), classes[batch])
        )

    model.train()
    optimise(optimizer, recipe.num_steps, gradient=gradient, schedule=schedule)
    return model


@torch.no_grad()
def predict_classes(model: nn.Module, target: Inputs) -> np.ndarray:
    """Index of the best class of each input, (N,)."""
    model.eval()
    device, starts = device_of(model), range(0, len(target), 256)
    scores = torch.cat([model(target[start : start + 256].to(device)) for start in starts])
    return scores.argmax(dim=1).cpu().numpy()
