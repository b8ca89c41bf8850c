"""A secure sum as the real clients and the real server make it: its noise, and the vectors in it (level L1).

Whole rounds of the protocol are made, and the auditor adds up what the clients' vectors are without noise.
What the sum holds beside it is the noise of all clients that are in it.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.static.reference_sum import SUM_TOLERANCE, nearest_sum
from edgecmd.audits.step.checks import StepEffort, noise_finding, pairs_of
from edgecmd.audits.step.noise import FEWEST_DRAWS, StepNoise, judge_steps, step_noise
from edgecmd.audits.step.random_source import source_finding
from edgecmd.audits.target import Target, plan_of, student_of, terms_for
from edgecmd.core.text import counted
from edgecmd.models.students import Student
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.secure_sum import integers
from edgecmd.privacy.secure_sum.terms import Terms
from edgecmd.privacy.secure_sum.updates import update_of
from edgecmd.privacy.step import private_step
from edgecmd.privacy.step.moments import subject_of, summed_module
from edgecmd.privacy.step.private_step import by_parameter, units_of
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.privacy.step.units import make_units
from edgecmd.run import Run
from edgecmd.training.averaging import to_arrays
from edgecmd.training.distill import make_optimizer

NUM_SUMS = 2
# Pairs of the clients whose vectors are looked at by themselves.
SIZES = (0, 1, 12)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Released:
    """What a secure sum released.

    Attributes:
        total: The noised sum in the units of the vectors.
        clients: Whose vectors are in it.
        round_index: Round, from 1.
    """

    total: np.ndarray
    clients: tuple[int, ...]
    round_index: int


Sums = Callable[[Run, Student, int], Sequence[Released]]
"""Rounds of a run's real apps from a student's weights, as many as are asked for."""


def audit_sum(target: Target, effort: StepEffort | None = None, *, sums: Sums) -> list[Finding]:
    """Level L1 of a run whose rounds are secure sums: noise, vectors of clients, random source.

    Args:
        target: What is audited.
        effort: What new processes drew; a sum has no neighbours to draw for.
        sums: See `edgecmd.audits.levels.Rooms`.

    Raises:
        PrivacyError: The target has no plan.
    """
    effort = effort or StepEffort()
    started, plan, student = time.monotonic(), plan_of(target), student_of(target)
    # Views are secret coins; the auditor must know what is summed.
    run = replace(target.run, distill=replace(target.run.distill, augment=0.0))
    student.to(run.anchors.device)
    terms = terms_for(plan, summed_module(plan, student))
    made = sums(run, student, NUM_SUMS + FEWEST_DRAWS // terms.dim)
    noise = [
        _noise(one, call, run=run, plan=plan, student=student, terms=terms)
        for call, one in enumerate(made, start=1)
    ]
    found = noise_finding(judge_steps(noise), plan=plan, attacker="sum", seconds=time.monotonic() - started)
    shares = {"sums": len(made), "clients": min(len(one.clients) for one in made), "honest": terms.honest}
    told = f" {counted(terms.honest, 'client')} of the {shares['clients']} in a sum bring what is stated."
    findings = [replace(found, text=found.text + told, counts={**found.counts, **shares})]
    if plan.unit == "pair":
        findings.append(vectors_finding(target, run, plan, student, terms))
    return [*findings, source_finding([], plan, spawned=effort.spawned)]


def _sizes(plan: PrivacyPlan, student: Student) -> dict[str, int]:
    """How many numbers of a vector each parameter has, in their order."""
    if plan.unit == "pair":
        module = EffectiveStudent(summed_module(plan, student)).module
        return {name: value.numel() for name, value in module.named_parameters()}
    return {name: value.size for name, value in to_arrays(student).items() if name not in student.fixed}


def _noise(
    released: Released, call: int, *, run: Run, plan: PrivacyPlan, student: Student, terms: Terms
) -> StepNoise:
    """What a sum holds beside its vectors, in deviations of the shares that are in it."""
    own = np.zeros(terms.dim)
    for client in released.clients:
        own += bounded(vector_of(run, plan, student, client, released.round_index), terms.bound)
    deviation = math.sqrt(terms.share_variance * len(released.clients)) / terms.scale
    draws = (released.total - own) / deviation
    sizes, length = _sizes(plan, student), float(np.linalg.norm(own))
    parts = np.split(draws, np.cumsum(list(sizes.values()))[:-1])
    return step_noise(
        dict(zip(sizes, parts, strict=True)),
        call=call,
        index=1,
        rows=sum(len(run.part(client)) for client in released.clients),
        along=float(draws @ own) / length if length else None,
    )


def vector_of(run: Run, plan: PrivacyPlan, student: Student, client: int, round_index: int) -> np.ndarray:
    """What a client of a simulation brings, before it is bounded and noised: its work again."""
    holding, own = run.holding(client), copy.deepcopy(student)
    if plan.unit == "pair":
        asked, loss = subject_of(plan, own, run.loss, holding.anchors)
        source = DeterministicSource(0)
        return private_step.whole_sum(asked, holding.data, run.distill, loss=loss, plan=plan, source=source)
    optimizer = make_optimizer(own, run.distill)
    run.train_locally(own, holding, place=run.place(round_index, client=client), optimizer=optimizer)
    return update_of(to_arrays(student), to_arrays(own), fixed=student.fixed)


def bounded(vector: np.ndarray, bound: float) -> np.ndarray:
    """The auditor's own projection onto the ball of norm ``bound``."""
    length = float(np.linalg.norm(vector))
    return vector * (bound / length) if length > bound else vector


def vectors_finding(target: Target, run: Run, plan: PrivacyPlan, student: Student, terms: Terms) -> Finding:
    """Whether the integers of clients with no, one and many pairs are the clipped sums of all of these."""
    started, rounding = time.monotonic(), math.sqrt(terms.dim) / (2.0 * terms.scale)
    asked, loss = subject_of(plan, student, run.loss, run.anchors)
    effective = EffectiveStudent(asked)
    gaps, limits = [], []
    for num in SIZES:
        data, coins = pairs_of(target, client=0, num=num), partial(DeterministicSource, 0)
        vector = private_step.whole_sum(asked, data, run.distill, loss=loss, plan=plan, source=coins())
        every = np.arange(num)
        chunks = make_units(data, every, config=units_of(plan), augment=0.0, source=coins())
        found = by_parameter(effective, vector)
        own = nearest_sum(effective.module, chunks, loss, clip=plan.clip, found=found)
        flat = np.concatenate([value.flatten().cpu().numpy() for value in own.values()])
        sent = integers.encoded(vector, terms) / terms.scale
        gaps.append(float(np.linalg.norm(sent - bounded(flat, terms.bound))))
        limits.append(rounding + SUM_TOLERANCE * plan.clip * max(1, num))
    worst = int(np.argmax(np.array(gaps) / limits))
    wrong = gaps[worst] > limits[worst]
    told = (
        f"that of {counted(SIZES[worst], 'pair')} is off by {gaps[worst] / plan.clip:.3g} C"
        if wrong
        else "each is the clipped sum of all pairs, rounded; none is sampled"
    )
    kind = (CONTRADICTED if wrong else NOT_CONTRADICTED) if plan.private else INDICATOR
    return Finding(
        level="step",
        name="release",
        attacker="sum",
        verdict=kind,
        text=f"Vectors of clients with {', '.join(map(str, SIZES))} pairs: {told}.",
        quantity="gap in C",
        claimed=limits[worst] / plan.clip,
        measured=gaps[worst] / plan.clip,
        counts={"vectors": len(SIZES), "pairs": sum(SIZES)},
        seconds=time.monotonic() - started,
    )
