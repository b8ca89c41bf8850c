"""The jobs of ``edgecmd compare``: one method with one seed each, kept in files of their own."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecmd.cli.common import one_thread, say
from edgecmd.cli.progress import hide_progress
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.processes import Workers
from edgecmd.core.progress import tracked
from edgecmd.data.problem import run_of, task_of

if TYPE_CHECKING:
    from edgecmd.evaluation.evaluate import Table
    from edgecmd.models.students import Student


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One method with one seed.

    Attributes:
        label: Row of the table.
        method: What is trained.
        config: Settings, with the seed.
        folder: Folder of the seed; the result lies in it.
        validate: Metric that is measured within the validation split too; empty for none.
        tuned_labels: Numbers of labels that all layers are fine-tuned with.
        num_fits: Draws of labels that whole networks are trained on; those of the probe are in ``config``.
    """

    label: str
    method: str
    config: RunConfig
    folder: str
    validate: str = ""
    tuned_labels: tuple[int, ...] = ()
    num_fits: int = 1

    @property
    def path(self) -> Path:
        """Where the result is kept."""
        return Path(self.folder) / f"{self.config.name}.json"

    @property
    def settings(self) -> dict[str, Any]:
        """What the result depends on."""
        from edgecmd.config.reader import flatten

        return {
            **flatten(self.config),
            "compare.validate": self.validate,
            "compare.tuned_labels": list(self.tuned_labels),
            "compare.num_fits": self.num_fits,
        }


def make_job(
    config: RunConfig,
    method: str,
    *,
    seed: int,
    folder: Path,
    label: str = "",
    rate: float = 0.0,
) -> Job:
    """The job of ``method`` with ``seed``; what is measured beside the probe is set on the result.

    Args:
        config: Settings but for the seed.
        method: What is trained.
        seed: Seed.
        folder: Folder of the comparison.
        label: Row of the table; empty for ``method``.
        rate: Learning rate of the grid; 0 for that of ``config``.
    """
    from edgecmd.experiments.compare.tuning import with_rate

    label, own = label or method, folder / f"seed-{seed}"
    name = label.replace(":", "-").replace(" ", "-") + (f"-lr{rate:g}" if rate else "")
    chosen = with_rate(config, rate) if rate else config
    return Job(
        label=label,
        method=method,
        config=replace(chosen, seed=seed, out=str(own), name=name),
        folder=str(own),
        num_fits=config.evaluate.num_draws,
    )


def run_job(job: Job) -> dict[str, Any]:
    """Do one job, in whatever process; a finished one is read from its file.

    Returns:
        ``headline``, ``seconds``, ``cpu_seconds``, ``bytes`` and, where it was asked for, ``validation``.

    Raises:
        ConfigError: The file was made with other settings.
    """
    from edgecmd.core.files import read_json, write_json
    from edgecmd.evaluation.evaluate import headline

    one_thread()
    if job.path.exists():
        saved: dict[str, Any] = read_json(job.path)
        if saved["settings"] == job.settings:
            return saved
        raise ConfigError(f"{job.path} was made with other settings. Choose another name with --set name=...")
    started, burnt = time.monotonic(), time.process_time()
    table, validation = measure(job)
    result = {
        "settings": job.settings,
        "method": job.method,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - burnt, 1),
        "bytes": exchanged_bytes(Path(job.folder) / job.config.name),
        "validation": validation,
        "headline": headline(table),
        "table": table,
    }
    write_json(job.path, result)
    return result


def exchanged_bytes(folder: Path) -> int:
    """Bytes that the run in ``folder`` sent and received, as its event log says; 0 without a federation."""
    from edgecmd.core.events import read_events

    log = folder / "events.jsonl"
    return (
        sum(event["bytes"] for event in read_events(log) if event["event"] == "round") if log.exists() else 0
    )


def measure(job: Job) -> "tuple[Table, float | None]":
    """Train and assess; the tables, and the score within the validation split."""
    from edgecmd.data.problem import experiment
    from edgecmd.evaluation.evaluate import assess, embedder
    from edgecmd.experiments.compare import methods
    from edgecmd.experiments.compare.measure import (
        ceiling_table,
        finetuned,
        supervised_all_table,
        supervised_table,
        supervised_validation,
    )
    from edgecmd.experiments.compare.tuning import LABELLING, few_labels_of, retrieval_score, validation_score
    from edgecmd.experiments.pipeline import scratch_table, segmentation_from_scratch, teacher_on_target

    config, method = job.config, job.method
    alone: dict[str, Callable[[RunConfig], Table]] = {
        methods.SCRATCH: lambda config: segmentation_from_scratch(config) or scratch_table(config),
        methods.SUPERVISED: lambda config: supervised_table(config, num_draws=job.num_fits),
        methods.SUPERVISED_ALL: supervised_all_table,
        methods.TEACHER: lambda config: assess(teacher_on_target(config), run_of(config)),
        methods.TEACHER_SOURCE: ceiling_table,
    }
    if method in alone:
        asked = methods.is_tuned(method) and few_labels_of(job.validate)
        score = supervised_validation(config, method, num_labels=asked) if asked else None
        return alone[method](config), score
    student = train_by(config, method)
    embed = embedder(student, task_of(config))
    loss = methods.loss_row(method)
    table = assess(embed, run_of(config), cross_modal=loss is None or loss.uses_teacher, student=student)
    few: Any = table["few_labels"]
    if job.tuned_labels and few.get(LABELLING) and not config.evaluate.finetune:
        few[LABELLING]["finetune"] = finetuned(student, config, job.tuned_labels, num_draws=job.num_fits)
    if not job.validate:
        return table, None
    count, pool = few_labels_of(job.validate), experiment(config.data).validation.pairs.target
    if count:
        return table, validation_score(embed(pool), config, num_labels=count)
    return table, retrieval_score(table, job.validate)


