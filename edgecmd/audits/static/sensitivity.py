"""Sensitivity: how far one pair moves a step's sum, searched for on the real step."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from edgecmd.audits.audited_student import Subject
from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.static.opacus_reference import BatchLoss, naive_query
from edgecmd.audits.static.scripted import settings_work, step_query, sum_query
from edgecmd.audits.static.search import (
    Found,
    PairMaker,
    Query,
    Sample,
    distance,
    pair_makers,
    search_sensitivity,
)
from edgecmd.audits.target import Target, terms_for
from edgecmd.core.progress import Tick, silent
from edgecmd.core.seeding import torch_generator
from edgecmd.core.statistics import finite
from edgecmd.losses import alike_views, loss_of
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.secure_sum import integers
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.run import Run

# The real step clips to C (1 - 1e-4) and sums in float64, so an honest sum never comes this near.
TOLERANCE = 1e-6
# Opacus sums in float32: n vectors of norm C round by at most n C 2^-24 each, 4e-3 C at n = 256 in the
# worst case and 1e-5 C in practice. What mixes pairs moves the sum by 1.5 C and more.
NAIVE_TOLERANCE = 5e-3
CLIMB_LENGTH = 4
# Norm of a vector that must be bounded, in units of the largest that is allowed.
LONG = 3.0
# Just below 1 as a share of 2^64: the last of any allowed number of buckets.
LAST_WORD = np.uint64(2**64 - 2**44)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How long a search goes on.

    Attributes:
        num_tries: Pairs of neighbours that are compared.
        num_pairs: Pairs of the larger set, at least 3.
        climb_length: Tries of a climb; 1 tries new pairs only.
    """

    num_tries: int = 96
    num_pairs: int = 8
    climb_length: int = CLIMB_LENGTH

    def changed(self, *, num_tries: int | None, num_pairs: int | None) -> "Effort":
        """The same with other numbers where they are given."""
        return replace(self, num_tries=num_tries or self.num_tries, num_pairs=num_pairs or self.num_pairs)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Question:
    """What is searched, and what was claimed of it.

    Attributes:
        name: Name of the finding.
        query: The released sum.
        makers: For each kind of neighbours, what makes them.
        clip: C.
        claimed: Sensitivity in units of C; None where nothing is claimed.
        tolerance: Share of the claim that rounding may add.
        seed: Of the search.
        whole: What is released, noise aside, where ``query`` stops before the noise; asked once, of the
            worst neighbours.
    """

    name: str
    query: Query
    makers: Mapping[str, PairMaker]
    clip: float
    claimed: float | None
    tolerance: float = TOLERANCE
    seed: int = 0
    whole: Query | None = None


def search(question: Question, effort: Effort, *, tick: Tick = silent) -> Finding:
    """Search for the worst pair of neighbours, and hold it against the claim.

    Guarantees:
        What is measured is attained by the two neighbours, so it is a lower bound of the sensitivity:
        above the claim it refutes it, below it proves nothing.
    """
    started = time.monotonic()
    found = search_sensitivity(
        _counted(question.query, effort.num_tries, tick),
        question.makers,
        num_tries=effort.num_tries,
        generator=torch_generator(question.seed, "sensitivity-search"),
        climb_length=effort.climb_length,
    )
    found = replace(found, largest=max(found.largest, _released(question, found)))
    factor = found.largest / question.clip
    verdict, text = _verdict(question, found, factor)
    return Finding(
        level="check",
        name=question.name,
        attacker="code",
        verdict=verdict,
        text=text,
        quantity="sensitivity",
        claimed=question.claimed,
        measured=factor,
        counts={"tries": found.num_tries, "pairs": effort.num_pairs},
        seeds=(question.seed,),
        seconds=time.monotonic() - started,
        details={
            "unit": "C",
            "clip": question.clip,
            "worst_kind": found.kind,
            "by_kind": {kind: finite(value / question.clip) for kind, value in found.by_kind.items()},
        },
    )


def _released(question: Question, found: Found) -> float:
    """How far the releases of the worst neighbours are apart, noise aside."""
    if question.whole is None or found.worst is None:
        return 0.0
    worst = found.worst
    larger, smaller = question.whole([(worst.data, worst.larger()), (worst.data, worst.smaller())])
    return distance(larger, smaller)


def _counted(query: Query, total: int, tick: Tick) -> Query:
    """One question is one try, as one climber goes at a time."""
    done = 0

    def counted(samples: Sequence[Sample]) -> Sequence[Mapping[str, Tensor]]:
        nonlocal done
        answer = query(samples)
        done += 1
        tick(min(done, total), total)
        return answer

    return counted


def _verdict(question: Question, found: Found, factor: float) -> tuple[str, str]:
    largest = (
        f"the largest of {found.num_tries} tries moved the sum by {factor:.4g} C (a pair of kind"
        f" {found.kind!r})"
        if found.kind
        else f"none of {found.num_tries} tries moved the sum"
    )
    if question.claimed is None:
        return INDICATOR, f"Nothing was claimed; {largest}."
    if factor > question.claimed * (1.0 + question.tolerance):
        return CONTRADICTED, f"Contradicted: {largest}; claimed was {question.claimed:g} C."
    return NOT_CONTRADICTED, f"Not contradicted: {largest}, of the claimed {question.claimed:g} C."


