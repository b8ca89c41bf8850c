"""The jobs of ``edgecmd compare``: one method with one seed each, kept in files of their own."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecmd.config.assemble import WORKER, Assembly
from edgecmd.config.reader import flatten
from edgecmd.config.schema import RunConfig
from edgecmd.core import jobs
from edgecmd.core.errors import ConfigError
from edgecmd.core.jobs import Tell, finish

if TYPE_CHECKING:
    from edgecmd.evaluation.evaluate import Table
    from edgecmd.experiments.compare.tuning import Trial
    from edgecmd.models.students import Student


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One method with one seed.

    Attributes:
        label: Row of the table.
        method: What is trained.
        config: Settings, with the seed.
        folder: Folder of the seed; the result is in it.
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
    def made_of(self) -> dict[str, Any]:
        """What the result depends on."""
        settings = {
            **flatten(self.config),
            "compare.validate": self.validate,
            "compare.tuned_labels": list(self.tuned_labels),
            "compare.num_fits": self.num_fits,
        }
        return {"settings": settings}


def make_job(
    config: RunConfig,
    method: str,
    *,
    seed: int,
    folder: Path,
    label: str = "",
    trial: "Trial | None" = None,
) -> Job:
    """The job of ``method`` with ``seed``; what is measured beside the probe is set on the result.

    Args:
        config: Settings but for the seed.
        method: What is trained.
        seed: Seed.
        folder: Folder of the comparison.
        label: Row of the table; empty for ``method``.
        trial: Of the grid; None for what ``config`` says.
    """
    label, own = label or method, folder / f"seed-{seed}"
    name = label.replace(":", "-").replace(" ", "-") + (trial.suffix if trial else "")
    chosen = trial.applied(config) if trial else config
    return Job(
        label=label,
        method=method,
        config=replace(chosen, seed=seed, out=str(own), name=name),
        folder=str(own),
        num_fits=config.evaluate.num_draws,
    )


def run_job(job: Job, assembly: Assembly = WORKER) -> dict[str, Any]:
    """Do one job, in whatever process; a finished one is read from its file.

    Args:
        job: The job.
        assembly: Makes its runs.

    Returns:
        ``headline``, ``seconds``, ``cpu_seconds``, ``bytes`` and, where it was asked for, ``validation``.

    Raises:
        ConfigError: The file was made with other settings.
    """
    return finish(job, partial(_result, job, assembly))


def _result(job: Job, assembly: Assembly) -> dict[str, Any]:
    from edgecmd.evaluation.evaluate import headline

    started, burnt = time.monotonic(), time.process_time()
    table, validation = measure(job, assembly)
    return {
        "method": job.method,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - burnt, 1),
        "bytes": exchanged_bytes(Path(job.folder) / job.config.name),
        "validation": validation,
        "headline": headline(table),
        "table": table,
    }


def exchanged_bytes(folder: Path) -> int:
    """Bytes that the run in ``folder`` sent and received, as its event log says; 0 without a federation."""
    from edgecmd.core.events import read_events

    log = folder / "events.jsonl"
    return (
        sum(event["bytes"] for event in read_events(log) if event["event"] == "round") if log.exists() else 0
    )


def measure(job: Job, assembly: Assembly) -> "tuple[Table, float | None]":
    """Train and assess; the tables, and the score within the validation split."""
    from edgecmd.evaluation.evaluate import assess, embedder
    from edgecmd.evaluation.finetune import finetune_rows
    from edgecmd.experiments.compare import methods
    from edgecmd.experiments.compare.measure import (
        ceiling_table,
        supervised_all_table,
        supervised_table,
        supervised_validation,
    )
    from edgecmd.experiments.compare.tuning import LABELLING, few_labels_of, retrieval_score, validation_score
    from edgecmd.experiments.run_baselines import scratch, teacher_on_target

    run, method = assembly.run(job.config), job.method
    alone: dict[str, Callable[[], Table]] = {
        methods.SCRATCH: lambda: scratch(job.config, run)(),
        methods.SUPERVISED: lambda: supervised_table(run, num_draws=job.num_fits),
        methods.SUPERVISED_ALL: lambda: supervised_all_table(run),
        methods.TEACHER: lambda: assess(teacher_on_target(job.config, run.task), run),
        methods.TEACHER_SOURCE: lambda: ceiling_table(run),
    }
    if method in alone:
        asked = methods.is_tuned(method) and few_labels_of(job.validate)
        score = supervised_validation(run, method, num_labels=asked) if asked else None
        return alone[method](), score
    student = train_by(job.config, method, assembly)
    embed = embedder(student, run.task)
    loss = methods.loss_row(method)
    table = assess(embed, run, cross_modal=loss is None or loss.uses_teacher, student=student)
    few: Any = table["few_labels"]
    if job.tuned_labels and few.get(LABELLING) and not run.evaluate.finetune:
        few[LABELLING]["finetune"] = finetune_rows(
            student, run, job.tuned_labels, num_draws=job.num_fits, labelling=LABELLING
        )
    if not job.validate:
        return table, None
    count, whole = few_labels_of(job.validate), run.task.data
    if count:
        pool = embed(whole.validation.pairs.target)
        return table, validation_score(pool, whole, num_labels=count, seed=run.seed)
    return table, retrieval_score(table, job.validate)


def train_by(config: RunConfig, method: str, assembly: Assembly) -> "Student":
    """The student that ``method`` gives under ``config``."""
    from edgecmd.experiments.compare.methods import AT, CENTRAL, PRESIMCLR, UNTRAINED, plain
    from edgecmd.recipes.central import train_central
    from server.simulate import simulate

    if method == UNTRAINED:
        return assembly.run(config).new_student()
    if AT in method:
        return simulate(assembly.run(private_config(config, method)))
    loss = plain(method)
    if loss == PRESIMCLR:
        config, loss = source_started(config, assembly), "simclr"
    run = assembly.run(replace(config, distill=replace(config.distill, loss=loss)))
    return train_central(run) if method.startswith(CENTRAL) else simulate(run)


def source_started(config: RunConfig, assembly: Assembly) -> RunConfig:
    """The same run from weights that SimCLR on the public source gave, in as many steps as the run has."""
    from edgecmd.models.student_file import save_student
    from edgecmd.recipes.presimclr import run_steps, source_start

    path = Path(config.out) / f"{config.name}-start.safetensors"
    # A run that was broken off goes on from its checkpoints; the same start is not made twice.
    if not path.exists():
        run = assembly.run(config)
        student = source_start(run, num_steps=run_steps(run), learning_rate=config.pretrain.learning_rate)
        save_student(student, path)
    return replace(config, student=replace(config.student, path=str(path)))


def private_config(config: RunConfig, method: str) -> RunConfig:
    """Settings of a private method: a mechanism and the epsilon of its budget, as in ``anchors@8``.

    Between them may stand a loss that is not the mechanism's default, as in ``anchors:cmd-anchored@8``.

    Raises:
        ConfigError: The mechanism or the loss is unknown, or epsilon is not a number.
    """
    from edgecmd.core.errors import choose
    from edgecmd.experiments.compare.methods import AT
    from edgecmd.losses import LOSSES
    from edgecmd.privacy.mechanisms import MECHANISMS

    head, _, epsilon = method.partition(AT)
    mechanism, _, loss = head.partition(":")
    choose("--methods", mechanism, MECHANISMS)
    if loss:
        choose("--methods", loss, LOSSES)
    try:
        budget = float(epsilon)
    except ValueError:
        raise ConfigError(
            f"--methods has {method!r}; write a mechanism and epsilon as in anchors@8."
        ) from None
    return replace(
        config,
        privacy=replace(config.privacy, mechanism=mechanism, epsilon=budget),
        distill=replace(config.distill, loss=loss or "auto"),
    ).resolved()


class Progress:
    """Lines for a person: each finished job, and after the first one how long the others will take.

    Args:
        work: All jobs.
        num_jobs: Processes at a time.
        tell: Takes the lines.
        later: Methods of the jobs that will follow.
    """

    def __init__(self, work: Sequence[Job], *, num_jobs: int, tell: Tell, later: Sequence[str] = ()) -> None:
        self.left = {job.path: job for job in work if not job.path.exists()}
        self.total, self.num_jobs, self.tell, self.told = len(work), num_jobs, tell, False
        self.later = later
        kept = self.total - len(self.left)
        if kept:
            tell(f"{kept} of {self.total} jobs are already finished and are read.")

    def done(self, job: Job, result: Mapping[str, Any]) -> None:
        """Tell that ``job`` is finished."""
        if self.left.pop(job.path, None) is None:
            return
        line = "  ".join(f"{name} {value:.3f}" for name, value in result["headline"].items())
        self.tell(
            f"{self.total - len(self.left)}/{self.total}  seed {job.config.seed} {job.config.name}: {line}"
        )
        if not self.told and self.left:
            self.told = True
            self.tell(
                f"Time for the remaining {len(self.left) + len(self.later)}: {self.estimate(job, result)}."
            )

    def estimate(self, job: Job, result: Mapping[str, Any]) -> str:
        """About how long the jobs that are left take, by the time of a finished one."""
        from edgecmd.experiments.compare.methods import relative_cost

        unit = result["seconds"] / relative_cost(job.method)
        rest = [*(one.method for one in self.left.values()), *self.later]
        seconds = unit * sum(map(relative_cost, rest)) / self.num_jobs
        return f"about {seconds / 60:.1f} minutes" if seconds < 5400 else f"about {seconds / 3600:.1f} hours"


def run_jobs(
    work: Sequence[Job], *, num_jobs: int, assembly: Assembly, tell: Tell, later: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Results in the order of ``work``; finished ones are read, not repeated.

    Args:
        work: What is to be done.
        num_jobs: Processes at a time.
        assembly: Makes runs where this process does the work alone; each worker process has one of its own.
        tell: Takes lines for a person.
        later: Methods of the jobs that will follow, for the estimate of the time.

    Raises:
        ConfigError: A file was made with other settings.
        KeyboardInterrupt: It was stopped; what was finished is kept.
    """
    progress = Progress(work, num_jobs=num_jobs, tell=tell, later=later)
    do = partial(run_job, assembly=assembly) if num_jobs == 1 else run_job
    try:
        # A result is written whole or not at all, and a federation goes on from its checkpoint.
        return jobs.run_jobs(work, do, num_processes=num_jobs, what="jobs", done=progress.done)
    except KeyboardInterrupt:
        tell("Finished jobs are kept; the same command continues with the others.")
        raise
