"""Private steps of the real code: is their noise as stated, and do they release what they claim (L1)?

Rounds of the run's own settings are driven under an auditor (`driven_rounds`): every local step of
several rounds and clients, on clients with many pairs, with few and with none. What a release holds beside
the clipped sum, which the auditor makes himself, is the noise.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.static.reference_sum import SUM_TOLERANCE
from edgecmd.audits.static.scripted import quiet_copy
from edgecmd.audits.step.draws import NUM_DRAWS, audit_draws
from edgecmd.audits.step.driven_rounds import Step, drive, made_up_pairs
from edgecmd.audits.step.noise import FEWEST_DRAWS, LEVEL, Draws, Verdict, judge_noise, judge_steps, named
from edgecmd.audits.step.random_source import source_finding
from edgecmd.audits.step.sampling_coins import audit_coins
from edgecmd.audits.target import Target, cut_chunks, plan_of, student_of
from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import torch_generator
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.run import Run
from edgecmd.training.distill import LocalData

# Pairs that a sample of a client holds on average, so that it is empty, small or large.
NONE, FEW, MANY = 0.0, 1.5, 12.0
MOST_PAIRS = 2048
# Share by which float32 may let two ways to make a gradient differ.
MOVE_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class StepEffort:
    """How much the level does.

    Attributes:
        num_draws: Releases in either of two neighbouring worlds.
        seed: Of the neighbours; noise stays secret.
        spawned: What new processes drew (`random_source.spawned_words`); None to ask them.
    """

    num_draws: int = NUM_DRAWS
    seed: int = 0
    spawned: tuple[bytes, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A round that is driven.

    Attributes:
        round_index: Which.
        client: Of which client.
        sample: Pairs that its samples hold on average.
        cut: Whether its chunks are cut, so that a sample fills several (`cut_chunks`).
    """

    round_index: int
    client: int
    sample: float
    cut: bool = False


# Noise must be unlike between a question that is asked twice, another round and another client.
CALLS = (Call(1, 0, MANY), Call(1, 0, MANY), Call(2, 0, FEW), Call(1, 1, NONE), Call(3, 1, MANY, cut=True))


def audit_step(
    target: Target,
    effort: StepEffort | None = None,
    *,
    server_noise: Callable[[Run, PrivacyPlan], list[Draws]],
) -> list[Finding]:
    """Level L1 of a run that protects pairs; for mechanism ``client`` the server's noise.

    Args:
        target: What is audited.
        effort: Draws and seed; None for the usual ones.
        server_noise: See `edgecmd.audits.levels.Rooms`.

    Raises:
        PrivacyError: The target has no plan.
    """
    effort = effort or StepEffort()
    if plan_of(target).unit == "client":
        return [audit_server_noise(target, server_noise)]
    return audit_steps(target, effort)


def audit_server_noise(target: Target, server_noise: Callable[[Run, PrivacyPlan], list[Draws]]) -> Finding:
    """Noise that the real server adds when no client answers, over some rounds, against the plan's."""
    started, plan = time.monotonic(), plan_of(target)
    rounds = server_noise(target.run, plan)
    verdict = judge_noise(rounds, rounds)
    return noise_finding(verdict, plan=plan, attacker="client", seconds=time.monotonic() - started)


def audit_steps(target: Target, effort: StepEffort) -> list[Finding]:
    """All of level L1 for a run that protects pairs: noise, release, coins, random source, neighbours.

    Args:
        target: What is audited.
        effort: How much is done.

    Raises:
        PrivacyError: The target has no plan.
    """
    started, plan = time.monotonic(), plan_of(target)
    steps = drive_rounds(target)
    seconds = time.monotonic() - started
    return [
        noise_of(steps, plan, seconds),
        release_finding(steps, plan),
        audit_coins(target),
        source_finding(steps, plan, spawned=effort.spawned),
        audit_draws(target, num_draws=effort.num_draws, seed=effort.seed),
    ]


def noise_of(steps: Sequence[Step], plan: PrivacyPlan, seconds: float) -> Finding:
    """Noise of every driven step against the plan's, which took ``seconds``."""
    verdict = judge_steps([one.noise for one in steps])
    return noise_finding(verdict, plan=plan, attacker="steps", seconds=seconds)


