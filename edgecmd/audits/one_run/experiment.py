"""One training run with canaries, and what its attackers prove by guessing the coins (level L2).

The run is the target's own: its pairs, clients, plan, optimiser, real secret noise, and one canary set
of each kind on top. Everything an attacker scores is a release that the accountant has counted, so no
attacker may do better than the claim allows.

Source: Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846). Each coin is fair and independent of all
others, so coins of the other kind are part of the mechanism's own randomness.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from scipy.stats import binom

from edgecmd.audits.bounds import CONFIDENCE, OneRunBound, audit_scores
from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding, epsilon_verdict
from edgecmd.audits.one_run.attackers import Attackers, Evidence, pair_losses
from edgecmd.audits.one_run.canaries import gradient_canaries, input_canaries
from edgecmd.audits.replayed_federation import Replay
from edgecmd.audits.target import CODED, IN_A_SUM, Target
from edgecmd.core.errors import PrivacyError
from edgecmd.core.progress import ticker
from edgecmd.core.text import counted
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.training.averaging import to_arrays

NUM_CANARIES = 1000
FEWEST_CANARIES = 20
LADDER_BUDGET_S = 80.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much an audit does.

    Attributes:
        num_canaries: Canaries of each kind.
        num_rounds: Rounds; 0 for all of the run.
        seed: Of coins, coordinates and images; noise and sampling stay secret.
        tick: Called with client-rounds done and in all.
    """

    num_canaries: int = NUM_CANARIES
    num_rounds: int = 0
    seed: int = 0
    tick: Callable[[int, int], None] = field(default=lambda *_: None)


def rounds_of(target: Target, effort: Effort) -> int:
    """Rounds that are audited: those asked for, else those that the run made.

    Raises:
        PrivacyError: More rounds, or fewer canaries, than make sense.
    """
    planned = target.run.federation.num_rounds
    if effort.num_rounds > planned or effort.num_rounds < 0:
        raise PrivacyError(
            f"--rounds={effort.num_rounds} is outside 1..{planned}, the rounds of the run"
            " (federation.num_rounds). Leave it out to audit them all."
        )
    if effort.num_canaries < FEWEST_CANARIES:
        raise PrivacyError(
            f"--canaries={effort.num_canaries} is too few to certify anything; give at least"
            f" {FEWEST_CANARIES}, better {NUM_CANARIES}."
        )
    return effort.num_rounds or int(target.privacy.get("rounds", planned)) or planned


def claim_of(target: Target, num_rounds: int) -> float | None:
    """Epsilon that is claimed of ``num_rounds`` rounds; None where nothing is.

    The claim of all rounds is the run's own. Of fewer, it is what the accountant says of so many, and
    never more than the claim of all.
    """
    if target.plan is None or not target.plan.private:
        return None
    own = target.claimed_epsilon
    made = int(target.privacy.get("rounds", target.run.federation.num_rounds))
    if own is not None and num_rounds >= made:
        return own
    counted = target.plan.epsilon_after(num_rounds)
    return counted if own is None else min(own, counted)


def audit_one_run(target: Target, effort: Effort) -> list[Finding]:
    """Train once with canaries and judge every attacker.

    Returns:
        A finding for each kind of canary and attacker, which hold together at 95%.

    Raises:
        PrivacyError: The target's noise is the server's, or the effort makes no sense.
    """
    started, num_rounds = time.monotonic(), rounds_of(target, effort)
    evidence = collect(target, effort, num_rounds=num_rounds)
    findings = judge(
        evidence,
        plan=target.plan,
        claimed=claim_of(target, num_rounds),
        delta=target.delta,
    )
    about = _rounds_text(num_rounds, target)
    seconds = time.monotonic() - started
    return [
        replace(
            one,
            text=f"{one.text} {about}",
            counts={**one.counts, "rounds": num_rounds, "clients": target.run.federation.num_clients},
            seeds=(effort.seed,),
            seconds=seconds,
        )
        for one in findings
    ]


