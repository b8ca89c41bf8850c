"""``edgecmd compare``: losses and baselines over several seeds, with intervals."""

import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import AsJson, ConfigFile, Settings, print_json, print_table, read_settings, say
from edgecmd.config import RunConfig
from edgecmd.errors import ConfigError

CENTRAL = "central:"
AT = "@"
OTHERS = ("scratch", "teacher", "untrained")
DEFAULT_METHODS = "cmc,cmc+cmd,cmc-anchored,l2,simclr,central:cmc,scratch,teacher,untrained"


@app.command()
def compare(
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Losses (federated), <mechanism>@<epsilon>, central:<loss>, scratch, teacher, untrained.",
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
    summary = summarise(results)
    from edgecmd.files import write_json

    write_json(folder / "compare.json", {"summary": summary, "results": results})
    if as_json:
        print_json(summary)
    else:
        show_summary(summary, num_seeds=seeds)
        say(f"All numbers: {folder / 'compare.json'}")


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
    from edgecmd.central import train_central
    from edgecmd.cli.pipeline import scratch_table, teacher_on_target
    from edgecmd.runs import new_student
    from server.simulate import simulate

    if method == "scratch":
        table = scratch_table(config)
        return headline(table), table
    if method == "teacher":
        table = assess(teacher_on_target(config), config)
        return headline(table), table
    if method == "untrained":
        student = new_student(config)
    elif method.startswith(CENTRAL):
        loss = method.removeprefix(CENTRAL)
        student = train_central(replace(config, distill=replace(config.distill, loss=loss)))
    elif AT in method:
        student = simulate(private_config(config, method))
    else:
        student = simulate(replace(config, distill=replace(config.distill, loss=method)))
    table = assess(embedder(student, config), config, cross_modal=not method.endswith("simclr"))
    return headline(table), table


def summarise(results: Mapping[str, list[dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and 95% interval over the seeds, by method and metric."""
    from edgecmd.statistics import mean_interval

    summary: dict[str, dict[str, dict[str, float]]] = {}
    for method, lines in results.items():
        metrics = lines[0]
        summary[method] = {name: asdict(mean_interval([line[name] for line in lines])) for name in metrics}
    return summary


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
