"""Baseline without distillation: the same student trained from scratch on the few labels alone.

Shapes: N examples, D embedding dimension.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.config import RunConfig
from edgecmd.data.augment import augment
from edgecmd.data.clients import experiment, target_input
from edgecmd.data.labelled import Labels
from edgecmd.data.pairs import target_kind
from edgecmd.device import device_of, place
from edgecmd.evaluate import draw_labels, known
from edgecmd.losses import unit
from edgecmd.runs import new_student
from edgecmd.seeding import numpy_generator, torch_generator

NUM_STEPS = 200
BATCH_SIZE = 32
LEARNING_RATE = 1e-3


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


def scratch_accuracy(config: RunConfig, *, labelling: str, num_labels: int, draw: int) -> float:
    """Test accuracy of a student trained on one draw of labels, the draw that the probes see too.

    Args:
        config: Settings of the run.
        labelling: Labelling of the data set, such as ``group``.
        num_labels: Labels a class; 0 for all.
        draw: Index of the draw.
    """
    whole = experiment(config.data)
    pool, test = whole.validation.labelled.labels[labelling], whole.test.labelled.labels[labelling]
    rows, classes = drawn_rows(pool, num_labels=num_labels, draw=draw, seed=config.seed)
    pool_target = target_input(config, whole.validation.pairs)[torch.from_numpy(rows)]
    labels = np.searchsorted(classes, pool.values[rows])
    model = _fit(
        config,
        pool_target,
        torch.from_numpy(labels).to(pool_target.device),
        num_classes=len(classes),
        draw=draw,
    )
    asked = np.isin(test.values, classes)
    predicted = predict_classes(model, target_input(config, whole.test.pairs)[torch.from_numpy(asked)])
    return float((classes[predicted] == test.values[asked]).mean())


def drawn_rows(pool: Labels, *, num_labels: int, draw: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pool that are labelled, and the classes among them; as in `evaluate.few_label_accuracy`."""
    labelled = np.flatnonzero(known(pool))
    generator = numpy_generator(seed, f"labels-{num_labels}", client=draw)
    rows = labelled[draw_labels(pool.values[labelled], num_labels=num_labels, generator=generator)]
    return rows, np.unique(pool.values[rows])


def _fit(
    config: RunConfig,
    target: Float[Tensor, "num channels height width"],
    labels: Int[Tensor, " num"],
    *,
    num_classes: int,
    draw: int,
) -> Classifier:
    student = new_student(config)
    model = Classifier(student, embedding_dim=student.projector.out_features, num_classes=num_classes)
    place(model, device_of(student))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=NUM_STEPS + 1)
    rows = numpy_generator(config.seed, "scratch-batches", client=draw)
    views = torch_generator(config.seed, "scratch-views", client=draw)
    kind = target_kind(experiment(config.data).train.target)
    model.train()
    for _ in range(NUM_STEPS):
        batch = torch.from_numpy(rows.choice(len(target), size=min(BATCH_SIZE, len(target)), replace=False))
        view = augment(kind, target[batch], strength=config.distill.augment, generator=views)
        loss = functional.cross_entropy(model(view), labels[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def predict_classes(model: nn.Module, target: Tensor) -> np.ndarray:
    """Index of the best class of each input, (N,)."""
    model.eval()
    scores = torch.cat([model(target[start : start + 256]) for start in range(0, len(target), 256)])
    return scores.argmax(dim=1).cpu().numpy()
