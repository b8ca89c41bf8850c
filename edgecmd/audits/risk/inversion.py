"""Gradient inversion: what a server sees of a drawing in the update of one local step.

The server knows weights ``w``, public anchors, the loss and the number of pairs, and sees ``w - w'`` of one
plain gradient step. It looks for drawings and teacher features whose gradient points the same way:
``1 - cos + tv TV(x)``, signed Adam (Geiping et al. 2020, arXiv 2003.14053). The closed form for a first
linear layer (``x = dW_i / db_i``) does not apply: the students' first layer is a convolution.

Shapes: B pairs of a step, C channels, H height, W width, D embedding dimension.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgecmd.core.seeding import torch_generator
from edgecmd.losses import loss_of, unit
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.gradients import clipped_sum
from edgecmd.privacy.step.private_step import add_noise
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.privacy.step.units import StepSettings, make_units, unit_loss
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData

Update = tuple[Tensor, ...]
FIRST_SHARE = 0.3
ANCHORED = ("cmc-anchored", "cmd-anchored", "cmc+cmd-anchored")


@dataclass(frozen=True, kw_only=True, slots=True)
class InversionRecipe:
    """How the attacker searches.

    Attributes:
        num_steps: Steps of signed Adam.
        restarts: Searches from other first guesses; the one with the smallest objective counts.
        learning_rate: Of the drawing, in units of its pixel range; falls with half a cosine.
        feature_learning_rate: Of the teacher feature.
        tv_weight: Weight of the total variation.
        seed: Of first guesses.
    """

    num_steps: int = 300
    restarts: int = 1
    learning_rate: float = 0.05
    feature_learning_rate: float = 0.1
    tv_weight: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Knowledge:
    """What the server knows before it sees an update.

    Attributes:
        student: Weights of the round.
        anchors: Public teacher features, (K, D).
        config: Loss and temperatures; an anchored loss, `server_loss`.
        low: Smallest value of a pixel as the student sees it.
        high: Largest value.
    """

    student: nn.Module
    anchors: Tensor
    config: DistillConfig
    low: float
    high: float


def server_loss(loss: str) -> str:
    """The loss that the step is simulated with: the run's own where it is anchored, else ``cmc-anchored``.

    In-batch contrast of a single pair is constant and has no gradient at all.
    """
    return loss if loss in ANCHORED else "cmc-anchored"


def plain_update(known: Knowledge, data: LocalData) -> Update:
    """Gradient of the mean loss of the pairs of ``data``: what one SGD step tells without privacy."""
    found = _gradient(known, data.target, unit(data.teacher), create_graph=False)
    return tuple(one.detach() for one in found)


def private_update(known: Knowledge, data: LocalData, plan: PrivacyPlan, *, seed: int, index: int) -> Update:
    """What one step releases of the same pairs under ``plan``: clipped, noised, carried back.

    Args:
        known: Weights, anchors and loss.
        data: The pairs that the step samples.
        plan: Clip, noise and divisor.
        seed: Of the noise, so that an audit can be repeated; nothing here is released.
        index: Tells the draws of one audit apart.
    """
    source = DeterministicSource(seed, round_index=index + 1)
    units = StepSettings(mechanism="anchors", num_views=1, num_groups=1, chunk_size=plan.chunk_size)
    effective = EffectiveStudent(known.student)
    effective.refresh()
    chunks = make_units(data, np.arange(len(data)), config=units, augment=0.0, source=source)
    total = clipped_sum(
        effective.module,
        chunks,
        unit_loss(loss_of(known.config), known.anchors),
        clip=plan.clip,
        engine="vmap",
    )
    return tuple(effective.pull_back(add_noise(total, plan=plan, source=source)).values())


def invert(
    known: Knowledge,
    update: Update,
    *,
    num: int,
    size: Sequence[int],
    recipe: InversionRecipe,
    index: int = 0,
) -> Float[Tensor, "num channels height width"]:
    """The attacker's best guess at the drawings behind ``update``.

    Args:
        known: Weights, anchors, loss and pixel range.
        update: Gradient for each parameter of the student, in their order.
        num: Pairs of the step, ``B``.
        size: Channels, height and width of a drawing.
        recipe: Steps, restarts and priors.
        index: Tells the searches of one audit apart.

    Returns:
        Drawings as the student sees them, in no order.
    """
    best: tuple[float, Tensor] | None = None
    for restart in range(recipe.restarts):
        coins = torch_generator(recipe.seed, "inversion", round_index=restart, client=index)
        found = _search(known, update, num=num, size=size, recipe=recipe, coins=coins)
        if best is None or found[0] < best[0]:
            best = found
    assert best is not None
    return best[1]


def _search(
    known: Knowledge,
    update: Update,
    *,
    num: int,
    size: Sequence[int],
    recipe: InversionRecipe,
    coins: torch.Generator,
) -> tuple[float, Tensor]:
    span = known.high - known.low
    device = known.anchors.device
    # Near what the student sees as nothing: a busy first guess is left more slowly.
    blank = min(max(0.0, known.low), known.high)
    first = blank + FIRST_SHARE * (known.low + span * torch.rand(num, *size, generator=coins) - blank)
    image = first.to(device).requires_grad_()
    feature = torch.randn(num, known.anchors.shape[1], generator=coins).to(device).requires_grad_()
    optimizer = torch.optim.Adam([{"params": [image]}, {"params": [feature]}])
    value = math.inf
    for step in range(recipe.num_steps):
        share = (1.0 + math.cos(math.pi * step / recipe.num_steps)) / 2.0 + 0.01
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * span * share
        optimizer.param_groups[1]["lr"] = recipe.feature_learning_rate * share
        matched = 1.0 - _cosine(_gradient(known, image, unit(feature), create_graph=True), update)
        objective = matched + recipe.tv_weight * _total_variation(image) / span
        image.grad, feature.grad = torch.autograd.grad(objective, (image, feature))
        image.grad.sign_()
        optimizer.step()
        with torch.no_grad():
            image.clamp_(known.low, known.high)
        value = float(objective.detach())
    return value, image.detach()


def _gradient(known: Knowledge, image: Tensor, teacher: Tensor, *, create_graph: bool) -> Update:
    loss = _loss(unit(known.student(image)), teacher, known).mean()
    return torch.autograd.grad(loss, list(known.student.parameters()), create_graph=create_graph)


def _loss(z_BD: Tensor, t_BD: Tensor, known: Knowledge) -> Tensor:
    """The anchored losses, differentiable in the teacher feature, which `edgecmd.losses` holds constant."""
    config, anchor_KD = known.config, unit(known.anchors)
    negative_BK = z_BD @ anchor_KD.T / config.temperature
    contrast = torch.zeros(len(z_BD), device=z_BD.device)
    if config.loss.startswith("cmc"):
        positive_B = (z_BD * t_BD).sum(dim=1) / config.temperature
        contrast = torch.logsumexp(torch.cat([positive_B[:, None], negative_BK], dim=1), dim=1) - positive_B
    if "cmd" not in config.loss:
        return contrast
    relation_BK = (t_BD @ anchor_KD.T / config.teacher_temperature).softmax(dim=1)
    relations = -(relation_BK * negative_BK.log_softmax(dim=1)).sum(dim=1)
    return relations if config.loss.startswith("cmd") else contrast + config.cmd_weight * relations


def _cosine(first: Update, second: Update) -> Tensor:
    def dot(a: Update, b: Update) -> Tensor:
        return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()

    return dot(first, second) / (dot(first, first) * dot(second, second)).clamp(min=1e-30).sqrt()


def _total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, over both directions."""
    right = (image[..., 1:] - image[..., :-1]).abs().mean()
    return right + (image[..., 1:, :] - image[..., :-1, :]).abs().mean()
