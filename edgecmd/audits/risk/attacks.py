"""Level L4: membership inference and gradient inversion of what a run ships; indicators, never proof."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgecmd.audits.finding import Finding
from edgecmd.audits.levels import Rooms
from edgecmd.audits.risk.candidates import Embed, Pool, make_pool, pair_scores
from edgecmd.audits.risk.findings import Membership, inversion_finding, membership_finding
from edgecmd.audits.risk.inversion import InversionRecipe, Trial, run_trial, server_loss
from edgecmd.audits.risk.membership import Shadows, attack
from edgecmd.audits.risk.retrain import check_retrain, fair_coins, retrain
from edgecmd.audits.risk.shadows import ShadowRecipe, random_student, shadow_scores, warm_start_of
from edgecmd.audits.target import Target, trained_student
from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import DataError, choose
from edgecmd.core.progress import ticker
from edgecmd.evaluation.evaluate import embedder
from edgecmd.models.students import Student

BATCH_SIZES = (1, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskEffort:
    """How much the level does.

    Attributes:
        attacks: Keys of `ATTACKS`.
        num_shadows: Shadow students.
        shadow_steps: Optimiser steps of each.
        jobs: Processes at a time; 0 for one a core.
        num_pairs: Drawings that gradient inversion looks for.
        inversion_steps: Steps of each search.
        seed: Of everything.
        retrain: Whether to train again on a random half and attack that.
        pictures: Whether to keep images of the inversion.
    """

    attacks: Sequence[str] = ("membership", "inversion")
    num_shadows: int = 8
    shadow_steps: int = 160
    jobs: int = 0
    num_pairs: int = 8
    inversion_steps: int = 300
    seed: int = 0
    retrain: bool = False
    pictures: bool = True

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
    chosen = [choose("--attacks", name.strip(), ATTACKS) for name in effort.attacks]
    return [finding for one in chosen for finding in one(target, effort, rooms)]


def membership(target: Target, effort: RiskEffort, rooms: Rooms) -> list[Finding]:
    """Membership inference on every black box of the target, or on a model trained again."""
    started = time.monotonic()
    recipe = ShadowRecipe(num_shadows=effort.num_shadows, num_steps=effort.shadow_steps, seed=effort.seed)
    protocol = "pairs" if effort.retrain else "concepts"
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
        _attacked(name, embed, pool, shadows, target=target, recipe=recipe, protocol=protocol, before=before)
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
    member = fair_coins(len(pool), seed=recipe.seed) if protocol == "pairs" else pool.member
    # Beyond the shadow students' own numbers, so that the control starts like none of them.
    blank = random_student(target.run, pool, seed=recipe.seed, index=recipe.num_shadows)
    start = warm_start_of(target.run)
    controls = [embedder(one, target.run.task) for one in (blank, start) if one is not None]
    curves = [
        attack(pair_scores(box, pool), shadows, member=member, group=pool.group) for box in (embed, *controls)
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
    keep = fair_coins(len(target.run.task.data.train), seed=effort.seed)
    with ticker("Training again") as tick:
        student = retrain(target.run, keep, tick=tick)
    return {"student": embedder(student, target.run.task)}


def inversion(target: Target, effort: RiskEffort, rooms: Rooms) -> list[Finding]:
    """Gradient inversion of steps of one pair and of four."""
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
}
