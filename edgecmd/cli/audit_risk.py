"""``edgecmd audit risk``: level L4, membership inference and gradient inversion; indicators, never proof."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.audit import TargetPath, audit_app, finish, target_of
from edgecmd.cli.common import AsJson, ConfigFile, Settings, one_thread
from edgecmd.experiments.bench.ticker import ticker

if TYPE_CHECKING:
    from edgecmd.audits.finding import Finding
    from edgecmd.audits.risk.candidates import Pool
    from edgecmd.audits.risk.inversion_trial import Trial
    from edgecmd.audits.risk.membership_attack import Shadows
    from edgecmd.audits.risk.shadows import ShadowRecipe
    from edgecmd.audits.target import Target
    from edgecmd.evaluation.evaluate import Embed
    from edgecmd.models.students import Student

BATCH_SIZES = (1, 4)
NUM_SHADOWS, SHADOW_STEPS = 8, 160
NUM_PAIRS, INVERSION_STEPS = 8, 300


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskOptions:
    """Effort of the level.

    Attributes:
        num_shadows: Shadow students.
        shadow_steps: Optimiser steps of each.
        jobs: Processes at a time; 0 for one a core.
        num_pairs: Drawings that gradient inversion looks for.
        inversion_steps: Steps of each search.
        seed: Of everything.
        retrain: Whether to train again on a random half and attack that.
        pictures: Whether to keep pictures of the inversion.
    """

    num_shadows: int = NUM_SHADOWS
    shadow_steps: int = SHADOW_STEPS
    jobs: int = 0
    num_pairs: int = NUM_PAIRS
    inversion_steps: int = INVERSION_STEPS
    seed: int = 0
    retrain: bool = False
    pictures: bool = True

    @property
    def num_jobs(self) -> int:
        """Processes at a time."""
        return self.jobs or os.cpu_count() or 1


@audit_app.command("risk")
def risk(  # noqa: PLR0917 - the words of a command line
    target: TargetPath,
    attacks: Annotated[
        str, typer.Option("--attacks", help="Comma separated: membership, inversion.")
    ] = "membership,inversion",
    shadows: Annotated[
        int, typer.Option("--shadows", min=4, help="Shadow students, an even number.")
    ] = NUM_SHADOWS,
    shadow_steps: Annotated[
        int, typer.Option("--shadow-steps", min=1, help="Optimiser steps of each shadow student.")
    ] = SHADOW_STEPS,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Processes at a time; 0: one a core.")] = 0,
    pairs: Annotated[
        int, typer.Option("--pairs", min=2, help="Drawings that gradient inversion looks for.")
    ] = NUM_PAIRS,
    steps: Annotated[
        int, typer.Option("--inversion-steps", min=1, help="Steps of each search of the inversion.")
    ] = INVERSION_STEPS,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of shadow students and searches.")] = 0,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="Train again on a random half of the pairs and attack that: slower."),
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Keep pictures; they show private drawings.")
    ] = True,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Level L4: who was a member, told from the student or the exported file; drawings from gradients."""
    one_thread()
    found = target_of(target, config, settings)
    options = RiskOptions(
        num_shadows=shadows,
        shadow_steps=shadow_steps,
        jobs=jobs,
        num_pairs=pairs,
        inversion_steps=steps,
        seed=seed,
        retrain=retrain,
        pictures=pictures,
    )
    finish(found, run_attacks(found, attacks.split(","), options), as_json=as_json)


def audit(target: "Target") -> "list[Finding]":
    """The level with its usual effort."""
    return run_attacks(target, list(ATTACKS), RiskOptions())


def run_attacks(target: "Target", names: list[str], options: RiskOptions) -> "list[Finding]":
    """Findings of the named attacks.

    Raises:
        ConfigError: A name or a number of the options is not allowed.
        DataError: The target holds neither a student nor an exported file.
    """
    from edgecmd.core.errors import choose

    chosen = [choose("--attacks", name.strip(), ATTACKS) for name in names]
    return [finding for attack in chosen for finding in attack(target, options)]


def membership(target: "Target", options: RiskOptions) -> "list[Finding]":
    """Membership inference on every black box of the target, or on a model trained again."""
    from edgecmd.audits.risk.candidates import make_pool
    from edgecmd.audits.risk.shadows import ShadowRecipe, shadow_scores

    started = time.monotonic()
    recipe = ShadowRecipe(num_shadows=options.num_shadows, num_steps=options.shadow_steps, seed=options.seed)
    protocol = "pairs" if options.retrain else "concepts"
    boxes = _retrained(target, options) if options.retrain else black_boxes(target)
    pool = make_pool(protocol, target.run)
    with ticker("Shadow students") as tick:
        shadows = shadow_scores(
            target.run,
            protocol,
            recipe,
            jobs=options.num_jobs,
            folder=target.record.parent / "audit",
            tick=tick,
        )
    before = time.monotonic() - started
    return [
        _attacked(name, embed, pool, shadows, target=target, recipe=recipe, protocol=protocol, before=before)
        for name, embed in boxes.items()
    ]


