"""A trial of gradient inversion: drawings, what is recovered of them without and with privacy, and a guess.

Shapes: N drawings, B pairs of a step, C channels, H height, W width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import nn

from edgecmd.audits.risk.inversion import (
    InversionRecipe,
    Knowledge,
    invert,
    plain_update,
    private_update,
    server_loss,
)
from edgecmd.audits.risk.similarity import psnr, ssim
from edgecmd.core.errors import ConfigError
from edgecmd.core.processes import Workers
from edgecmd.core.progress import Tick
from edgecmd.core.seeding import numpy_generator
from edgecmd.core.statistics import mean_interval
from edgecmd.privacy.plan import PrivacyPlan, Sections, make_plan
from edgecmd.run import Run
from edgecmd.settings import PrivacyConfig
from edgecmd.training.distill import LocalData

Drawings = Float[np.ndarray, "_ channels height width"]
NUM_OTHERS = 100
EPSILON = 8.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trial:
    """Outcome for one number of pairs a step; drawings have values in [0, 1].

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
        batch_size: Pairs a step.
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
    for one in _inverted(work, jobs=jobs):
        found.append(one)
        tick(len(found), len(work))
    half = len(work) // 2
    truth = _in_unit_range(data.target.numpy(), run)
    plain, private = (_in_unit_range(np.concatenate(part), run) for part in (found[:half], found[half:]))
    pool = _in_unit_range(_data(run, others).target.numpy(), run)
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
            f"--pairs={num} is too many for {len(order)} training pairs; give {len(order) - 1} at most."
        )
    return order[:num], order[num : num + NUM_OTHERS]


def _data(run: Run, rows: np.ndarray) -> LocalData:
    data = run.task.local_data(rows)
    return replace(data, target=data.target.cpu(), teacher=data.teacher.cpu())


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


def _inverted(work: list[_Work], *, jobs: int) -> Iterator[np.ndarray]:
    if jobs <= 1:
        yield from map(_invert, work)
        return
    with Workers(min(jobs, len(work))) as processes:
        yield from processes.map(_invert, work)


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
