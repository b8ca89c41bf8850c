"""``edgecmd audit many-runs``: level L3, many runs on a worst-case pair, and the headline table."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.audit import TargetPath, audit_app, fail_if_contradicted, finish, show, target_of
from edgecmd.cli.common import AsJson, ConfigFile, Settings, one_thread, print_table, say
from edgecmd.experiments.bench.ticker import ticker

if TYPE_CHECKING:
    from edgecmd.audits.finding import Finding
    from edgecmd.audits.many_runs.trainers import Arm

Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Processes, each with one thread.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the pair and of all runs.")]
HEADLINE = Path("runs/audit-headline")


@audit_app.command("many-runs")
def many_runs(
    target: TargetPath,
    runs: Annotated[
        int, typer.Option("--runs", min=8, help="Runs with the canary, and as many without it.")
    ] = 200,
    jobs: Jobs = 2,
    seed: Seed = 0,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train many times on a worst-case pair with the target's own mechanism, loss, noise and steps.

    The student is a tiny stand-in and the data are made up: what is tested is the mechanism and its
    books, by the attacker who holds the device. Finished runs are kept beside audit.json, so that the
    same command goes on after Ctrl-C. Exit code 3 where the claim is contradicted.
    """
    from edgecmd.audits.many_runs.headline import target_arm

    found = target_of(target, config, settings)
    arm = target_arm(found, seed=seed)
    folder = found.record.parent / "audit-runs" / f"seed-{seed}"
    finish(found, _measure([arm], runs=runs, jobs=jobs, folder=folder, as_json=as_json), as_json=as_json)


@audit_app.command("headline")
def headline(
    runs: Annotated[
        int, typer.Option("--runs", min=8, help="Runs with the canary, and as many without, of each row.")
    ] = 600,
    jobs: Jobs = 2,
    out: Annotated[Path, typer.Option("--out", help="Folder for runs and audit.json.")] = HEADLINE,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Opacus with in-batch negatives against public anchors: same pair, canary and noise, epsilon 1 claimed.

    A demonstration: that the first row is contradicted is what it shows, so the exit code stays 0.
    It is 3 where a row with anchors is contradicted. The same command goes on after Ctrl-C.
    """
    from edgecmd.audits.audit_file import FILE, write_findings
    from edgecmd.audits.many_runs.headline import NAIVE, headline_arms

    arms = headline_arms(seed=seed)
    findings = _measure(arms, runs=runs, jobs=jobs, folder=out, as_json=as_json)
    about = {
        "target": {"kind": "demonstration", "name": "headline"},
        "claim": {"epsilon": 1.0, "delta": arms[0].plan.delta, "relation": arms[0].plan.relation},
    }
    write_findings(out / FILE, findings, about=about)
    if as_json:
        show(findings, as_json=True)
    else:
        _table(findings)
        say(f"Audit: {out / FILE}")
    fail_if_contradicted([one for one, arm in zip(findings, arms) if arm.key != NAIVE])


def _measure(arms: "Sequence[Arm]", *, runs: int, jobs: int, folder: Path, as_json: bool) -> "list[Finding]":
    """Make the runs that are missing and judge each arm; Ctrl-C says where the finished ones lie."""
    from edgecmd.audits.many_runs.runs import judge, run_arms

    one_thread()
    started = time.monotonic()
    try:
        with ticker("runs") as tick:
            run_arms(arms, num_runs=runs, folder=folder, num_jobs=jobs, tick=_silent if as_json else tick)
    except KeyboardInterrupt:
        if not as_json:
            say(f"Finished runs are kept in {folder}; the same command goes on from there.")
        raise
    each = (time.monotonic() - started) / len(arms)
    return [judge(arm, num_runs=runs, folder=folder, seconds=each) for arm in arms]


def _table(findings: "Sequence[Finding]") -> None:
    rows = [
        [
            one.name,
            f"{one.claimed:.3f}",
            f"{one.measured:.2f}",
            f"{one.ceiling:.2f}",
            f"{one.details['auc']:.3f} ({one.details['auc_low']:.3f} to {one.details['auc_high']:.3f})",
            str(one.counts["runs_with"] + one.counts["runs_without"]),
            one.verdict,
        ]
        for one in findings
    ]
    columns = ["trained by", "claimed epsilon", "lower bound", "ceiling", "AUC", "runs", "verdict"]
    print_table("Worst-case pair, attacker holds the final weights, 95%", columns, rows)


def _silent(_done: int, _total: int) -> None:
    """Progress would break JSON."""
