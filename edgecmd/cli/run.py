"""``edgecmd run``, ``resume``, ``evaluate`` and ``report``: the whole pipeline and its later parts."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import (
    AsJson,
    ConfigFile,
    DryRunJson,
    Settings,
    one_thread,
    print_json,
    read_settings,
    say,
)
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError, FederationError

Folder = Annotated[Path, typer.Argument(help="Run folder, such as runs/demo.")]


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
    from edgecmd.config.assemble import run_folder
    from edgecmd.core.run_lock import empty, owned
    from edgecmd.experiments.pipeline import plan, show_dry_run

    one_thread()
    resolved = read_settings(config, settings)
    if as_json and not dry_run:
        raise ConfigError("--json is for --dry-run, which shows the plan. Add --dry-run, or leave it out.")
    if dry_run:
        show_dry_run(resolved, as_json=as_json)
        return
    folder = run_folder(resolved)
    with owned(folder):
        plan(resolved)
        if fresh:
            empty(folder)
        whole_pipeline(resolved, baselines=baselines)


def whole_pipeline(config: RunConfig, *, baselines: bool) -> None:
    """Run or continue all stages of ``config``; the caller owns the run folder.

    Raises:
        FederationError: The run in the folder was made on Flower, or with other settings.
    """
    from edgecmd.cli.progress import round_line
    from edgecmd.config.assemble import start_run
    from edgecmd.config.provenance import require_runtime
    from edgecmd.core.artefacts import write_artefact
    from edgecmd.data.problem import run_of
    from edgecmd.experiments.gallery import write_gallery
    from edgecmd.experiments.pipeline import assess_run, run_stage, say_teacher, show_results, write_partition
    from edgecmd.report import write_report
    from export.from_run import export_run
    from server.simulate import simulate

    run = run_of(config)
    require_runtime(run.folder, "in-process", described=run.described)
    folder = start_run(run)
    write_artefact(folder, "pipeline.json", {"baselines": baselines}, may_leave=True)
    run_stage(folder, "simulate", lambda: simulate(run_of(config), report=round_line(config)))
    write_partition(config, folder)
    tables = run_stage(folder, "evaluate", lambda: assess_run(config, folder, baselines=baselines))
    write_gallery(config, folder)
    bundle = run_stage(folder, "export", lambda: export_run(run, folder / "export", settings=config.export))
    show_results(tables)
    say_teacher(config, tables)
    say(f"Bundle: {folder / 'export'} ({bundle})")
    say(f"Report: {write_report(folder)}")
    say(f"Try it: edgecmd infer {folder / 'export'} <file>")


@app.command()
def resume(folder: Folder) -> None:
    """Continue a run that was stopped or killed; it ends bit-identical (under privacy: with fresh noise)."""
    from edgecmd.cli.progress import round_line
    from edgecmd.config.provenance import require_runtime
    from edgecmd.core.run_lock import owned
    from edgecmd.data.problem import run_of
    from edgecmd.experiments.pipeline import run_stage
    from server.simulate import simulate

    one_thread()
    config = config_of(folder)
    with owned(folder):
        require_runtime(folder, "in-process", described=run_of(config).described)
        if (folder / "pipeline.json").exists():
            whole_pipeline(config, baselines=with_baselines(folder / "pipeline.json"))
            return
        run_stage(folder, "simulate", lambda: simulate(run_of(config), report=round_line(config)))
    say(f"Student: {folder / 'student.safetensors'}")


def with_baselines(path: Path) -> bool:
    """What ``pipeline.json`` says: whether the run that is continued has baselines.

    Raises:
        DataError: The file is damaged.
    """
    from edgecmd.core.files import read_json

    found = read_json(path)
    baselines = found.get("baselines") if isinstance(found, dict) else None
    if not isinstance(baselines, bool):
        raise DataError(
            f"{path} is damaged: it does not say whether the run has baselines. Write"
            ' {"baselines": true} or {"baselines": false} into it and resume again, or use `edgecmd run` with'
            " the settings of the run, which writes it anew."
        )
    return baselines


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
    as_json: AsJson = False,
) -> None:
    """Step 3: retrieval, one-shot, kNN and linear probe of a run's student."""
    from edgecmd.experiments.pipeline import assess_run, say_teacher, show_results

    one_thread()
    tables = assess_run(config_of(folder), folder, baselines=baselines, quiet=as_json)
    if as_json:
        print_json(tables)
    else:
        show_results(tables)
        say_teacher(config_of(folder), tables)


@app.command()
def report(folder: Folder) -> None:
    """Write report.html of a run folder again."""
    from edgecmd.report import write_report

    config_of(folder)
    say(f"Report: {write_report(folder)}")
