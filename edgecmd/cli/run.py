"""``edgecmd run`` and ``resume``: all steps; and one by one ``pretrain``, ``simulate`` and more."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecmd.cli.app import app
from edgecmd.cli.options import AsJson, ConfigFile, DryRunJson, Settings, one_thread, read_settings
from edgecmd.cli.output import print_json, print_table, say
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, FederationError
from edgecmd.core.text import counted

if TYPE_CHECKING:
    from edgecmd.config.assemble import Assembly
    from edgecmd.evaluation.emergent import Half
    from edgecmd.evaluation.evaluate import Table

Folder = Annotated[Path, typer.Argument(help="Run folder, such as runs/demo.")]
MOST_NOTES = 5


@app.command()
def run(
    config: ConfigFile = None,
    settings: Settings = None,
    baselines: Annotated[bool, typer.Option(help="Also run the baselines.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and run nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run folder of that name first.")] = False,
    as_json: DryRunJson = False,
) -> None:
    """Everything: distil, evaluate against baselines, export, report."""
    from edgecmd.config.assemble import Assembly, run_folder
    from edgecmd.core.run_lock import empty, owned

    one_thread()
    resolved, assembly = read_settings(config, settings), Assembly()
    if shown_alone(resolved, assembly, dry_run=dry_run, as_json=as_json):
        return
    folder = run_folder(resolved)
    with owned(folder):
        show_plan(resolved, assembly)
        if fresh:
            empty(folder)
        whole_pipeline(resolved, assembly, baselines=baselines)


@app.command()
def resume(folder: Folder) -> None:
    """Continue a run that was stopped or killed; it ends bit-identical (under privacy: with fresh noise)."""
    from edgecmd.cli.progress import round_line
    from edgecmd.config.assemble import Assembly
    from edgecmd.config.provenance import require_runtime
    from edgecmd.core.run_lock import owned
    from edgecmd.experiments.pipeline import train, with_baselines

    one_thread()
    config, assembly = config_of(folder), Assembly()
    with owned(folder):
        require_runtime(folder, "in-process", described=assembly.run(config).described)
        if (folder / "pipeline.json").exists():
            whole_pipeline(config, assembly, baselines=with_baselines(folder / "pipeline.json"))
            return
        train(assembly.run(config), round_line)
    say(f"Student: {folder / 'student.safetensors'}")


def whole_pipeline(config: RunConfig, assembly: "Assembly", *, baselines: bool) -> None:
    """Run or continue all stages, and show what came of it; the caller owns the run folder."""
    from edgecmd.cli.progress import round_line
    from edgecmd.experiments.pipeline import run_all
    from edgecmd.report import write_report

    done = run_all(config, assembly, baselines=baselines, watch=round_line)
    show_results(done.tables)
    say_teacher(config, assembly, done.tables)
    say(f"Bundle: {done.folder / 'export'} ({done.bundle})")
    say(f"Report: {write_report(done.folder)}")
    say(f"Try it: edgecmd infer {done.folder / 'export'} <file>")
    if config.privacy.mechanism != "none":
        say(f"Test the guarantee: edgecmd audit {done.folder}")


def config_of(folder: Path) -> RunConfig:
    """Settings of a run folder, wherever it was moved to.

    Raises:
        FederationError: It is not a run folder.
    """
    from edgecmd.config.reader import load_config

    if not (folder / "config.toml").is_file():
        raise FederationError(
            f"{folder} is not a run folder: it has no config.toml. `edgecmd run` makes one."
        )
    resolved = folder.resolve()
    return replace(load_config(folder / "config.toml"), out=str(resolved.parent), name=resolved.name)


@app.command()
def evaluate(
    folder: Folder,
    baselines: Annotated[bool, typer.Option(help="Also run the baselines.")] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(help="PNG to write: test images, their masks and those a seg-* student finds."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Step 3: retrieval, one-shot, kNN and linear probe of a run's student; mIoU where it segments."""
    from edgecmd.cli.progress import round_line
    from edgecmd.config.assemble import Assembly
    from edgecmd.core.files import require_writable
    from edgecmd.experiments.gallery import require_masks, write_mask_sheet
    from edgecmd.experiments.pipeline import assess_run, unwatched

    one_thread()
    config, assembly = config_of(folder), Assembly()
    if sheet is not None:
        require_masks(assembly.run(config))
        require_writable(sheet)
    watch = unwatched if as_json else round_line
    tables = assess_run(config, assembly, folder=folder, baselines=baselines, watch=watch)
    if as_json:
        print_json(tables)
    else:
        show_results(tables)
        say_teacher(config, assembly, tables)
    if sheet is not None:
        write_mask_sheet(assembly.run(config), folder, sheet)
        if not as_json:
            say(f"Wrote {sheet}.")


