"""``edgecmd pretrain`` and ``edgecmd simulate``: steps 1 and 2."""

from pathlib import Path
from typing import Annotated

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import ConfigFile, DryRunJson, Settings, one_thread, read_settings, say
from edgecmd.cli.progress import round_line
from edgecmd.core.errors import ConfigError
from edgecmd.core.text import counted
from edgecmd.data.problem import run_of, task_of


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("teacher.safetensors"),
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Step 1: a teacher of the public source set, by SimCLR, or the one of photographs fitted to it."""
    from edgecmd.data.modalities.table import modality_of
    from edgecmd.data.problem import experiment
    from edgecmd.models.teachers import RATE, save_teacher
    from edgecmd.training.pretrain import pretrain as train
    from edgecmd.training.pretrain import recipe

    one_thread()
    resolved = read_settings(config, settings)
    public = experiment(resolved.data).public
    say(
        f"Teacher {resolved.pretrain.architecture} on {counted(len(public), 'public image')} ({public.name})."
    )
    every = max(1, resolved.pretrain.num_steps // 20)

    def progress(step: int, loss: float) -> None:
        if step % every == 0:
            say(f"step {step}/{resolved.pretrain.num_steps}  loss {loss:.3f}")

    network = train(public, resolved.pretrain, progress=progress)
    heard = {RATE: str(resolved.data.sampling_rate_hz)} if modality_of(public.images).has_rate else {}
    digest = save_teacher(network, out, recipe=recipe(public, resolved.pretrain) | heard)
    say(f"Wrote {out} (sha256 {digest}).")


@app.command("warm-start")
def warm_start(
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("student.safetensors"),
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps.")] = 600,
    simclr: Annotated[
        bool, typer.Option("--simclr", help="SimCLR on the pictures instead: the start of presimclr.")
    ] = False,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """First weights of a student from public pictures alone; use them with --set student.path=FILE."""
    from edgecmd.evaluation.evaluate import validate
    from edgecmd.models.student_file import save_student
    from edgecmd.recipes.presimclr import source_start
    from edgecmd.recipes.warm_start import warm_start as train

    one_thread()
    resolved = read_settings(config, settings)
    every = max(1, steps // 10)

    def progress(step: int, loss: float) -> None:
        if step % every == 0:
            say(f"step {step}/{steps}  loss {loss:.3f}")

    run = run_of(resolved)
    if simclr:
        rate = resolved.pretrain.learning_rate
        student = source_start(run, num_steps=steps, learning_rate=rate, progress=progress)
    else:
        student = train(run, num_steps=steps, progress=progress)
    save_student(student, out)
    if simclr:
        say(f"Wrote {out}. Use it: --set distill.loss=simclr --set student.path={out}")
        return
    metrics = "  ".join(f"{name} {value:.3f}" for name, value in validate(student, task_of(resolved)).items())
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
    from edgecmd.config.assemble import run_folder
    from edgecmd.core.run_lock import owned
    from edgecmd.experiments.pipeline import plan, run_stage, show_dry_run
    from server.simulate import simulate as simulate_run

    one_thread()
    resolved = read_settings(config, settings)
    if as_json and not dry_run:
        raise ConfigError("--json is for --dry-run, which shows the plan. Add --dry-run, or leave it out.")
    if dry_run:
        show_dry_run(resolved, as_json=as_json)
        return
    with owned(run_folder(resolved)):
        plan(resolved)
        run = run_of(resolved)
        run_stage(run.folder, "simulate", lambda: simulate_run(run, report=round_line(resolved)))
    say(f"Student: {run_folder(resolved) / 'student.safetensors'}")