def audit_in_time(target: Target) -> list[Finding]:
    """The level with as many rounds as fit into `LADDER_BUDGET_S` or so; the findings say how many."""
    reason = not_audited_because(target)
    if reason:
        return [not_audited(target, reason)]
    every = rounds_of(target, Effort())
    started = time.monotonic()
    first = audit_one_run(target, Effort(num_rounds=1))
    each = time.monotonic() - started
    fitting = min(every, int((LADDER_BUDGET_S - each) / each))
    if fitting <= 1:
        return first
    with ticker("audit one-run") as tick:
        return audit_one_run(target, Effort(num_rounds=fitting, tick=tick))


def audit_repeatedly(target: Target, effort: Effort, *, num: int) -> list[list[Finding]]:
    """One audit for each of ``num`` seeds from ``effort.seed`` on; after a Ctrl-C the finished ones."""
    runs: list[list[Finding]] = []
    try:
        for seed in range(effort.seed, effort.seed + num):
            with ticker(f"audit one-run, seed {seed}") as tick:
                runs.append(audit_one_run(target, replace(effort, seed=seed, tick=tick)))
    except KeyboardInterrupt:
        if not runs:
            raise
    return runs


def collect(target: Target, effort: Effort, *, num_rounds: int) -> list[Evidence]:
    """Train ``num_rounds`` rounds with canaries and let the attackers score them.

    Memory: canaries' gradients are never held; scores are directional derivatives, a chunk at a time.
    """
    run, plan = target.run, target.plan
    student, num_clients = run.new_student(), run.federation.num_clients
    holdings = [run.holding(client) for client in range(num_clients)]
    first, amount = to_arrays(student), {"num": effort.num_canaries, "num_clients": num_clients}
    gradient = None
    if plan is not None and plan.unit == "pair":
        gradient = gradient_canaries(student, plan, **amount, seed=effort.seed)
    inputs = input_canaries(student, holdings[0].data, **amount, seed=effort.seed)
    attackers = Attackers(
        run.new_student().train(),
        run,
        pair_losses(run, holdings[0].anchors),
        plan=plan,
        gradient=gradient,
        inputs=inputs,
        tick=_counter(effort, num_rounds * max(1, round(num_clients * run.federation.client_fraction))),
    )
    replay = Replay(
        run=run,
        student=student,
        holdings=[inputs.joined(one, client) for client, one in enumerate(holdings)],
        watch=attackers.watch,
    )
    for round_index in range(1, num_rounds + 1):
        replay.round(round_index)
    return attackers.evidence(first, replay.arrays)


def judge(
    evidence: Sequence[Evidence], *, plan: PrivacyPlan | None, claimed: float | None, delta: float
) -> list[Finding]:
    """A finding for each piece of evidence.

    Args:
        evidence: What the attackers scored, all in one run.
        plan: Plan of the run.
        claimed: Epsilon that is claimed.
        delta: Probability beside it.

    Guarantees:
        All findings hold together at 95%: each bound is at ``1 - 0.05 / n``, with ``n`` the number of
        bounds that may decide. Steinke's bound holds for any mechanism and always may. The one for
        Gaussian trade-offs may only where no amplification by sampling is claimed: then a unit is part of
        a fixed number of Gaussian releases, whose composition is exactly Gaussian, and so is the claim
        for whatever is computed of them. Elsewhere it is in the details, as an estimate.
    """
    exact = plan is not None and plan.round_spending().sampling_rate == 1.0
    level = 1.0 - (1.0 - CONFIDENCE) / (len(evidence) * (2 if exact else 1))
    found = []
    for one in evidence:
        bound = audit_scores(one.scores, one.coins.included, delta=delta, confidence=level)
        found.append(_finding(one, bound, claimed=claimed, exact=exact, num_tests=len(evidence)))
    return found


