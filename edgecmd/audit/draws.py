"""Many draws of one step's release on two neighbouring data sets (level L1).

The sums of the two sets are made once by the real code and then released thousands of times by the real
noise. The attacker knows both sums and projects a release on their difference, which is the best there
is. One full-batch Gaussian step with the plan's noise multiplier is what was claimed of it.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from edgecmd.audit.bounds import CONFIDENCE, gdp_epsilon, many_runs_ceiling, many_runs_epsilon, many_runs_gdp
from edgecmd.audit.finding import Finding, epsilon_verdict
from edgecmd.audit.step import plan_of, student_of
from edgecmd.audit.target import Target
from edgecmd.data.clients import public_anchors
from edgecmd.privacy.mechanisms import StepSettings, unit_loss
from edgecmd.privacy.neighbours import pair_makers
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.randomness import SystemSource
from edgecmd.privacy.search import search_sensitivity, step_query
from edgecmd.privacy.train import add_noise
from edgecmd.seeding import torch_generator

NUM_DRAWS = 2000
NUM_TRIES = 16
NUM_PAIRS = 12
MOST_COORDINATES = 8192
BATCH_DRAWS = 50
KINDS = ("random", "hub", "flip", "duplicates")
FAR_ENOUGH = 0.999
Sums = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Worlds:
    """Two neighbours' sums on the coordinates where they differ most.

    Attributes:
        smaller: Sum without the added pair, by parameter, flat.
        larger: Sum with it.
        kind: Kind of the neighbours.
        distance: L2 distance of the whole sums.
    """

    smaller: Sums
    larger: Sums
    kind: str
    distance: float


def audit_draws(target: Target, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Finding:
    """Lower bound of one step's epsilon from ``num_draws`` releases in either world.

    Returns:
        A finding whose bound is the larger of Clopper-Pearson's and of the Gaussian one, each at 97.5%.
        The Gaussian one is exact here: two fixed sums under Gaussian noise have a Gaussian trade-off, and
        `edgecmd.audit.step.audit_noise` tests that the noise is Gaussian. Both thresholds are fixed by
        the sums and the stated noise before a draw is made.

    Raises:
        PrivacyError: The target has no plan.
    """
    started, plan = time.monotonic(), plan_of(target)
    worlds = worst_worlds(target, plan, seed=seed)
    absent, present = (
        _scores(one, worlds, plan=plan, num_draws=num_draws) for one in (worlds.smaller, worlds.larger)
    )
    distance = _gap(worlds) / plan.noise_std
    level = 1.0 - (1.0 - CONFIDENCE) / 2.0
    any_, gauss = (
        {
            "false_positives": int((absent > at).sum()),
            "num_out": num_draws,
            "false_negatives": int((present <= at).sum()),
            "num_in": num_draws,
        }
        for at in (_best_threshold(distance, num_draws, target.delta), distance / 2.0)
    )
    counted = many_runs_epsilon(**any_, delta=target.delta, confidence=level)
    fitted = gdp_epsilon(many_runs_gdp(**gauss, confidence=level), delta=target.delta)
    lower = max(counted, fitted)
    ceiling = max(
        many_runs_ceiling(num_out=num_draws, num_in=num_draws, delta=target.delta, confidence=level),
        _gaussian_ceiling(num_draws, level, target.delta),
    )
    claimed = gdp_epsilon(1.0 / plan.noise_multiplier, delta=target.delta) if plan.private else None
    verdict, text = epsilon_verdict(lower=lower, claimed=claimed, ceiling=ceiling)
    return Finding(
        level="step",
        name="neighbours",
        attacker="steps",
        verdict=verdict,
        text=f"{text} One step that every pair is in; {worlds.kind} pairs, {worlds.distance:.4g} apart of"
        f" the stated {plan.sensitivity:g}.",
        quantity="epsilon",
        claimed=claimed,
        measured=lower,
        ceiling=ceiling,
        confidence=CONFIDENCE,
        counts={"draws": 2 * num_draws, "coordinates": sum(one.numel() for one in worlds.smaller.values())},
        seeds=(seed,),
        seconds=time.monotonic() - started,
        details={
            "epsilon_any_mechanism": counted,
            "epsilon_gaussian": fitted,
            "share_of_distance": _gap(worlds) / worlds.distance,
            "kind": worlds.kind,
        },
    )


def worst_worlds(target: Target, plan: PrivacyPlan, *, seed: int) -> Worlds:
    """Sums of the neighbours that lie farthest apart of a few tries, by the real clipped sum."""
    config, student = target.config, student_of(target)
    anchors, first = public_anchors(config), next(student.parameters())
    student.to(anchors.device)
    makers = pair_makers(
        student,
        num_pairs=NUM_PAIRS,
        in_channels=first.shape[1],
        image_size=config.data.image_size,
        embedding_dim=anchors.shape[1],
    )
    query = step_query(
        student,
        unit_loss(config.distill, anchors),
        settings=StepSettings(
            mechanism=plan.mechanism,
            num_views=plan.num_views,
            num_groups=plan.num_groups,
            chunk_size=plan.chunk_size,
        ),
        clip=plan.clip,
        engine=plan.engine,
    )
    found = search_sensitivity(
        query,
        {kind: makers[kind] for kind in KINDS},
        num_tries=NUM_TRIES,
        generator=torch_generator(seed, "audit-neighbours"),
        climb_length=1,
        stop_above=FAR_ENOUGH * plan.sensitivity,
    )
    assert found.worst is not None
    larger, smaller = query(
        [(found.worst.data, found.worst.larger()), (found.worst.data, found.worst.smaller())]
    )
    return _cut(larger, smaller, kind=found.kind, distance=found.largest)


def _cut(larger: Sums, smaller: Sums, *, kind: str, distance: float) -> Worlds:
    """The coordinates on which the sums differ most; noise is drawn for these alone."""
    apart = {name: (value - smaller[name]).abs().ravel() for name, value in larger.items()}
    every = torch.cat(list(apart.values()))
    least = every.topk(min(MOST_COORDINATES, len(every))).values[-1]
    chosen = {name: value >= least for name, value in apart.items()}
    return Worlds(
        smaller={name: value.ravel()[chosen[name]] for name, value in smaller.items()},
        larger={name: value.ravel()[chosen[name]] for name, value in larger.items()},
        kind=kind,
        distance=distance,
    )


def _gap(worlds: Worlds) -> float:
    square = sum(
        float((value - worlds.smaller[name]).square().sum()) for name, value in worlds.larger.items()
    )
    return math.sqrt(square)


def _scores(total: Sums, worlds: Worlds, *, plan: PrivacyPlan, num_draws: int) -> np.ndarray:
    """Releases of ``total``, projected on the difference of the worlds, in units of the stated noise."""
    source, gap, found = SystemSource(), _gap(worlds), []
    along = {name: (value - worlds.smaller[name]) / gap for name, value in worlds.larger.items()}
    for start in range(0, num_draws, BATCH_DRAWS):
        num = min(BATCH_DRAWS, num_draws - start)
        # Each coordinate's noise is its own, so copies of a sum are released as that many draws.
        released = add_noise(
            {name: one.repeat(num, 1) for name, one in total.items()}, plan=plan, source=source
        )
        parts = [
            (one * plan.normaliser - worlds.smaller[name]) @ along[name] for name, one in released.items()
        ]
        found.append(torch.stack(parts).sum(dim=0).cpu().numpy())
    return np.asarray(np.concatenate(found) / plan.noise_std)


def _best_threshold(distance: float, num_draws: int, delta: float) -> float:
    """Where the stated noise would let the counted bound be largest."""
    grid = np.linspace(-1.0, 4.0 + distance, 101)
    expected = [
        many_runs_epsilon(
            false_positives=round(num_draws * float(stats.norm.sf(at))),
            num_out=num_draws,
            false_negatives=round(num_draws * float(stats.norm.cdf(at - distance))),
            num_in=num_draws,
            delta=delta,
        )
        for at in grid
    ]
    return float(grid[int(np.argmax(expected))])


def _gaussian_ceiling(num_draws: int, level: float, delta: float) -> float:
    none = {"false_positives": 0, "false_negatives": 0, "num_out": num_draws, "num_in": num_draws}
    return gdp_epsilon(many_runs_gdp(**none, confidence=level), delta=delta)
