"""A comparison as a whole: what was asked for, the jobs of each federation, and its tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecmd.config.assemble import Assembly, run_folder
from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, nearest
from edgecmd.core.files import write_bytes_atomically, write_json, write_text_atomically
from edgecmd.core.jobs import Tell, quiet
from edgecmd.core.seeding import repeats_of
from edgecmd.core.text import counted
from edgecmd.data.partition import partition_of
from edgecmd.evaluation.metrics import known
from edgecmd.experiments.compare.federations import FederationSpec
from edgecmd.experiments.compare.jobs import Job, make_job, private_config, run_jobs
from edgecmd.experiments.compare.markdown import comparison_markdown, title_of
from edgecmd.experiments.compare.measure import check_labels
from edgecmd.experiments.compare.methods import (
    ALONE,
    AT,
    CENTRAL,
    PRESIMCLR,
    REFERENCE,
    TEACHER,
    is_alone,
    is_tuned,
    kind_of,
    work_of,
)
from edgecmd.experiments.compare.summary import (
    Items,
    best_by_metric,
    paired_with_reference,
    summarise,
    verdict,
)
from edgecmd.experiments.compare.tuning import (
    RATES,
    Trial,
    best_trial,
    check_choice,
    read_rates,
    read_temperatures,
    trial_rows,
    trials_of,
)
from edgecmd.experiments.presets import form_of, overrides_of, tuned_labels_of
from edgecmd.experiments.run_baselines import sees_pictures
from edgecmd.experiments.teacher_facts import better_than_student, teacher_text, teacher_warnings
from edgecmd.losses import LOSSES
from edgecmd.models.students import num_parameters

DEFAULT_METHODS = "cmc,cmc+cmd,cmc-anchored,l2,simclr,central:cmc,scratch,teacher,untrained"
DEFAULT_HEADLINE = "linear_10"
Tables = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a comparison is to do.

    Attributes:
        config: Settings but for the federation; its seed is the first.
        methods: Names, checked.
        num_seeds: How many, from the seed of ``config``.
        num_jobs: Processes at a time.
        headline: Metric of the verdict and of the choice of learning rates and temperatures.
        rates: Learning rates that are tried; empty for that of ``config``.
        temperatures: Temperatures that are tried with each rate; empty for those of ``config``.
        tuned_labels: Numbers of labels that all layers are fine-tuned with.
        num_fits: Draws of labels that whole networks are trained on; 0 for those of the probe.
        tell: Takes lines for a person.
    """

    config: RunConfig
    methods: tuple[str, ...]
    num_seeds: int
    num_jobs: int
    headline: str
    rates: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()
    tuned_labels: tuple[int, ...] = ()
    num_fits: int = 0
    tell: Tell = quiet


def read_request(  # noqa: PLR0913 - an argument is an option of the command
    pair: str,
    *,
    methods: str,
    fast: bool,
    tune: bool | None,
    temperatures: str,
    rates: str,
    choose_by: str,
    config: Path | None,
    settings: Sequence[str] | None,
) -> Asked:
    """Settings, methods and tuning of the command's options.

    Raises:
        ConfigError: An unknown pair, method or metric, a pair beside a file, ``--fast`` without a pair, or
            rates or temperatures to try that are none, or beside ``--no-tune``.
    """
    if fast and not pair:
        raise ConfigError("--fast belongs to a preset. Choose one with --pair, or set federation.num_rounds.")
    if pair and config is not None:
        raise ConfigError(
            "--pair has its own settings. Leave --config out, or change single settings with --set."
        )
    tried, grid = read_temperatures(temperatures), read_rates(rates)
    if tried and tune is False:
        raise ConfigError("--temperatures needs tuning. Leave --no-tune out, or set distill.temperature.")
    if grid and tune is False:
        raise ConfigError("--rates needs tuning. Leave --no-tune out, or set distill.learning_rate.")
    if choose_by:
        check_choice(choose_by)
    chosen = overrides_of(pair, fast=fast) if pair else []
    resolved = load_config(config, [*chosen, *(settings or ())])
    form = form_of(pair) if pair else None
    names = methods or (",".join(form.methods) if form else DEFAULT_METHODS)
    if not methods and resolved.teacher.pair_features:
        # Nothing can be shown to a teacher that is not here: its row is left out, as in a run.
        names = ",".join(name for name in names.split(",") if name != TEACHER)
    tuned = bool(tried or grid) or (form is not None and form.tune) if tune is None else tune
    if AT in names:
        # All methods are asked the same test, so the split is the one that privacy needs.
        resolved = replace(resolved, data=replace(resolved.data, copies="leave-out"))
    return Asked(
        config=resolved,
        methods=tuple(dict.fromkeys(check_method(name.strip()) for name in names.split(","))),
        num_seeds=1,
        num_jobs=1,
        headline=choose_by or (form.headline if form else DEFAULT_HEADLINE),
        rates=(grid or RATES) if tuned else (),
        temperatures=tried,
        tuned_labels=tuned_labels_of(form, resolved.evaluate.num_labels, fast=fast) if form else (),
        num_fits=int(fast),
    )