def train_by(config: RunConfig, method: str) -> "Student":
    """The student that ``method`` gives under ``config``."""
    from edgecmd.experiments.compare.methods import AT, CENTRAL, PRESIMCLR, UNTRAINED, plain
    from edgecmd.recipes.central import train_central
    from edgecmd.training.run_folder import new_student
    from server.simulate import simulate

    if method == UNTRAINED:
        return new_student(config)
    if AT in method:
        return simulate(run_of(private_config(config, method)))
    loss = plain(method)
    if loss == PRESIMCLR:
        config, loss = source_started(config), "simclr"
    chosen = replace(config, distill=replace(config.distill, loss=loss))
    return train_central(run_of(chosen)) if method.startswith(CENTRAL) else simulate(run_of(chosen))


def source_started(config: RunConfig) -> RunConfig:
    """The same run from weights that SimCLR on the public source gave, in as many steps as the run has."""
    from edgecmd.models.student_file import save_student
    from edgecmd.recipes.presimclr import run_steps, source_start

    path = Path(config.out) / f"{config.name}-start.safetensors"
    # A run that was broken off goes on from its checkpoints; the same start is not made twice.
    if not path.exists():
        run = run_of(config)
        student = source_start(run, num_steps=run_steps(run), learning_rate=config.pretrain.learning_rate)
        save_student(student, path)
    return replace(config, student=replace(config.student, path=str(path)))


def private_config(config: RunConfig, method: str) -> RunConfig:
    """Settings of a private method such as ``anchors@8``: a mechanism, and the epsilon of its budget.

    Raises:
        ConfigError: The mechanism is unknown, or epsilon is no number.
    """
    from edgecmd.core.errors import choose
    from edgecmd.experiments.compare.methods import AT
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


class Progress:
    """Lines for a person: each finished job, and after the first one how long the others will take."""

    def __init__(self, jobs: Sequence[Job], *, num_jobs: int, quiet: bool, later: Sequence[str] = ()) -> None:
        self.left = {job.path: job for job in jobs if not job.path.exists()}
        self.total, self.num_jobs, self.quiet, self.told = len(jobs), num_jobs, quiet, False
        self.later = later
        kept = self.total - len(self.left)
        if kept and not quiet:
            say(f"{kept} of {self.total} jobs are finished already and are read.")

    def done(self, job: Job, result: Mapping[str, Any]) -> None:
        """Tell that ``job`` is finished."""
        fresh = self.left.pop(job.path, None) is not None
        if self.quiet or not fresh:
            return
        hide_progress()
        line = "  ".join(f"{name} {value:.3f}" for name, value in result["headline"].items())
        say(f"{self.total - len(self.left)}/{self.total}  seed {job.config.seed} {job.config.name}: {line}")
        if not self.told and self.left:
            self.told = True
            say(f"Time for the other {len(self.left) + len(self.later)}: {self.estimate(job, result)}.")

    def estimate(self, job: Job, result: Mapping[str, Any]) -> str:
        """About how long the jobs that are left take, by the time of a finished one."""
        from edgecmd.experiments.compare.methods import relative_cost

        unit = result["seconds"] / relative_cost(job.method)
        rest = [*(one.method for one in self.left.values()), *self.later]
        seconds = unit * sum(map(relative_cost, rest)) / self.num_jobs
        return f"about {seconds / 60:.1f} minutes" if seconds < 5400 else f"about {seconds / 3600:.1f} hours"


def run_jobs(
    jobs: Sequence[Job], *, num_jobs: int, quiet: bool = False, later: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Results in the order of ``jobs``; finished ones are read, not repeated.

    Args:
        jobs: What is to be done.
        num_jobs: Processes at a time.
        quiet: No lines for a person.
        later: Methods of the jobs that will follow, for the estimate of the time.

    Raises:
        ConfigError: A file was made with other settings.
        KeyboardInterrupt: It was stopped; what was finished is kept.
    """
    progress = Progress(jobs, num_jobs=num_jobs, quiet=quiet, later=later)
    found: dict[int, dict[str, Any]] = {}
    if not jobs:
        return []
    # A result is written whole or not at all, and a federation goes on from its checkpoint.
    with Workers(num_jobs) as pool:
        futures: dict[Future[dict[str, Any]], int] = {}
        try:
            futures = {pool.submit(run_job, job): index for index, job in enumerate(jobs)}
            for future in tracked(as_completed(futures), "jobs", num=len(jobs)):
                index = futures[future]
                found[index] = future.result()
                progress.done(jobs[index], found[index])
        except KeyboardInterrupt:
            if not quiet:
                say("Finished jobs are kept; the same command goes on with the others.")
            raise
    return [found[index] for index in range(len(jobs))]
