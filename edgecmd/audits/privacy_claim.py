"""``privacy.json`` as it was claimed, checked for type, and held against the plan of ``config.toml``."""

import math
from dataclasses import dataclass
from typing import Any

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.target import Target
from edgecmd.core.errors import DataError
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.settings import PLAIN

Differences = dict[str, tuple[object, object]]
"""Keys with the value in ``privacy.json`` and the one by ``config.toml``."""
SAME = 1e-9
REPAIR = "`edgecmd resume` writes it again from the ledgers."


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What ``privacy.json`` says.

    Attributes:
        private: Whether it claims anything.
        epsilon: Of everything that was released; None where it is infinite or nothing is claimed.
        by_client: Epsilon of each client, or of ``any client``.
        rounds: Rounds that were completed.
    """

    private: bool
    epsilon: float | None
    by_client: dict[str, float | None]
    rounds: int


def read_claim(target: Target) -> Claim | None:
    """The claim of a run folder; None before its end, when nothing is claimed yet.

    Raises:
        DataError: ``privacy.json`` is damaged, or missing beside a finished student.
    """
    table: Any = target.privacy
    if not table:
        if target.plan is not None and target.folder and (target.folder / "student.safetensors").exists():
            raise DataError(
                f"{target.folder} has a student and privacy.mechanism={target.plan.mechanism!r}, but no"
                f" privacy.json. {REPAIR}"
            )
        return None
    try:
        epsilon = _number(table["epsilon"])
        by_client = {str(name): _number(value) for name, value in table["epsilon_by_client"].items()}
        if not isinstance(table["private"], bool) or not isinstance(table["rounds"], int):
            raise TypeError("private or rounds has another type")
        return Claim(private=table["private"], epsilon=epsilon, by_client=by_client, rounds=table["rounds"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"privacy.json of {target.folder} is not a privacy statement of edgecmd ({type(error).__name__}:"
            f" {error}). {REPAIR}"
        ) from error


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is not an epsilon")
    return float(value)


def settings_finding(target: Target, claim: Claim | None) -> Finding | None:
    """Whether ``privacy.json`` states what ``config.toml`` sets, and claims no more than that earns.

    None where neither says anything about privacy.
    """
    plan = target.plan
    if claim is None or (plan is None and not claim.private):
        return None
    if plan is None:
        wrong: Differences = {"private": (True, "privacy.mechanism='none' in config.toml")}
        return _finding(wrong, compared=1, claims=True, warning="")
    wrong = disagreements(plan, target.privacy)
    if not plan.private and claim.epsilon is not None:
        wrong["epsilon"] = (claim.epsilon, "none: the noise is predictable or too small")
    warning = "" if plan.private else str(target.privacy.get("warning", "NOT PRIVATE: no epsilon holds."))
    return _finding(wrong, compared=len(stated(plan)) + 1, claims=plan.private, warning=warning)


def stated(plan: PrivacyPlan) -> dict[str, object]:
    """What ``privacy.json`` must say of a plan."""
    sums = plan.sum_plan
    shared = {} if sums is None else {"survivors": sums.survivors, "colluding": sums.colluding}
    return {
        **({} if plan.aggregation == PLAIN else {"aggregation": plan.aggregation}),
        **shared,
        "private": plan.private,
        "mechanism": plan.mechanism,
        "unit": plan.unit,
        "relation": plan.relation,
        "loss": plan.loss,
        "delta": plan.delta,
        "budget": plan.epsilon,
        "noise_multiplier": plan.noise_multiplier,
        "clip": plan.clip,
        "sensitivity": plan.sensitivity,
        "normaliser": plan.normaliser,
        "sampler": plan.sampler,
        "sampling_rate": plan.sampling_rate,
        "releases_per_round": plan.steps_per_round,
        "num_views": plan.num_views,
        "engine": plan.engine,
    }


def disagreements(plan: PrivacyPlan, table: dict[str, Any]) -> Differences:
    """Keys in which ``privacy.json`` and the plan differ, with both values."""
    return {
        name: (table.get(name), value)
        for name, value in stated(plan).items()
        if not _equal(table.get(name), value)
    }


def _equal(found: object, value: object) -> bool:
    if isinstance(value, float) and isinstance(found, int | float) and not isinstance(found, bool):
        return math.isclose(found, value, rel_tol=SAME)
    return found == value


def _finding(wrong: Differences, *, compared: int, claims: bool, warning: str) -> Finding:
    if wrong:
        first, (found, value) = next(iter(wrong.items()))
        text = (
            f"Contradicted: privacy.json and config.toml differ in {', '.join(wrong)}; {first} is {found!r}"
            f" there, {value!r} by the settings."
        )
    elif not claims:
        text = f"The run claims nothing, and says so: {warning}"
    else:
        text = f"privacy.json states what config.toml sets ({compared} values compared)."
    return Finding(
        level="check",
        name="books: settings",
        attacker="code",
        verdict=CONTRADICTED if wrong else NOT_CONTRADICTED if claims else INDICATOR,
        text=text,
        quantity="differing settings",
        claimed=0.0 if claims else None,
        measured=float(len(wrong)),
        counts={"compared": compared},
        details={
            name: {"privacy.json": found, "config.toml": value} for name, (found, value) in wrong.items()
        },
    )
