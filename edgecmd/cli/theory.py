"""``edgecmd theory``: distance against target error, and whether clients rotate apart."""

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import (
    AsJson,
    ConfigFile,
    Settings,
    one_thread,
    print_json,
    print_table,
    read_settings,
    say,
)
from edgecmd.config import RunConfig
from edgecmd.errors import ConfigError

if TYPE_CHECKING:
    from edgecmd.theory.sweep import Point, SweepPlan


@app.command()
def theory(
    *,
    levels: Annotated[int, typer.Option("--levels", min=4, help="Levels of each gap, none included.")] = 8,
    gaps: Annotated[
        str, typer.Option("--gaps", help="Degradations, comma separated; empty: all of the modality.")
    ] = "",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds from 0.")] = 3,
    fast: Annotated[bool, typer.Option("--fast", help="A small student and 120 steps a point.")] = False,
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
    from edgecmd.runs import run_folder
    from edgecmd.theory.sweep import cheap, plan_sweep, sweep_points

    one_thread()
    resolved = read_settings(config, settings)
    resolved = cheap(resolved) if fast else resolved
    folder = run_folder(resolved)
    if rotation:
        table: Mapping[str, Any] = run_rotation(resolved, num_rounds=rounds, folder=folder, quiet=as_json)
    else:
        plan, names = plan_sweep(resolved, fast=fast), check_gaps(resolved, gaps)
        points = sweep_points(plan, gaps=names, num_levels=levels, num_seeds=seeds)
        table = run_sweep(resolved, plan, points, num_jobs=jobs, folder=folder, quiet=as_json)
    if as_json:
        print_json(table)


def check_gaps(config: RunConfig, gaps: str) -> tuple[str, ...]:
    """Names of the gaps; all of the run's modality where none is given.

    Raises:
        ConfigError: One does not exist for the modality.
    """
    from edgecmd.data.clients import experiment
    from edgecmd.data.pairs import target_kind
    from edgecmd.errors import nearest
    from edgecmd.theory.gaps import gap_names

    known = gap_names(target_kind(experiment(config.data).train.target))
    names = tuple(name.strip() for name in gaps.split(",") if name.strip()) or known
    for name in names:
        if name not in known:
            raise ConfigError(f"--gaps has {name!r}. {nearest(name, known)}")
    return tuple(dict.fromkeys(names))


def run_sweep(
    config: RunConfig,
    plan: "SweepPlan",
    points: "Sequence[Point]",
    *,
    num_jobs: int,
    folder: Path,
    quiet: bool,
) -> dict[str, Any]:
    """Measure every point, write ``theory.json`` and ``theory.png``, and show them."""
    from edgecmd.files import write_bytes_atomically, write_json
    from edgecmd.report.theory import theory_png
    from edgecmd.theory.summary import summarise

    measured = measure_points(config, plan, points, num_jobs=num_jobs, folder=folder, quiet=quiet)
    table = summarise(measured, plan, seed=config.seed) | {"settings": _settings(config)}
    write_json(folder / "theory.json", table)
    write_bytes_atomically(folder / "theory.png", theory_png(table))
    if not quiet:
        show_theory(table)
        say(f"All numbers: {folder / 'theory.json'}; picture: {folder / 'theory.png'}")
    return table


def _settings(config: RunConfig) -> dict[str, Any]:
    """Settings that a point depends on: all but where it is written and the seed, which is the point's."""
    from edgecmd.settings import flatten

    apart = ("name", "out", "seed", "federation.num_workers")
    return {key: value for key, value in flatten(config).items() if key not in apart}


def measure_points(
    config: RunConfig,
    plan: "SweepPlan",
    points: "Sequence[Point]",
    *,
    num_jobs: int,
    folder: Path,
    quiet: bool,
) -> list[dict[str, Any]]:
    """Tables of all points in their order; finished ones are read."""
    from edgecmd.settings import flatten

    jobs = [
        (dict(flatten(config)), asdict(plan), asdict(point), folder / "theory" / f"{point.name}.json")
        for point in points
    ]
    if num_jobs == 1:
        return [_told(measure_job(job), index, len(jobs), quiet=quiet) for index, job in enumerate(jobs)]
    with ProcessPoolExecutor(num_jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(measure_job, job): index for index, job in enumerate(jobs)}
        found = {}
        for done, future in enumerate(as_completed(futures)):
            found[futures[future]] = _told(future.result(), done, len(jobs), quiet=quiet)
    return [found[index] for index in range(len(jobs))]


def _told(table: dict[str, Any], index: int, total: int, *, quiet: bool) -> dict[str, Any]:
    if not quiet:
        point = table["point"]
        say(
            f"{index + 1}/{total}  {point['gap']} {point['level']:.2f}  pairs {point['num_pairs']}"
            f"  seed {point['seed']}  distance {table['held_out']['variation']:.3f}"
            f"  error {table['error']['10']:.3f}"
        )
    return table


def measure_job(job: tuple[dict[str, Any], dict[str, Any], dict[str, Any], Path]) -> dict[str, Any]:
    """One point, in whatever process; a finished one is read from its file.

    Raises:
        ConfigError: The file was made with other settings.
    """
    from edgecmd.files import read_json, write_json
    from edgecmd.settings import unflatten
    from edgecmd.theory.sweep import Point, SweepPlan, measure_point

    flat, plan, point, path = job
    one_thread()
    config = unflatten(flat)
    made = {"settings": _settings(config), "plan": {**plan, "num_labels": list(plan["num_labels"])}}
    if path.exists():
        saved = read_json(path)
        if {name: saved[name] for name in made} == made:
            return dict(saved["table"])
        raise ConfigError(f"{path} was made with other settings. Choose another name with --set name=...")
    table = measure_point(config, SweepPlan(**plan), Point(**point))
    write_json(path, {**made, "table": table})
    return table


def show_theory(table: Mapping[str, Any]) -> None:
    """Print distance and error by gap, the correlations, the exponents and the terms of the bound."""
    rows = [
        [
            row["gap"],
            f"{row['level']:.2f}",
            f"{row['distance']:.3f}",
            f"{row['bound']:.3f}",
            f"{row['error']:.3f}",
        ]
        for row in table["by_gap"]
    ]
    print_table("Distance and target error", ["gap", "level", "distance", "bound by CMD", "error"], rows)
    rows = [
        [name, f"{one['value']:+.2f}", f"{one['low']:+.2f} to {one['high']:+.2f}"]
        if one
        else [name, "-", "one of the two does not change"]
        for name, one in table["correlation"].items()
    ]
    print_table("Spearman's rho of distance and error", ["gap", "rho", "95% interval"], rows)
    rows = []
    for name, fit in (("pairs M", table["pairs_fit"]), ("labels m", table["labels_fit"])):
        if fit is None:
            rows.append([name, "-", "fewer than four sizes", "-0.50", "-"])
            continue
        one = fit["exponent"]
        span = f"{-one['high']:.2f} to {-one['low']:.2f}"
        found = f"{-one['value']:.2f}" if fit["determined"] else "not determined"
        rows.append([name, found, span, "-0.50", f"{fit['floor']:.3f}"])
    print_table(
        "Error = floor + scale * size^exponent",
        ["size", "exponent", "95% interval", "bound's rate", "floor"],
        rows,
    )
    rows = [
        [t["name"], "-" if t["value"] is None else f"{t['value']:.3f}", t["text"]] for t in table["terms"]
    ]
    print_table("Terms of the bound (docs/theory.md)", ["term", "estimate", "meaning"], rows)


def run_rotation(config: RunConfig, *, num_rounds: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """Alignment of clients by method; writes ``rotation.json``."""
    from edgecmd.files import write_json
    from edgecmd.theory.alignment import METHODS
    from edgecmd.theory.alignment import rotation as follow

    by_method: dict[str, list[dict[str, float]]] = {}
    for method in METHODS:
        by_method[method] = follow(config, method, num_rounds=num_rounds)
        if not quiet:
            last = by_method[method][-1]
            say(f"{method}: cosine {last['cosine']:.3f}  taken away by a rotation {last['rotated']:.2f}")
    federation = config.federation
    table = {
        "partition": federation.partition,
        "num_clients": federation.num_clients,
        "local_steps": federation.local_steps,
        "methods": by_method,
    }
    write_json(folder / "rotation.json", table)
    if not quiet:
        show_rotation(table)
        say(f"All rounds: {folder / 'rotation.json'}")
    return table


def show_rotation(table: Mapping[str, Any]) -> None:
    """Print the first and the last round of each method."""
    names = ("cosine", "apart", "residual", "rotated", "error_clients", "error_average", "recall@1")
    rows = [
        [method, str(int(row["round"])), *(f"{row[name]:.3f}" if name in row else "-" for name in names)]
        for method, lines in table["methods"].items()
        for row in ([lines[0], lines[-1]] if len(lines) > 1 else lines)
    ]
    print_table(
        f"Clients before they are averaged: {table['num_clients']} clients, {table['partition']},"
        f" {table['local_steps']} local steps",
        ["method", "round", *names],
        rows,
    )
    say(
        "apart = 2 - 2 cosine; residual: after the best rotation; rotated: share of apart that it takes away."
    )
