"""The stages of ``edgecmd run``, each of which can be repeated and gives the same files."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgecmd.cli.common import one_thread, print_json, print_table, say
from edgecmd.cli.progress import chance, round_line
from edgecmd.config.schema import RunConfig
from edgecmd.core.processes import Workers
from edgecmd.core.progress import stage, tracked
from edgecmd.core.text import counted, unseen_text
from edgecmd.data.problem import run_of, task_of
from edgecmd.experiments.privacy_rows import privacy_rows

if TYPE_CHECKING:
    from edgecmd.evaluation.evaluate import Embed, Table

Result = TypeVar("Result")
BASELINES = ("l2", "simclr")
MOST_NOTES = 5


def run_stage(folder: Path, name: str, work: Callable[[], Result]) -> Result:
    """Do ``work`` and log how long it took."""
    from edgecmd.core.events import EventLog

    started = time.monotonic()
    result = work()
    EventLog(folder / "events.jsonl").append("stage", name=name, seconds=round(time.monotonic() - started, 2))
    return result


def plan(config: RunConfig) -> None:
    """Print the partition, the student and the bytes of a round."""
    facts = plan_facts(config)
    data, clients, rounds = facts["data"], facts["clients"], facts["rounds"]
    level, payload = facts["loss"]["chance"], facts["bytes_a_round"]
    pairs = f"{counted(data['train_pairs'], 'training pair')}, {counted(data['test_pairs'], 'test pair')}"
    public, steps = facts["public"], counted(rounds["local_steps"], "local step")
    rows = [
        ["data", f"{data['name']} ({data['kind']}), {pairs}"],
        ["public source", f"{counted(public['images'], 'image')} ({public['name']})"],
        [
            "clients",
            f"{clients['num']}, {clients['partition']}: {min(clients['pairs'])} to"
            f" {counted(max(clients['pairs']), 'pair')} each",
        ],
        ["skew", f"{facts['skew']:.3f} (mean total variation from the overall labels)"],
        ["teacher", facts["teacher"]],
        [
            "student",
            f"{facts['student']['architecture']}, {counted(facts['student']['parameters'], 'parameter')}",
        ],
        ["loss", facts["loss"]["name"] + (f", chance level {level:.2f}" if level is not None else "")],
        ["rounds", f"{rounds['num']} of {steps} = {counted(rounds['steps'], 'step')}"],
        ["bytes a round", f"{payload / 1e6:.1f} MB ({counted(clients['asked'], 'client')}, both ways)"],
        *privacy_rows(config, clients["pairs"]),
    ]
    print_table(f"Plan of {config.name}", ["what", "value"], rows)
    for warning in facts["warnings"]:
        say(f"warning: {warning}")
    say_notes(facts["notes"])


def say_notes(notes: Sequence[str]) -> None:
    """Print the first notes on the data, and how to see the others."""
    for note in notes[:MOST_NOTES]:
        say(f"note: {note}")
    if len(notes) > MOST_NOTES:
        say(f"note: {len(notes) - MOST_NOTES} more; `edgecmd data check` with these settings lists all.")


def plan_facts(config: RunConfig) -> dict[str, Any]:
    """What `plan` prints, as plain values; nothing is run.

    Raises:
        EdgecmdError: A setting, the data or the plan of privacy is refused.
    """
    from edgecmd.data.partition import label_skew
    from edgecmd.data.problem import client_rows, experiment
    from edgecmd.experiments.run_checks import notes_in_short, refuse
    from edgecmd.experiments.teacher_facts import teacher_text, teacher_warnings
    from edgecmd.models.students import num_parameters
    from edgecmd.training.run_folder import new_student

    refuse(config)
    whole, parts = experiment(config.data), client_rows(config)
    student, federation = new_student(config), config.federation
    payload = sum(tensor.numel() * tensor.element_size() for tensor in student.state_dict().values())
    asked = max(1, round(len(parts) * federation.client_fraction))
    return {
        "data": {
            "name": whole.name,
            "kind": whole.kind,
            "train_pairs": len(whole.train),
            "test_pairs": len(whole.test),
        },
        "public": {"name": whole.public.name, "images": len(whole.public)},
        "clients": {
            "num": len(parts),
            "asked": asked,
            "partition": federation.partition,
            "pairs": [len(part) for part in parts],
        },
        "skew": float(label_skew(parts, whole.train_labels)),
        "teacher": teacher_text(config),
        "student": {"architecture": config.student.architecture, "parameters": num_parameters(student)},
        "loss": {"name": config.distill.loss, "chance": chance(config)},
        "rounds": {
            "num": federation.num_rounds,
            "local_steps": federation.local_steps,
            "steps": federation.num_rounds * federation.local_steps,
        },
        "bytes_a_round": 2 * payload * asked,
        "warnings": teacher_warnings(config),
        "notes": notes_in_short(whole, config),
    }


def show_dry_run(config: RunConfig, *, as_json: bool) -> None:
    """What would run: the plan and the partition, as tables or as one JSON document."""
    from edgecmd.config.assemble import run_folder
    from edgecmd.config.reader import flatten
    from edgecmd.data.partition import partition_table
    from edgecmd.data.problem import client_rows, experiment

    if not as_json:
        plan(config)
        show_partition(config)
        return
    facts = plan_facts(config)
    told = [{"what": what, "value": value} for what, value in privacy_rows(config, facts["clients"]["pairs"])]
    table = partition_table(client_rows(config), experiment(config.data).train_labels)
    print_json(
        {
            "name": config.name,
            "folder": str(run_folder(config)),
            **facts,
            "privacy": told,
            "partition": table,
            "settings": flatten(config),
        }
    )


def show_partition(config: RunConfig) -> None:
    """Print how the pairs are dealt to the clients, a line a client."""
    from edgecmd.data.partition import partition_table
    from edgecmd.data.problem import client_rows, experiment

    table = partition_table(client_rows(config), experiment(config.data).train_labels)
    rows = []
    for row in table:
        largest = max(row["classes"], key=lambda name: row["classes"][name])
        share = f"{largest} {row['largest_share']:.2f}"
        rows.append([str(row["client"]), str(row["pairs"]), str(len(row["classes"])), share])
    print_table("Partition", ["client", "pairs", "classes", "most frequent class and its share"], rows)


def write_partition(config: RunConfig, folder: Path) -> None:
    """Write ``partition.json``, which tells exact numbers of pairs and is the owner's alone."""
    from edgecmd.core.artefacts import write_artefact
    from edgecmd.data.partition import label_skew, partition_table
    from edgecmd.data.problem import client_rows, experiment

    whole, parts = experiment(config.data), client_rows(config)
    table = {
        "table": partition_table(parts, whole.train_labels),
        "skew": label_skew(parts, whole.train_labels),
        "classes": list(whole.train_labels.names),
    }
    write_artefact(folder, "partition.json", table, may_leave=False)


