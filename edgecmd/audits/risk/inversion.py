"""Gradient inversion: what a server sees of a drawing in the update of one local step, and how much that is.

The server knows weights ``w``, public anchors, the loss and the number of pairs, and sees ``w - w'`` of one
plain gradient step. It looks for drawings and teacher features whose gradient points the same way:
``1 - cos + tv TV(x)``, signed Adam (Geiping et al. 2020, arXiv 2003.14053). The closed form for a first
linear layer (``x = dW_i / db_i``) does not apply: the students' first layer is a convolution. A trial holds
what is recovered without and with privacy against a guess that needs no update.

Shapes: N drawings, B pairs of a step, C channels, H height, W width, D embedding dimension.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from edgecmd.audits.risk.similarity import psnr, ssim
from edgecmd.core.errors import ConfigError
from edgecmd.core.processes import mapped
from edgecmd.core.progress import Tick
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.core.statistics import mean_interval
from edgecmd.losses import loss_of, unit
from edgecmd.privacy.plan import PrivacyPlan, Sections, make_plan
from edgecmd.privacy.step.gradients import clipped_sum
from edgecmd.privacy.step.private_step import add_noise
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.privacy.step.units import StepSettings, make_units, unit_loss
from edgecmd.run import Run
from edgecmd.settings import DistillConfig, PrivacyConfig
from edgecmd.training.distill import LocalData
from edgecmd.training.optimise import optimise

Update = tuple[Tensor, ...]
Drawings = Float[np.ndarray, "_ channels height width"]
FIRST_SHARE = 0.3
ANCHORED = ("cmc-anchored", "cmd-anchored", "cmc+cmd-anchored")
NUM_OTHERS = 100
EPSILON = 8.0


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
    found = _gradient(known, data.inputs, unit(data.features), create_graph=False)
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

    def schedule(step: int) -> None:
        share = (1.0 + math.cos(math.pi * step / recipe.num_steps)) / 2.0 + 0.01
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * span * share
        optimizer.param_groups[1]["lr"] = recipe.feature_learning_rate * share

    def gradient(_: int) -> Tensor:
        matched = 1.0 - _cosine(_gradient(known, image, unit(feature), create_graph=True), update)
        objective = matched + recipe.tv_weight * _total_variation(image) / span
        image.grad, feature.grad = torch.autograd.grad(objective, (image, feature))
        image.grad.sign_()
        return objective.detach()

    @torch.no_grad()
    def stepped(_: int, loss: float) -> None:
        nonlocal value
        image.clamp_(known.low, known.high)
        value = loss

    optimise(optimizer, recipe.num_steps, gradient=gradient, schedule=schedule, progress=stepped)
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trial:
    """Outcome for one number of pairs per step; drawings have values in [0, 1].

    Attributes:
        batch_size: Pairs of a step, ``B``.
        truth: Drawings that the steps were made on, (N, C, H, W).
        plain: What the attacker made of the plain updates, in the same order.
        private: The same of the clipped and noised updates.
        other: For each drawing the most alike of 100 other ones, drawn at random.
        guess: PSNR and SSIM that need no update: the best of those others and of a blank page, (N,) each.
        plan: Privacy of the noised updates.
    """

    batch_size: int
    truth: Drawings
    plain: Drawings
    private: Drawings
    other: Drawings
    guess: Mapping[str, Float[np.ndarray, " num"]]
    plan: PrivacyPlan

    def values(self, name: str) -> dict[str, np.ndarray]:
        """PSNR (dB) and SSIM of ``plain`` or ``private`` against the truth, (N,) each."""
        found: Drawings = getattr(self, name)
        return {
            "psnr": np.array([psnr(a, b) for a, b in zip(found, self.truth)]),
            "ssim": np.array([ssim(a, b) for a, b in zip(found, self.truth)]),
        }

    def table(self) -> dict[str, object]:
        """Means with 95% intervals, and gains over the guess, as plain values."""
        told: dict[str, object] = {"guess": _summary(self.guess)}
        for name in ("plain", "private"):
            values = self.values(name)
            gains = {key: values[key] - self.guess[key] for key in values}
            told |= {name: _summary(values), f"{name}_gain": _summary(gains)}
        return told


def _summary(values: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    return {key: asdict(mean_interval(one.tolist())) for key, one in values.items()}


def attacked_plan(run: Run) -> PrivacyPlan:
    """The run's own privacy where it protects each pair; else ``anchors`` at epsilon 8, for comparison."""
    own = run.plan
    if own is not None and own.unit == "pair":
        return own
    privacy = PrivacyConfig(mechanism="anchors", epsilon=EPSILON, delta=run.privacy.delta)
    distill = replace(run.distill, loss="cmc-anchored")
    plan = make_plan(
        Sections(privacy=privacy, distill=distill, federation=run.federation, student=run.student)
    )
    assert plan is not None
    return plan


