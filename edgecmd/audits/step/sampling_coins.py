"""The coins of the real step: is each pair sampled by its own coin, fresh in each step (level L1)?

Many rounds of the real step are driven on a few pairs and a thousand units that add nothing, which are
sampled as the pairs are. The student is a single layer, since coins know nothing of it. From who was in
which step all that the accountant assumes of the coins can be tested: how often each unit is in, how
the size of the sample is spread, how often each two are in together, and how like two samples are.

Shapes: T steps (or epochs), N units, S samples of each.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool
from scipy import optimize, stats
from torch import nn

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.step.driven_rounds import made_up_pairs
from edgecmd.audits.step.noise import LEVEL
from edgecmd.audits.target import Target, plan_of
from edgecmd.core.seeding import torch_generator
from edgecmd.losses import Anchors
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step import private_step, randomness
from edgecmd.privacy.step.randomness import Source
from edgecmd.privacy.step.units import unit_loss

NUM_PAIRS, NUM_UNITS, SIDE = 4, 1000, 4
NUM_ROUNDS = 4
FEWEST_STEPS, MOST_STEPS = 64, 4000
# Chance that two pairs with one coin are noticed, for which the number of steps is chosen.
POWER = 0.999
SHARES = 9  # statements that share the level
# Units of a client in all, where a sampler may treat few otherwise; and steps of each.
SMALL, SMALL_STEPS = (0, 1, 2, 3, 12), 256

Presence = Bool[np.ndarray, "steps units"]


@dataclass(kw_only=True, eq=False)
class Roll:
    """A probe that notes who is sampled.

    Attributes:
        num_units: Units that take part beside the pairs and add nothing.
        rows: Sampled rows of each step, pairs first.
    """

    num_units: int
    rows: list[np.ndarray] = field(default_factory=list)

    def __len__(self) -> int:
        return self.num_units

    def form(self, rows: np.ndarray, *_: object) -> None:
        """Note the sampled rows."""
        self.rows.append(rows)

    def add(self, *_: object) -> None:
        """Add nothing."""

    def see(self, _: object) -> None:
        """Look away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """What was tested of the coins.

    Attributes:
        fault: What is wrong where it fails.
        p_value: Of the worst case, times the number of cases.
        quantity: What was measured.
        claimed: What sound coins give on average.
        measured: What they gave in the worst case.
        harmless: It costs no privacy, though the plan says otherwise.
    """

    fault: str
    p_value: float
    quantity: str
    claimed: float
    measured: float
    harmless: bool = False


def audit_coins(target: Target) -> Finding:
    """Who is in which step of the real code, against what the accountant assumes of it.

    Raises:
        PrivacyError: The target has no plan.
    """
    started, plan = time.monotonic(), plan_of(target)
    poisson = plan.sampling == "poisson"
    rate = plan.sampling_rate if poisson else 1.0 / plan.num_bins
    num, enough = num_steps(rate)
    in_a_round = math.ceil(num / NUM_ROUNDS) * (1 if poisson else plan.num_bins)
    presence = sampled(target, plan, num_steps=in_a_round)
    found = poisson_statements(presence, rate) if poisson else bins_statements(presence, plan.num_bins)
    found += small_statements(target, plan, rate)
    failed = sorted((one for one in found if one.p_value < LEVEL / SHARES), key=lambda one: one.harmless)
    kind = CONTRADICTED if any(not one.harmless for one in failed) else NOT_CONTRADICTED
    told = failed[0] if failed else found[0]
    text = f"{presence.shape[1]} units over {len(presence)} steps: "
    text += "; ".join(one.fault for one in failed) or "each is sampled as stated, by its own coin"
    if not enough:
        text += (
            f". At a rate of {rate:g} more steps than were run would be needed to notice two pairs that"
            " share a coin; the other statements stand"
        )
    return Finding(
        level="step",
        name="sampling",
        attacker="steps",
        verdict=kind if plan.private else INDICATOR,
        text=f"{text}.",
        quantity=told.quantity,
        claimed=told.claimed,
        measured=told.measured,
        confidence=1.0 - LEVEL,
        counts={"units": presence.shape[1], "steps": len(presence), "failed": len(failed)},
        seconds=time.monotonic() - started,
        details={"p_values": {one.fault: one.p_value for one in found}},
    )


def num_steps(rate: float) -> tuple[int, bool]:
    """Steps after which two pairs that share a coin are noticed, and whether they can be afforded.

    Args:
        rate: Probability of a pair in a step.
    """
    if rate >= 1.0:
        return FEWEST_STEPS, True
    level = LEVEL / SHARES / math.comb(NUM_PAIRS + NUM_UNITS, 2)
    for num in (*range(FEWEST_STEPS, 512, 32), *range(512, MOST_STEPS + 1, 128)):
        together = int(stats.binom.ppf(1.0 - POWER, num, rate))
        if stats.binom.sf(together - 1, num, rate**2) < level:
            return num, True
    return MOST_STEPS, False


