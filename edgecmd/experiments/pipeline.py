"""The stages of ``edgecmd run``, each of which can be repeated and gives the same files."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgecmd.config.assemble import Assembly, start_run
from edgecmd.config.provenance import require_runtime
from edgecmd.config.schema import RunConfig
from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import DataError
from edgecmd.core.events import EventLog
from edgecmd.core.files import read_json
from edgecmd.core.progress import stage, tracked
from edgecmd.experiments.run_baselines import baselines_of
from edgecmd.experiments.run_plan import chance
from edgecmd.run import Run

if TYPE_CHECKING:
    from edgecmd.evaluation.evaluate import Table
    from server.loop import RoundReport

Result = TypeVar("Result")
# Given a run and what stands before each line: who is told of its rounds, for as long as they last.
Watch = Callable[[Run, str], "AbstractContextManager[Callable[[RoundReport], None] | None]"]


def unwatched(_run: Run, _prefix: str) -> AbstractContextManager[None]:
    """Rounds are not reported to anyone."""
    return nullcontext()


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What a whole run left.

    Attributes:
        folder: Of the run.
        tables: Evaluation by method.
        bundle: What was exported, in words.
    """

    folder: Path
    tables: "dict[str, Table]"
    bundle: str


def run_stage(folder: Path, name: str, work: Callable[[], Result]) -> Result:
    """Do ``work`` and log how long it took."""
    started = time.monotonic()
    result = work()
    EventLog(folder / "events.jsonl").append("stage", name=name, seconds=round(time.monotonic() - started, 2))
    return result


def run_all(config: RunConfig, assembly: Assembly, *, baselines: bool, watch: Watch) -> Finished:
    """Run or continue all stages but the report; the caller owns the run folder.

    Args:
        config: Settings of the run.
        assembly: Makes the run and its baselines.
        baselines: Whether the baselines are trained and assessed too.
        watch: Receives reports of the rounds.

    Raises:
        FederationError: The run in the folder was made on Flower, or with other settings.
    """
    from edgecmd.experiments.gallery import write_gallery
    from export.from_run import export_run

    run = assembly.run(config)
    require_runtime(run.folder, "in-process", described=run.described)
    folder = start_run(run)
    write_artefact(folder, "pipeline.json", {"baselines": baselines}, may_leave=True)
    train(run, watch)
    write_partition(run, folder)
    tables = run_stage(
        folder,
        "evaluate",
        lambda: assess_run(config, assembly, folder=folder, baselines=baselines, watch=watch),
    )
    write_gallery(run, folder)
    bundle = run_stage(
        folder, "export", lambda: str(export_run(run, folder / "export", settings=config.export))
    )
    return Finished(folder=folder, tables=tables, bundle=bundle)


def train(run: Run, watch: Watch) -> None:
    """Step 2: the federation of ``run``, begun or continued."""
    from server.simulate import simulate

    with watch(run, "") as report:
        run_stage(run.folder, "simulate", lambda: simulate(run, report=report))


def with_baselines(path: Path) -> bool:
    """What ``pipeline.json`` says: whether the run that is continued has baselines.

    Raises:
        DataError: The file is damaged.
    """
    found = read_json(path)
    baselines = found.get("baselines") if isinstance(found, dict) else None
    if not isinstance(baselines, bool):
        raise DataError(
            f"{path} is damaged: it does not say whether the run has baselines. Write"
            ' {"baselines": true} or {"baselines": false} into it and resume again, or use `edgecmd run` with'
            " the settings of the run, which writes it anew."
        )
    return baselines


def write_partition(run: Run, folder: Path) -> None:
    """Write ``partition.json``, which has exact numbers of pairs and is for the owner only."""
    from edgecmd.data.partition import label_skew, partition_table

    labels, parts = run.task.data.train_labels, run.parts
    table = {
        "table": partition_table(parts, labels),
        "skew": label_skew(parts, labels),
        "classes": list(labels.names),
    }
    write_artefact(folder, "partition.json", table, may_leave=False)


def assess_run(
    config: RunConfig, assembly: Assembly, *, folder: Path, baselines: bool, watch: Watch = unwatched
) -> "dict[str, Table]":
    """Step 3: the student and, if asked, the baselines; writes ``classes.json`` and ``evaluation.json``.

    Args:
        config: Settings of the run.
        assembly: Makes the run and its baselines.
        folder: Its folder.
        baselines: Whether the baselines are trained and assessed too.
        watch: Receives reports of the baselines' rounds.
    """
    from edgecmd.evaluation.evaluate import class_results, embedder
    from edgecmd.experiments.teacher_facts import teacher_record
    from edgecmd.models.student_file import load_student

    work = _assessments(config, assembly, folder=folder, baselines=baselines, watch=watch)
    tables: dict[str, Table] = {}
    for name, assessed in tracked(list(work.items()), "evaluation"):
        with stage(name):
            table = assessed()
        if table:
            tables[name] = table
    others = {name: table for name, table in tables.items() if name != "student"}
    run = assembly.run(config)
    told = {
        "student": tables["student"],
        "baselines": others,
        # Private clients tell no loss.
        "chance_loss": chance(run) if run.privacy.mechanism == "none" else None,
        "teacher": teacher_record(run.task, config.teacher, tables),
    }
    student = load_student(folder / "student.safetensors", like=config.student.architecture)
    with stage("results by class"):
        by_class = class_results(embedder(student, run.task), run)
    write_artefact(folder, "classes.json", by_class, may_leave=False)
    write_artefact(folder, "evaluation.json", told, may_leave=False)
    return tables


def _assessments(
    config: RunConfig, assembly: Assembly, *, folder: Path, baselines: bool, watch: Watch
) -> "dict[str, Callable[[], Table]]":
    """What is assessed, in the order of the table; an empty table is left out."""
    from edgecmd.evaluation.evaluate import assess, embedder
    from edgecmd.models.student_file import load_student

    run = assembly.run(config)
    student = load_student(folder / "student.safetensors", like=config.student.architecture)
    work: dict[str, Callable[[], Table]] = {
        "student": lambda: assess(embedder(student, run.task), run, student=student)
    }
    if not baselines:
        return work
    for name, made in baselines_of(config, run).items():
        work[name] = (
            partial(_federated_baseline, made, assembly, folder=folder, name=name, watch=watch)
            if isinstance(made, RunConfig)
            else made
        )
    return work


def _federated_baseline(
    config: RunConfig, assembly: Assembly, *, folder: Path, name: str, watch: Watch
) -> "Table":
    """A baseline that trains in a federation, in a run folder of its own below this one."""
    from edgecmd.evaluation.evaluate import assess, embedder
    from server.simulate import simulate

    cross_modal = assembly.run(config).loss.uses_teacher
    other = assembly.run(
        replace(
            config,
            name=name.replace(", ", "-").replace(" ", "-"),
            out=str(folder / "baselines"),
            evaluate=config.evaluate if cross_modal else replace(config.evaluate, every_rounds=0),
        )
    )
    with watch(other, f"{name}: ") as report:
        student = simulate(other, report=report)
    return assess(embedder(student, other.task), other, cross_modal=cross_modal, student=student)
