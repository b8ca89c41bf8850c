"""``edgecmd theory`` as a whole: the sweep and the rotation study, their files and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgecmd.config.assemble import Assembly, run_folder
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, nearest
from edgecmd.core.files import write_bytes_atomically, write_json
from edgecmd.core.jobs import Tell, quiet
from edgecmd.core.statistics import SHARE, interval_text, mean_interval
from edgecmd.core.text import counted
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import Targets
from edgecmd.experiments.theory.alignment import METHODS
from edgecmd.experiments.theory.gaps import gap_names
from edgecmd.experiments.theory.jobs import Job, Table, point_jobs, rotation_jobs, run_jobs, settings_of
from edgecmd.experiments.theory.summary import summarise
from edgecmd.experiments.theory.sweep import Point, SweepPlan, seconds_a_point
from edgecmd.run import Run


def check_gaps(target: Targets, gaps: str) -> tuple[str, ...]:
    """Names of the gaps; all of the modality where none is given.

    Args:
        target: Targets of the run.
        gaps: Names, comma separated.

    Raises:
        ConfigError: One does not exist for the modality.
    """
    known = gap_names(modality_of(target))
    names = tuple(name.strip() for name in gaps.split(",") if name.strip()) or known
    for name in names:
        if name not in known:
            raise ConfigError(f"--gaps has {name!r}. {nearest(name, known)}")
    return tuple(dict.fromkeys(names))


def run_sweep(
    config: RunConfig,
    assembly: Assembly,
    plan: SweepPlan,
    points: Sequence[Point],
    *,
    num_jobs: int,
    tell: Tell,
) -> Table:
    """Measure every point, and write ``theory.json`` and ``theory.png``.

    Args:
        config: Settings of the run.
        assembly: Makes runs.
        plan: What all points share.
        points: What is measured.
        num_jobs: Processes at a time.
        tell: Takes lines for a person.
    """
    from edgecmd.report.studies import theory_png

    folder = run_folder(config)
    work = point_jobs(config, plan, points, folder=folder)
    if tell is not quiet:
        tell(estimate(assembly.run(config), plan, work, num_jobs=num_jobs))

    def told(table: Table, done: int) -> None:
        tell(f"{done}/{len(work)}  {_line(table)}")

    measured = run_jobs(work, num_jobs=num_jobs, assembly=assembly, told=told)
    table = summarise(measured, plan, seed=config.seed) | {"settings": settings_of(config)}
    write_json(folder / "theory.json", table)
    write_bytes_atomically(folder / "theory.png", theory_png(table))
    return table


def estimate(run: Run, plan: SweepPlan, work: Sequence[Job], *, num_jobs: int) -> str:
    """What is still to do and about how long it takes, from a few optimiser steps."""
    left = sum(not job.path.exists() for job in work)
    if left == 0:
        return f"Already finished and read: {counted(len(work), 'point')}."
    minutes = seconds_a_point(run, plan) * left / num_jobs / 60.0
    return (
        f"{left} of {counted(len(work), 'point')} to measure, {counted(plan.num_steps, 'step')} each: about"
        f" {'1 minute' if minutes < 1.5 else f'{minutes:.0f} minutes'} with --jobs {num_jobs} on free cores."
        " Ctrl-C keeps finished points; the same command continues."
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
    config: RunConfig, assembly: Assembly, *, num_rounds: int, num_seeds: int, num_jobs: int, tell: Tell
) -> Table:
    """Alignment of clients by method and seed; writes ``rotation.json``."""
    folder = run_folder(config)
    work = rotation_jobs(config, num_rounds=num_rounds, num_seeds=num_seeds, folder=folder)

    def told(table: Table, done: int) -> None:
        last = table["rows"][-1]
        tell(
            f"{done}/{len(work)}  {table['method']}  seed {table['seed']}  cosine {last['cosine']:.3f} "
            f" removed by a rotation {last['rotated']:.2f}"
        )

    found = run_jobs(work, num_jobs=num_jobs, assembly=assembly, told=told)
    federation = config.federation
    table: Table = {
        "partition": federation.partition,
        "num_clients": federation.num_clients,
        "local_steps": federation.local_steps,
        "num_seeds": num_seeds,
        "methods": {method: [one["rows"] for one in found if one["method"] == method] for method in METHODS},
        "settings": settings_of(config),
    }
    write_json(folder / "rotation.json", table)
    return table


def gap_rows(table: Mapping[str, Any]) -> list[list[str]]:
    """Distance and error by gap and level."""
    return [
        [
            row["gap"],
            f"{row['level']:.2f}",
            f"{row['distance']:.3f}",
            f"{row['bound']:.3f}",
            f"{row['distance_batch']:.3f}",
            f"{row['error']:.3f}",
        ]
        for row in table["by_gap"]
    ]


def correlation_rows(table: Mapping[str, Any]) -> list[list[str]]:
    """Spearman's rho of distance and error by gap, of both forms of relations."""
    within = table["correlation_batch"]
    return [[name, *_rho(one), *_rho(within[name])] for name, one in table["correlation"].items()]


def _rho(one: Mapping[str, float] | None) -> list[str]:
    if one is None:
        return ["-", "one of the two does not change"]
    return [f"{one['value']:+.2f}", f"{one['low']:+.2f} to {one['high']:+.2f}"]


def exponent_rows(table: Mapping[str, Any]) -> list[list[str]]:
    """The fitted exponents beside the bound's."""
    rows = []
    for name, fit in (("pairs M", table["pairs_fit"]), ("labels m", table["labels_fit"])):
        if fit is None:
            rows.append([name, "-", "fewer than four sizes", "-0.50", "-"])
            continue
        one = fit["exponent"]
        span = f"{-one['high']:.2f} to {-one['low']:.2f}"
        found = f"{-one['value']:.2f}" if fit["determined"] else "not determined"
        rows.append([name, found, span, "-0.50", f"{fit['floor']:.3f}"])
    return rows


def term_rows(table: Mapping[str, Any]) -> list[list[str]]:
    """Terms of the bound: name, estimate, meaning."""
    return [
        [t["name"], "-" if t["value"] is None else f"{t['value']:.3f}", t["text"]] for t in table["terms"]
    ]


NAMES = ("cosine", "apart", "residual", "rotated", "error_clients", "error_average", "recall@1")
BOUNDS = {"cosine": (-1.0, 1.0), "apart": (0.0, 4.0), "residual": (0.0, 2.0)}


def rotation_rows(table: Mapping[str, Any]) -> list[list[str]]:
    """First and last round of each method: mean over the seeds, and half the 95% interval."""
    rows = []
    for method, seeds in table["methods"].items():
        for index in (0, -1) if len(seeds[0]) > 1 else (0,):
            lines = [seed[index] for seed in seeds]
            cells = [
                _over_seeds([line[name] for line in lines], name) if name in lines[0] else "-"
                for name in NAMES
            ]
            rows.append([method, str(int(lines[0]["round"])), *cells])
    return rows


def _over_seeds(values: Sequence[float], name: str) -> str:
    found = mean_interval(values, bounds=BOUNDS.get(name, SHARE))
    return interval_text({"mean": found.mean, "low": found.low, "high": found.high})
