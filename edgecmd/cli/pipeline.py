"""The stages of ``edgecmd run``, each of which can be repeated and gives the same files."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgecmd.cli.common import one_thread, print_table, say
from edgecmd.cli.privacy import privacy_rows
from edgecmd.cli.progress import chance, round_line
from edgecmd.config import RunConfig

if TYPE_CHECKING:
    from edgecmd.assess import Embed, Table

Result = TypeVar("Result")
BASELINES = ("l2", "simclr")


def run_stage(folder: Path, name: str, work: Callable[[], Result]) -> Result:
    """Do ``work`` and log how long it took."""
    from edgecmd.events import EventLog

    started = time.monotonic()
    result = work()
    folder.mkdir(parents=True, exist_ok=True)
    EventLog(folder / "events.jsonl").append("stage", name=name, seconds=round(time.monotonic() - started, 2))
    return result


def check_names(config: RunConfig) -> None:
    """Refuse a misspelt choice before anything runs.

    Raises:
        ConfigError: With the setting, the options and the nearest name.
    """
    from edgecmd.data.anchors import ANCHORS
    from edgecmd.data.experiment import LOADERS
    from edgecmd.data.partition import PARTITIONS
    from edgecmd.device import resolve_device
    from edgecmd.distill import OBJECTIVES, OPTIMIZERS, SCHEDULES
    from edgecmd.errors import choose
    from edgecmd.models.students import STUDENTS
    from edgecmd.privacy.plan import make_plan
    from server.strategies import BUILDERS

    choose("data.name", config.data.name, LOADERS)
    choose("student.architecture", config.student.architecture, STUDENTS)
    choose("distill.loss", config.distill.loss, OBJECTIVES)
    choose("distill.optimizer", config.distill.optimizer, OPTIMIZERS)
    choose("distill.schedule", config.distill.schedule, SCHEDULES)
    choose("federation.partition", config.federation.partition, PARTITIONS)
    choose("distill.anchors", config.distill.anchors, ANCHORS)
    choose("federation.strategy", config.federation.strategy, BUILDERS)
    make_plan(config)
    resolve_device(config.device)


def plan(config: RunConfig) -> None:
    """Print the partition, the student and the bytes of a round."""
    from edgecmd.data.clients import client_rows, experiment
    from edgecmd.data.duplicates import duplicate_summary
    from edgecmd.data.partition import label_skew
    from edgecmd.models.students import num_parameters
    from edgecmd.runs import new_student

    check_names(config)
    whole, parts = experiment(config.data), client_rows(config)
    student = new_student(config)
    sizes = [len(part) for part in parts]
    payload = sum(tensor.numel() * tensor.element_size() for tensor in student.state_dict().values())
    cohort = max(1, round(len(parts) * config.federation.client_fraction))
    steps = config.federation.num_rounds * config.federation.local_steps
    level = chance(config)
    rows = [
        [
            "data",
            f"{whole.name} ({whole.kind}), {len(whole.train)} training pairs, {len(whole.test)} test pairs",
        ],
        ["public source", f"{len(whole.public)} images ({whole.public.name})"],
        ["clients", f"{len(parts)}, {config.federation.partition}: {min(sizes)} to {max(sizes)} pairs each"],
        [
            "skew",
            f"{label_skew(parts, whole.train_labels):.3f} (mean total variation from the overall labels)",
        ],
        ["student", f"{config.student.architecture}, {num_parameters(student):,} parameters"],
        ["loss", config.distill.loss + (f", chance level {level:.2f}" if level is not None else "")],
        [
            "rounds",
            f"{config.federation.num_rounds} of {config.federation.local_steps} local steps = {steps} steps",
        ],
        ["bytes a round", f"{2 * payload * cohort / 1e6:.1f} MB ({cohort} clients, both ways)"],
        *privacy_rows(config, sizes),
        *(["note", line] for line in duplicate_summary(whole)),
    ]
    print_table(f"Plan of {config.name}", ["what", "value"], rows)


def show_partition(config: RunConfig) -> None:
    """Print how the pairs are dealt to the clients, a line a client."""
    from edgecmd.data.clients import client_rows, experiment
    from edgecmd.data.partition import partition_table

    table = partition_table(client_rows(config), experiment(config.data).train_labels)
    rows = []
    for row in table:
        largest = max(row["classes"], key=lambda name: row["classes"][name])
        rows.append(
            [
                str(row["client"]),
                str(row["pairs"]),
                str(len(row["classes"])),
                f"{largest} {row['largest_share']:.2f}",
            ]
        )
    print_table("Partition", ["client", "pairs", "classes", "most frequent class and its share"], rows)


def write_partition(config: RunConfig, folder: Path) -> None:
    """Write ``partition.json``, which tells exact numbers of pairs and is the owner's alone."""
    from edgecmd.artefacts import write_artefact
    from edgecmd.data.clients import client_rows, experiment
    from edgecmd.data.partition import label_skew, partition_table

    whole, parts = experiment(config.data), client_rows(config)
    table = {
        "table": partition_table(parts, whole.train_labels),
        "skew": label_skew(parts, whole.train_labels),
        "classes": list(whole.train_labels.names),
    }
    write_artefact(folder, "partition.json", table, may_leave=False)