@app.command()
def emergent(
    folder: Folder,
    other: Annotated[Path, typer.Argument(help="Run folder with the same teacher, whose targets are found.")],
    as_json: AsJson = False,
) -> None:
    """Do targets of one run find those of another run, with which they were never paired?"""
    from edgecmd.config.assemble import Assembly
    from edgecmd.evaluation.emergent import emergent_retrieval

    one_thread()
    assembly = Assembly()
    table = emergent_retrieval(*(trained_half(one, assembly) for one in (folder, other)))
    if as_json:
        print_json(table)
    else:
        show_emergent(table, names=(folder.name, other.name))


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs with their state, scores and privacy, the newest first."""
    from edgecmd.experiments.run_list import COLUMNS, list_runs

    found = list_runs(folder)
    if as_json:
        print_json([asdict(one) for one in found])
    elif found:
        print_table(f"Runs in {folder}", COLUMNS, [one.cells for one in found])
    else:
        say(f"{folder} holds no runs. Start one with `edgecmd run --set name=first`.")


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Run folder, such as runs/demo; more are compared."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Page of a comparison; default: comparison.html beside the first run."),
    ] = None,
) -> None:
    """Write report.html of a run folder again, or compare runs on one page."""
    from edgecmd.report import write_comparison, write_report

    for folder in folders:
        config_of(folder)
    if len(folders) > 1 or out is not None:
        page = out or folders[0].resolve().parent / "comparison.html"
        say(f"Comparison: {write_comparison(folders, page)}")
    else:
        say(f"Report: {write_report(folders[0])}")


@app.command()
def track(
    folder: Folder,
    to: Annotated[str, typer.Option("--to", help="tensorboard, mlflow or wandb.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Send new rounds until the run ends or stops.")
    ] = False,
) -> None:
    """Send losses, scores, bytes and epsilon of a run to a tracker; nothing else."""
    from edgecmd.experiments.trackers import track as send

    config = config_of(folder)
    if config.privacy.mechanism != "none":
        say("note: what is sent is for the owner of the run only; no guarantee covers scores and answers.")
    num = send(folder, to, follow=follow)
    say(f"Sent {counted(num, 'round')} of {folder} to {to}.")
    if to == "tensorboard":
        say(f"Look at it: tensorboard --logdir {folder / 'tensorboard'}")


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("teacher.safetensors"),
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Step 1: a teacher of the public source set, by SimCLR, or the one of photographs fitted to it."""
    from edgecmd.cli.progress import step_line
    from edgecmd.config.assemble import Assembly
    from edgecmd.data.modalities.table import modality_of
    from edgecmd.models.teacher.teachers import RATE, save_teacher
    from edgecmd.training.pretrain import pretrain as train
    from edgecmd.training.pretrain import recipe

    one_thread()
    resolved = read_settings(config, settings)
    public = Assembly().experiment(resolved.data).public
    say(
        f"Teacher {resolved.pretrain.architecture} on {counted(len(public), 'public image')} ({public.name})."
    )
    progress = step_line(resolved.pretrain.num_steps, num_lines=20)
    network = train(public, resolved.pretrain, progress=progress)
    heard = {RATE: str(resolved.data.sampling_rate_hz)} if modality_of(public.images).has_rate else {}
    digest = save_teacher(network, out, recipe=recipe(public, resolved.pretrain) | heard)
    say(f"Wrote {out} (sha256 {digest}).")


