"""``privacy.json``: what is guaranteed, for which unit, against whom, and what is not."""

import math
from collections.abc import Mapping
from typing import Any

from edgecmd.core.artefacts import may_leave_table, owner_only_table
from edgecmd.core.statistics import finite
from edgecmd.core.text import counted
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.secure_sum.sum_plan import SumPlan
from edgecmd.settings import PLAIN

# Not the pairs' cost, and not nothing: what leaves with the student tells of these examples as well.
OWN_COSTS = [
    "the classification head of a bundle (export.head=true, the default; of a seg-* student all layers): it"
    " is fitted on the labelled examples of the validation set, without noise; whoever holds the file may"
    " learn about those examples. `--set export.head=false`, or `edgecmd export --no-head`, leaves it out",
    "classes by example (`edgecmd export --prototypes`): each is the mean embedding of the pictures that were"
    " given, without noise",
    "figures (retrieval, probes, parity, and every choice made by them): functions of the released weights"
    " and of the validation and test examples. Whoever deploys the student holds these examples, no client"
    " does; they are none of the pairs that the guarantee is about, and nothing bounds what figures tell of"
    " them",
]


WARNINGS = {
    "deterministic": "NOT PRIVATE: privacy.deterministic is set, so noise and coins follow from the run's"
    " seed and can be subtracted. No epsilon holds.",
    "projected": "NOT PRIVATE: privacy.projected_pairs is above 1, so the noise is that of clients with more"
    " pairs than there are. No epsilon holds.",
}


def privacy_table(
    plan: PrivacyPlan,
    spent: Mapping[str, float],
    *,
    rounds_done: int,
    anchors: Mapping[str, Any],
    ledger: str,
) -> dict[str, Any]:
    """Content of ``privacy.json``.

    Args:
        plan: Plan of the run.
        spent: Epsilon by client, from the ledgers; one entry for the whole with mechanism ``client``.
        rounds_done: Rounds that were completed.
        anchors: Kind, number and fingerprint of the public anchors.
        ledger: What the numbers add up, in a sentence.

    Returns:
        Plain values. Epsilon is None where it is infinite or where the noise was predictable. ``may_leave``
        and ``owner_only`` name every file of a run and of a bundle, each with its reason.

    Guarantees:
        Nothing depends on a pair or on the number of pairs: plan, rounds and ledgers follow from settings,
        and from which clients answered.
    """
    largest = max(spent.values(), default=0.0)
    private, protects = plan.private, plan.protects
    table: dict[str, Any] = {
        "private": private,
        "epsilon": finite(largest) if private else None,
        "delta": plan.delta,
        "unit": plan.unit,
        "relation": plan.relation,
        "mechanism": plan.mechanism,
        "statement": plan.statement,
        "budget": plan.epsilon,
        "epsilon_by_client": {name: finite(value) if private else None for name, value in spent.items()},
        "counted": ledger,
        "rounds": rounds_done,
        "releases_per_round": plan.steps_per_round,
        "sampler": plan.sampler,
        "sampling_rate": plan.sampling_rate,
        "noise_multiplier": plan.noise_multiplier,
        "clip": plan.clip,
        "sensitivity": plan.sensitivity,
        "normaliser": plan.normaliser,
        "loss": plan.loss,
        "num_views": plan.num_views,
        "engine": plan.engine,
        "accountant": plan.counts_by,
        "anchors": dict(anchors),
        "released": list(protects.released),
        "against": protects.against,
        "not_covered": list(protects.not_covered),
        "own_costs": OWN_COSTS,
        "may_leave": may_leave_table(private=private),
        "owner_only": owner_only_table(private=private),
        "epsilon_by_round": _by_round(plan, rounds_done) if private else [],
    }
    if plan.aggregation != PLAIN:
        table["aggregation"] = plan.aggregation
    if plan.sum_plan is not None:
        table["survivors"], table["colluding"] = plan.sum_plan.survivors, plan.sum_plan.colluding
        table["epsilon_by_trust"] = _by_trust(plan, plan.sum_plan, rounds_done) if private else {}
    if not private:
        table["warning"] = WARNINGS["deterministic" if plan.deterministic else "projected"]
    return table


def _by_trust(plan: PrivacyPlan, summed: SumPlan, rounds_done: int) -> dict[str, float | None]:
    """Epsilon of this run's rounds, by who turns out not to deserve the trust."""
    honest = summed.honest
    cases = {
        f"only sums are seen, and {counted(summed.colluding, 'client')} at most work with the server": honest,
        "one client more works with the server": honest - 1,
        "all other clients work with the server, or the masks of a client are broken": 1,
    }
    return {
        what: finite(plan.epsilon_after(rounds_done, noise_share=shares / honest))
        for what, shares in cases.items()
    }


def _by_round(plan: PrivacyPlan, rounds_done: int) -> list[list[int | float]]:
    """At most twenty points of (round, epsilon of this run so far)."""
    marks = sorted({round(rounds_done * share / 20) for share in range(21)})
    found = [(mark, plan.epsilon_after(mark)) for mark in marks]
    return [[mark, value] for mark, value in found if math.isfinite(value)]