def assess_run(
    config: RunConfig, folder: Path, *, baselines: bool, quiet: bool = False
) -> "dict[str, Table]":
    """Step 3: the student and, if asked, the baselines; writes ``evaluation.json``.

    Args:
        config: Settings of the run.
        folder: Its folder.
        baselines: Whether the baselines are trained and assessed too.
        quiet: Print no line a round, as beside JSON.
    """
    from edgecmd.core.artefacts import write_artefact
    from edgecmd.experiments.teacher_facts import teacher_record

    work = _assessments(config, folder, baselines=baselines, quiet=quiet)
    tables: dict[str, Table] = {}
    for name, assessed in tracked(list(work.items()), "evaluation"):
        with stage(name):
            table = assessed()
        if table:
            tables[name] = table
    others = {name: table for name, table in tables.items() if name != "student"}
    told = {
        "student": tables["student"],
        "baselines": others,
        "chance_loss": _told_chance(config),
        "teacher": teacher_record(config, tables),
    }
    write_artefact(folder, "evaluation.json", told, may_leave=False)
    return tables


def _assessments(
    config: RunConfig, folder: Path, *, baselines: bool, quiet: bool
) -> "dict[str, Callable[[], Table]]":
    """What is assessed, in the order of the table; an empty table is left out."""
    from edgecmd.evaluation.evaluate import assess, embedder
    from edgecmd.models.student_file import load_student
    from edgecmd.training.run_folder import new_student

    student = load_student(folder / "student.safetensors", like=config.student.architecture)
    work: dict[str, Callable[[], Table]] = {
        "student": lambda: assess(embedder(student, task_of(config)), run_of(config), student=student)
    }
    if not baselines:
        return work
    first = new_student(config)
    start = "warm start" if config.student.path else "untrained"
    work[start] = lambda: assess(embedder(first, task_of(config)), run_of(config), student=first)
    if sees_pictures(config):
        work["teacher as it is"] = lambda: assess(teacher_on_target(config), run_of(config))
    for name, other in federated_baselines(config).items():
        work[name] = partial(_federated_baseline, other, folder, name, quiet=quiet)
    work["scratch"] = lambda: segmentation_from_scratch(config) or scratch_table(config)
    return work


