"""What a run would do, shown before it starts: data, clients, student, privacy, and warnings."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgecmd.audits.target import terms_for
from edgecmd.config.assemble import Assembly, run_folder
from edgecmd.config.reader import flatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.text import counted
from edgecmd.data.partition import label_skew, partition_table
from edgecmd.experiments.resources import needs, needs_rows
from edgecmd.experiments.run_checks import notes_in_short, refuse
from edgecmd.experiments.teacher_facts import teacher_text, teacher_warnings
from edgecmd.models.batch_norm import KEEP
from edgecmd.models.devices import SLOW_BF16, has_bf16
from edgecmd.models.students import Student, num_parameters, student_row
from edgecmd.models.trained_part import ALL, TRAINABLE
from edgecmd.privacy.plan import RENYI
from edgecmd.privacy.secure_sum.sum_plan import SumPlan
from edgecmd.privacy.statement import WARNINGS
from edgecmd.privacy.step.moments import summed_module
from edgecmd.run import Run
from edgecmd.settings import StudentConfig
from edgecmd.training.stacked import is_small, require_at_once

MISFIT = 2.0
# Of networks from elsewhere, by what the plan calls them.
STUDENT_FACTS = {"first_weights": "first weights", "batch_norm": "batch normalisation", "trained": "trained"}


def chance(run: Run) -> float | None:
    """Loss of an uninformative student, weighted by pairs as the round's loss is; None where none is told.

    A client with fewer pairs than a batch has smaller batches and therefore a lower level.
    """
    num_anchors, total, weighted = len(run.anchors), 0, 0.0
    places = run.task.num_places(run.distill)
    for size in map(len, run.parts):
        batch_size = min(run.distill.batch_size, size) * places
        level = run.loss.chance_level(batch_size=batch_size, num_anchors=num_anchors)
        if level is None:
            return None
        total, weighted = total + size, weighted + size * level
    return weighted / total


def plan_facts(config: RunConfig, assembly: Assembly) -> dict[str, Any]:
    """The plan as plain values; nothing is run.

    Raises:
        EdgecmdError: A setting, the data or the plan of privacy is refused.
    """
    refuse(config, assembly)
    run = assembly.run(config)
    whole, parts = run.task.data, run.parts
    student, federation = run.new_student(), run.federation
    if federation.clients_at_once > 1:
        shape, num = run.task.input_shape, federation.clients_at_once
        require_at_once(student, run.loss, shape=shape, num=num)
    if run.sum_plan is not None and run.plan is not None:
        # What a sum cannot hold is told here, and not by the first round.
        terms_for(run.plan, summed_module(run.plan, student))
    payload = sum(tensor.numel() * tensor.element_size() for tensor in student.state_dict().values())
    wire = run.wire(student)
    asked = federation.answers_a_round
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
        "teacher": teacher_text(run.task, config.teacher),
        "student": {
            "architecture": config.student.architecture,
            "parameters": num_parameters(student),
            **_student_facts(student, config.student),
        },
        "loss": {"name": config.distill.loss, "chance": chance(run)},
        "rounds": {
            "num": federation.num_rounds,
            "local_steps": federation.local_steps,
            "steps": federation.num_rounds * federation.local_steps,
        },
        "bytes_a_round": (2 * payload if wire is None else sum(wire.num_bytes)) * asked,
        "needs": needs(run, student),
        "warnings": teacher_warnings(run.task, config.teacher),
        "notes": notes_in_short(run.task, config.data),
    }


def _student_facts(student: Student, named: StudentConfig) -> dict[str, str]:
    """First weights that are not random, what became of batch normalisation, and what alone is trained."""
    found, facts = student.first_weights, dict[str, str]()
    if found is not None:
        facts["first_weights"] = f"{found.path.name}, {found.sentence()}"
    shipped = student_row(student.architecture).weights_of
    if shipped and not named.path:
        facts["first_weights"] = f"of the teacher {shipped}, all but the projector's"
    if student.trainable != ALL:
        num = sum(value.numel() for value in student.parameters())
        facts["trained"] = f"{TRAINABLE[student.trainable]}, {counted(num, 'parameter')}"
    if student.batch_norm != KEEP:
        facts["batch_norm"] = student.batch_norm
    return facts


def plan_rows(facts: Mapping[str, Any], run: Run) -> list[list[str]]:
    """Rows of (what, value) of a plan for a person.

    Args:
        facts: Of `plan_facts`.
        run: The run that it is of.
    """
    data, clients, rounds = facts["data"], facts["clients"], facts["rounds"]
    level, payload = facts["loss"]["chance"], facts["bytes_a_round"]
    pairs = f"{counted(data['train_pairs'], 'training pair')}, {counted(data['test_pairs'], 'test pair')}"
    public, steps = facts["public"], counted(rounds["local_steps"], "local step")
    return [
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
        *([what, facts["student"][key]] for key, what in STUDENT_FACTS.items() if key in facts["student"]),
        ["loss", facts["loss"]["name"] + (f", chance level {level:.2f}" if level is not None else "")],
        *precision_rows(run),
        *at_once_rows(run),
        ["rounds", f"{rounds['num']} of {steps} = {counted(rounds['steps'], 'step')}"],
        ["bytes a round", f"{payload / 1e6:.1f} MB ({counted(clients['asked'], 'client')}, both ways)"],
        *needs_rows(facts["needs"]),
        *privacy_rows(run, clients["pairs"]),
    ]


def precision_rows(run: Run) -> list[list[str]]:
    """The precision of training where it is not float32, and whether the device is slow at it."""
    named = run.distill.precision
    if named == "float32":
        return []
    return [["precision", named if has_bf16(run.device) else f"{named}: {SLOW_BF16}"]]


def at_once_rows(run: Run) -> list[list[str]]:
    """How many clients train in one call, and for how many that pays; none where they train one by one."""
    most, size = run.federation.clients_at_once, run.distill.batch_size
    if most == 1:
        return []
    shape, num_views = run.task.input_shape, run.loss.num_views
    small = sum(is_small(min(size, len(part)), shape, num_views=num_views) for part in run.parts)
    return [["clients at once", f"up to {most}; the steps of {small} of {len(run.parts)} are small enough"]]


def dry_run(config: RunConfig, assembly: Assembly) -> dict[str, Any]:
    """The plan, the partition and all settings as one document of plain values."""
    facts, run = plan_facts(config, assembly), assembly.run(config)
    told = [{"what": what, "value": value} for what, value in privacy_rows(run, facts["clients"]["pairs"])]
    return {
        "name": config.name,
        "folder": str(run_folder(config)),
        **facts,
        "privacy": told,
        "partition": partition_table(run.parts, run.task.data.train_labels),
        "settings": flatten(config),
    }


def partition_rows(run: Run) -> list[list[str]]:
    """A row per client: its number, pairs, classes, and the most frequent class with its share."""
    rows = []
    for row in partition_table(run.parts, run.task.data.train_labels):
        largest = max(row["classes"], key=lambda name: row["classes"][name])
        share = f"{largest} {row['largest_share']:.2f}"
        rows.append([str(row["client"]), str(row["pairs"]), str(len(row["classes"])), share])
    return rows


def privacy_rows(run: Run, sizes: Sequence[int]) -> list[list[str]]:
    """The privacy part of a plan, rows of (what, value).

    Args:
        run: The run.
        sizes: Pairs of each simulated client.
    """
    plan = run.plan
    if plan is None:
        return [["privacy", "no differential privacy"]]
    total = plan.epsilon_after(plan.num_rounds)
    kind = run.task.anchors_fingerprint(run.distill, seed=run.seed)
    promise = (
        f"epsilon {total:.3g} of {plan.epsilon:g}, delta {plan.delta:g}, after"
        f" {counted(plan.num_rounds, 'round')}"
    )
    if not plan.private:
        promise = WARNINGS["deterministic" if plan.deterministic else "projected"]
    rows = [
        ["privacy", promise],
        ["unit, relation", f"{plan.unit}; {plan.relation}"],
        ["mechanism", f"{plan.mechanism}: {plan.statement}"],
        ["sampler", f"{plan.sampler}; rate {plan.sampling_rate:g}"],
        ["clip, sensitivity", f"{plan.clip:g}, {plan.sensitivity:g}"],
        [
            "noise",
            f"multiplier {plan.noise_multiplier:.4g}; standard deviation"
            f" {plan.noise_std / plan.normaliser:.3g} on each coordinate of a mean gradient or update",
        ],
        [
            "accountant",
            f"{plan.accountant if plan.sum_plan is None else RENYI};"
            f" {counted(plan.round_spending().count, 'release')} a round",
        ],
        ["anchors", f"{kind['num']} {kind['kind']} ({str(kind['sha256'])[:12]})"],
    ]
    if plan.sum_plan is not None:
        rows.append(["secure sum", _told(plan.sum_plan)])
    if plan.unit == "pair":
        rows.append(["pairs a step", _expected(plan.sampling_rate, float(plan.batch_size), sizes)])
        if plan.delta * max(sizes) >= 1:
            rows.append(["warning", f"delta {plan.delta:g} is not below 1 / {counted(max(sizes), 'pair')}"])
    return rows


def _told(plan: SumPlan) -> str:
    return (
        f"{plan.survivors} of {plan.cohort} clients or more, {plan.colluding} may work with the server;"
        f" {plan.honest} share the noise"
    )


def _expected(rate: float, normaliser: float, sizes: Sequence[int]) -> str:
    low, high = rate * min(sizes), rate * max(sizes)
    text = f"{low:.0f} to {high:.0f} expected, divided by {normaliser:g}"
    if high > MISFIT * normaliser or low * MISFIT < normaliser:
        text += f"; set distill.batch_size to about {rate * sum(sizes) / len(sizes):.0f}"
    return text
