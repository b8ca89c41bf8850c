"""``edgecmd theory``: distance against target error, and whether clients rotate apart."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import AsJson, ConfigFile, Settings, one_thread, print_json, read_settings, say
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.text import counted

if TYPE_CHECKING:
    from edgecmd.experiments.theory.jobs import Job
    from edgecmd.experiments.theory.sweep import Point, SweepPlan

PairName = Annotated[
    str, typer.Option("--pair", help="emoji, digits, objects or rooms: data and a student that suits.")
]


@app.command()
def theory(
    *,
    pair: PairName = "",
    levels: Annotated[int, typer.Option("--levels", min=4, help="Levels of each gap, none included.")] = 8,
    gaps: Annotated[
        str, typer.Option("--gaps", help="Degradations, comma separated; empty: all of the modality.")
    ] = "",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds from 0.")] = 2,
    fast: Annotated[bool, typer.Option("--fast", help="A small student, few steps: minutes.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time.")] = 1,
    rotation: Annotated[
        bool, typer.Option("--rotation", help="Instead: do clients' embeddings rotate apart?")
    ] = False,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of --rotation.")] = 5,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Modality distance against target error over ever wider gaps; finished points are kept."""
    from edgecmd.experiments.presets import pair_settings
    from edgecmd.experiments.theory.sweep import cheap, plan_sweep, sweep_points

    one_thread()
    run = f"theory-{pair}" + ("-fast" if fast else "")
    resolved = read_settings(config, pair_settings(pair, run=run, settings=settings))
    resolved = cheap(resolved) if fast else resolved
    if rotation:
        table = run_rotation(resolved, num_rounds=rounds, num_seeds=seeds, num_jobs=jobs, quiet=as_json)
    else:
        plan, names = plan_sweep(resolved, fast=fast), check_gaps(resolved, gaps)
        points = sweep_points(plan, gaps=names, num_levels=levels, num_seeds=seeds)
        table = run_sweep(resolved, plan, points, num_jobs=jobs, quiet=as_json)
    if as_json:
        print_json(table)


def check_gaps(config: RunConfig, gaps: str) -> tuple[str, ...]:
    """Names of the gaps; all of the run's modality where none is given.

    Raises:
        ConfigError: One does not exist for the modality.
    """
    from edgecmd.core.errors import nearest
    from edgecmd.data.modalities.table import modality_of
    from edgecmd.data.problem import experiment
    from edgecmd.experiments.theory.gaps import gap_names

    known = gap_names(modality_of(experiment(config.data).train.target))
    names = tuple(name.strip() for name in gaps.split(",") if name.strip()) or known
    for name in names:
        if name not in known:
            raise ConfigError(f"--gaps has {name!r}. {nearest(name, known)}")
    return tuple(dict.fromkeys(names))


def run_sweep(
    config: RunConfig, plan: "SweepPlan", points: "Sequence[Point]", *, num_jobs: int, quiet: bool
) -> dict[str, Any]:
    """Measure every point, write ``theory.json`` and ``theory.png``, and show them."""
    from edgecmd.cli.theory_show import show_theory
    from edgecmd.config.assemble import run_folder
    from edgecmd.core.files import write_bytes_atomically, write_json
    from edgecmd.experiments.theory.jobs import run_jobs, settings_of
    from edgecmd.experiments.theory.summary import summarise
    from edgecmd.report.theory import theory_png

    folder = run_folder(config)
    work = point_jobs(config, plan, points, folder=folder)
    if not quiet:
        say(estimate(config, plan, work, num_jobs=num_jobs))

    def told(table: dict[str, Any], done: int) -> None:
        if not quiet:
            say(f"{done}/{len(work)}  {_line(table)}")

    measured = run_jobs(work, num_jobs=num_jobs, told=told)
    table = summarise(measured, plan, seed=config.seed) | {"settings": settings_of(config)}
    write_json(folder / "theory.json", table)
    write_bytes_atomically(folder / "theory.png", theory_png(table))
    if not quiet:
        show_theory(table)
        say(f"All numbers: {folder / 'theory.json'}; picture: {folder / 'theory.png'}")
    return table