@app.command("warm-start")
def warm_start(
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("student.safetensors"),
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps.")] = 600,
    simclr: Annotated[
        bool, typer.Option("--simclr", help="SimCLR on the images instead: the start of presimclr.")
    ] = False,
    moved: Annotated[
        bool,
        typer.Option(
            "--moved", help="Move each image anew before the teacher sees it: for 2,000 steps or more."
        ),
    ] = False,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """First weights of a student from public images only; use them with --set student.path=FILE."""
    from edgecmd.cli.progress import step_line
    from edgecmd.config.assemble import Assembly
    from edgecmd.evaluation.evaluate import validate
    from edgecmd.models.student_file import save_student
    from edgecmd.recipes.presimclr import source_start
    from edgecmd.recipes.warm_start import warm_start as train

    if simclr and moved:
        raise ConfigError("--simclr has views of its own and no teacher. Leave out --moved.")
    one_thread()
    resolved = read_settings(config, settings)
    run, progress = Assembly().run(resolved), step_line(steps, num_lines=10)
    if simclr:
        rate = resolved.pretrain.learning_rate
        student = source_start(run, num_steps=steps, learning_rate=rate, progress=progress)
    else:
        student = train(run, num_steps=steps, moved=moved, progress=progress)
    save_student(student, out)
    if simclr:
        say(f"Wrote {out}. Use it: --set distill.loss=simclr --set student.path={out}")
        return
    metrics = "  ".join(f"{name} {value:.3f}" for name, value in validate(student, run.task).items())
    say(f"Wrote {out}. {metrics}")
    say(f"Use it: --set student.path={out}")


@app.command()
def simulate(
    config: ConfigFile = None,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and run nothing.")] = False,
    as_json: DryRunJson = False,
) -> None:
    """Step 2: distil over simulated clients; writes a run folder with the student."""
    from edgecmd.cli.progress import round_line
    from edgecmd.config.assemble import Assembly, run_folder
    from edgecmd.core.run_lock import owned
    from edgecmd.experiments.pipeline import train

    one_thread()
    resolved, assembly = read_settings(config, settings), Assembly()
    if shown_alone(resolved, assembly, dry_run=dry_run, as_json=as_json):
        return
    with owned(run_folder(resolved)):
        show_plan(resolved, assembly)
        train(assembly.run(resolved), round_line)
    say(f"Student: {run_folder(resolved) / 'student.safetensors'}")


def shown_alone(config: RunConfig, assembly: "Assembly", *, dry_run: bool, as_json: bool) -> bool:
    """Whether ``--dry-run`` was asked for; then plan and partition are shown, as tables or as JSON.

    Raises:
        ConfigError: ``--json`` stands without it.
    """
    from edgecmd.experiments.run_plan import dry_run as document
    from edgecmd.experiments.run_plan import partition_rows

    if as_json and not dry_run:
        raise ConfigError("--json is for --dry-run, which shows the plan. Add --dry-run, or leave it out.")
    if dry_run and as_json:
        print_json(document(config, assembly))
    elif dry_run:
        show_plan(config, assembly)
        columns = ["client", "pairs", "classes", "most frequent class and its share"]
        print_table("Partition", columns, partition_rows(assembly.run(config)))
    return dry_run


def show_plan(config: RunConfig, assembly: "Assembly") -> None:
    """Print the partition, the student and the bytes of a round."""
    from edgecmd.experiments.run_plan import plan_facts, plan_rows

    facts = plan_facts(config, assembly)
    print_table(f"Plan of {config.name}", ["what", "value"], plan_rows(facts, assembly.run(config)))
    for warning in facts["warnings"]:
        say(f"warning: {warning}")
    say_notes(facts["notes"])


def say_notes(notes: Sequence[str]) -> None:
    """Print the first notes on the data, and how to see the others."""
    for note in notes[:MOST_NOTES]:
        say(f"note: {note}")
    if len(notes) > MOST_NOTES:
        say(f"note: {len(notes) - MOST_NOTES} more; `edgecmd data check` with these settings lists all.")


def trained_half(folder: Path, assembly: "Assembly") -> "Half":
    """The student of a finished run, with its data and teacher.

    Raises:
        FederationError: It is not a run folder, or has no student yet.
    """
    from edgecmd.evaluation.emergent import Half
    from edgecmd.evaluation.evaluate import embedder
    from edgecmd.models.student_file import load_student

    config, path = config_of(folder), folder / "student.safetensors"
    if not path.is_file():
        raise FederationError(f"{folder} has no {path.name} yet. Finish it with `edgecmd resume {folder}`.")
    task = assembly.run(config).task
    return Half(task=task, embed=embedder(load_student(path, like=config.student.architecture), task))


def show_emergent(table: dict[str, Any], *, names: tuple[str, str]) -> None:
    """Print what `edgecmd.evaluation.emergent.emergent_retrieval` found."""
    asks, found = names
    words = {
        "students": f"{asks} finds {found}",
        "teacher_asks": f"the teacher, of the source of {asks}, finds {found}",
        "teacher_answers": f"{asks} finds the teacher, of the source of {found}",
        "chance": "chance",
    }
    columns = list(table["chance"])
    rows = [[text, *(f"{table[key][one]:.4f}" for one in columns)] for key, text in words.items()]
    print_table("Emergent retrieval", ["", *(one.replace("recall", "R") for one in columns)], rows)
    say(
        f"{counted(table['num_asked'], 'target')} of {asks} ask for {counted(table['num_things'], 'thing')},"
        f" shown by {counted(table['num_among'], 'target')} of {found}; no training pair of either run shows"
        " one of them."
    )


def show_results(tables: "dict[str, Table]") -> None:
    """Print the student against the baselines, and what the table means."""
    from edgecmd.experiments.results_table import heading_of, result_notes, result_rows

    columns, *rows = result_rows(tables)
    print_table(heading_of(tables), columns, rows)
    for note in result_notes(tables):
        say(note)


def say_teacher(config: RunConfig, assembly: "Assembly", tables: "dict[str, Table]") -> None:
    """Name the teacher below a table of results, and what speaks against it."""
    from edgecmd.experiments.teacher_facts import teacher_record

    told = teacher_record(assembly.task(config), config.teacher, tables)
    say(f"Teacher: {told['text']}.")
    for warning in told["warnings"]:
        say(f"warning: {warning}")
