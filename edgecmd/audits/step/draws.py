"""Many draws of one step's release on two neighbouring data sets (level L1).

The real step (`private_step`) is made again and again on each of the two sets, with fixed coins
and the system's noise. The attacker knows both sums and projects a release on their difference, which is
the best there is. One full-batch Gaussian step with the plan's noise multiplier is what was claimed of it.

Each coordinate's noise is its own. So the auditor, who is the step's probe, puts copies of the sum in the
place of the sum, on the coordinates where the sets differ: the step then releases that many draws by its
own call and its own source. That the step adds to every coordinate what it is said to add, on the sum as
it is, is what `edgecmd.audits.step.checks` tests.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from edgecmd.audits.bounds import CONFIDENCE, gdp_epsilon, many_runs_epsilon, many_runs_gdp
from edgecmd.audits.finding import NOT_CONTRADICTED, Finding, epsilon_verdict
from edgecmd.audits.static.scripted import (
    Formed,
    Script,
    Work,
    kept_weights,
    quiet_copy,
    settings_work,
    step_query,
)
from edgecmd.audits.static.search import Neighbours, pair_makers, search_sensitivity
from edgecmd.audits.step.noise import LEVEL
from edgecmd.audits.target import Target, plan_of, student_of
from edgecmd.core.seeding import torch_generator
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step import randomness
from edgecmd.privacy.step.gradients import Sum
from edgecmd.privacy.step.randomness import DeterministicSource, Source

NUM_DRAWS = 2000
NUM_TRIES = 16
NUM_PAIRS = 12
MOST_COORDINATES = 8192
BATCH_DRAWS = 100
KINDS = ("random", "hub", "flip", "duplicates")
FAR_ENOUGH = 0.999
Sums = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Worlds:
    """Two neighbours' sums on the coordinates where they differ most.

    Attributes:
        smaller: Sum without the added pair, by parameter, flat.
        larger: Sum with it.
        chosen: Which coordinates of each parameter these are.
        kind: Kind of the neighbours.
        distance: L2 distance of the whole sums.
    """

    smaller: Sums
    larger: Sums
    chosen: Sums
    kind: str
    distance: float


def audit_draws(target: Target, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Finding:
    """Lower bound of one step's epsilon from ``num_draws`` releases in either world.

    Returns:
        A finding whose bound is the larger of Clopper-Pearson's and of the Gaussian one, each at 97.5%. It
        contradicts where the same bound at `LEVEL` is above the claim: a sound step comes within a
        tenth of its claim, and what is repeated for each release must not fail by chance.
        The Gaussian one is exact here: two fixed sums under Gaussian noise have a Gaussian trade-off, and
        `checks.noise_of` tests that the noise is Gaussian. Both thresholds are fixed by
        the sums and the stated noise before a draw is made.

    Raises:
        PrivacyError: The target has no plan.
    """
    started, plan = time.monotonic(), plan_of(target)
    worlds, step = worst_worlds(target, plan, seed=seed)
    absent, present = (
        _scores(step.releases(included=one, num_draws=num_draws), worlds, plan=plan) for one in (False, True)
    )
    distance = _gap(worlds) / plan.noise_std
    guesses = [
        {
            "false_positives": int((absent > at).sum()),
            "num_out": num_draws,
            "false_negatives": int((present <= at).sum()),
            "num_in": num_draws,
        }
        for at in (_best_threshold(distance, num_draws, target.delta), distance / 2.0)
    ]
    counted, fitted = _bounds(*guesses, delta=target.delta, significance=1.0 - CONFIDENCE)
    sure = max(_bounds(*guesses, delta=target.delta, significance=LEVEL))
    lower, ceiling = max(counted, fitted), max(_ceilings(num_draws, target.delta))
    claimed = gdp_epsilon(1.0 / plan.noise_multiplier, delta=target.delta) if plan.private else None
    verdict, text = _verdict(lower, sure, claimed=claimed, ceiling=ceiling)
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
            "epsilon_at_level": sure,
            "share_of_distance": _gap(worlds) / worlds.distance,
            "kind": worlds.kind,
        },
    )


def worst_worlds(target: Target, plan: PrivacyPlan, *, seed: int) -> tuple[Worlds, "Repeated"]:
    """Sums of the neighbours that are farthest apart of a few tries, and the real step on either."""
    run, audited = target.run, student_of(target)
    anchors, student = run.anchors, quiet_copy(audited)
    student.to(anchors.device)
    makers = pair_makers(
        student,
        num_pairs=NUM_PAIRS,
        in_channels=audited.in_channels,
        image_size=run.task.input_shape[1:],
        embedding_dim=anchors.shape[1],
    )
    work = settings_work(run.distill, anchors)
    query = step_query(student, work, plan=plan)
    found = search_sensitivity(
        query,
        {kind: makers[kind] for kind in KINDS},
        num_tries=NUM_TRIES,
        generator=torch_generator(seed, "audit-neighbours"),
        climb_length=1,
        stop_above=FAR_ENOUGH * plan.sensitivity,
    )
    worst = found.worst
    assert worst is not None
    larger, smaller = query([(worst.data, worst.larger()), (worst.data, worst.smaller())])
    worlds = _cut(larger, smaller, kind=found.kind, distance=found.largest)
    return worlds, Repeated(student=student, work=work, neighbours=worst, plan=plan, chosen=worlds.chosen)


def _cut(larger: Sums, smaller: Sums, *, kind: str, distance: float) -> Worlds:
    """The coordinates on which the sums differ most; noise is drawn for these alone."""
    apart = {name: (value - smaller[name]).abs().ravel() for name, value in larger.items()}
    every = torch.cat(list(apart.values()))
    least = every.topk(min(MOST_COORDINATES, len(every))).values[-1]
    chosen = {name: value >= least for name, value in apart.items()}
    return Worlds(
        smaller={name: value.ravel()[chosen[name]] for name, value in smaller.items()},
        larger={name: value.ravel()[chosen[name]] for name, value in larger.items()},
        chosen=chosen,
        kind=kind,
        distance=distance,
    )


def _gap(worlds: Worlds) -> float:
    square = sum(
        float((value - worlds.smaller[name]).square().sum()) for name, value in worlds.larger.items()
    )
    return math.sqrt(square)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Repeated:
    """The real step on either of two neighbours, as often as is asked.

    Attributes:
        student: Encoder; keeps its weights.
        work: The run's local work.
        neighbours: The two sets.
        plan: Plan of the run.
        chosen: Coordinates of each parameter that are released.
    """

    student: nn.Module
    work: Work
    neighbours: Neighbours
    plan: PrivacyPlan
    chosen: Sums

    def releases(self, *, included: bool, num_draws: int) -> Iterator[Sums]:
        """Draws of what the step releases, (draws, coordinates) for each parameter."""
        both = self.neighbours
        rows = both.larger() if included else both.smaller()
        held = replace(both.data, target=both.data.target[rows], teacher=both.data.teacher[rows])
        words = DeterministicSource(0).words(len(both.data))[rows]
        plan = replace(self.plan, steps_per_round=1)
        for start in range(0, num_draws, BATCH_DRAWS):
            source = randomness.make_source(deterministic=False, seed=0, round_index=1, client=0)
            tiler = Tiler(words, source, chosen=self.chosen, num=min(BATCH_DRAWS, num_draws - start))
            optimizer = torch.optim.SGD(self.student.parameters(), lr=0.0)
            with kept_weights(self.student), suppress(Formed):
                self.work(self.student, held, plan=plan, optimizer=optimizer, source=tiler, probe=tiler)
            yield tiler.released


class Tiler(Script):
    """A script that lets the step release copies of its sum on some coordinates, and leaves it then.

    Args:
        rows: Words of the rows, one uint64 each.
        noise: Where the noise comes from.
        chosen: Which coordinates of each parameter.
        num: Copies.
    """

    def __init__(self, rows: np.ndarray, noise: Source, *, chosen: Sums, num: int) -> None:
        super().__init__(rows, noise=noise)
        self._chosen, self._num = chosen, num

    def add(self, total: Sum, _: np.ndarray) -> None:
        """Put the copies in the place of the sum."""
        for name, value in total.items():
            total[name] = value.ravel()[self._chosen[name]].repeat(self._num, 1)

    def see(self, released: Sum) -> None:
        """Keep the release; the weights have no use for copies."""
        super().see(released)
        raise Formed


def _scores(releases: Iterable[Sums], worlds: Worlds, *, plan: PrivacyPlan) -> np.ndarray:
    """Releases, projected on the difference of the worlds, in units of the stated noise."""
    gap, found = _gap(worlds), []
    along = {name: (value - worlds.smaller[name]) / gap for name, value in worlds.larger.items()}
    for released in releases:
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


def _bounds(
    counted: Mapping[str, int], fitted: Mapping[str, int], *, delta: float, significance: float
) -> tuple[float, float]:
    """Lower bounds of epsilon for any mechanism and for a Gaussian one, together at ``significance``."""
    level = 1.0 - significance / 2.0
    return (
        many_runs_epsilon(**counted, delta=delta, confidence=level),
        gdp_epsilon(many_runs_gdp(**fitted, confidence=level), delta=delta),
    )


def _ceilings(num_draws: int, delta: float) -> tuple[float, float]:
    none = {"false_positives": 0, "false_negatives": 0, "num_out": num_draws, "num_in": num_draws}
    return _bounds(none, none, delta=delta, significance=1.0 - CONFIDENCE)


def _verdict(lower: float, sure: float, *, claimed: float | None, ceiling: float) -> tuple[str, str]:
    """Verdict by the sure bound, told with the usual one where both agree."""
    if claimed is not None and lower > claimed >= sure:
        return (
            NOT_CONTRADICTED,
            f"Not contradicted: at least {lower:.3g} of the claimed {claimed:.3g} at {CONFIDENCE:.0%}, which"
            f" chance allows; {sure:.3g} at a level of {LEVEL:g}. Repeat with more draws.",
        )
    return epsilon_verdict(lower=lower, claimed=claimed, ceiling=ceiling)