def check_method(name: str) -> str:
    """Refuse a method that does not exist.

    Raises:
        ConfigError: With the nearest name.
    """
    trained = [*LOSSES, PRESIMCLR]
    known = [*trained, *(CENTRAL + loss for loss in trained), *ALONE]
    if AT in name:
        private_config(RunConfig(), name)
    elif name not in known:
        raise ConfigError(f"--methods has {name!r}. {nearest(name, known)}")
    return name


def check_teacher(config: RunConfig, methods: Sequence[str], assembly: Assembly) -> None:
    """Refuse the teacher as a method, before anything is trained, where it cannot be shown the targets.

    Raises:
        ConfigError: With the name to leave out.
    """
    if (
        TEACHER in methods
        and config.teacher.pair_features
        and not sees_pictures(config, assembly.task(config))
    ):
        others = ",".join(name for name in methods if name != TEACHER)
        raise ConfigError(
            f"--methods has {TEACHER!r}, but teacher.pair_features holds ready features, and the teacher that"
            f" made them is not here. Leave it out: --methods {others}"
        )


def check_central(methods: Sequence[str], specs: Sequence[FederationSpec]) -> None:
    """Refuse ``central:<method>`` beside ``--federation``, which has a name of its own for it.

    Raises:
        ConfigError: With the way out.
    """
    wrong = [name for name in methods if name.startswith(CENTRAL)]
    if specs and wrong:
        raise ConfigError(
            f"--methods has {wrong[0]!r} beside --federation. Write {wrong[0].removeprefix(CENTRAL)!r}, and"
            " add central to the federations."
        )


def method_tables(
    asked: Asked, specs: Sequence[FederationSpec], assembly: Assembly
) -> Iterator[tuple[str, Tables, Path]]:
    """Train and assess everything, one federation after the other.

    Args:
        asked: What is to be done.
        specs: Federations; none for that of the settings.
        assembly: Makes runs.

    Yields:
        Name of the federation (empty for that of the settings), its tables, and the folder that they were
        written into.
    """
    task = assembly.task(asked.config)
    check_labels(task, asked.methods)
    check_teacher(asked.config, asked.methods, assembly)
    folder = run_folder(asked.config)
    chosen: list[FederationSpec | None] = [*specs] or [None]
    for spec in chosen:
        own = folder / spec.folder if spec else folder
        yield spec.name if spec else "", one_table(asked, spec, assembly, folder=own, shared=folder), own


def write_all(config: RunConfig, tables: Mapping[str, Tables]) -> None:
    """Write the tables of all federations into one ``compare.md``."""
    text = "\n".join(found["markdown"] for found in tables.values())
    write_text_atomically(run_folder(config) / "compare.md", text)


def one_table(
    asked: Asked, spec: FederationSpec | None, assembly: Assembly, *, folder: Path, shared: Path
) -> Tables:
    """All jobs of one federation, its tables written into ``folder``.

    Args:
        asked: What is to be done.
        spec: The federation; None for that of the settings.
        assembly: Makes runs.
        folder: Where the results of methods that train in the federation are.
        shared: Where those of the others are.
    """
    config = spec.applied(asked.config) if spec else asked.config
    results, tried, burnt = run_methods(Planner(asked, spec, config, folder, shared), assembly)
    lines = {label: [one["headline"] for one in found] for label, found in results.items()}
    facts = about(config, assembly, title=spec.title if spec else "", headline=asked.headline)
    items = items_of(facts)
    tables: Tables = {
        "summary": summarise(lines, items=items),
        "paired": paired_with_reference(lines, items=items),
        "best": best_by_metric(lines, items=items),
        "verdict": verdict(lines, asked.headline, items=items),
        "results": lines,
    }
    tables["about"] = facts | {
        "num_seeds": asked.num_seeds,
        **chosen_numbers(asked, tried),
        "cpu_seconds": burnt,
    }
    tables["about"]["warnings"] += beaten(tables["summary"])
    tables["markdown"] = comparison_markdown(tables)
    write_comparison(folder, tables)
    return tables


def chosen_numbers(asked: Asked, tried: Mapping[str, Mapping[Trial, float]]) -> dict[str, Any]:
    """What was tried of each method with which score, and what was chosen, for the facts of a table."""
    best = {name: best_trial(scores) for name, scores in tried.items()}
    return {
        "rates": {name: one.rate for name, one in best.items()},
        "grid": list(asked.rates),
        "temperatures": {name: one.temperature for name, one in best.items() if one.temperature},
        "temperature_grid": list(asked.temperatures),
        "trials": {name: trial_rows(scores) for name, scores in tried.items()},
    }


