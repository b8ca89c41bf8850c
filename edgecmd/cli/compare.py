"""``edgecmd compare``: losses and baselines over several seeds, with intervals."""

import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import AsJson, ConfigFile, Settings, print_json, print_table, read_settings, say
from edgecmd.config import RunConfig
from edgecmd.errors import ConfigError

if TYPE_CHECKING:
    from edgecmd.models.students import Student

CENTRAL = "central:"
AT = "@"
PRESIMCLR = "presimclr"
OTHERS = (PRESIMCLR, CENTRAL + PRESIMCLR, "scratch", "teacher", "untrained")
REFERENCE = "cmc"
DEFAULT_METHODS = "cmc,cmc+cmd,cmc-anchored,l2,simclr,central:cmc,scratch,teacher,untrained"


@app.command()
def compare(
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Losses, presimclr, <mechanism>@<epsilon>, central:<method>, scratch, teacher, untrained.",
        ),
    ] = DEFAULT_METHODS,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds from 0.")] = 5,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time.")] = 1,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Losses and baselines with the same student, steps and labels; several seeds, mean and interval."""
    from edgecmd.runs import run_folder

    resolved = read_settings(config, settings)
    names = [check_method(name) for name in methods.split(",")]
    folder = run_folder(resolved)
    results = run_jobs(resolved, names, num_seeds=seeds, num_jobs=jobs, folder=folder)
    summary, paired = summarise(results), paired_with_reference(results)
    write_comparison(folder, {"summary": summary, "paired": paired, "results": results})
    if as_json:
        print_json(summary)
        return
    show_summary(summary, num_seeds=seeds)
    show_paired(paired)
    say(f"All numbers: {folder / 'compare.json'}; picture: {folder / 'compare.png'}")


def write_comparison(folder: Path, tables: Mapping[str, Any]) -> None:
    """Write ``compare.json`` and ``compare.png``."""
    from edgecmd.cli.pipeline import column_title
    from edgecmd.files import write_bytes_atomically, write_json
    from edgecmd.report.comparison import comparison_png

    summary = tables["summary"]
    titles = {name: column_title(name) for line in summary.values() for name in line}
    write_json(folder / "compare.json", tables)
    write_bytes_atomically(folder / "compare.png", comparison_png(summary, titles=titles))


def check_method(name: str) -> str:
    """Refuse a method that does not exist.

    Raises:
        ConfigError: With the nearest name.
    """
    from edgecmd.distill import OBJECTIVES
    from edgecmd.errors import nearest

    known = [*OBJECTIVES, *(CENTRAL + loss for loss in OBJECTIVES), *OTHERS]
    if AT in name:
        private_config(RunConfig(), name)
    elif name not in known:
        raise ConfigError(f"--methods has {name!r}. {nearest(name, known)}")
    return name


def private_config(config: RunConfig, method: str) -> RunConfig:
    """Settings of a private method such as ``anchors@8``: a mechanism, and the epsilon of its budget.

    Raises:
        ConfigError: The mechanism is unknown, or epsilon is no number.
    """
    from edgecmd.errors import choose
    from edgecmd.privacy.mechanisms import MECHANISMS

    mechanism, _, epsilon = method.partition(AT)
    choose("--methods", mechanism, MECHANISMS)
    try:
        budget = float(epsilon)
    except ValueError:
        raise ConfigError(
            f"--methods has {method!r}; write a mechanism and epsilon as in anchors@8."
        ) from None
    return replace(
        config,
        privacy=replace(config.privacy, mechanism=mechanism, epsilon=budget),
        distill=replace(config.distill, loss="auto"),
    ).resolved()


def run_jobs(
    config: RunConfig, methods: list[str], *, num_seeds: int, num_jobs: int, folder: Path
) -> dict[str, list[dict[str, float]]]:
    """Headline numbers by method, one entry a seed; finished jobs are read, not repeated."""
    from edgecmd.settings import flatten

    work = [(seed, name) for seed in range(num_seeds) for name in methods]
    with ProcessPoolExecutor(num_jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {}
        for seed, name in work:
            path = folder / f"seed-{seed}" / f"{name.replace(':', '-')}.json"
            one = replace(config, seed=seed, out=str(folder / f"seed-{seed}"), name=name.replace(":", "-"))
            futures[pool.submit(run_job, dict(flatten(one)), name, path)] = (seed, name)
        found: dict[tuple[int, str], dict[str, float]] = {}
        for future in as_completed(futures):
            seed, name = futures[future]
            found[seed, name] = future.result()
            say(f"seed {seed} {name}: " + "  ".join(f"{k} {v:.3f}" for k, v in found[seed, name].items()))
    return {name: [found[seed, name] for seed in range(num_seeds)] for name in methods}


def run_job(flat: Mapping[str, Any], method: str, path: Path) -> dict[str, float]:
    """One method with one seed, in a process of its own; a finished one is read from ``path``."""
    import torch

    from edgecmd.files import read_json, write_json
    from edgecmd.settings import unflatten

    torch.set_num_threads(1)
    config = unflatten(flat)
    if path.exists():
        saved = read_json(path)
        if saved["settings"] == dict(flat):
            return {name: float(value) for name, value in saved["headline"].items()}
        raise ConfigError(f"{path} was made with other settings. Choose another name with --set name=...")
    started = time.monotonic()
    line, table = _measure(config, method)
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = round(time.monotonic() - started, 1)
    write_json(path, {"settings": dict(flat), "seconds": seconds, "headline": line, "table": table})
    return line


def _measure(config: RunConfig, method: str) -> tuple[dict[str, float], Any]:
    from edgecmd.assess import assess, embedder, headline
    from edgecmd.cli.pipeline import scratch_table, segmentation_from_scratch, teacher_on_target

    if method == "scratch":
        table = segmentation_from_scratch(config) or scratch_table(config)
    elif method == "teacher":
        table = assess(teacher_on_target(config), config)
    else:
        student = train_by(config, method)
        cross_modal = not method.endswith("simclr")
        table = assess(embedder(student, config), config, cross_modal=cross_modal, student=student)
    return headline(table), table


def train_by(config: RunConfig, method: str) -> "Student":
    """The student that ``method`` gives under ``config``."""
    from edgecmd.central import train_central
    from edgecmd.runs import new_student
    from server.simulate import simulate

    if method == "untrained":
        return new_student(config)
    if AT in method:
        return simulate(private_config(config, method))
    loss = method.removeprefix(CENTRAL)
    if loss == PRESIMCLR:
        config, loss = source_started(config), "simclr"
    chosen = replace(config, distill=replace(config.distill, loss=loss))
    return train_central(chosen) if method.startswith(CENTRAL) else simulate(chosen)


def source_started(config: RunConfig) -> RunConfig:
    """The same run from weights that SimCLR on the public source gave, in as many steps as the run has."""
    from edgecmd.presimclr import run_steps, source_start
    from edgecmd.runs import save_student

    path = Path(config.out) / f"{config.name}-start.safetensors"
    save_student(source_start(config, num_steps=run_steps(config)), path, config)
    return replace(config, student=replace(config.student, path=str(path)))


def summarise(results: Mapping[str, list[dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and 95% interval over the seeds, by method and metric."""
    from edgecmd.statistics import mean_interval

    summary: dict[str, dict[str, dict[str, float]]] = {}
    for method, lines in results.items():
        metrics = lines[0]
        summary[method] = {name: asdict(mean_interval([line[name] for line in lines])) for name in metrics}
    return summary


