"""``edgecmd audit``: test a run or a shipped model against its privacy claim, level by level."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from typer.core import TyperGroup

from edgecmd.audits.levels import ladder
from edgecmd.cli.app import app
from edgecmd.cli.options import AsJson, ConfigFile, Settings, one_thread, read_settings
from edgecmd.cli.output import print_json, print_table, say, warn
from edgecmd.core.errors import ConfigError
from edgecmd.core.text import counted

if TYPE_CHECKING:
    from edgecmd.audits.finding import Finding
    from edgecmd.audits.target import Target

FEWEST_DRAWS = 100
HEADLINE = Path("runs/audit-headline")

TargetPath = Annotated[
    Path, typer.Argument(help="Run folder, .safetensors file of a student, or exported .onnx file.")
]
OwnTarget = Annotated[
    Path | None, typer.Argument(help="Run folder, student or exported file; optional with your own code.")
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time, each with one thread.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the pair and of all runs.")]


class TargetOrCommand(TyperGroup):
    """A group whose first word may be a target: ``edgecmd audit runs/x`` means ``audit run runs/x``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` before a first word that is neither a command nor an option."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


audit_app = typer.Typer(
    cls=TargetOrCommand,
    help="Test a run or a shipped model against its privacy claim. Exit code 3 if it is contradicted.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(audit_app, name="audit")


def target_of(path: Path, config: Path | None, settings: Sequence[str] | None) -> "Target":
    """The target at ``path``; settings are for a file that is not in a run folder."""
    from edgecmd.config.targets import find_target

    one_thread()
    given = read_settings(config, settings) if config or settings else None
    return find_target(path, config=given)


def finish(target: "Target", findings: "Sequence[Finding]", *, as_json: bool) -> None:
    """Write ``audit.json``, show the findings, and fail if the claim is contradicted.

    Raises:
        ContradictedError: One of ``findings`` contradicts the claim.
    """
    from edgecmd.experiments.audit_ladder import keep

    keep(target, findings)
    tell(target, findings, as_json=as_json)


def tell(target: "Target | None", findings: "Sequence[Finding]", *, as_json: bool) -> None:
    """Print findings as a table and one sentence each, or as JSON, and the file that keeps them.

    Raises:
        ContradictedError: One of ``findings`` contradicts the claim.
    """
    from edgecmd.audits.audit_file import rows
    from edgecmd.audits.finding import refuse_contradicted

    if as_json:
        print_json([one.table() for one in findings])
    else:
        columns = ["level", "audit", "attacker", "quantity", "claimed", "measured", "ceiling", "verdict"]
        print_table("Audit", columns, rows(findings))
        for one in findings:
            say(f"{one.level}, {one.name} ({one.attacker}): {one.text}")
        if target is not None:
            say(f"Audit: {target.record}")
    refuse_contradicted(findings)


@audit_app.command("run")
def run_ladder(
    target: TargetPath,
    levels: Annotated[
        str, typer.Option("--levels", help=f"Levels, comma-separated: {', '.join(ladder())}.")
    ] = ",".join(ladder()),
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Run the audit levels on a run, a student or an exported file. Ctrl-C keeps finished levels."""
    from edgecmd.experiments.audit_ladder import audit

    found = target_of(target, config, settings)
    names = [name.strip() for name in levels.split(",")]
    tell(found, audit(found, levels=names, setting="--levels"), as_json=as_json)


@audit_app.command("check")
def check(
    target: OwnTarget = None,
    *,
    tries: Annotated[
        int | None, typer.Option("--tries", min=1, help="Neighbours to try; default: 96, own batch loss 5.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", min=3, help="Pairs per set; default: 8, own batch loss 256.")
    ] = None,
    loss: Annotated[str, typer.Option("--loss", help="Your loss: module:function or file.py:function.")] = "",
    unit_loss: Annotated[
        bool, typer.Option("--unit-loss/--batch-loss", help="Your loss takes one pair, or a batch.")
    ] = False,
    student: Annotated[str, typer.Option("--student", help="Your student: module:factory.")] = "",
    channels: Annotated[int, typer.Option("--channels", min=1, help="Input channels of your student.")] = 1,
    engine: Annotated[
        str,
        typer.Option("--engine", help="For your loss: opacus, opacus-ghost; with --unit-loss: vmap, loop."),
    ] = "",
    clip: Annotated[
        float | None,
        typer.Option("--clip", min=1e-6, max=1e6, help="C for your loss; default: privacy.clip."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Passed to your loss as a keyword argument.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """L0: purity, sensitivity, ledger records and anchors. Nothing is trained.

    With --loss or --student your own Python code is checked, with or without a run. A loss is
    loss(student (B, D), teacher (B, D), anchors (K, D)) -> (B,), clipped as Opacus would clip it; with
    --unit-loss it takes one pair at a time and returns a scalar. A student is made by a function
    without arguments and maps images (B, C, H, W) to (B, D). Exit code 3 if one pair moves the sum by
    more than C.
    """
    from edgecmd.audits.static.custom_code import check_own_code, own_code, subject_of, usual_effort
    from edgecmd.audits.static.sensitivity import Effort
    from edgecmd.config.assemble import Assembly
    from edgecmd.experiments.audit_ladder import audit_level

    one_thread()
    if not loss and not student and target is None:
        raise ConfigError(
            "edgecmd audit check needs something to check: a run folder, a student's file, an exported file,"
            " or your own code (--loss module:function or --student module:factory)."
        )
    if not loss and not student:
        _refuse_own_options(unit_loss=unit_loss, engine=engine, clip=clip, temperature=temperature)
    known = target_of(target, config, settings) if target is not None else None
    if known is not None and not loss and not student:
        effort = Effort().changed(num_tries=tries, num_pairs=pairs)
        finish(known, audit_level(known, "check", effort), as_json=as_json)
        return
    run = known.run if known is not None else Assembly().run(read_settings(config, settings))
    subject = subject_of(run, known, student=student, channels=channels)
    code = own_code(run, loss, unit_loss=unit_loss, engine=engine, clip=clip, temperature=temperature)
    effort = usual_effort(code).changed(num_tries=tries, num_pairs=pairs)
    tell(None, check_own_code(code, subject, effort), as_json=as_json)


def _refuse_own_options(**options: object) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if given:
        raise ConfigError(
            f"{', '.join(given)} apply only to your own code. Add --loss or --student, or leave them out: a"
            " run's loss, engine and clip are in its config.toml."
        )


@audit_app.command("faults")
def faults(as_json: AsJson = False) -> None:
    """Plant faults and show which audit catches them. Each has a sound twin; takes one to three minutes.

    Exit code 7 if a fault is missed or a sound twin is contradicted: do not rely on this
    installation's audits then.
    """
    from edgecmd.experiments.faults.every_level import plant_all
    from edgecmd.experiments.faults.planted import COLUMNS, require_all

    one_thread()
    found = plant_all()
    if as_json:
        print_json([one.table() for one in found])
    else:
        print_table("Planted faults", COLUMNS, [one.row() for one in found])
        for one in found:
            say(f"{one.fault.name}: {one.caught.text}")
            say(f"  sound twin: {one.sound.text}")
    require_all(found)


@audit_app.command("many-runs")
def many_runs(
    target: TargetPath,
    runs: Annotated[
        int, typer.Option("--runs", min=8, help="Number of runs with the canary, and of runs without it.")
    ] = 200,
    jobs: Jobs = 2,
    seed: Seed = 0,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """L3: train many times on a worst-case pair. Uses the target's own mechanism, loss, noise and steps.

    The student is a tiny stand-in and the data are synthetic: this tests the mechanism and its
    accounting, against an attacker who holds the device. Finished runs are kept beside audit.json; after
    Ctrl-C, run the same command again to continue. Exit code 3 if the claim is contradicted.
    """
    from edgecmd.audits.many_runs.runs import ManyRunsEffort, runs_folder
    from edgecmd.experiments.audit_ladder import audit_level

    found = target_of(target, config, settings)
    effort = ManyRunsEffort(num_runs=runs, num_jobs=jobs, seed=seed)
    with _resumable(runs_folder(found, seed=seed), as_json=as_json):
        findings = audit_level(found, "many-runs", effort)
    finish(found, findings, as_json=as_json)


@audit_app.command("headline")
def headline(
    runs: Annotated[
        int, typer.Option("--runs", min=8, help="Runs with the canary and runs without it, for each row.")
    ] = 600,
    jobs: Jobs = 2,
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs and audit.json.")] = HEADLINE,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare in-batch negatives under Opacus to public anchors. Same pair, canary, noise, claim: epsilon 1.

    This is a demonstration: the first row is meant to be contradicted, and the exit code is then still 0.
    It is 3 if a row with anchors is contradicted. After Ctrl-C, run the same command again to continue.
    """
    from edgecmd.audits.finding import refuse_contradicted
    from edgecmd.audits.many_runs.runs import (
        HEADLINE_COLUMNS,
        ManyRunsEffort,
        audit_headline,
        headline_row,
    )

    one_thread()
    with _resumable(out, as_json=as_json):
        shown = audit_headline(out, ManyRunsEffort(num_runs=runs, num_jobs=jobs, seed=seed))
    if as_json:
        print_json([one.table() for one in shown.findings])
    else:
        title = "Worst-case pair, attacker holds the final weights, 95%"
        print_table(title, HEADLINE_COLUMNS, [headline_row(one) for one in shown.findings])
        say(f"Audit: {shown.record}")
    refuse_contradicted(shown.to_hold)


@contextmanager
def _resumable(folder: Path, *, as_json: bool) -> Iterator[None]:
    """On Ctrl-C, say where finished runs are kept."""
    try:
        yield
    except KeyboardInterrupt:
        if not as_json:
            say(f"Finished runs are kept in {folder}; the same command continues from there.")
        raise


@audit_app.command("one-run")
def one_run(
    target: TargetPath,
    canaries: Annotated[int, typer.Option("--canaries", help="Canaries of each kind.")] = 1000,
    rounds: Annotated[
        int, typer.Option("--rounds", min=0, help="Audit only this many first rounds; 0 for all.")
    ] = 0,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Repeat the whole audit this often, with other seeds.")
    ] = 1,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of coins, canaries; noise and sampling stay secret.")
    ] = 0,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """L2: train once with canaries and let attackers guess their coins. Fair coins include each canary.

    Exit code 3 if an attacker guesses better than the claimed epsilon allows. With --repeats a claim is
    contradicted if more repeats contradict it than chance allows at 95%. Ctrl-C keeps finished repeats.
    """
    from edgecmd.audits.one_run.experiment import Effort, audit_repeatedly, num_contradicting, repeated

    found = target_of(target, config, settings)
    runs = audit_repeatedly(found, Effort(num_canaries=canaries, num_rounds=rounds, seed=seed), num=repeats)
    if len(runs) < repeats:
        warn(f"Interrupted after {len(runs)} of {counted(repeats, 'repeat')}; these are kept.")
    if repeats > 1 and not as_json:
        wrong = num_contradicting(runs)
        verb = "contradicts" if wrong == 1 else "contradict"
        say(
            f"{wrong} of {counted(len(runs), 'audit')} {verb} the claim; at 95%, one in twenty may by chance."
        )
    finish(found, repeated(runs), as_json=as_json)


@audit_app.command("risk")
def risk(  # noqa: PLR0917 - the words of a command line
    target: TargetPath,
    attacks: Annotated[
        str,
        typer.Option(
            "--attacks",
            help="Comma-separated: membership, inversion (of images and recordings), secrets (of strings;"
            " trains again). Default: the first two, as far as they suit the data.",
        ),
    ] = "",
    shadows: Annotated[
        int, typer.Option("--shadows", min=4, help="Number of shadow students, an even number.")
    ] = 8,
    shadow_steps: Annotated[
        int, typer.Option("--shadow-steps", min=1, help="Optimiser steps per shadow student.")
    ] = 160,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Processes at a time; 0: one per core.")] = 0,
    pairs: Annotated[
        int, typer.Option("--pairs", min=2, help="Drawings that gradient inversion tries to recover.")
    ] = 8,
    steps: Annotated[
        int, typer.Option("--inversion-steps", min=1, help="Steps per search of the gradient inversion.")
    ] = 300,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of shadow students and searches.")] = 0,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="Retrain on a random half of the pairs and attack that; slower."),
    ] = False,
    secrets: Annotated[
        int, typer.Option("--secrets", min=2, help="Invented strings to plant for each of --copies.")
    ] = 100,
    copies: Annotated[
        str, typer.Option("--copies", help="How many times a client holds a secret, comma-separated.")
    ] = "1,10,100",
    decoys: Annotated[
        int, typer.Option("--decoys", min=2, help="Invented strings that nobody holds.")
    ] = 2000,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Keep images; they show private drawings.")
    ] = True,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """L4: attack the student for membership, and gradients for drawings. The exported file works too.

    With --attacks secrets the run is trained again with invented names and passwords among the clients'
    strings: does its exported file tell which were there, and what they were paired with?
    """
    from edgecmd.audits.risk.attacks import RiskEffort
    from edgecmd.audits.risk.secrets import SecretRecipe
    from edgecmd.experiments.audit_ladder import audit_level

    found = target_of(target, config, settings)
    effort = RiskEffort(
        attacks=attacks.split(",") if attacks else (),
        num_shadows=shadows,
        shadow_steps=shadow_steps,
        jobs=jobs,
        num_pairs=pairs,
        inversion_steps=steps,
        seed=seed,
        retrain=retrain,
        pictures=pictures,
        secrets=SecretRecipe(
            num_secrets=secrets, copies=_numbers("--copies", copies), num_decoys=decoys, seed=seed
        ),
    )
    finish(found, audit_level(found, "risk", effort), as_json=as_json)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers, comma-separated."""
    try:
        return tuple(int(one) for one in text.split(","))
    except ValueError:
        raise ConfigError(f"{option}={text!r} must be whole numbers, such as 1,10,100.") from None


@audit_app.command("step")
def step(
    target: TargetPath,
    draws: Annotated[
        int, typer.Option("--draws", min=FEWEST_DRAWS, help="Releases drawn from each of two neighbours.")
    ] = 2000,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of the neighbours; noise stays secret.")
    ] = 0,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """L1: noise, release, coins and random source of real steps. Also many draws against a neighbour.

    Of secure sums: noise of whole rounds, vectors of clients, random source.

    Exit code 3 if at any step of a round the noise is smaller than stated, repeats or is not Gaussian;
    if a step releases more than the clipped sum; if pairs are not sampled independently with fresh coins
    at the stated rate; if the random source is not the system's; or if the draws prove more epsilon than
    the step claims.
    """
    from edgecmd.audits.step.checks import StepEffort
    from edgecmd.experiments.audit_ladder import audit_level

    found = target_of(target, config, settings)
    finish(found, audit_level(found, "step", StepEffort(num_draws=draws, seed=seed)), as_json=as_json)