def beaten(summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """A sentence where the teacher alone beats the student of the reference, in the means over the seeds."""
    means = {
        method: {name: one["mean"] for name, one in summary.get(method, {}).items()}
        for method in (REFERENCE, TEACHER)
    }
    lines = {"student": means[REFERENCE], TEACHER: means[TEACHER]}
    return better_than_student(lines, teacher=TEACHER, student=f"the student of {REFERENCE}")


def run_methods(
    plan: "Planner", assembly: Assembly
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[Trial, float]], float]:
    """Results by method, one a seed; scores of trials, where there were any; seconds of CPU of all jobs.

    With a grid, the first seed runs with each trial of it; the one with the best score within the validation
    split is used for the other seeds, and its run is the result of the first.
    """
    asked = plan.asked
    tuned = [name for name in asked.methods if asked.rates and is_tuned(name)]
    grid = [(name, trial) for name in tuned for trial in trials_of(name, asked.rates, asked.temperatures)]
    later = [name for name in asked.methods for _ in range(asked.num_seeds - (name in tuned))]
    tries = [plan.job(name, seed=asked.config.seed, trial=trial) for name, trial in grid]
    first = run_jobs(tries, num_jobs=asked.num_jobs, assembly=assembly, tell=asked.tell, later=later)
    scores: dict[str, dict[Trial, float]] = {name: {} for name in tuned}
    for (name, trial), result in zip(grid, first, strict=True):
        scores[name][trial] = result["validation"]
    best = {name: best_trial(found) for name, found in scores.items()}
    tried = {job.path: result["cpu_seconds"] for job, result in zip(tries, first, strict=True)}
    wanted = [
        plan.job(name, seed=seed, trial=best.get(name))
        for seed in repeats_of(asked.config.seed, asked.num_seeds)
        for name in asked.methods
    ]
    found = run_jobs(wanted, num_jobs=asked.num_jobs, assembly=assembly, tell=asked.tell)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in asked.methods}
    for job, result in zip(wanted, found, strict=True):
        results[job.label].append(result)
        tried[job.path] = result["cpu_seconds"]
    return results, scores, sum(tried.values())


@dataclass(frozen=True, slots=True)
class Planner:
    """Makes the jobs of one federation.

    Attributes:
        asked: What is to be done.
        spec: The federation; None for that of the settings.
        config: Settings under it.
        folder: For methods that train in it.
        shared: For the others.
    """

    asked: Asked
    spec: FederationSpec | None
    config: RunConfig
    folder: Path
    shared: Path

    def job(self, name: str, *, seed: int, trial: Trial | None) -> Job:
        """The job of one method, seed and trial (None for what the settings say)."""
        alone = is_alone(name)
        central = self.spec is not None and self.spec.central and not alone
        job = make_job(
            self.asked.config if alone else self.config,
            CENTRAL + name if central else name,
            seed=seed,
            folder=self.shared if alone else self.folder,
            label=name,
            trial=trial,
        )
        return replace(
            job,
            validate=self.asked.headline if trial and seed == self.asked.config.seed else "",
            tuned_labels=self.asked.tuned_labels,
            num_fits=self.asked.num_fits or job.num_fits,
        )


def about(config: RunConfig, assembly: Assembly, *, title: str, headline: str) -> dict[str, Any]:
    """What a table says about the data and the work behind it."""
    run = assembly.run(config)
    whole, federation = run.task.data, config.federation
    labels = whole.test.labelled.labels
    work = work_of(run, REFERENCE)
    cut = partition_of(federation.partition)
    skew = f" {federation.alpha:g}" if cut.takes_alpha else ""
    # Clients of unequal size may hold less than a batch.
    most = "" if cut.equal else "at most "
    return {
        "title": title or f"{counted(federation.num_clients, 'client')}, {federation.partition}{skew}",
        "headline": headline,
        "reference": REFERENCE,
        "data": whole.name,
        "kind": whole.kind,
        "unseen": whole.unseen,
        "shared": whole.shared,
        "num_test": len(whole.test),
        "num_labelled": int(known(labels["group"]).sum()) if "group" in labels else 0,
        "teacher": teacher_text(run.task, config.teacher),
        "warnings": teacher_warnings(run.task, config.teacher),
        "student": f"`{config.student.architecture}`, {num_parameters(run.new_student()):,} parameters",
        "work": (
            f"{counted(work.steps, 'optimiser step')} ({counted(federation.num_rounds, 'round')} of"
            f" {federation.local_steps}),"
            f" {most}{counted(work.pairs_a_step, 'pair')} a step over all clients"
        ),
    }


def items_of(facts: Mapping[str, Any]) -> Items:
    """What the figures of a comparison rest on, out of its facts."""
    return Items(test=facts["num_test"], labelled=facts["num_labelled"])


def write_comparison(folder: Path, tables: Mapping[str, Any]) -> None:
    """Write ``compare.json``, ``compare.png`` and ``compare.md``."""
    from edgecmd.report.studies import comparison_png

    summary = tables["summary"]
    titles = {name: title_of(name) for line in summary.values() for name in line}
    write_json(folder / "compare.json", {name: tables[name] for name in tables if name != "markdown"})
    kinds = {name: kind_of(name) for name in summary} if tables["verdict"]["best"] else None
    picture = comparison_png(summary, titles=titles, first=tables["about"]["headline"], kinds=kinds)
    write_bytes_atomically(folder / "compare.png", picture)
    write_text_atomically(folder / "compare.md", tables["markdown"])
