"""One private step of the real code: is its noise the stated one, and are its coins (level L1)?

The noise is taken from where it does its work. An empty client makes one step of plain gradient descent
from known weights; what the weights moved by, over the learning rate, is the noise. The rate is chosen
so that the noise moves weights by about 1: next to that, the rounding of float32 weights is 1e-7.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import stats
from torch import nn

from edgecmd.audit.canaries import plain_parameters
from edgecmd.audit.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audit.noise import FEWEST_DRAWS, LEVEL, Draws, Verdict, judge_noise
from edgecmd.audit.target import Target, trained_student
from edgecmd.data.clients import public_anchors
from edgecmd.distill import LocalData, Place
from edgecmd.errors import PrivacyError
from edgecmd.models.students import Student
from edgecmd.privacy.gradients import Sum
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.randomness import make_source
from edgecmd.privacy.train import StepProbe, distil_privately
from edgecmd.runs import new_student

LARGEST_RATE = 100.0
NUM_UNITS = 2000
NUM_COIN_STEPS = 4
NUM_LAYER_STEPS = 3
# Rounds and clients whose noise must be unlike: a question asked twice, another round, another client.
CALLS = ((1, 0), (1, 0), (2, 0), (1, 1))


@dataclass(kw_only=True, eq=False)
class Tap:
    """A probe that notes which units are sampled and what is released.

    Attributes:
        num_units: Units that take part and add nothing.
        sampled: Indices of each step.
        released: Release of each step, by parameter.
    """

    num_units: int = 0
    sampled: list[np.ndarray] = field(default_factory=list)
    released: list[Draws] = field(default_factory=list)

    def __len__(self) -> int:
        return self.num_units

    def add(self, _: Sum, units: np.ndarray) -> None:
        """Note the sampled units."""
        self.sampled.append(units)

    def see(self, released: Sum) -> None:
        """Note the release."""
        self.released.append({name: value.cpu().numpy() for name, value in released.items()})


def student_of(target: Target) -> Student:
    """The target's student, or a new one where it has none yet."""
    return trained_student(target) or new_student(target.config)


def plan_of(target: Target) -> PrivacyPlan:
    """The plan of a target.

    Raises:
        PrivacyError: It has none, so there is no noise to measure.
    """
    if target.plan is None:
        raise PrivacyError(
            "privacy.mechanism='none' makes no noise, so there is no step to audit. Audit what the run leaks"
            " with `edgecmd audit one-run` or `edgecmd audit risk`, or train with privacy.mechanism=anchors."
        )
    return target.plan


def empty_step(
    target: Target, student: nn.Module, *, round_index: int, client: int, num_steps: int, tap: StepProbe
) -> Draws:
    """Let an empty client work, and give back what its weights moved by over the learning rate.

    Args:
        target: Plan, loss and sizes.
        student: Where the client starts; not changed.
        round_index: Round.
        client: Client.
        num_steps: Steps of plain gradient descent.
        tap: Takes part in the steps and sees them.

    Returns:
        For each plain parameter (`plain_parameters`) the sum of the released means, float64.
    """
    plan, own = plan_of(target), copy.deepcopy(student)
    rate = min(LARGEST_RATE, plan.normaliser / plan.noise_std)
    config = replace(target.config.distill, learning_rate=rate, schedule="constant", proximal_mu=0.0)
    anchors = public_anchors(target.config)
    first = next(own.parameters())
    side = target.config.data.image_size
    empty = LocalData(target=first.new_zeros(0, first.shape[1], side, side), teacher=anchors[:0])
    distil_privately(
        own,
        empty,
        anchors,
        config,
        plan=replace(plan, steps_per_round=num_steps),
        place=Place(
            seed=target.config.seed, round_index=round_index, client=client, first_step=1, total_steps=2
        ),
        optimizer=torch.optim.SGD(own.parameters(), lr=rate),
        source=make_source(
            deterministic=plan.deterministic,
            seed=target.config.seed,
            round_index=round_index,
            client=client,
        ),
        probe=tap,
    )
    before, after = dict(student.named_parameters()), dict(own.named_parameters())
    return {
        name: ((before[name].detach().double() - after[name].detach().double()) / rate).cpu().numpy()
        for name in plain_parameters(student)
    }


