"""The levels of an audit, one row each, and the ladder that runs them.

Nothing is imported before a level runs: a finding asks this table for the names, and the command line for
its help.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecmd.core.errors import ConfigError, choose

if TYPE_CHECKING:
    import numpy as np

    from edgecmd.audits.finding import Finding
    from edgecmd.audits.many_runs.runs import ManyRunsEffort
    from edgecmd.audits.one_run.experiment import Effort as OneRunEffort
    from edgecmd.audits.risk.attacks import RiskEffort
    from edgecmd.audits.static.sensitivity import Effort as CheckEffort
    from edgecmd.audits.step.checks import StepEffort
    from edgecmd.audits.step.noise import Draws
    from edgecmd.audits.step.summed import Sums
    from edgecmd.audits.target import Target
    from edgecmd.evaluation.evaluate import Embed
    from edgecmd.models.students import Student
    from edgecmd.privacy.plan import PrivacyPlan
    from edgecmd.run import Run
    from edgecmd.training.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Rooms:
    """What audits ask of rooms that know this one (`edgecmd.experiments.audit_ladder.ROOMS`).

    Attributes:
        open_exported: Makes a black box of an exported file, as a device runs it.
        train_again: Trains a run's federation from its first round, or goes on with what its folder has.
        export: Writes the exported file of a student of a task, and says where.
        server_noise: Rounds of the real server that no client answers, in standard deviations of the plan's
            noise.
        sums: Secure sums of a run's real clients and server, from a student's weights.
        inversion_sheet: PNG file of images with values in [0, 1], (N, C, H, W), a row under each title.
    """

    open_exported: "Callable[[Path], Embed]"
    train_again: "Callable[[Run], Student]"
    export: "Callable[[Student, Task, Path], Path]"
    server_noise: "Callable[[Run, PrivacyPlan], list[Draws]]"
    sums: "Sums"
    inversion_sheet: "Callable[[Mapping[str, np.ndarray]], bytes]"


def _always(_: "Target") -> bool:
    """A level that has something to ask of every target."""
    return True


def _has_plan(target: "Target") -> bool:
    return target.plan is not None


def _trains(target: "Target") -> bool:
    return target.plan is None or not target.plan.row.one_shot


def _has_plain_sums(target: "Target") -> bool:
    return target.plan is not None and target.plan.row.clips_units


def _has_noisy_steps(target: "Target") -> bool:
    return _has_plan(target) and _trains(target)


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One level.

    Attributes:
        text: What it looks at, in words.
        audit: From a target, an effort (None for the usual one) and the other rooms to findings.
        asks: Whether it has something to ask of a target; on a ladder it is passed over elsewhere.
        needs: What ``asks`` looks for, in words.
        proves: Whether its findings may contradict a claim; else they indicate risks.
        on_ladder: Whether ``edgecmd audit run`` and `edgecmd.audit` climb it.
    """

    text: str
    audit: "Callable[[Target, Any, Rooms], Sequence[Finding]]"
    asks: "Callable[[Target], bool]" = _always
    needs: str = ""
    proves: bool = True
    on_ladder: bool = True


def _check(target: "Target", effort: "CheckEffort | None", _: Rooms) -> "Sequence[Finding]":
    """By default 96 tries for each of the trained and the first weights."""
    from edgecmd.audits.static.checks import check_target

    return check_target(target, effort)


def _step(target: "Target", effort: "StepEffort | None", rooms: Rooms) -> "Sequence[Finding]":
    """By default 2000 draws in either world."""
    from edgecmd.audits.step.checks import audit_step
    from edgecmd.audits.step.summed import audit_sum

    if target.run.sum_plan is not None:
        return audit_sum(target, effort, sums=rooms.sums)
    return audit_step(target, effort, server_noise=rooms.server_noise)


def _one_run(target: "Target", effort: "OneRunEffort | None", _: Rooms) -> "Sequence[Finding]":
    """By default as many rounds as fit into about ninety seconds; the findings say how many."""
    from edgecmd.audits.one_run.experiment import audit_in_time, audit_one_run

    return audit_in_time(target) if effort is None else audit_one_run(target, effort)


def _many_runs(target: "Target", effort: "ManyRunsEffort | None", _: Rooms) -> "Sequence[Finding]":
    """By default 200 runs with the canary, and as many without it."""
    from edgecmd.audits.many_runs.runs import audit_many_runs

    return audit_many_runs(target, effort)


def _risk(target: "Target", effort: "RiskEffort | None", rooms: Rooms) -> "Sequence[Finding]":
    """By default both attacks, with eight shadow students."""
    from edgecmd.audits.risk.attacks import audit_risk

    return audit_risk(target, effort, rooms=rooms)


A_PLAN = "a run with a privacy mechanism, whose noise it examines"
STEPS = "a run whose clients train; privacy.mechanism='statistics' trains nothing, see check and step"
LEVELS: dict[str, Level] = {
    "check": Level(text="static: purity probes, sensitivity search, ledger records", audit=_check),
    "step": Level(
        text="the step that trains: noise, release, coins, random source, many draws against a neighbour",
        audit=_step,
        asks=_has_plain_sums,
        needs=f"{A_PLAN}, other than privacy.mechanism='logits', whose sum it cannot make again",
    ),
    "one-run": Level(
        text="one training run with canaries included by coins", audit=_one_run, asks=_trains, needs=STEPS
    ),
    "many-runs": Level(
        text="many training runs on a worst-case pair of neighbours",
        audit=_many_runs,
        asks=_has_noisy_steps,
        needs=f"{A_PLAN}, and {STEPS}",
        on_ladder=False,
    ),
    "risk": Level(
        text="risk indicators: what an attacker guesses; never a proof",
        audit=_risk,
        asks=_trains,
        needs=STEPS,
        proves=False,
    ),
}
"""In the order of ``audit.json``: what costs least first."""


def ladder() -> list[str]:
    """Names of the levels that are climbed one after the other."""
    return [name for name, level in LEVELS.items() if level.on_ladder]


def audit(
    target: "Target",
    *,
    levels: Iterable[str],
    rooms: Rooms,
    keep: "Callable[[Target, Sequence[Finding]], object]",
    setting: str = "levels",
    pass_over: bool = True,
) -> "list[Finding]":
    """Climb levels, each with its usual effort.

    Args:
        target: What is audited.
        levels: Names of `ladder`, in the order that they are climbed in.
        rooms: What audits ask of other rooms.
        keep: Told the findings of each level as it is done, so that an interruption loses none.
        setting: What a message calls ``levels``.
        pass_over: Whether levels that have nothing to ask of the target are left out, as long as one is left.

    Returns:
        All findings, in that order.

    Raises:
        ConfigError: A level is unknown or has nothing to ask of the target; nothing was audited then.
        PrivacyError: The target, or a file of it, cannot be audited; the message says why.
    """
    rows = {name: LEVELS[name] for name in ladder()}
    names = list(levels)
    for name in names:
        choose(setting, name, rows)
    idle = [name for name in names if not rows[name].asks(target)]
    if idle and (len(idle) == len(names) or not pass_over):
        needs = rows[idle[0]].needs
        reason = f"needs {needs}. This one is without" if needs else f"does not apply to this {target.kind}"
        raise ConfigError(
            f"{setting} names {idle[0]!r}, which {reason}: choose among"
            f" {', '.join(name for name, row in rows.items() if row.asks(target))}."
        )
    found: list[Finding] = []
    for level in (rows[name] for name in names if name not in idle):
        new = level.audit(target, None, rooms)
        keep(target, new)
        found += new
    return found
