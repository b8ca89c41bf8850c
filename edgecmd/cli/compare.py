"""``edgecmd compare``: losses and baselines over several seeds, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import AsJson, ConfigFile, Settings, print_json, read_settings
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError

if TYPE_CHECKING:
    from edgecmd.experiments.compare.federations import FederationSpec
    from edgecmd.experiments.compare.jobs import Job

DEFAULT_METHODS = "cmc,cmc+cmd,cmc-anchored,l2,simclr,central:cmc,scratch,teacher,untrained"
DEFAULT_HEADLINE = "linear_10"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a comparison is to do.

    Attributes:
        config: Settings but for seed and federation.
        methods: Names, checked.
        num_seeds: Seeds from 0.
        num_jobs: Processes at a time.
        headline: Metric of the verdict and of the choice of learning rates.
        rates: Learning rates that are tried; empty for that of ``config``.
        tuned_labels: Numbers of labels that all layers are fine-tuned with.
        num_fits: Draws of labels that whole networks are trained on; 0 for those of the probe.
        quiet: No lines for a person.
    """

    config: RunConfig
    methods: tuple[str, ...]
    num_seeds: int
    num_jobs: int
    headline: str
    rates: tuple[float, ...] = ()
    tuned_labels: tuple[int, ...] = ()
    num_fits: int = 0
    quiet: bool = False