def knowledge(run: Run, student: nn.Module) -> Knowledge:
    """What the server knows: ``student``, the weights of the round; anchors, loss and pixel range."""
    ends = [(value - run.task.target_offset) / run.task.target_scale for value in (0.0, 1.0)]
    return Knowledge(
        student=student.train(),
        anchors=run.anchors.cpu(),
        config=replace(run.distill, loss=server_loss(run.distill.loss)),
        low=min(ends),
        high=max(ends),
    )


def run_trial(
    run: Run,
    student: nn.Module,
    *,
    batch_size: int,
    num_pairs: int,
    recipe: InversionRecipe,
    jobs: int,
    tick: Tick,
) -> Trial:
    """Invert the updates of ``num_pairs`` training pairs, ``batch_size`` of them a step.

    Args:
        run: Settings of the run.
        student: Weights of the round, on the CPU.
        batch_size: Pairs per step.
        num_pairs: Pairs in all; cut down to whole steps, one step at least.
        recipe: How the attacker searches; its seed also chooses the pairs.
        jobs: Processes at a time.
        tick: Told how many updates are inverted.

    Raises:
        ConfigError: The run has fewer training pairs than the trial takes.
    """
    rows, others = _chosen(run, num=max(1, num_pairs // batch_size) * batch_size, seed=recipe.seed)
    data, known, plan = _data(run, rows), knowledge(run, student), attacked_plan(run)
    work = [
        _Work(known=known, data=_part(data, start, batch_size), plan=kind, recipe=recipe, index=start)
        for kind in (None, plan)
        for start in range(0, len(data), batch_size)
    ]
    found = []
    for one in mapped(_invert, work, jobs=jobs):
        found.append(one)
        tick(len(found), len(work))
    half = len(work) // 2
    truth = _in_unit_range(data.inputs.numpy(), run)
    plain, private = (_in_unit_range(np.concatenate(part), run) for part in (found[:half], found[half:]))
    pool = _in_unit_range(_data(run, others).inputs.numpy(), run)
    other, guess = guessed(truth, pool, blank=float(np.clip(run.task.target_offset, 0.0, 1.0)))
    return Trial(
        batch_size=batch_size,
        truth=truth,
        plain=matched(plain, truth, batch_size=batch_size),
        private=matched(private, truth, batch_size=batch_size),
        other=other,
        guess=guess,
        plan=plan,
    )


def _chosen(run: Run, *, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pairs that are attacked, and of other ones."""
    order = numpy_generator(seed, "inversion-pairs").permutation(len(run.task.data.train))
    if len(order) < num + 1:
        raise ConfigError(
            f"--pairs={num} is too many for {len(order)} training pairs; give at most {len(order) - 1}."
        )
    return order[:num], order[num : num + NUM_OTHERS]


def _data(run: Run, rows: np.ndarray) -> LocalData:
    return run.task.local_data(rows).on_the_cpu()


def _part(data: LocalData, start: int, num: int) -> LocalData:
    return LocalData(target=data.target[start : start + num], teacher=data.teacher[start : start + num])


def _in_unit_range(images: np.ndarray, run: Run) -> Drawings:
    """From what the student sees to values in [0, 1], 1 for white."""
    return np.asarray(np.clip(images * run.task.target_scale + run.task.target_offset, 0.0, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Work:
    known: Knowledge
    data: LocalData
    plan: PrivacyPlan | None
    recipe: InversionRecipe
    index: int


def _invert(work: _Work) -> np.ndarray:
    torch.set_num_threads(1)
    if work.plan is None:
        update = plain_update(work.known, work.data)
    else:
        update = private_update(work.known, work.data, work.plan, seed=work.recipe.seed, index=work.index)
    num, size = len(work.data), list(work.data.target.shape[1:])
    found = invert(work.known, update, num=num, size=size, recipe=work.recipe, index=work.index)
    return np.asarray(found.numpy())


def matched(found: Drawings, truth: Drawings, *, batch_size: int) -> Drawings:
    """``found`` in the order of ``truth``: within each step the assignment with the largest sum of PSNR."""
    ordered = np.empty_like(found)
    for start in range(0, len(truth), batch_size):
        here = slice(start, start + batch_size)
        gain = np.array([[psnr(a, b) for b in found[here]] for a in truth[here]])
        ordered[here] = found[here][linear_sum_assignment(-gain)[1]]
    return ordered


def guessed(
    truth: Drawings, pool: Drawings, *, blank: float
) -> tuple[Drawings, dict[str, Float[np.ndarray, " num"]]]:
    """What looks most like each drawing without any update.

    Args:
        truth: Drawings, (N, C, H, W).
        pool: Other drawings.
        blank: Value of an empty page.

    Returns:
        For each drawing the one of ``pool`` with the best PSNR, and the best PSNR and SSIM over ``pool``
        and an empty page.
    """
    page = np.full_like(truth[0], blank)
    likeness = {
        name: np.array([[measure(one, other) for other in (*pool, page)] for one in truth])
        for name, measure in (("psnr", psnr), ("ssim", ssim))
    }
    nearest = likeness["psnr"][:, :-1].argmax(axis=1)
    return pool[nearest], {name: values.max(axis=1) for name, values in likeness.items()}