def audit_noise(target: Target) -> Finding:
    """Noise of single steps of the real code against the plan's.

    Raises:
        PrivacyError: The target has no plan.
    """
    started, plan, student = time.monotonic(), plan_of(target), student_of(target)
    asked = list(CALLS if plan.private else CALLS[1:])
    per_call = sum(value.numel() for value in _plain(student))
    asked += [(1 + len(CALLS) + more, 0) for more in range(FEWEST_DRAWS // per_call)]
    calls = [
        _scaled(empty_step(target, student, round_index=index, client=client, num_steps=1, tap=Tap()), plan)
        for index, client in asked
    ]
    tap = Tap()
    empty_step(target, student, round_index=1, client=2, num_steps=NUM_LAYER_STEPS, tap=tap)
    verdict = judge_noise(calls, [_scaled(one, plan) for one in tap.released])
    return noise_finding(verdict, plan=plan, attacker="steps", seconds=time.monotonic() - started)


def _plain(student: nn.Module) -> list[torch.Tensor]:
    values = dict(student.named_parameters())
    return [values[name] for name in plain_parameters(student)]


def _scaled(draws: Draws, plan: PrivacyPlan) -> Draws:
    return {name: value * (plan.normaliser / plan.noise_std) for name, value in draws.items()}


def noise_finding(verdict: Verdict, *, plan: PrivacyPlan, attacker: str, seconds: float) -> Finding:
    """What tests of the noise say of the guarantee.

    Too little noise, noise that repeats and noise that is not Gaussian contradict it. Too much noise, or
    a constant beside it, costs no privacy but means that the code does not do what its plan says.
    """
    faults = _faults(verdict)
    wrong = bool(verdict.too_small or verdict.reused or verdict.misshapen)
    kind = (CONTRADICTED if wrong else NOT_CONTRADICTED) if plan.private else INDICATOR
    stated = "The stated noise" if plan.private else "The noise (NOT PRIVATE by its settings)"
    text = (
        f"{stated} has {verdict.std:.4g} of its standard deviation over {verdict.tests[0].num} draws;"
        f" {len(verdict.tests)} tests at a level of {LEVEL:g} together: "
    )
    return Finding(
        level="step",
        name="noise",
        attacker=attacker,
        verdict=kind,
        text=text + ("; ".join(faults) + "." if faults else "none fails."),
        quantity="noise",
        claimed=1.0,
        measured=verdict.std,
        confidence=1.0 - LEVEL,
        counts={"draws": verdict.tests[0].num, "tests": len(verdict.tests), "failed": len(verdict.failed)},
        seconds=seconds,
        details={
            "stated_std": plan.noise_std / plan.normaliser,
            "p_values": {one.name: one.p_value for one in verdict.tests if one.kind in ("mean", "shape")},
            "std_by_parameter": {one.name: one.value for one in verdict.tests if one.kind == "std"},
            "largest_correlation": max(
                (abs(one.value) for one in verdict.tests if one.kind == "reuse"), default=0.0
            ),
            "failed": [f"{one.kind}: {one.name}, p = {one.p_value:.3g}" for one in verdict.failed],
        },
    )


def _faults(verdict: Verdict) -> list[str]:
    found = []
    if verdict.too_small:
        found.append(f"too small ({', '.join(verdict.too_small)})")
    if verdict.reused:
        found.append(f"repeated between {', '.join(verdict.reused)}")
    if verdict.misshapen:
        found.append("not Gaussian")
    if verdict.too_large:
        found.append(
            f"larger than stated ({', '.join(verdict.too_large)}), which costs accuracy and no privacy"
        )
    if verdict.shifted:
        found.append("its mean is not zero, which costs no privacy but is no part of the plan")
    return found


def audit_coins(target: Target) -> Finding:
    """How often units of the real code are sampled, against the stated rate.

    Raises:
        PrivacyError: The target has no plan.
    """
    started, plan = time.monotonic(), plan_of(target)
    tap, poisson = Tap(num_units=NUM_UNITS), plan.sampling == "poisson"
    num_steps = NUM_COIN_STEPS if poisson else plan.num_bins
    empty_step(target, student_of(target), round_index=1, client=0, num_steps=num_steps, tap=tap)
    measured, claimed, fault = (_poisson_fault if poisson else _bins_fault)(tap, plan)
    kind = (CONTRADICTED if fault else NOT_CONTRADICTED) if plan.private else INDICATOR
    return Finding(
        level="step",
        name="sampling",
        attacker="steps",
        verdict=kind,
        text=f"{NUM_UNITS} units over {num_steps} steps: {fault or 'sampled as stated'}.",
        quantity="rate",
        claimed=claimed,
        measured=measured,
        confidence=1.0 - LEVEL,
        counts={"units": NUM_UNITS, "steps": num_steps},
        seconds=time.monotonic() - started,
    )


def _poisson_fault(tap: Tap, plan: PrivacyPlan) -> tuple[float, float, str]:
    """Measured rate, stated rate and fault: units too often in a step, or the same ones in each."""
    steps, rate = len(tap.sampled), plan.sampling_rate
    count = sum(len(one) for one in tap.sampled)
    often = stats.binomtest(count, NUM_UNITS * steps, rate, alternative="greater").pvalue
    both = sum(len(np.intersect1d(one, other)) for one, other in _halves(tap.sampled))
    again = stats.binomtest(both, NUM_UNITS * (steps // 2), rate**2, alternative="greater").pvalue
    measured = count / (NUM_UNITS * steps)
    if often < LEVEL / 2:
        return measured, rate, f"sampled with a rate of {measured:.4g} instead of {rate:g}"
    if again < LEVEL / 2:
        return measured, rate, "the same units are sampled in one step and the next, so the coins repeat"
    return measured, rate, ""


def _halves(sampled: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The steps in pairs that share none."""
    return list(zip(sampled[::2], sampled[1::2]))


def _bins_fault(tap: Tap, _: PrivacyPlan) -> tuple[float, float, str]:
    """Most steps of an epoch that a unit was in, of one allowed."""
    most = int(np.bincount(np.concatenate(tap.sampled), minlength=NUM_UNITS).max())
    return float(most), 1.0, f"a unit is in {most} steps of an epoch" if most > 1 else ""