def _told_chance(config: RunConfig) -> float | None:
    """Chance level of the loss, where clients tell their loss."""
    return chance(config) if config.privacy.mechanism == "none" else None


def sees_pictures(config: RunConfig) -> bool:
    """Whether the teacher is here and takes pictures, as which any target can be shown to it."""
    from edgecmd.data.problem import teacher_of

    if config.teacher.pair_features:
        return False
    return not config.data.reverse or (bool(config.teacher.path) and teacher_of(config).sees_colour)


def teacher_on_target(config: RunConfig) -> "Embed":
    """The teacher applied to the target modality as it is: nothing is trained.

    Depth and sound are shown to it as pictures; grey becomes RGB, and the picture is enlarged to the side
    that the teacher is used to.

    Raises:
        ConfigError: The run has ready features; or pairs are reversed, and the teacher takes no pictures.
    """
    import numpy as np
    import torch
    from PIL import Image

    from edgecmd.core.errors import ConfigError
    from edgecmd.data.modalities.table import as_pictures
    from edgecmd.data.problem import place_features, teacher_of
    from edgecmd.evaluation.metrics import unit_rows
    from edgecmd.models.place_features import pool_places
    from edgecmd.models.students import is_dense

    if not sees_pictures(config):
        if config.teacher.pair_features:
            teacher_of(config)
        raise ConfigError(
            "data.reverse=true: the teacher takes no pictures, so the student's cannot be shown to it. Leave"
            " the method 'teacher' out."
        )
    side, dense = config.data.source_side, is_dense(config.student.architecture)

    def embed(target: np.ndarray) -> np.ndarray:
        images = as_pictures(target)
        rgb = images if images.shape[3] == 3 else np.repeat(images[..., :1], 3, axis=3)
        if rgb.shape[1:3] != (side, side):
            large = [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in rgb]
            rgb = np.stack([np.asarray(one) for one in large])
        if dense:
            return unit_rows(pool_places(torch.from_numpy(place_features(config, rgb))).numpy())
        return unit_rows(teacher_of(config).embed(rgb))

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


def _federated_baseline(config: RunConfig, folder: Path, name: str, *, quiet: bool) -> "Table":
    """One of `federated_baselines`, in a run folder of its own below this one."""
    from edgecmd.evaluation.evaluate import assess, embedder
    from edgecmd.losses import loss_of
    from server.simulate import simulate

    cross_modal = loss_of(config.distill).uses_teacher
    other = replace(
        config,
        name=name.replace(", ", "-").replace(" ", "-"),
        out=str(folder / "baselines"),
        evaluate=config.evaluate if cross_modal else replace(config.evaluate, every_rounds=0),
    )
    told = None if quiet else round_line(other, prefix=f"{name}: ")
    student = simulate(run_of(other), report=told)
    return assess(embedder(student, task_of(other)), run_of(other), cross_modal=cross_modal, student=student)


def scratch_table(config: RunConfig) -> "Table":
    """The supervised baseline for each number of labels, as far as the data has labels."""
    from edgecmd.data.problem import experiment
    from edgecmd.evaluation.supervised import accuracy_row

    if "group" not in experiment(config.data).test.labelled.labels:
        return {}
    counts = config.evaluate.num_labels
    work = [(count, draw) for count in counts for draw in range(config.evaluate.num_draws if count else 1)]
    found = dict(zip(work, _scratch_accuracies(config, work)))
    rows = {}
    for count in counts:
        values = [found[one] for one in work if one[0] == count]
        rows[str(count or "all")] = accuracy_row(values, run_of(config), labelling="group")
    return {"few_labels": {"group": {"linear": rows}}}


def segmentation_from_scratch(config: RunConfig) -> "Table":
    """The dense student trained on the few masks alone; empty for other students, or without masks."""
    from edgecmd.evaluation import segmentation as tables
    from edgecmd.models.students import is_dense

    if not is_dense(config.student.architecture) or not tables.has_masks(run_of(config)):
        return {}
    return {"segmentation": tables.scratch_table(run_of(config))}