def sampled(target: Target, plan: PrivacyPlan, *, num_steps: int) -> Presence:
    """Who was in which step of `NUM_ROUNDS` rounds of ``num_steps`` steps of the real code."""
    anchors = target.run.anchors.cpu()
    found = []
    for index in range(NUM_ROUNDS):
        source = randomness.make_source(
            deterministic=plan.deterministic,
            seed=target.run.seed,
            round_index=1 + index // 2,
            client=index % 2,
        )
        roll = Roll(num_units=NUM_UNITS)
        drawn = replace(plan, steps_per_round=num_steps)
        _round(anchors, target, drawn, source=source, roll=roll, client=index % 2)
        found.append(_presence(roll.rows, NUM_PAIRS + NUM_UNITS))
    return np.concatenate(found)


def small_statements(target: Target, plan: PrivacyPlan, rate: float) -> list[Statement]:
    """What is assumed of the samples of clients with few pairs, and of rows that a sample lists.

    Args:
        target: What is audited.
        plan: Its plan.
        rate: Probability of a unit in a step.
    """
    anchors = target.run.anchors.cpu()
    in_an_epoch = 1 if plan.sampling == "poisson" else plan.num_bins
    drawn = replace(plan, steps_per_round=max(1, SMALL_STEPS // in_an_epoch) * in_an_epoch)
    sizes, twice = {}, 0
    for num in SMALL:
        source = randomness.make_source(
            deterministic=plan.deterministic, seed=target.run.seed, round_index=1, client=num
        )
        roll, pairs = Roll(num_units=num - min(num, NUM_PAIRS)), min(num, NUM_PAIRS)
        _round(anchors, target, drawn, source=source, roll=roll, client=0, pairs=pairs)
        # Bins of an epoch share their units, so one of each stands for it.
        sizes[num] = np.array([len(rows) for rows in roll.rows[::in_an_epoch]])
        twice += sum(len(np.unique(rows)) < len(rows) for rows in roll.rows)
    once = Statement(
        fault=f"{twice} samples list a unit twice",
        p_value=0.0 if twice else 1.0,
        quantity="samples with a unit twice",
        claimed=0.0,
        measured=float(twice),
    )
    return [few_statement(sizes, rate), once]


def few_statement(sizes: Mapping[int, np.ndarray], rate: float) -> Statement:
    """That samples of few units are as large as independent coins make them.

    Args:
        sizes: For each number of units in all, the sizes of the samples.
        rate: Probability of a unit in a sample.

    Returns:
        The size that occurs least as it should, by an exact binomial p-value times the number of cases.
    """
    worst, cases = (
        Statement(
            fault="few units are sampled otherwise",
            p_value=1.0,
            quantity="share of samples",
            claimed=0.0,
            measured=0.0,
        ),
        0,
    )
    for num, found in sizes.items():
        for size in range(max(num, int(found.max(initial=0))) + 1):
            claimed = min(1.0, float(stats.binom.pmf(size, num, rate)))
            times, cases = int((found == size).sum()), cases + 1
            p_value = float(stats.binomtest(times, len(found), claimed).pvalue)
            if p_value < worst.p_value:
                fault = f"of {num} units in all, {size} are in a sample at {times} of {len(found)} steps"
                worst = Statement(
                    fault=fault,
                    p_value=p_value,
                    quantity="share of samples",
                    claimed=claimed,
                    measured=times / len(found),
                )
    return replace(worst, p_value=min(1.0, cases * worst.p_value))


def _round(
    anchors: Anchors,
    target: Target,
    plan: PrivacyPlan,
    *,
    source: Source,
    roll: Roll,
    client: int,
    pairs: int = NUM_PAIRS,
) -> None:
    dim = anchors.shape[1]
    coins = torch_generator(client, "audit-coins-pairs")
    student = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, dim))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=coins) / SIDE)
    private_step.distil_privately(
        student,
        made_up_pairs(pairs, (1, SIDE, SIDE), dim, generator=coins),
        target.run.distill,
        loss=unit_loss(target.run.loss, anchors),
        plan=plan,
        place=target.run.place(1, client=client),
        optimizer=torch.optim.SGD(student.parameters(), lr=0.0),
        source=source,
        probe=roll,
    )


def _presence(rows: Sequence[np.ndarray], num: int) -> Presence:
    found = np.zeros((len(rows), num), dtype=bool)
    for step, one in enumerate(rows):
        found[step, one] = True
    return found


def poisson_statements(presence_TN: Presence, rate: float) -> list[Statement]:
    """What the accountant assumes of a Poisson sample.

    Args:
        presence_TN: Who was in which step.
        rate: Stated probability of each.

    Returns:
        Statements with exact binomial p-values, the size's by Chernoff's bound; each is multiplied by the
        number of its cases, so that sound coins fail one with its p-value at most.
    """
    steps, num = presence_TN.shape
    found = [
        *_often(presence_TN.sum(axis=0), steps, rate),
        *_sizes(presence_TN.sum(axis=1), num, rate),
    ]
    if rate >= 1.0:
        return found
    together, alike = _overlaps(presence_TN.T), _overlaps(presence_TN)
    both = "pairs in a step together"
    return [
        *found,
        _most(
            together, steps, rate**2, "two pairs are sampled together too often, so they share a coin", both
        ),
        _least(together, steps, rate**2, "two pairs are sampled together too rarely to be independent", both),
        _most(
            alike, num, rate**2, "two steps sample the same units, so the coins repeat", "units of two steps"
        ),
        _least(alike, num, rate**2, "two steps share too few units to be independent", "units of two steps"),
    ]