def assess_run(config: RunConfig, folder: Path, *, baselines: bool) -> "dict[str, Table]":
    """Step 3: the student and, if asked, the baselines; writes ``evaluation.json``."""
    from edgecmd.artefacts import write_artefact
    from edgecmd.assess import assess, embedder
    from edgecmd.runs import load_student, new_student

    student = load_student(folder / "student.safetensors")
    tables: dict[str, Table] = {"student": assess(embedder(student, config), config, student=student)}
    if baselines:
        first = new_student(config)
        tables["warm start" if config.student.path else "untrained"] = assess(
            embedder(first, config), config, student=first
        )
        if sees_pictures(config):
            tables["teacher as it is"] = assess(teacher_on_target(config), config)
        for name, other in federated_baselines(config).items():
            tables[name] = _federated_baseline(other, folder, name)
        scratch = segmentation_from_scratch(config) or scratch_table(config)
        if scratch:
            tables["scratch"] = scratch
    others = {name: table for name, table in tables.items() if name != "student"}
    told = {"student": tables["student"], "baselines": others, "chance_loss": _told_chance(config)}
    write_artefact(folder, "evaluation.json", told, may_leave=False)
    return tables


def _told_chance(config: RunConfig) -> float | None:
    """Chance level of the loss, where clients tell their loss."""
    return chance(config) if config.privacy.mechanism == "none" else None


def sees_pictures(config: RunConfig) -> bool:
    """Whether the teacher takes pictures, as which any target can be shown to it."""
    from edgecmd.data.clients import teacher_of

    return not config.data.reverse or (bool(config.teacher.path) and teacher_of(config).sees_colour)


def teacher_on_target(config: RunConfig) -> "Embed":
    """The teacher applied to the target modality as it is: nothing is trained.

    Depth and sound are shown to it as pictures; grey becomes RGB, and the picture is enlarged to the side
    that the teacher is used to.

    Raises:
        ConfigError: Pairs are reversed, and the teacher takes no pictures.
    """
    import numpy as np
    import torch
    from PIL import Image

    from edgecmd.data.clients import place_features, teacher_of
    from edgecmd.data.look import as_pictures
    from edgecmd.dense.maps import pool_places
    from edgecmd.errors import ConfigError
    from edgecmd.evaluate import unit_rows
    from edgecmd.models.students import is_dense

    if not sees_pictures(config):
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
    from edgecmd.dense.locations import NO_PLACES
    from edgecmd.models.students import is_dense

    without = replace(config, privacy=replace(config.privacy, mechanism="none"))
    if config.privacy.mechanism == "none":
        losses = [
            loss for loss in BASELINES if not (is_dense(config.student.architecture) and loss in NO_PLACES)
        ]
        return {loss: replace(config, distill=replace(config.distill, loss=loss)) for loss in losses}
    baselines = {f"{config.distill.loss} without privacy": without}
    if config.privacy.mechanism in ("anchors", "groups"):
        privacy = replace(config.privacy, mechanism="cosine", ledger_dir="")
        distill = replace(config.distill, loss="cosine")
        baselines["cosine, same epsilon"] = replace(config, privacy=privacy, distill=distill)
    return baselines


