"""The stages of ``edgecmd run``, each of which can be repeated and gives the same files."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgecmd.config.assemble import Assembly, start_run
from edgecmd.config.provenance import require_runtime
from edgecmd.config.schema import RunConfig
from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.events import EventLog
from edgecmd.core.files import read_json
from edgecmd.core.processes import Workers
from edgecmd.core.progress import stage, tracked
from edgecmd.experiments.run_plan import chance
from edgecmd.run import Run
from edgecmd.training.task import Task

if TYPE_CHECKING:
    from edgecmd.evaluation.evaluate import Embed, Table
    from server.loop import RoundReport

Result = TypeVar("Result")
# Given a run and what stands before each line: who is told of its rounds.
Watch = Callable[[Run, str], "Callable[[RoundReport], None] | None"]
BASELINES = ("l2", "simclr")


def unwatched(_run: Run, _prefix: str) -> None:
    """Nobody is told of the rounds."""


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
        watch: Who is told of the rounds.

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

    run_stage(run.folder, "simulate", lambda: simulate(run, report=watch(run, "")))


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
    """Write ``partition.json``, which tells exact numbers of pairs and is the owner's alone."""
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
    """Step 3: the student and, if asked, the baselines; writes ``evaluation.json``.

    Args:
        config: Settings of the run.
        assembly: Makes the run and its baselines.
        folder: Its folder.
        baselines: Whether the baselines are trained and assessed too.
        watch: Who is told of the baselines' rounds.
    """
    from edgecmd.experiments.teacher_facts import teacher_record

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
        "chance_loss": _told_chance(run),
        "teacher": teacher_record(run.task, config.teacher, tables),
    }
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
    first = run.new_student()
    start = "warm start" if config.student.path else "untrained"
    work[start] = lambda: assess(embedder(first, run.task), run, student=first)
    if sees_pictures(config, run.task):
        work["teacher as it is"] = lambda: assess(teacher_on_target(config, run.task), run)
    for name, other in federated_baselines(config).items():
        work[name] = partial(_federated_baseline, other, assembly, folder=folder, name=name, watch=watch)
    work["scratch"] = lambda: segmentation_from_scratch(run) or scratch_table(run)
    return work


def _told_chance(run: Run) -> float | None:
    """Chance level of the loss, where clients tell their loss."""
    return chance(run) if run.privacy.mechanism == "none" else None


def sees_pictures(config: RunConfig, task: Task) -> bool:
    """Whether the teacher is here and takes pictures, as which any target can be shown to it."""
    if task.has_ready_features:
        return False
    return not config.data.reverse or (bool(config.teacher.path) and task.teacher.sees_colour)


def teacher_on_target(config: RunConfig, task: Task) -> "Embed":
    """The teacher applied to the target modality as it is: nothing is trained.

    Depth and sound are shown to it as pictures; grey becomes RGB, and the picture is enlarged to the side
    that the teacher is used to.

    Raises:
        ConfigError: The run has ready features; or pairs are reversed, and the teacher takes no pictures.
    """
    import numpy as np
    import torch
    from PIL import Image

    from edgecmd.data.modalities.table import as_pictures
    from edgecmd.evaluation.metrics import unit_rows
    from edgecmd.models.place_features import pool_places

    if not sees_pictures(config, task):
        if task.has_ready_features:
            _ = task.teacher
        raise ConfigError(
            "data.reverse=true: the teacher takes no pictures, so the student's cannot be shown to it. Leave"
            " the method 'teacher' out."
        )
    side = task.source_side

    def embed(target: np.ndarray) -> np.ndarray:
        images = as_pictures(target)
        rgb = images if images.shape[3] == 3 else np.repeat(images[..., :1], 3, axis=3)
        if rgb.shape[1:3] != (side, side):
            large = [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in rgb]
            rgb = np.stack([np.asarray(one) for one in large])
        if task.places is not None:
            return unit_rows(pool_places(torch.from_numpy(task.place_features(rgb))).numpy())
        return unit_rows(task.teacher.embed(rgb))

    return embed


def federated_baselines(config: RunConfig) -> dict[str, RunConfig]:
    """Settings of the baselines that train in the same federation, by name.

    Under record-level privacy these are the mechanism without negatives, at the same epsilon, and the
    same loss without privacy: the limit that privacy is paid against.
    """
    from edgecmd.losses import LOSSES
    from edgecmd.models.students import is_dense
    from edgecmd.privacy.mechanisms import MECHANISMS

    without = replace(config, privacy=replace(config.privacy, mechanism="none"))
    if config.privacy.mechanism == "none":
        losses = [
            loss for loss in BASELINES if LOSSES[loss].dense or not is_dense(config.student.architecture)
        ]
        return {loss: replace(config, distill=replace(config.distill, loss=loss)) for loss in losses}
    baselines = {f"{config.distill.loss} without privacy": without}
    other = MECHANISMS[config.privacy.mechanism].without_negatives
    if other:
        privacy = replace(config.privacy, mechanism=other, ledger_dir="")
        distill = replace(config.distill, loss=MECHANISMS[other].default_loss)
        baselines[f"{other}, same epsilon"] = replace(config, privacy=privacy, distill=distill)
    return baselines


def _federated_baseline(
    config: RunConfig, assembly: Assembly, *, folder: Path, name: str, watch: Watch
) -> "Table":
    """One of `federated_baselines`, in a run folder of its own below this one."""
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
    student = simulate(other, report=watch(other, f"{name}: "))
    return assess(embedder(student, other.task), other, cross_modal=cross_modal, student=student)


def scratch_table(run: Run) -> "Table":
    """The supervised baseline for each number of labels, as far as the data has labels."""
    from edgecmd.evaluation.supervised import accuracy_row

    if "group" not in run.task.data.test.labelled.labels:
        return {}
    counts = run.evaluate.num_labels
    work = [(count, draw) for count in counts for draw in range(run.evaluate.num_draws if count else 1)]
    found = dict(zip(work, _scratch_accuracies(run, work)))
    rows = {}
    for count in counts:
        values = [found[one] for one in work if one[0] == count]
        rows[str(count or "all")] = accuracy_row(values, run, labelling="group")
    return {"few_labels": {"group": {"linear": rows}}}


def segmentation_from_scratch(run: Run) -> "Table":
    """The dense student trained on the few masks alone; empty for other students, or without masks."""
    from edgecmd.evaluation import segmentation as tables

    if run.task.places is None or not tables.has_masks(run):
        return {}
    return {"segmentation": tables.scratch_table(run)}


def _scratch_accuracies(run: Run, work: list[tuple[int, int]]) -> list[float]:
    """Accuracy for each (number of labels, draw), by as many processes as the federation may use."""
    if run.federation.num_workers == 1 or run.remake is None:
        return [_scratch_accuracy(run, *one) for one in tracked(work, "training from scratch")]
    jobs = [(run.remake, *one) for one in work]
    with Workers(run.federation.num_workers) as pool:
        return list(tracked(pool.map(_scratch_job, jobs), "training from scratch", num=len(jobs)))


def _scratch_job(job: tuple[Callable[[], Run], int, int]) -> float:
    remake, num_labels, draw = job
    return _scratch_accuracy(remake(), num_labels, draw)


def _scratch_accuracy(run: Run, num_labels: int, draw: int) -> float:
    from edgecmd.evaluation.supervised import scratch_accuracy

    return scratch_accuracy(run, labelling="group", num_labels=num_labels, draw=draw)