def makers_of(subject: Subject, *, num_pairs: int, without: Sequence[str] = ()) -> dict[str, PairMaker]:
    """Neighbours of every kind for a student, but of the kinds in ``without``.

    Raises:
        PrivacyError: Fewer than three pairs.
    """
    made = pair_makers(
        subject.student,
        num_pairs=num_pairs,
        in_channels=subject.in_channels,
        image_size=subject.image_size,
        embedding_dim=subject.embedding_dim,
    )
    return {kind: maker for kind, maker in made.items() if kind not in without}


def private_question(subject: Subject, plan: PrivacyPlan, config: Run, *, num_pairs: int) -> Question:
    """The private step of a run as a client drives it (`edgecmd.audits.static.scripted`), or its whole sum.

    Buckets of ``groups`` are drawn by fixed coins that fill two of them: few pairs would otherwise
    seldom meet, and the bound holds for all coins.
    """
    whole: Query | None = None
    if plan.sum_plan is not None:
        # A bound that the worst neighbours exceed hides pairs from a search, so it is asked of these alone.
        few = replace(plan, sum_plan=replace(plan.sum_plan, bound=num_pairs // 2 * plan.clip))
        query, whole = (
            sum_query(subject.student, config, plan=one, coins=two_buckets) for one in (plan, few)
        )
    else:
        work = settings_work(config.distill, subject.anchors)
        ask = partial(step_query, subject.student, work, plan=plan, coins=two_buckets)
        query, whole = ask(), ask(whole=True)
    return Question(
        name=f"sensitivity search, {subject.name}",
        query=query,
        whole=whole,
        makers=makers_of(subject, num_pairs=num_pairs),
        clip=plan.clip,
        claimed=plan.sensitivity / plan.clip,
        seed=config.seed,
    )


def bound_finding(target: Target, plan: PrivacyPlan, summed: nn.Module) -> Finding:
    """How long the integers of a client of a secure sum can be, whatever its vector, in units of C.

    Where whole clients are protected it is the sensitivity; else nobody may weigh more than
    ``privacy.max_pairs`` pairs.
    """
    terms, seed = terms_for(plan, summed), target.run.seed
    drawn = torch.randn(terms.dim, generator=torch_generator(seed, "audit-bound"), dtype=torch.float64)
    shapes = (drawn, torch.ones_like(drawn), drawn**3)
    sizes = [
        float(np.linalg.norm(integers.encoded((one * (LONG * terms.bound / one.norm())).numpy(), terms)))
        for one in shapes
    ]
    measured, claimed = max(sizes) / terms.scale / plan.clip, terms.bound / plan.clip + integers.ROUNDING
    wrong = measured > claimed * (1.0 + TOLERANCE)
    kind = (CONTRADICTED if wrong else NOT_CONTRADICTED) if plan.private else INDICATOR
    return Finding(
        level="check",
        name="norm of a client's vector",
        attacker="code",
        verdict=kind,
        text=f"{'Contradicted' if wrong else 'Not contradicted'}: a client's vector of {LONG:g} times the"
        f" largest norm goes into the sum with a norm of {measured:.6g} C, of the claimed {claimed:.6g} C.",
        quantity="norm",
        claimed=claimed,
        measured=measured,
        counts={"vectors": len(sizes)},
        seeds=(seed,),
    )


def two_buckets(num: int) -> np.ndarray:
    """Words, (num,) of uint64, that put each row by a fixed coin of its own into the first or last bucket."""
    coins = np.random.default_rng(0).integers(0, 2, num, dtype=np.uint64)
    return coins * LAST_WORD


def batch_question(
    subject: Subject, loss: BatchLoss, *, clip: float, claimed: float | None, num_pairs: int, mode: str
) -> Question:
    """A loss over the batch, clipped for each pair as Opacus does it.

    Poisoned pairs are left out: one pair with NaN makes everything that Opacus releases NaN,
    whatever the loss, and would hide what the loss does.
    """
    return Question(
        name=f"sensitivity search, {subject.name}",
        query=naive_query(acting_copy(subject.student), loss, clip=clip, mode=mode),
        makers=makers_of(subject, num_pairs=num_pairs, without=("poisoned",)),
        clip=clip,
        claimed=claimed,
        tolerance=NAIVE_TOLERANCE,
    )


def acting_copy(student: nn.Module) -> nn.Module:
    """The student with the weights that act, which Opacus has hooks for (`standardised_weights`)."""
    return EffectiveStudent(student).module


def batch_loss_of(config: Run, subject: Subject) -> BatchLoss:
    """The loss of a run without a guarantee for pairs, of student (B, D) and teacher (B, D).

    Raises:
        ConfigError: The loss is unknown.
    """
    own = loss_of(config.distill)
    return lambda student, teacher: own(alike_views(own, student), teacher, subject.anchors)
