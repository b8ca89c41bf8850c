"""``--fold-norm``: GroupNorm folded away before the export, and the task metric measured again.

Shapes: N images.
"""

from dataclasses import dataclass

from edgecmd.core.errors import ExportError
from edgecmd.data.pairs import Targets
from edgecmd.models.students import Student
from export.graph.deployable import Deployable, rebuild
from export.graph.fold_norm import Sampler, fold_norm, folded_architecture
from export.graph.spec import ExportSpec
from export.trust.verify import TaskMetric, run_torch

# Points of the task metric that folding may cost where no floor is given.
MAX_LOSS = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Folding:
    """What folding changed, for report and card.

    Attributes:
        original: Architecture that was trained.
        architecture: Architecture that is exported.
        inputs: What the recovery looked at.
        num_steps: Optimiser steps of the recovery.
        cosine_before: Mean cosine to the original's embedding on public inputs, before the recovery.
        cosine: The same after it.
        metric_name: Name of the task metric.
        metric_original: Of the student that was trained.
        metric: Of the folded one.
    """

    original: str
    architecture: str
    inputs: str
    num_steps: int
    cosine_before: float
    cosine: float
    metric_name: str
    metric_original: float
    metric: float


def fold_for_export(
    student: Student, spec: ExportSpec, *, sampler: Sampler, num_steps: int, images: Targets, task: TaskMetric
) -> tuple[Student, Folding]:
    """Fold, recover on public inputs, and measure both students.

    Args:
        student: A ``gn-*`` student; not changed.
        spec: What is known of it; its head is not used.
        sampler: Public inputs.
        num_steps: Of the recovery; 0 for calibration alone.
        images: Held-out inputs (N, S, S, C), for measuring alone.
        task: What the student is for.

    Returns:
        The folded student, and what changed.

    Guarantees:
        No weight depends on ``images``.

    Raises:
        ExportError: The student has no GroupNorm, or the result is not finite.
    """
    folded_architecture(spec.architecture)
    original = rebuild(student, spec)
    folded = fold_norm(original, spec.architecture, sampler=sampler, num_steps=num_steps)

    def measure(one: Student) -> float:
        return float(task.metric(run_torch(Deployable(one, spec).eval(), images).embedding))

    told = Folding(
        original=spec.architecture,
        architecture=folded.architecture,
        inputs="public source pictures, reduced to outlines and tones; no private pair",
        num_steps=num_steps,
        cosine_before=folded.cosine_before,
        cosine=folded.cosine,
        metric_name=task.name,
        metric_original=measure(original),
        metric=measure(folded.student),
    )
    return folded.student, told


def refuse_loss(folding: Folding, *, floor: float | None) -> None:
    """Refuse a folding that costs too much of the task metric.

    Args:
        folding: What was measured.
        floor: Least metric; None to compare with the original instead.

    Raises:
        ExportError: The folded student is below ``floor``, or without one more than a point below the
            student that was trained.
    """
    least = folding.metric_original - MAX_LOSS if floor is None else floor
    if not folding.metric >= least:
        limit = f"at most {MAX_LOSS:g} less is allowed" if floor is None else f"the floor is {floor:g}"
        raise ExportError(
            f"{folding.metric_name} is {folding.metric_original:.4f} with GroupNorm and {folding.metric:.4f}"
            f" after folding it away and {folding.num_steps} steps of recovery; {limit}. Raise --fold-steps,"
            " set --floor to an acceptable value, or export without --fold-norm."
        )
