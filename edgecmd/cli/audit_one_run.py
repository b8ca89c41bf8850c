"""``edgecmd audit one-run``: level L2, one training run with canaries."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.audit import TargetPath, audit_app, finish, target_of
from edgecmd.cli.common import AsJson, ConfigFile, Settings, one_thread, say, warn
from edgecmd.core.text import counted
from edgecmd.experiments.bench.ticker import ticker

if TYPE_CHECKING:
    from edgecmd.audits.finding import Finding
    from edgecmd.audits.target import Target

LADDER_BUDGET_S = 80.0
NUM_CANARIES = 1000


def audit(target: "Target") -> "list[Finding]":
    """Level L2 with as many rounds as fit into about ninety seconds; the findings say how many."""
    from edgecmd.audits.one_run.experiment import Effort, audit_one_run, not_audited, rounds_of

    if target.plan is not None and target.plan.unit == "client":
        return [not_audited(target)]
    every = rounds_of(target, Effort())
    started = time.monotonic()
    first = audit_one_run(target, Effort(num_rounds=1))
    each = time.monotonic() - started
    fitting = min(every, int((LADDER_BUDGET_S - each) / each))
    if fitting <= 1:
        return first
    with ticker("audit one-run") as tick:
        return audit_one_run(target, Effort(num_rounds=fitting, tick=tick))


@audit_app.command("one-run")
def one_run(
    target: TargetPath,
    canaries: Annotated[int, typer.Option("--canaries", help="Canaries of each kind.")] = NUM_CANARIES,
    rounds: Annotated[
        int, typer.Option("--rounds", min=0, help="Audit the first so many rounds; 0 for all.")
    ] = 0,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Whole audits with other seeds; all must be unlucky.")
    ] = 1,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of coins and canaries; noise and sampling stay secret.")
    ] = 0,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """L2: train once with canaries that fair coins include, and let every attacker guess the coins.

    Exit code 3 where an attacker guesses better than the claimed epsilon allows. With --repeats a
    finding contradicts when more repeats do than 95% lets pass. Ctrl-C keeps the finished repeats.
    """
    from edgecmd.audits.one_run.experiment import num_contradicting, repeated

    one_thread()
    found = target_of(target, config, settings)
    runs = _runs(found, canaries=canaries, rounds=rounds, seeds=range(seed, seed + repeats))
    if repeats > 1 and not as_json:
        wrong = num_contradicting(runs)
        verb = "contradicts" if wrong == 1 else "contradict"
        say(f"{wrong} of {counted(len(runs), 'audit')} {verb}; at 95% one of twenty may.")
    finish(found, repeated(runs), as_json=as_json)


def _runs(target: "Target", *, canaries: int, rounds: int, seeds: range) -> "list[list[Finding]]":
    """One audit a seed; those that were finished before a Ctrl-C."""
    from edgecmd.audits.one_run.experiment import Effort, audit_one_run

    runs: list[list[Finding]] = []
    try:
        for one in seeds:
            with ticker(f"audit one-run, seed {one}") as tick:
                effort = Effort(num_canaries=canaries, num_rounds=rounds, seed=one, tick=tick)
                runs.append(audit_one_run(target, effort))
    except KeyboardInterrupt:
        if not runs:
            raise
        warn(f"Interrupted after {len(runs)} of {counted(len(seeds), 'repeat')}; those are kept.")
    return runs