def point_jobs(
    config: RunConfig, plan: "SweepPlan", points: "Sequence[Point]", *, folder: Path
) -> "list[Job]":
    """A job for each point of the sweep."""
    from edgecmd.config.reader import flatten
    from edgecmd.experiments.theory.jobs import Job

    flat, shared = dict(flatten(config)), asdict(plan)
    return [
        Job(
            kind="point",
            flat=flat,
            place={"plan": shared, "point": asdict(point)},
            path=folder / "theory" / f"{point.name}.json",
        )
        for point in points
    ]


def estimate(config: RunConfig, plan: "SweepPlan", work: "Sequence[Job]", *, num_jobs: int) -> str:
    """What is still to do and about how long it takes, from a few optimiser steps."""
    from edgecmd.experiments.theory.sweep import seconds_a_point

    left = sum(not job.path.exists() for job in work)
    if left == 0:
        return f"Finished already and read: {counted(len(work), 'point')}."
    minutes = seconds_a_point(config, plan) * left / num_jobs / 60.0
    return (
        f"{left} of {counted(len(work), 'point')} to measure, {counted(plan.num_steps, 'step')} each: about"
        f" {'1 minute' if minutes < 1.5 else f'{minutes:.0f} minutes'} with --jobs {num_jobs} on free cores."
        " Ctrl-C keeps what is finished; the same command goes on."
    )


def _line(table: dict[str, Any]) -> str:
    point, distances = table["point"], table["distances"]
    told = "  ".join(
        f"distance ({form}) {one['held_out']['variation']:.3f}" for form, one in distances.items()
    )
    return (
        f"{point['gap']} {point['level']:.2f}  pairs {point['num_pairs']}  seed {point['seed']}  {told}"
        f"  error {table['error']['10']:.3f}"
    )


def run_rotation(
    config: RunConfig, *, num_rounds: int, num_seeds: int, num_jobs: int, quiet: bool
) -> dict[str, Any]:
    """Alignment of clients by method and seed; writes ``rotation.json``."""
    from edgecmd.cli.theory_show import show_rotation
    from edgecmd.config.assemble import run_folder
    from edgecmd.core.files import write_json
    from edgecmd.experiments.theory.alignment import METHODS
    from edgecmd.experiments.theory.jobs import run_jobs, settings_of

    folder = run_folder(config)
    work = rotation_jobs(config, num_rounds=num_rounds, num_seeds=num_seeds, folder=folder)

    def told(table: dict[str, Any], done: int) -> None:
        last = table["rows"][-1]
        if not quiet:
            say(
                f"{done}/{len(work)}  {table['method']}  seed {table['seed']}  cosine {last['cosine']:.3f}"
                f"  taken away by a rotation {last['rotated']:.2f}"
            )

    found = run_jobs(work, num_jobs=num_jobs, told=told)
    federation = config.federation
    table: dict[str, Any] = {
        "partition": federation.partition,
        "num_clients": federation.num_clients,
        "local_steps": federation.local_steps,
        "num_seeds": num_seeds,
        "methods": {method: [one["rows"] for one in found if one["method"] == method] for method in METHODS},
        "settings": settings_of(config),
    }
    write_json(folder / "rotation.json", table)
    if not quiet:
        show_rotation(table)
        say(f"All rounds: {folder / 'rotation.json'}")
    return table


def rotation_jobs(config: RunConfig, *, num_rounds: int, num_seeds: int, folder: Path) -> "list[Job]":
    """A job for each method and seed."""
    from edgecmd.config.reader import flatten
    from edgecmd.experiments.theory.alignment import METHODS
    from edgecmd.experiments.theory.jobs import Job

    flat = dict(flatten(config))
    return [
        Job(
            kind="rotation",
            flat=flat,
            place={"method": method, "seed": seed, "num_rounds": num_rounds},
            path=folder / "rotation" / f"{method.replace(', ', '-').replace(' ', '-')}-seed-{seed}.json",
        )
        for seed in range(num_seeds)
        for method in METHODS
    ]