def _federated_baseline(config: RunConfig, folder: Path, name: str) -> "Table":
    """One of `federated_baselines`, in a run folder of its own below this one."""
    from edgecmd.assess import assess, embedder
    from server.simulate import simulate

    cross_modal = config.distill.loss != "simclr"
    other = replace(
        config,
        name=name.replace(", ", "-").replace(" ", "-"),
        out=str(folder / "baselines"),
        evaluate=config.evaluate if cross_modal else replace(config.evaluate, every_rounds=0),
    )
    student = simulate(other, report=round_line(other, prefix=f"{name}: "))
    return assess(embedder(student, other), other, cross_modal=cross_modal, student=student)


def scratch_table(config: RunConfig) -> "Table":
    """The supervised baseline for each number of labels, as far as the data has labels."""
    from dataclasses import asdict

    from edgecmd.data.clients import experiment
    from edgecmd.statistics import mean_interval

    if "group" not in experiment(config.data).test.labelled.labels:
        return {}
    counts = config.evaluate.num_labels
    work = [(count, draw) for count in counts for draw in range(config.evaluate.num_draws if count else 1)]
    found = dict(zip(work, _scratch_accuracies(config, work)))
    rows = {}
    for count in counts:
        values = [found[one] for one in work if one[0] == count]
        rows[str(count or "all")] = {"values": values, **asdict(mean_interval(values))}
    return {"few_labels": {"group": {"linear": rows}}}


def segmentation_from_scratch(config: RunConfig) -> "Table":
    """The dense student trained on the few masks alone; empty for other students, or without masks."""
    from edgecmd.dense import tables
    from edgecmd.models.students import is_dense

    if not is_dense(config.student.architecture) or not tables.has_masks(config):
        return {}
    return {"segmentation": tables.scratch_table(config)}


def _scratch_accuracies(config: RunConfig, work: list[tuple[int, int]]) -> list[float]:
    """Accuracy for each (number of labels, draw), by as many processes as the federation may use."""
    from edgecmd.settings import flatten

    jobs = [(dict(flatten(config)), *one) for one in work]
    if config.federation.num_workers == 1:
        return [_scratch_job(job) for job in jobs]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.federation.num_workers, mp_context=spawn) as pool:
        return list(pool.map(_scratch_job, jobs))


def _scratch_job(job: tuple[dict[str, Any], int, int]) -> float:
    from edgecmd.settings import unflatten
    from edgecmd.supervised import scratch_accuracy

    one_thread()
    flat, num_labels, draw = job
    return scratch_accuracy(unflatten(flat), labelling="group", num_labels=num_labels, draw=draw)


def show_results(tables: "dict[str, Table]") -> None:
    """Print the student against the baselines, the best of each column marked."""
    from edgecmd.assess import CLASS_PAIRED, headline

    lines = {name: headline(table) for name, table in tables.items()}
    columns = list(dict.fromkeys(column for line in lines.values() for column in line))
    best = {column: max(line.get(column, -1.0) for line in lines.values()) for column in columns}
    rows = []
    for name, line in lines.items():
        cells = [
            "-" if column not in line else f"{line[column]:.3f}{'*' if line[column] == best[column] else ' '}"
            for column in columns
        ]
        rows.append([name, *cells])
    titles = [column_title(column) for column in columns]
    told = tables["student"]
    print_table(
        f"Unseen {told['unseen']}, {told['kind']} pairs (* best of the column)", ["method", *titles], rows
    )
    if told.get("shared"):
        say(f"Not unseen: {told['shared']}.")
    if told.get("num_things"):
        say(
            f"Copies of a source are one thing to retrieve: {told['num_things']} in {told['num_test']} pairs."
        )
    say(
        "R@k: retrieval of the own picture; probe k, tuned k: linear probe and fine-tuning on groups with k"
        " labels a class; NMI: k-means clusters against the groups, without a label."
    )
    say_segmentation(told)
    if told["kind"] == CLASS_PAIRED:
        say(
            "class-R@1: a picture of the right class is nearest. The pairs were matched by class, so which"
            " picture is the own one says nothing, and the classes went into making the pairs."
        )


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
    """Header of a metric of `edgecmd.assess.headline`."""
    from edgecmd.compare.markdown import title_of

    return title_of(column)