def drive_rounds(target: Target) -> list[Step]:
    """Every step of some rounds of the real code, on clients with many pairs, few and none.

    Each round starts from the target's student, goes through all of ``plan.steps_per_round`` steps at the
    run's own learning rate, and takes the client's own pairs; made-up ones where it has none.
    """
    plan, student = plan_of(target), quiet_copy(student_of(target))
    anchors = target.run.anchors
    student.to(anchors.device)
    # A deterministic source answers the same question with the same noise, which is its purpose.
    calls = list(CALLS if plan.private else CALLS[1:])
    in_a_round = plan.steps_per_round * sum(value.numel() for value in student.parameters())
    calls += [Call(len(CALLS) + more, 0, FEW) for more in range(FEWEST_DRAWS // (in_a_round * len(calls)))]
    found = []
    for number, call in enumerate(calls, start=1):
        data = pairs_of(target, client=call.client, num=_num_pairs(plan, call.sample))
        found += drive(
            quiet_copy(student),
            data,
            anchors,
            target.run.distill,
            plan=cut_chunks(plan) if call.cut else plan,
            place=target.run.place(call.round_index, client=call.client),
            call=number,
        )
    return found


def _num_pairs(plan: PrivacyPlan, sample: float) -> int:
    rate = plan.sampling_rate if plan.sampling == "poisson" else 1.0 / plan.num_bins
    return min(MOST_PAIRS, math.ceil(sample / rate))


def pairs_of(target: Target, *, client: int, num: int) -> LocalData:
    """``num`` pairs of a client, repeated where it has fewer; made-up ones where it has none."""
    rows = _rows_of(target.run, client)
    if not num or len(rows):
        return target.run.task.local_data(np.resize(rows, num))
    like = target.run.task.local_data(np.arange(1))
    shape, dim = like.target.shape[1:], like.teacher.shape[1]
    made = made_up_pairs(num, shape, dim, generator=torch_generator(client, "audit-pairs"))
    return replace(like, target=made.inputs.to(like.inputs), teacher=made.features.to(like.features))


def _rows_of(run: Run, client: int) -> np.ndarray:
    try:
        return run.part(client % run.federation.num_clients)
    except ConfigError:
        return np.arange(0)


def noise_finding(verdict: Verdict, *, plan: PrivacyPlan, attacker: str, seconds: float) -> Finding:
    """What tests of the noise say of the guarantee.

    Too little noise, noise that repeats, noise that is not Gaussian and a sum that is not the clipped one
    contradict it. Too much noise, or a constant beside it, costs no privacy but means that the code does
    not do what its plan says.
    """
    faults = _faults(verdict)
    wrong = bool(verdict.too_small or verdict.reused or verdict.misshapen or verdict.off_sum)
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
        measured=verdict.least,
        confidence=1.0 - LEVEL,
        counts={"draws": verdict.tests[0].num, "tests": len(verdict.tests), "failed": len(verdict.failed)},
        seconds=seconds,
        details={
            "stated_std": plan.noise_std / plan.normaliser,
            "std": verdict.std,
            "p_values": {one.name: one.p_value for one in verdict.tests if one.kind in ("mean", "shape")},
            "std_by_part": {
                one.name: one.value
                for one in verdict.tests
                if one.kind == "std" and " at step " not in one.name
            },
            "largest_correlation": max(
                (abs(one.value) for one in verdict.tests if one.kind == "reuse"), default=0.0
            ),
            "failed": [f"{one.kind}: {one.name}, p = {one.p_value:.3g}" for one in verdict.failed],
        },
    )


def _faults(verdict: Verdict) -> list[str]:
    found = []
    if verdict.too_small:
        found.append(f"too small ({named(verdict.too_small)})")
    if verdict.reused:
        found.append(f"repeated between {named(verdict.reused)}")
    if verdict.misshapen:
        found.append("not Gaussian")
    if verdict.off_sum:
        found.append(f"added to a sum other than the clipped one ({named(verdict.off_sum)})")
    if verdict.too_large:
        found.append(f"larger than stated ({named(verdict.too_large)}), which costs accuracy but no privacy")
    if verdict.shifted:
        found.append("its mean is not zero, which costs no privacy but is not part of the plan")
    return found


def release_finding(steps: Sequence[Step], plan: PrivacyPlan) -> Finding:
    """Whether each step's sum is the clipped one, and the release all that the weights learn of it.

    The auditor's own sum is made of the units that the step formed by plain backward passes in float32.
    An engine may miss it by rounding, and by a unit that rounding carries over a kink of the student, which
    `reference_sum` computes otherwise as well; what is off under all roundings contradicts.
    """
    sums = [one.sum_gap / max(1, one.units) for one in steps]
    gradients, weights = ([getattr(one, name) for one in steps] for name in ("gradient_gap", "weight_gap"))
    faults = [
        _fault(sums, SUM_TOLERANCE, lambda at: f"the clipped sum is off by {steps[at].sum_gap:.3g} C"),
        _fault(
            gradients,
            MOVE_TOLERANCE,
            lambda at: (
                f"the optimiser receives something other than the release, by {gradients[at]:.2g} of it"
            ),
        ),
        _fault(
            weights,
            MOVE_TOLERANCE,
            lambda at: f"weights move by something other than the release, by {weights[at]:.2g} of it",
        ),
    ]
    told = [
        f"{text} (call {steps[at].noise.call} step {steps[at].noise.index})"
        for at, text in filter(None, faults)
    ]
    kind = (CONTRADICTED if told else NOT_CONTRADICTED) if plan.private else INDICATOR
    sizes = [one.noise.rows for one in steps]
    text = (
        f"{len(steps)} steps on samples of {min(sizes)} to {max(sizes)} pairs: "
        + ("; ".join(told) if told else "each releases the clipped sum and moves the weights by that alone")
        + "."
    )
    return Finding(
        level="step",
        name="release",
        attacker="steps",
        verdict=kind,
        text=text,
        quantity="gap in C",
        claimed=0.0,
        measured=max(one.sum_gap for one in steps),
        counts={"steps": len(steps), "units": sum(one.units for one in steps)},
        details={"gradient_gap": max(gradients), "weight_gap": max(weights), "sampled": sizes},
    )


def _fault(gaps: Sequence[float], most: float, say: Callable[[int], str]) -> tuple[int, str] | None:
    """The step with the largest gap and what to say of it; None where none is above ``most``."""
    worst = int(np.argmax(gaps))
    return (worst, say(worst)) if not gaps[worst] <= most else None