def _most(times: np.ndarray, trials: int, rate: float, fault: str, quantity: str) -> Statement:
    """That the largest of some binomial counts is not too large."""
    return Statement(
        fault=fault,
        p_value=len(times) * float(stats.binom.sf(times.max() - 1, trials, rate)),
        quantity=quantity,
        claimed=rate,
        measured=float(times.max()) / trials,
    )


def _least(times: np.ndarray, trials: int, rate: float, fault: str, quantity: str) -> Statement:
    """That the smallest of some binomial counts is not too small."""
    return Statement(
        fault=fault,
        p_value=len(times) * float(stats.binom.cdf(times.min(), trials, rate)),
        quantity=quantity,
        claimed=rate,
        measured=float(times.min()) / trials,
    )


def bins_statements(presence_TN: Presence, num_bins: int) -> list[Statement]:
    """What is assumed where rows are dealt into the bins of an epoch.

    Args:
        presence_TN: Who was in which step, whole epochs.
        num_bins: Steps of an epoch.
    """
    num = presence_TN.shape[1]
    epochs_ESN = presence_TN.reshape(-1, num_bins, num)
    times = epochs_ESN.sum(axis=1)
    once = Statement(
        fault=f"a unit is in {int(times.max())} steps of an epoch, and in {int(times.min())}",
        p_value=1.0 if bool((times == 1).all()) else 0.0,
        quantity="steps of an epoch",
        claimed=1.0,
        measured=float(times.max()),
    )
    if num_bins == 1 or once.p_value == 0.0:
        return [once]
    each = [poisson_statements(epochs_ESN[:, index], 1.0 / num_bins) for index in range(num_bins)]
    return [
        once,
        *(
            replace(worst, p_value=num_bins * worst.p_value)
            for worst in (min(same, key=lambda one: one.p_value) for same in zip(*each, strict=True))
        ),
    ]


def _often(times_N: np.ndarray, steps: int, rate: float) -> list[Statement]:
    """How often each unit was in."""
    num, total = len(times_N), int(times_N.sum())
    seldom = _least(times_N, steps, rate, "a unit is sampled too rarely, which costs no privacy", "rate")
    return [
        Statement(
            fault=f"sampled with a rate of {total / (steps * num):.4g} instead of {rate:g}",
            p_value=float(stats.binom.sf(total - 1, steps * num, rate)),
            quantity="rate",
            claimed=rate,
            measured=total / (steps * num),
        ),
        _most(times_N, steps, rate, "a unit is sampled too often", "rate"),
        replace(seldom, harmless=True),
    ]


def _sizes(size_T: np.ndarray, num: int, rate: float) -> list[Statement]:
    """How the size of the sample is spread."""
    if rate >= 1.0:
        return []
    size = np.arange(num + 1)
    square = np.square(size - num * rate) / (num * rate * (1.0 - rate))
    log_mass = stats.binom.logpmf(size, num, rate)
    spread = float(np.square(size_T - num * rate).mean() / (num * rate * (1.0 - rate)))
    few = 2.0 * chernoff(log_mass, square, spread, num=len(size_T))
    return [
        Statement(
            fault=f"the size of a sample has {spread:.2g} of the variance of independent coins",
            p_value=few,
            quantity="variance of the size",
            claimed=1.0,
            measured=spread,
        )
    ]


def _overlaps(presence: np.ndarray) -> np.ndarray:
    """In how many columns each two rows are both true, (rows choose 2,)."""
    counted = presence.astype(np.float32)
    return np.asarray(np.rint((counted @ counted.T)[np.triu_indices(len(counted), 1)]), dtype=np.int64)


def chernoff(log_mass: np.ndarray, value: np.ndarray, mean: float, *, num: int) -> float:
    """Probability that the mean of ``num`` draws is as far from its expectation as ``mean``, at most.

    Chernoff's bound on the side of ``mean``: ``min_t exp(num (log E e^(t v) - t mean))``.

    Args:
        log_mass: Logarithms of the probabilities of the values.
        value: The values.
        mean: Mean of the draws that was seen.
        num: Draws.
    """
    expected = float(np.exp(log_mass) @ value)
    side = 1.0 if mean > expected else -1.0

    def exponent(log_t: float) -> float:
        t = side * math.exp(log_t)
        return float(np.logaddexp.reduce(log_mass + t * value) - t * mean)

    found = optimize.minimize_scalar(exponent, bounds=(-12.0, 6.0), method="bounded")
    return math.exp(min(0.0, num * float(found.fun)))