def _scratch_accuracies(config: RunConfig, work: list[tuple[int, int]]) -> list[float]:
    """Accuracy for each (number of labels, draw), by as many processes as the federation may use."""
    from edgecmd.config.reader import flatten

    jobs = [(dict(flatten(config)), *one) for one in work]
    if config.federation.num_workers == 1:
        return [_scratch_job(job) for job in tracked(jobs, "training from scratch")]
    with Workers(config.federation.num_workers) as pool:
        return list(tracked(pool.map(_scratch_job, jobs), "training from scratch", num=len(jobs)))


def _scratch_job(job: tuple[dict[str, Any], int, int]) -> float:
    from edgecmd.config.reader import unflatten
    from edgecmd.evaluation.supervised import scratch_accuracy

    one_thread()
    flat, num_labels, draw = job
    return scratch_accuracy(run_of(unflatten(flat)), labelling="group", num_labels=num_labels, draw=draw)


def show_results(tables: "dict[str, Table]") -> None:
    """Print the student against the baselines, a star where one is better than all others."""
    from edgecmd.core.statistics import MIN_ITEMS, too_few
    from edgecmd.evaluation.evaluate import CLASS_PAIRED, best_by_column, headline

    lines = {name: headline(table) for name, table in tables.items()}
    columns = list(dict.fromkeys(column for line in lines.values() for column in line))
    best = best_by_column(tables)
    rows = []
    for name, line in lines.items():
        cells = [
            "-" if column not in line else f"{line[column]:.3f}{'*' if best.get(column) == name else ' '}"
            for column in columns
        ]
        rows.append([name, *cells])
    titles = [column_title(column) for column in columns]
    told: dict[str, Any] = tables["student"]
    little = too_few(num_items=told["num_test"])
    heading = f"Unseen {unseen_text(told['unseen'], told.get('shared', ''))}, {told['kind']} pairs"
    print_table(f"{heading}; {little}" if little else heading, ["method", *titles], rows)
    for name, table in tables.items():
        if table.get("fault"):
            say(f"{name} has collapsed: {table['fault']}, so its row says nothing and is ranked nowhere.")
    if len(lines) > 1 or best:
        say(
            "* better than every other method by more than chance: over test items (Newcombe's 95% interval)"
            f" and, where labels were drawn several times, over the draws (paired t). None below {MIN_ITEMS}"
            " test items, and none for NMI, of which one run tells no interval."
        )
    if told.get("num_things", told["num_test"]) < told["num_test"]:
        say(
            f"Copies of a source are one thing to retrieve: {told['num_things']} in {told['num_test']} pairs."
        )
    say(
        "R@k: retrieval of the own picture, not told where k is all there are; probe k, tuned k: linear"
        " probe and fine-tuning on groups with k labels a class; NMI: k-means clusters against the groups,"
        " without a label."
    )
    say_segmentation(told)
    if told["kind"] == CLASS_PAIRED:
        say(
            "class-R@1: a picture of the right class is nearest. The pairs were matched by class, so which"
            " picture is the own one says nothing, and the classes went into making the pairs."
        )


def say_teacher(config: RunConfig, tables: "dict[str, Table]") -> None:
    """Name the teacher below a table of results, and what speaks against it."""
    from edgecmd.experiments.teacher_facts import teacher_record

    told = teacher_record(config, tables)
    say(f"Teacher: {told['text']}.")
    for warning in told["warnings"]:
        say(f"warning: {warning}")


def say_segmentation(table: "Table") -> None:
    """What the segmentation columns mean, or why there are none."""
    told = table.get("segmentation")
    if not isinstance(told, dict):
        return
    if "missing" in told:
        say(told["missing"])
        return
    text = (
        f"mIoU k%: mean IoU over the classes of the test after fine-tuning on k percent of {told['num_pool']}"
        f" labelled pictures; probe: frozen student. pixels: share of right pixels; naming the commonest"
        f" class everywhere gives {told['majority']:.3f}."
    )
    if told["rare"]:
        common = ", ".join(f"{k}% {row['miou_common']:.3f}" for k, row in told["finetune"].items())
        text += f" Without the rare classes {', '.join(told['rare'])}: student at {common}."
    if told["absent"]:
        text += f" Absent from the test and in no mean: {', '.join(told['absent'])}."
    say(text)


def column_title(column: str) -> str:
    """Header of a metric of `edgecmd.evaluation.evaluate.headline`."""
    from edgecmd.experiments.compare.markdown import title_of

    return title_of(column)