@app.command()
def compare(
    *,
    pair: Annotated[
        str, typer.Option("--pair", help="A preset: data, sizes, steps and all methods that suit it.")
    ] = "",
    fast: Annotated[
        bool, typer.Option("--fast/--full", help="With --pair: minutes, or the larger form that takes hours.")
    ] = False,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Losses, presimclr, <mechanism>@<epsilon>, central:<method>, supervised, supervised-all,"
            " scratch, teacher, teacher-source, untrained. Empty: a choice, or all that suit --pair.",
        ),
    ] = "",
    federation: Annotated[
        str,
        typer.Option(
            "--federation",
            help="A table for each, such as central,iid:10,owner:10,dirichlet0.1:10,iid:50/10 (10 of 50"
            " clients asked in a round). Empty: that of the settings.",
        ),
    ] = "",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds from 0.")] = 5,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time.")] = 1,
    tune: Annotated[
        bool | None,
        typer.Option(
            "--tune/--no-tune",
            help="Choose each method's learning rate from one grid on the validation split; with --pair the"
            " default.",
        ),
    ] = None,
    work: Annotated[
        int, typer.Option("--work", min=0, help="Instead: rounds x local steps, the same for each row.")
    ] = 0,
    local_steps: Annotated[str, typer.Option("--local-steps", help="Of --work, the rows.")] = "1,5,20,100",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Losses and baselines with the same student, steps and labels; several seeds, mean and interval."""
    from edgecmd.experiments.compare.equal_work import compare_local_steps
    from edgecmd.experiments.compare.federations import parse_federations

    specs = parse_federations(federation)
    asked = read_request(pair, methods=methods, fast=fast, tune=tune, config=config, settings=settings)
    asked = replace(asked, num_seeds=seeds, num_jobs=jobs, quiet=as_json)
    check_central(asked.methods, specs)
    if work:
        found = compare_local_steps(asked, specs, work=work, local_steps=local_steps)
    else:
        found = compare_methods(asked, specs)
    if as_json:
        print_json(found)


def read_request(
    pair: str,
    *,
    methods: str,
    fast: bool,
    tune: bool | None,
    config: Path | None,
    settings: Sequence[str] | None,
) -> Asked:
    """Settings, methods and tuning of the command's options.

    Raises:
        ConfigError: An unknown pair or method, a pair beside a file, or ``--fast`` without a pair.
    """
    from edgecmd.experiments.compare.methods import AT, TEACHER
    from edgecmd.experiments.compare.tuning import RATES
    from edgecmd.experiments.presets import form_of, overrides_of, tuned_labels_of

    if fast and not pair:
        raise ConfigError("--fast is a form of a preset. Name one with --pair, or set federation.num_rounds.")
    if pair and config is not None:
        raise ConfigError(
            "--pair brings its own settings. Leave --config out, or change single ones with --set."
        )
    chosen = overrides_of(pair, fast=fast) if pair else []
    resolved = read_settings(config, [*chosen, *(settings or ())])
    form = form_of(pair) if pair else None
    names = methods or (",".join(form.methods) if form else DEFAULT_METHODS)
    if not methods and resolved.teacher.pair_features:
        # Nothing can be shown to a teacher that is not here: its row is left out, as in a run.
        names = ",".join(name for name in names.split(",") if name != TEACHER)
    tuned = form is not None and form.tune if tune is None else tune
    if AT in names:
        # All methods are asked the same test, so the split is the one that privacy needs.
        resolved = replace(resolved, data=replace(resolved.data, copies="leave-out"))
    return Asked(
        config=resolved,
        methods=tuple(dict.fromkeys(check_method(name.strip()) for name in names.split(","))),
        num_seeds=1,
        num_jobs=1,
        headline=form.headline if form else DEFAULT_HEADLINE,
        rates=RATES if tuned else (),
        tuned_labels=tuned_labels_of(form, resolved.evaluate.num_labels, fast=fast) if form else (),
        num_fits=int(fast),
    )


def check_method(name: str) -> str:
    """Refuse a method that does not exist.

    Raises:
        ConfigError: With the nearest name.
    """
    from edgecmd.core.errors import nearest
    from edgecmd.experiments.compare.jobs import private_config
    from edgecmd.experiments.compare.methods import ALONE, AT, CENTRAL, PRESIMCLR
    from edgecmd.losses import LOSSES

    trained = [*LOSSES, PRESIMCLR]
    known = [*trained, *(CENTRAL + loss for loss in trained), *ALONE]
    if AT in name:
        private_config(RunConfig(), name)
    elif name not in known:
        raise ConfigError(f"--methods has {name!r}. {nearest(name, known)}")
    return name


def check_teacher(config: RunConfig, methods: Sequence[str]) -> None:
    """Refuse the teacher as a method, before anything is trained, where it cannot be shown the targets.

    Raises:
        ConfigError: With the name to leave out.
    """
    from edgecmd.experiments.compare.methods import TEACHER
    from edgecmd.experiments.pipeline import sees_pictures

    if TEACHER in methods and config.teacher.pair_features and not sees_pictures(config):
        others = ",".join(name for name in methods if name != TEACHER)
        raise ConfigError(
            f"--methods has {TEACHER!r}, but teacher.pair_features holds ready features, and the teacher that"
            f" made them is not here. Leave it out: --methods {others}"
        )


def check_central(methods: Sequence[str], specs: "Sequence[FederationSpec]") -> None:
    """Refuse ``central:<method>`` beside ``--federation``, which has a name of its own for it.

    Raises:
        ConfigError: With the way out.
    """
    from edgecmd.experiments.compare.methods import CENTRAL

    wrong = [name for name in methods if name.startswith(CENTRAL)]
    if specs and wrong:
        raise ConfigError(
            f"--methods has {wrong[0]!r} beside --federation. Write {wrong[0].removeprefix(CENTRAL)!r},"
            " and put central among the federations."
        )


def compare_methods(asked: Asked, specs: "Sequence[FederationSpec]") -> dict[str, Any]:
    """Train, assess and show everything; one table a federation.

    Returns:
        The summary, or summaries by federation.
    """
    from edgecmd.cli.compare_show import show
    from edgecmd.config.assemble import run_folder
    from edgecmd.core.files import write_text_atomically
    from edgecmd.experiments.compare.measure import check_labels

    check_labels(asked.config, asked.methods)
    check_teacher(asked.config, asked.methods)
    folder = run_folder(asked.config)
    tables = {}
    chosen: list[FederationSpec | None] = [*specs] or [None]
    for spec in chosen:
        own = folder / spec.folder if spec else folder
        found = one_table(asked, spec, folder=own, shared=folder)
        tables[spec.name if spec else ""] = found
        if not asked.quiet:
            show(found, own)
    if specs:
        text = "\n".join(found["markdown"] for found in tables.values())
        write_text_atomically(folder / "compare.md", text)
        return {name: found["summary"] for name, found in tables.items()}
    return dict(tables[""]["summary"])


def one_table(asked: Asked, spec: "FederationSpec | None", *, folder: Path, shared: Path) -> dict[str, Any]:
    """All jobs of one federation, its tables written into ``folder``.

    Args:
        asked: What is to be done.
        spec: The federation; None for that of the settings.
        folder: Where the results of methods that train in the federation lie.
        shared: Where those of the others lie.
    """
    from edgecmd.cli.compare_show import about, items_of, write_comparison
    from edgecmd.experiments.compare.markdown import comparison_markdown
    from edgecmd.experiments.compare.summary import best_by_metric, paired_with_reference, summarise, verdict

    config = spec.applied(asked.config) if spec else asked.config
    results, rates, burnt = run_methods(asked, spec, config=config, folder=folder, shared=shared)
    lines = {label: [one["headline"] for one in found] for label, found in results.items()}
    facts = about(config, title=spec.title if spec else "", headline=asked.headline)
    items = items_of(facts)
    tables: dict[str, Any] = {
        "summary": summarise(lines, items=items),
        "paired": paired_with_reference(lines, items=items),
        "best": best_by_metric(lines, items=items),
        "verdict": verdict(lines, asked.headline, items=items),
        "results": lines,
    }
    tables["about"] = facts | {
        "num_seeds": asked.num_seeds,
        "rates": rates,
        "grid": list(asked.rates),
        "cpu_seconds": burnt,
    }
    tables["about"]["warnings"] += beaten(tables["summary"])
    tables["markdown"] = comparison_markdown(tables)
    write_comparison(folder, tables)
    return tables


def beaten(summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """A sentence where the teacher alone beats the student of the reference, in the means over the seeds."""
    from edgecmd.experiments.compare.methods import REFERENCE, TEACHER
    from edgecmd.experiments.teacher_facts import better_than_student

    means = {
        method: {name: one["mean"] for name, one in summary.get(method, {}).items()}
        for method in (REFERENCE, TEACHER)
    }
    lines = {"student": means[REFERENCE], TEACHER: means[TEACHER]}
    return better_than_student(lines, teacher=TEACHER, student=f"the student of {REFERENCE}")


def run_methods(
    asked: Asked, spec: "FederationSpec | None", *, config: RunConfig, folder: Path, shared: Path
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float], float]:
    """Results by method, one a seed; learning rates, where they were chosen; seconds of CPU of all jobs.

    With a grid, seed 0 runs with each of its rates; the one with the best score within the validation split
    is used for the other seeds, and its run is the result of seed 0.
    """
    from edgecmd.experiments.compare.jobs import run_jobs
    from edgecmd.experiments.compare.methods import is_tuned
    from edgecmd.experiments.compare.tuning import best_rate

    plan = Planner(asked, spec, config, folder, shared)
    tuned = [name for name in asked.methods if asked.rates and is_tuned(name)]
    grid = [(name, rate) for name in tuned for rate in asked.rates]
    later = [name for name in asked.methods for _ in range(asked.num_seeds - (name in tuned))]
    tries = [plan.job(name, seed=0, rate=rate) for name, rate in grid]
    first = run_jobs(
        tries,
        num_jobs=asked.num_jobs,
        quiet=asked.quiet,
        later=later,
    )
    scores: dict[str, dict[float, float]] = {name: {} for name in tuned}
    for (name, rate), result in zip(grid, first, strict=True):
        scores[name][rate] = result["validation"]
    rates = {name: best_rate(found) for name, found in scores.items()}
    tried = {job.path: result["cpu_seconds"] for job, result in zip(tries, first, strict=True)}
    wanted = [
        plan.job(name, seed=seed, rate=rates.get(name, 0.0))
        for seed in range(asked.num_seeds)
        for name in asked.methods
    ]
    found = run_jobs(wanted, num_jobs=asked.num_jobs, quiet=asked.quiet)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in asked.methods}
    for job, result in zip(wanted, found, strict=True):
        results[job.label].append(result)
        tried[job.path] = result["cpu_seconds"]
    return results, rates, sum(tried.values())


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
    spec: "FederationSpec | None"
    config: RunConfig
    folder: Path
    shared: Path

    def job(self, name: str, *, seed: int, rate: float) -> "Job":
        """The job of one method, seed and learning rate (0 for that of the settings)."""
        from edgecmd.experiments.compare.jobs import make_job
        from edgecmd.experiments.compare.methods import CENTRAL, is_alone

        alone = is_alone(name)
        central = self.spec is not None and self.spec.central and not alone
        job = make_job(
            self.asked.config if alone else self.config,
            CENTRAL + name if central else name,
            seed=seed,
            folder=self.shared if alone else self.folder,
            label=name,
            rate=rate,
        )
        return replace(
            job,
            validate=self.asked.headline if rate and seed == 0 else "",
            tuned_labels=self.asked.tuned_labels,
            num_fits=self.asked.num_fits or job.num_fits,
        )