def _attacked(
    name: str,
    embed: "Embed",
    pool: "Pool",
    shadows: "Shadows",
    *,
    target: "Target",
    recipe: "ShadowRecipe",
    protocol: str,
    before: float,
) -> "Finding":
    from edgecmd.audits.risk.candidates import pair_scores
    from edgecmd.audits.risk.findings import Membership, membership_finding
    from edgecmd.audits.risk.membership_attack import attack
    from edgecmd.audits.risk.retrain import fair_coins
    from edgecmd.audits.risk.shadows import random_student, warm_start_of
    from edgecmd.evaluation.evaluate import embedder

    started = time.monotonic()
    member = fair_coins(len(pool), seed=recipe.seed) if protocol == "pairs" else pool.member
    # Beyond the shadow students' own numbers, so that the control starts like none of them.
    blank = random_student(target.run, pool, seed=recipe.seed, index=recipe.num_shadows)
    start = warm_start_of(target.run)
    curves = [
        attack(pair_scores(box, pool), shadows, member=member, group=pool.group)
        for box in (
            embed,
            *(embedder(one, target.run.task) for one in (blank, start) if one is not None),
        )
    ]
    found = Membership(
        box=name,
        protocol=protocol,
        curves=curves[0],
        control=curves[1],
        start=curves[2] if start is not None else {},
        num_members=int(member.sum()),
        num_others=int((~member).sum()),
        seconds=before + time.monotonic() - started,
    )
    return membership_finding(found, recipe)


def black_boxes(target: "Target") -> "dict[str, Embed]":
    """What a thief holds, by name: uint8 drawings in, unit embeddings out.

    Raises:
        DataError: There is neither a student nor an exported file.
    """
    from edgecmd.audits.target import trained_student
    from edgecmd.core.errors import DataError
    from edgecmd.evaluation.evaluate import embedder

    boxes: dict[str, Embed] = {}
    trained = trained_student(target) if target.kind != "exported file" else None
    if trained is not None:
        boxes["student"] = embedder(trained, target.run.task)
    if target.kind not in ("student", "checkpoint") and target.onnx_file is not None:
        boxes["exported file"] = onnx_embedder(target.onnx_file)
    if not boxes:
        raise DataError(
            f"{target.path} holds neither student.safetensors nor export/student.onnx. Finish the run with"
            f" `edgecmd resume {target.path}`."
        )
    return boxes


def onnx_embedder(path: Path) -> "Embed":
    """The exported file through onnxruntime alone, as on a device.

    Raises:
        ExportError: It is not a file that edgecmd exported.
    """
    import numpy as np

    from edgecmd.core.errors import ExportError
    from edgecmd.evaluation.metrics import unit_rows
    from export.device.infer import Student
    from export.device.reading import InferError
    from export.trust.gate import gate_file

    gate_file(path)
    try:
        student = Student(path)
    except InferError as error:
        raise ExportError(str(error)) from error

    def embed(images: np.ndarray) -> np.ndarray:
        parts = range(0, len(images), 256)
        return unit_rows(np.concatenate([student(images[start : start + 256]).embedding for start in parts]))

    return embed


def _retrained(target: "Target", options: RiskOptions) -> "dict[str, Embed]":
    """A student of the same settings, trained on the pairs that fair coins chose."""
    from edgecmd.audits.risk.retrain import check_retrain, fair_coins, retrain
    from edgecmd.evaluation.evaluate import embedder

    check_retrain(target.run)
    keep = fair_coins(len(target.run.task.data.train), seed=options.seed)
    with ticker("Training again") as tick:
        student = retrain(target.run, keep, tick=tick)
    return {"student": embedder(student, target.run.task)}


def inversion(target: "Target", options: RiskOptions) -> "list[Finding]":
    """Gradient inversion of steps of one pair and of four."""
    from dataclasses import replace

    from edgecmd.audits.risk.findings import inversion_finding
    from edgecmd.audits.risk.inversion import InversionRecipe, server_loss
    from edgecmd.audits.risk.inversion_trial import run_trial

    recipe = InversionRecipe(num_steps=options.inversion_steps, seed=options.seed)
    student, box = _weights(target)
    private = target.plan is not None and target.plan.unit == "pair"
    findings = []
    for batch_size in BATCH_SIZES:
        started = time.monotonic()
        with ticker(f"Gradient inversion, {batch_size} a step") as tick:
            trial = run_trial(
                target.run,
                student,
                batch_size=batch_size,
                num_pairs=options.num_pairs,
                recipe=recipe,
                jobs=options.num_jobs,
                tick=tick,
            )
        _keep_pictures(target, trial, keep=options.pictures)
        loss = server_loss(target.run.distill.loss)
        finding = inversion_finding(trial, recipe, loss=loss, private=private, box=box)
        findings.append(replace(finding, seconds=time.monotonic() - started))
    return findings


def _weights(target: "Target") -> "tuple[Student, str]":
    """Weights that the attacked round began with, and what they are in words."""
    from edgecmd.audits.target import trained_student

    trained = trained_student(target)
    if trained is not None:
        return (
            trained,
            "at the weights of the checkpoint"
            if target.kind == "checkpoint"
            else "at the weights of the finished student",
        )
    return target.run.new_student().cpu(), "at the first weights of the run"


def _keep_pictures(target: "Target", trial: "Trial", *, keep: bool) -> None:
    """Write the sheet of a trial, or take away that of an earlier audit."""
    from edgecmd.core.artefacts import write_artefact
    from edgecmd.report.pictures import inversion_sheet

    folder, name = target.record.parent, f"audit/inversion-{trial.batch_size}.png"
    if not keep:
        (folder / name).unlink(missing_ok=True)
        return
    rows = {
        "true drawing (private)": trial.truth,
        "from the plain update": trial.plain,
        f"from the update with epsilon {trial.plan.epsilon:g}": trial.private,
        "most alike of 100 other drawings": trial.other,
    }
    write_artefact(folder, name, inversion_sheet(rows), may_leave=False)


ATTACKS: "dict[str, Callable[[Target, RiskOptions], list[Finding]]]" = {
    "membership": membership,
    "inversion": inversion,
}
