"""Fine-tuning beside the linear probe: all layers of a student, on the few labels alone.

Shapes: N examples, D embedding dimension, P labelled examples.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.augment import augment
from edgecmd.data.modalities.table import modality_of
from edgecmd.evaluation.metrics import class_rows, few_label_rows, fit_linear
from edgecmd.evaluation.supervised import (
    BATCH_SIZE,
    NUM_STEPS,
    Classifier,
    accuracy_of_draw,
    num_asked,
)
from edgecmd.losses import unit
from edgecmd.models.devices import device_of, place
from edgecmd.run import Run
from edgecmd.training.distill import Inputs, taken
from edgecmd.training.optimise import Best, mean_gradient, optimise

LEARNING_RATE = 3e-4
HELD_SHARE = 0.2
CHECK_EVERY, PATIENCE = 10, 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawn:
    """One draw of labels.

    Attributes:
        target: Inputs of the labelled examples, (P, C, H, W).
        labels: Their classes, from 0, (P,).
        held: Which of them are held out for early stopping, (P,); none where a class has one label.
    """

    target: Inputs
    labels: Int[np.ndarray, " drawn"]
    held: np.ndarray


def split_labels(labels: Int[np.ndarray, " drawn"], *, generator: np.random.Generator) -> np.ndarray:
    """Which labelled examples are held out: a fifth of each class, at least one where it has two.

    Args:
        labels: Class of each labelled example, (P,).
        generator: Source of randomness.

    Returns:
        True for those held out, (P,).

    Guarantees:
        Every class keeps an example to train on.
    """
    held = np.zeros(len(labels), dtype=bool)
    for one in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == one))
        held[rows[: max(1, round(HELD_SHARE * len(rows))) if len(rows) > 1 else 0]] = True
    return held


def finetune(student: nn.Module, drawn: Drawn, run: Run, *, draw: int) -> Classifier:
    """Train a copy of ``student`` with a linear head on the labels of one draw.

    The head starts as the linear probe of the labels that are trained on (Kumar et al. 2022, arXiv
    2202.10054), then all layers are trained. Every ten steps the loss on the held-out labels is looked at;
    the best weights count, those before the first step among them, and five looks without a better one end
    the training. With one label a class nothing can be held out: then the number of steps is fixed.

    Args:
        student: Encoder; not changed.
        drawn: The labels.
        run: Seed and strength of the augmentation.
        draw: Index of the draw.

    Returns:
        The classifier, in evaluation mode.
    """
    model = _start(student, drawn)
    kind = modality_of(run.task.data.train.target).name
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    order = numpy_generator(run.seed, "finetune-batches", client=draw)
    views = torch_generator(run.seed, "finetune-views", client=draw, device=drawn.target.device)
    used, classes = np.flatnonzero(~drawn.held), torch.from_numpy(drawn.labels).to(drawn.target.device)
    held = np.flatnonzero(drawn.held)
    kept_back = taken(drawn.target, held), classes[torch.from_numpy(held)]
    look = partial(_held_loss, model, *kept_back) if len(held) else None

    def gradient(_: int) -> Tensor:
        model.train()
        batch = torch.from_numpy(order.choice(used, size=min(BATCH_SIZE, len(used)), replace=False))
        view = augment(kind, drawn.target[batch], strength=run.distill.augment, generator=views)
        return mean_gradient(functional.cross_entropy(model(view), classes[batch]))

    best = Best(model, look, every=CHECK_EVERY, patience=PATIENCE)
    optimise(optimizer, NUM_STEPS, gradient=gradient, best=best)
    return model


@torch.no_grad()
def _held_loss(model: nn.Module, target: Inputs, classes: Int[Tensor, " num"]) -> float:
    """Cross-entropy on the held-out labels, summed."""
    model.eval()
    parts = [slice(start, start + 256) for start in range(0, len(target), 256)]
    losses = [functional.cross_entropy(model(target[at]), classes[at], reduction="sum") for at in parts]
    return float(torch.stack(losses).sum())


def _start(student: nn.Module, drawn: Drawn) -> Classifier:
    """A copy of ``student`` whose head is the linear probe of the labels that are trained on."""
    own = copy.deepcopy(student).eval()
    used = np.flatnonzero(~drawn.held)
    with torch.no_grad():
        target, starts = taken(drawn.target, used), range(0, len(used), 256)
        embedding = torch.cat([unit(own(target[at : at + 256])) for at in starts]).cpu().numpy()
    num_classes = int(drawn.labels.max()) + 1
    model = Classifier(own, embedding_dim=embedding.shape[1], num_classes=num_classes)
    weight, bias = class_rows(fit_linear(embedding, drawn.labels[used]))
    with torch.no_grad():
        # The classifier multiplies unit embeddings by ten.
        model.head.weight.copy_(torch.from_numpy(weight / 10.0))
        model.head.bias.copy_(torch.from_numpy(bias))
    place(model, device_of(student))
    return model


def finetune_accuracy(student: nn.Module, run: Run, *, labelling: str, num_labels: int, draw: int) -> float:
    """Test accuracy after fine-tuning on one draw of labels, the draw that the probes see too.

    Args:
        student: Encoder; not changed.
        run: Settings of the run.
        labelling: Labelling of the data set, such as ``group``.
        num_labels: Labels per class; 0 for all.
        draw: Index of the draw.
    """

    def fit(target: Inputs, labels: np.ndarray) -> Classifier:
        held = split_labels(labels, generator=numpy_generator(run.seed, f"held-{num_labels}", client=draw))
        drawn = Drawn(target=target, labels=labels, held=held)
        return finetune(student, drawn, run, draw=draw)

    return accuracy_of_draw(run, fit, labelling=labelling, num_labels=num_labels, draw=draw)


def finetune_rows(
    student: nn.Module, run: Run, counts: Sequence[int], *, num_draws: int, labelling: str
) -> dict[str, dict[str, object]]:
    """Accuracies after fine-tuning for each number of labels, in the form of the probes' tables.

    Args:
        student: Encoder; not changed.
        run: Settings of the run.
        counts: Numbers of labels per class; 0 for all.
        num_draws: Draws of the labels, the first of those that the probe sees.
        labelling: Labelling of the data set, such as ``group``.
    """

    def accuracy(count: int, draw: int) -> float:
        return finetune_accuracy(student, run, labelling=labelling, num_labels=count, draw=draw)

    return few_label_rows(
        accuracy,
        counts,
        num_draws=num_draws,
        num_items=num_asked(run, labelling),
        told="fine-tuning",
    )