def paired_with_reference(
    results: Mapping[str, list[dict[str, float]]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Difference of each method from ``cmc`` (of a central one from ``central:cmc``), paired by seed."""
    from edgecmd.statistics import paired_interval

    paired: dict[str, dict[str, dict[str, Any]]] = {}
    for method, lines in results.items():
        name = CENTRAL + REFERENCE if method.startswith(CENTRAL) else REFERENCE
        if method == name or name not in results or len(lines) < 2:
            continue
        other = results[name]
        paired[method] = {
            metric: {
                "against": name,
                **asdict(paired_interval([one[metric] for one in lines], [one[metric] for one in other])),
            }
            for metric in lines[0]
            if metric in other[0]
        }
    return paired


def show_paired(paired: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print the differences from ``cmc``; a star where the 95% interval leaves zero out."""
    from edgecmd.cli.pipeline import column_title

    if not paired:
        return
    columns = list(dict.fromkeys(name for line in paired.values() for name in line))
    rows = [[method, *(_difference(line.get(name)) for name in columns)] for method, line in paired.items()]
    print_table(
        "Difference from cmc with the same seed, 95% interval of the paired t test (* zero is outside)",
        ["method", *(column_title(name) for name in columns)],
        rows,
    )


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    apart = row["low"] > 0 or row["high"] < 0
    return f"{row['mean']:+.3f} ± {(row['high'] - row['low']) / 2:.3f}{'*' if apart else ' '}"


def show_summary(summary: Mapping[str, Mapping[str, Mapping[str, float]]], *, num_seeds: int) -> None:
    """Print mean ± half the interval of each method, the best of each column marked."""
    from edgecmd.cli.pipeline import column_title

    columns = list(dict.fromkeys(name for line in summary.values() for name in line))
    best = {c: max(line[c]["mean"] for line in summary.values() if c in line) for c in columns}
    rows = []
    for method, line in summary.items():
        cells = [
            f"{line[c]['mean']:.3f} ± {(line[c]['high'] - line[c]['low']) / 2:.3f}"
            f"{'*' if line[c]['mean'] == best[c] else ' '}"
            if c in line
            else "-"
            for c in columns
        ]
        rows.append([method, *cells])
    titles = [column_title(c) for c in columns]
    print_table(f"{num_seeds} seeds, mean ± 95% half-interval (* best)", ["method", *titles], rows)
