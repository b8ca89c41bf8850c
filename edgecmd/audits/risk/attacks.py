"""Level L4: membership inference and gradient inversion of what a run ships; indicators, never proof."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from edgecmd.audits.finding import Finding
from edgecmd.audits.levels import Rooms
from edgecmd.audits.risk.blind import blind_scores
from edgecmd.audits.risk.candidates import Embed, Pool, coins, make_pool, pair_scores
from edgecmd.audits.risk.findings import (
    Membership,
    inversion_finding,
    membership_finding,
    secrets_finding,
)
from edgecmd.audits.risk.inversion import InversionRecipe, Trial, run_trial, server_loss
from edgecmd.audits.risk.membership import Shadows, attack, curve
from edgecmd.audits.risk.retrain import check_retrain, retrain
from edgecmd.audits.risk.secrets import SecretRecipe, plant, secrets_folder, told
from edgecmd.audits.risk.shadows import ShadowRecipe, random_student, shadow_scores, warm_start_of
from edgecmd.audits.target import Target, trained_student
from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import ConfigError, DataError, choose
from edgecmd.core.progress import ticker
from edgecmd.data.modalities.table import modality_of
from edgecmd.evaluation.evaluate import embedder
from edgecmd.models.students import Student
from edgecmd.run import Run

BATCH_SIZES = (1, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskEffort:
    """How much the level does.

    Attributes:
        attacks: Keys of `ATTACKS`; none: `usual_attacks`.
        num_shadows: Shadow students.
        shadow_steps: Optimiser steps of each.
        jobs: Processes at a time; 0 for one a core.
        num_pairs: Drawings that gradient inversion looks for.
        inversion_steps: Steps of each search.
        seed: Of everything.
        retrain: Whether to train again on a random half and attack that.
        pictures: Whether to keep images of the inversion.
        secrets: What the attack ``secrets`` plants.
    """

    attacks: Sequence[str] = ()
    num_shadows: int = 8
    shadow_steps: int = 160
    jobs: int = 0
    num_pairs: int = 8
    inversion_steps: int = 300
    seed: int = 0
    retrain: bool = False
    pictures: bool = True
    secrets: SecretRecipe = field(default_factory=SecretRecipe)

    @property
    def num_jobs(self) -> int:
        """Processes at a time."""
        return self.jobs or os.cpu_count() or 1


def audit_risk(target: Target, effort: RiskEffort | None = None, *, rooms: Rooms) -> list[Finding]:
    """Findings of the attacks.

    Args:
        target: What is attacked.
        effort: Which attacks, and how hard; None for the usual effort.
        rooms: Opens the exported file, and draws what was recovered.

    Raises:
        ConfigError: A name or a number of the effort is not allowed.
        DataError: The target holds neither a student nor an exported file.
    """
    effort = effort or RiskEffort()
    names = [name.strip() for name in effort.attacks] or usual_attacks(target.run)
    chosen = [choose("--attacks", name, ATTACKS) for name in names]
    return [finding for one in chosen for finding in one(target, effort, rooms)]


def usual_attacks(run: Run) -> list[str]:
    """Membership, and inversion of what a search can move a little; secrets train the run again."""
    smooth = modality_of(run.task.data.train.target).is_smooth
    return ["membership", "inversion"] if smooth else ["membership"]


def membership(target: Target, effort: RiskEffort, rooms: Rooms) -> list[Finding]:
    """Membership inference on every black box of the target, or on a model trained again."""
    started = time.monotonic()
    recipe = ShadowRecipe(num_shadows=effort.num_shadows, num_steps=effort.shadow_steps, seed=effort.seed)
    protocol = "pairs" if effort.retrain else "concepts"
    data = target.run.task.data
    of_split = "targets" if data.unseen == modality_of(data.train.target).nouns else protocol
    boxes = _retrained(target, effort) if effort.retrain else black_boxes(target, rooms)
    pool = make_pool(protocol, target.run)
    with ticker("Shadow students") as tick:
        shadows = shadow_scores(
            target.run,
            protocol,
            recipe,
            jobs=effort.num_jobs,
            folder=target.record.parent / "audit",
            tick=tick,
        )
    before = time.monotonic() - started
    return [
        _attacked(
            name,
            embed,
            pool,
            shadows,
            target=target,
            recipe=recipe,
            protocol=protocol if effort.retrain else of_split,
            before=before,
        )
        for name, embed in boxes.items()
    ]


def _attacked(
    name: str,
    embed: Embed,
    pool: Pool,
    shadows: Shadows,
    *,
    target: Target,
    recipe: ShadowRecipe,
    protocol: str,
    before: float,
) -> Finding:
    started = time.monotonic()
    if protocol == "pairs":
        member = coins(target.run.task.data, seed=recipe.seed)[pool.rows]
        pool = replace(pool, member=member)
    # Beyond the shadow students' own numbers, so that the control starts like none of them.
    blank = random_student(target.run, pool, seed=recipe.seed, index=recipe.num_shadows)
    start = warm_start_of(target.run)
    controls = [embedder(one, target.run.task) for one in (blank, start) if one is not None]
    curves = [
        attack(pair_scores(box, pool), shadows, member=pool.member, group=pool.group)
        for box in (embed, *controls)
    ]
    blind = blind_scores(pool, seed=recipe.seed)
    found = Membership(
        box=name,
        protocol=protocol,
        curves=curves[0],
        control=curves[1],
        start=curves[2] if start is not None else {},
        blind=None if blind is None else curve(blind, pool.member, group=pool.group),
        num_members=int(pool.member.sum()),
        num_others=int((~pool.member).sum()),
        seconds=before + time.monotonic() - started,
    )
    return membership_finding(found, recipe)


def black_boxes(target: Target, rooms: Rooms) -> dict[str, Embed]:
    """What a thief holds, by name: uint8 drawings in, unit embeddings out.

    Raises:
        DataError: There is neither a student nor an exported file.
    """
    boxes: dict[str, Embed] = {}
    trained = trained_student(target) if target.kind != "exported file" else None
    if trained is not None:
        boxes["student"] = embedder(trained, target.run.task)
    if target.kind not in ("student", "checkpoint") and target.onnx_file is not None:
        boxes["exported file"] = rooms.open_exported(target.onnx_file)
    if not boxes:
        raise DataError(
            f"{target.path} has neither student.safetensors nor export/student.onnx. Finish the run with"
            f" `edgecmd resume {target.path}`."
        )
    return boxes


def _retrained(target: Target, effort: RiskEffort) -> dict[str, Embed]:
    """A student of the same settings, trained on the pairs that fair coins chose."""
    check_retrain(target.run)
    keep = coins(target.run.task.data, seed=effort.seed)
    with ticker("Training again") as tick:
        student = retrain(target.run, keep, tick=tick)
    return {"student": embedder(student, target.run.task)}


def secrets(target: Target, effort: RiskEffort, rooms: Rooms) -> list[Finding]:
    """The run again with secrets among its pairs, and what its exported file tells of them.

    Beside it stands the target's own file, which never saw them: what that tells is not of the run.
    """
    started, recipe, run = time.monotonic(), effort.secrets, target.run
    boxes = black_boxes(target, rooms)
    reference = boxes.get("exported file") or boxes["student"]
    folder = secrets_folder(run, recipe, among=target.record.parent / "audit")
    planted = plant(run, recipe, folder=folder)
    with ticker("Training with secrets"):
        student = rooms.train_again(planted.run)
    embed = rooms.open_exported(rooms.export(student, planted.run.task, folder / "export"))
    found, seconds = told(embed, reference, planted), time.monotonic() - started
    return [secrets_finding(replace(one, seconds=seconds), recipe, target.plan) for one in found]


def inversion(target: Target, effort: RiskEffort, rooms: Rooms) -> list[Finding]:
    """Gradient inversion of steps of one pair and of four.

    Raises:
        ConfigError: The targets are strings, which no gradient moves a little.
    """
    modality = modality_of(target.run.task.data.train.target)
    if not modality.is_smooth:
        raise ConfigError(
            f"--attacks=inversion moves pixels by small steps, and the targets are {modality.nouns}. Leave it"
            " out."
        )
    recipe = InversionRecipe(num_steps=effort.inversion_steps, seed=effort.seed)
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
                num_pairs=effort.num_pairs,
                recipe=recipe,
                jobs=effort.num_jobs,
                tick=tick,
            )
        _keep_pictures(target, trial, rooms if effort.pictures else None)
        loss = server_loss(target.run.distill.loss)
        finding = inversion_finding(trial, recipe, loss=loss, private=private, box=box)
        findings.append(replace(finding, seconds=time.monotonic() - started))
    return findings


def _weights(target: Target) -> tuple[Student, str]:
    """Weights that the attacked round began with, and what they are in words."""
    trained = trained_student(target)
    if trained is None:
        return target.run.new_student().cpu(), "at the first weights of the run"
    kind = "checkpoint" if target.kind == "checkpoint" else "finished student"
    return trained, f"at the weights of the {kind}"


def _keep_pictures(target: Target, trial: Trial, rooms: Rooms | None) -> None:
    """Write the sheet of a trial, or take away that of an earlier audit."""
    folder, name = target.record.parent, f"audit/inversion-{trial.batch_size}.png"
    if rooms is None:
        (folder / name).unlink(missing_ok=True)
        return
    rows = {
        "true drawing (private)": trial.truth,
        "from the plain update": trial.plain,
        f"from the update with epsilon {trial.plan.epsilon:g}": trial.private,
        "most similar of 100 other drawings": trial.other,
    }
    write_artefact(folder, name, rooms.inversion_sheet(rows), may_leave=False)


ATTACKS: dict[str, Callable[[Target, RiskEffort, Rooms], list[Finding]]] = {
    "membership": membership,
    "inversion": inversion,
    "secrets": secrets,
}