def _finding(
    one: Evidence, bound: OneRunBound, *, claimed: float | None, exact: bool, num_tests: int
) -> Finding:
    lower = max(bound.epsilon, bound.gdp_epsilon) if exact else bound.epsilon
    ceiling = max(bound.ceiling, bound.gdp_ceiling) if exact else bound.ceiling
    verdict, text = epsilon_verdict(lower=lower, claimed=claimed, ceiling=ceiling)
    return Finding(
        level="one-run",
        name=one.kind,
        attacker=one.attacker,
        verdict=verdict,
        text=text,
        quantity="epsilon",
        claimed=claimed,
        measured=lower,
        ceiling=ceiling,
        confidence=CONFIDENCE,
        counts={
            "canaries": len(one.coins),
            "included": int(one.coins.included.sum()),
            "guesses": bound.num_guesses,
            "correct": bound.num_correct,
        },
        details={
            "confidence_each": bound.confidence,
            "findings_together": num_tests,
            "epsilon_any_mechanism": bound.epsilon,
            "epsilon_if_gaussian": bound.gdp_epsilon,
            "gaussian_decides": exact,
        },
    )


def repeated(runs: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Findings of repeated audits as one each: the median, and how many of them contradicted.

    Guarantees:
        One contradiction among many repeats is what 95% allows. A finding contradicts only when so many
        repeats do that a sound run would show as many, in any finding, once in twenty times at most.
    """
    return [_merged([run[index] for run in runs], len(runs[0])) for index in range(len(runs[0]))]


def num_contradicting(runs: Sequence[Sequence[Finding]]) -> int:
    """Audits of which at least one finding contradicts."""
    return sum(any(one.verdict == CONTRADICTED for one in run) for run in runs)


def _merged(repeats: Sequence[Finding], num_tests: int) -> Finding:
    first, num = repeats[0], len(repeats)
    if num == 1 or first.claimed is None:
        return first
    wrong = sum(one.verdict == CONTRADICTED for one in repeats)
    each = (1.0 - CONFIDENCE) / num_tests
    unlikely = wrong > 0 and float(binom.sf(wrong - 1, num, each)) <= each * (1.0 + 1e-9)
    bounds = [one.measured or 0.0 for one in repeats]
    text = (
        f"{wrong} of {num} repeated audits contradict the claimed {first.claimed:.3g}; lower bounds"
        f" {min(bounds):.3g} to {max(bounds):.3g}, median {median(bounds):.3g}."
    )
    return replace(
        first,
        verdict=CONTRADICTED if unlikely else NOT_CONTRADICTED,
        text=text,
        measured=median(bounds),
        counts={**first.counts, "repeats": num, "contradicting": wrong},
        seeds=tuple(seed for one in repeats for seed in one.seeds),
        seconds=sum(one.seconds for one in repeats),
        details={**first.details, "lower_bounds": bounds},
    )


def not_audited_because(target: Target) -> str:
    """Why the ladder leaves this level out; empty where it does not."""
    if target.run.sum_plan is not None:
        return IN_A_SUM
    if target.plan is not None and target.plan.unit == "client":
        return (
            "privacy.mechanism='client' protects whole clients by noise on the server, and canaries of this"
            " level are pairs. `edgecmd audit step` tests the server's noise."
        )
    size = target.run.federation.buffer_size
    if size:
        return (
            f"federation.buffer_size={size} made asynchronous rounds, and this level makes rounds in which"
            " all clients start from the same weights. `edgecmd audit step` tests each client's noise."
        )
    if target.run.federation.compressed:
        return f"{CODED} `edgecmd audit step` tests each client's noise."
    return ""


def not_audited(target: Target, reason: str) -> Finding:
    """The finding of this level where nothing was measured, and why."""
    return Finding(
        level="one-run",
        name="not audited",
        attacker="client",
        verdict=INDICATOR,
        text=f"Not audited: {reason}",
        quantity="epsilon",
        claimed=target.claimed_epsilon,
    )


def _rounds_text(num_rounds: int, target: Target) -> str:
    made = int(target.privacy.get("rounds", target.run.federation.num_rounds))
    if num_rounds < made:
        return f"Audited and claimed: the first {num_rounds} of the run's {counted(made, 'round')}."
    return f"Audited: all {counted(num_rounds, 'round')}."


def _counter(effort: Effort, total: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        effort.tick(done, total)

    return tick
