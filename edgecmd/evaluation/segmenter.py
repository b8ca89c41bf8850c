"""A dense student with a linear head: a class for each pixel; and how it is trained on few masks.

Shapes: B batch, N images, C channels, H height, W width, D embedding dimension, K classes, P locations.
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.labelled import IGNORED
from edgecmd.evaluation.metrics import class_rows
from edgecmd.models.devices import device_of, place
from edgecmd.models.students import Student
from edgecmd.models.teacher.place_features import TeacherPlaces, unit_places
from edgecmd.models.trunks.convolutions import Pointwise
from edgecmd.run import Run
from edgecmd.training.distill import Inputs, LazyTensor
from edgecmd.training.optimise import Best, mean_gradient, one_cycle, optimise
from edgecmd.training.places import shared_views

# Unit embeddings are multiplied by this before the head, as in `edgecmd.evaluation.supervised`.
HEAD_SCALE = 10.0
BATCH_SIZE = 16
# Images that are looked at together where nothing is trained.
AT_ONCE = 64
HELD_SHARE = 0.2
CHECK_EVERY, PATIENCE = 20, 8
MAX_PROBE_PLACES = 6_000
FINETUNE_RATE, SCRATCH_RATES = 3e-3, (1e-3, 3e-3)
# Rarer classes weigh as one with this share of the pixels does.
LEAST_SHARE = 1e-4


class Segmenter(nn.Module):
    """Scores of each class at each pixel: a dense student, a linear head, and a bilinear enlargement."""

    def __init__(self, student: Student | TeacherPlaces, *, num_classes: int) -> None:
        super().__init__()
        self.student = cast(Student, student)
        self.head = Pointwise(student.embedding_dim, num_classes)
        nn.init.zeros_(self.head.weight)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, image: Float[Tensor, "batch _ height width"]) -> Float[Tensor, "batch _ height width"]:
        """Scores, (B, K, H, W)."""
        embedding = functional.normalize(self.student(image), dim=1)
        scores = self.head(embedding * HEAD_SCALE)
        return functional.interpolate(scores, size=image.shape[2:], mode="bilinear", align_corners=False)

    def linear_head(self) -> tuple[Float[np.ndarray, "classes dim"], Float[np.ndarray, " classes"]]:
        """Weight and bias of the head on unit embeddings, for the exporter."""
        state = {name: value.detach().cpu().numpy() for name, value in self.head.state_dict().items()}
        return state["weight"][..., 0, 0] * np.float32(HEAD_SCALE), state["bias"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawn:
    """Images whose masks are known.

    Attributes:
        target: Inputs of the student, (N, C, H, W).
        mask: Class of each pixel, int64, (N, H, W), or `IGNORED`.
        held: Which of them are held out for early stopping, (N,).
        num_classes: K.
        modality: Of the target.
    """

    target: Inputs
    mask: Int[Tensor, "num height width"] | LazyTensor
    held: Bool[np.ndarray, " num"]
    num_classes: int
    modality: str

    def batches(self, *, held: bool) -> tuple[Tensor, ...]:
        """Rows that are held out, or those that are not, some at a time."""
        return torch.split(torch.from_numpy(np.flatnonzero(self.held == held)), AT_ONCE)


def hold_out(num: int, *, generator: np.random.Generator) -> Bool[np.ndarray, " num"]:
    """A fifth of the labelled images for early stopping, at least one where there are two."""
    held = np.zeros(num, dtype=bool)
    held[generator.permutation(num)[: max(1, round(HELD_SHARE * num)) if num > 1 else 0]] = True
    return held


def fit_probe(student: Student | TeacherPlaces, drawn: Drawn, *, generator: np.random.Generator) -> Segmenter:
    """Frozen student, logistic regression on its unit embeddings at locations of the images trained on.

    A location has the class of the pixel in its middle; of many locations a part is drawn.

    Args:
        student: Dense encoder; a copy of it becomes part of the result.
        drawn: Labelled images; those held out are not looked at.
        generator: Source of the locations.

    Returns:
        The segmenter in evaluation mode. Classes without a location have a score below all others.
    """
    model = Segmenter(copy.deepcopy(student), num_classes=drawn.num_classes)
    place(model, device_of(student))
    rows, classes = _places(model.eval().student, drawn, generator)
    found = np.unique(classes)
    weight = torch.zeros(drawn.num_classes, rows.shape[1])
    bias = torch.full((drawn.num_classes,), -20.0)
    if len(found) > 1:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        with warnings.catch_warnings():
            # The last digits of a start for fine-tuning are not worth the time.
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            fitted = LogisticRegression(C=10.0, max_iter=100).fit(rows, classes)
        coefficients, intercepts = class_rows(fitted)
        weight[found], bias[found] = _tensor(coefficients), _tensor(intercepts)
    else:
        bias[found] = 0.0
    with torch.no_grad():
        model.head.weight.copy_(weight[..., None, None] / HEAD_SCALE)
        model.head.bias.copy_(bias)  # type: ignore[union-attr]
    return model


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


@torch.no_grad()
def _places(
    student: nn.Module, drawn: Drawn, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings of drawn locations, and the class of the pixel in the middle of each."""
    batches = drawn.batches(held=False)
    step = drawn.target.shape[2] // student(drawn.target[batches[0][:1]]).shape[2]
    middles = [drawn.mask[batch][:, step // 2 :: step, step // 2 :: step].flatten() for batch in batches]
    classes = torch.cat(middles).cpu().numpy()
    kept = np.flatnonzero(classes != IGNORED)
    kept = kept[generator.permutation(len(kept))[:MAX_PROBE_PLACES]]
    found, first = [], 0
    for batch, middle in zip(batches, middles, strict=True):
        inside = np.sort(kept[(kept >= first) & (kept < first + len(middle))])
        embedded = unit_places(student(drawn.target[batch])).flatten(0, 1).cpu().numpy()
        found.append(embedded[inside - first])
        first += len(middle)
    return np.concatenate(found)[np.argsort(np.argsort(kept))], classes[kept]


def finetune(model: Segmenter, drawn: Drawn, run: Run, *, rate: float, draw: int) -> Segmenter:
    """Train all layers on the masks, with early stopping on the held-out ones.

    View and mask are moved alike. Every twenty steps the loss on the held-out images is looked at; the best
    weights count, those before the first step among them, and eight looks without a better one end it.

    Args:
        model: Changed.
        drawn: Labelled images.
        run: Seed, strength of the views, and most steps.
        rate: Peak of the learning rate (one cycle).
        draw: Index of the draw.

    Returns:
        ``model`` in evaluation mode.
    """
    num_steps = run.evaluate.segment_steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    schedule = one_cycle(optimizer, peak=rate, num_steps=num_steps)
    weight = class_weights(drawn)
    order = numpy_generator(run.seed, "segment-batches", client=draw)
    views = torch_generator(run.seed, "segment-views", client=draw, device=drawn.target.device)
    look = partial(held_loss, model, drawn, weight=weight) if drawn.held.any() else None
    used, best = np.flatnonzero(~drawn.held), Best(model, look, every=CHECK_EVERY, patience=PATIENCE)

    def gradient(_: int) -> Tensor:
        model.train()
        batch = torch.from_numpy(order.choice(used, size=min(BATCH_SIZE, len(used)), replace=False))
        view, mask = labelled_views(drawn, batch, strength=run.distill.augment, generator=views)
        return mean_gradient(functional.cross_entropy(model(view), mask, weight=weight, ignore_index=IGNORED))

    optimise(optimizer, num_steps, gradient=gradient, schedule=schedule, best=best)
    return model


def class_weights(drawn: Drawn) -> Float[Tensor, " classes"]:
    """Weight of each class in the loss: one over the root of its share of the pixels trained on.

    Unweighted, walls and floors drown what is small, and mIoU counts every class alike. Weighted by one over
    the share itself, what is large is given up for it. A class that no image trained on has counts nothing:
    nobody could learn it, and among the held-out images it would drown the others.

    Returns:
        Weights whose mean over these pixels is 1, (K,).
    """
    counts = torch.zeros(drawn.num_classes, dtype=torch.int64, device=drawn.target.device)
    for batch in drawn.batches(held=False):
        mask = drawn.mask[batch]
        counts += torch.bincount(mask[mask != IGNORED], minlength=drawn.num_classes)
    share = counts.to(torch.float32)
    share = share / share.sum().clamp(min=1)
    weight = torch.where(share > 0, share.clamp(min=LEAST_SHARE).rsqrt(), 0.0)
    return weight / (weight * share).sum().clamp(min=LEAST_SHARE)


def labelled_views(
    drawn: Drawn, batch: Tensor, *, strength: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Views of images and of their masks by one motion; what comes from outside is `IGNORED`."""
    target = drawn.target[batch]
    mask = drawn.mask[batch][:, None].to(target.dtype)
    view, seen, inside = shared_views(
        drawn.modality, target, mask, strength=strength, generator=generator, mode="nearest"
    )
    return view, seen[:, 0].long().masked_fill(~inside, IGNORED)


@torch.no_grad()
def held_loss(model: Segmenter, drawn: Drawn, *, weight: Tensor | None = None) -> float:
    """Weighted cross-entropy over the pixels of the held-out images, summed; 0 where none is held out.

    ``weight`` is that of `class_weights`, for whoever asks many times.
    """
    weight = class_weights(drawn) if weight is None else weight
    model.eval()
    total = 0.0
    for batch in drawn.batches(held=True):
        scores, mask = model(drawn.target[batch]), drawn.mask[batch]
        loss = functional.cross_entropy(scores, mask, weight=weight, ignore_index=IGNORED, reduction="sum")
        total += float(loss)
    return total


@torch.no_grad()
def predict_masks(model: nn.Module, target: Inputs) -> Iterator[np.ndarray]:
    """Likeliest class of each pixel, uint8, (N, H, W), some images at a time."""
    model.eval()
    for start in range(0, len(target), AT_ONCE):
        yield model(target[start : start + AT_ONCE]).argmax(dim=1).to(torch.uint8).cpu().numpy()
