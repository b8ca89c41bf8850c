"""What is audited: a run folder, a checkpoint, a student's or an exported file, and its claim."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from edgecmd.core.errors import DataError, PrivacyError
from edgecmd.models.student_file import load_student
from edgecmd.models.students import Student
from edgecmd.models.trained_part import train_part
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.secure_sum.terms import Terms
from edgecmd.privacy.secure_sum.updates import num_changed
from edgecmd.privacy.step.private_step import num_summed
from edgecmd.run import Run
from edgecmd.training.averaging import to_arrays

KINDS = ("run folder", "checkpoint", "student", "exported file")
# Pairs of a chunk that is cut, so that a dozen pairs fill several.
FEW_UNITS = 4
IN_A_SUM = (
    "privacy.aggregation='secure-sum' shows nobody a client by itself, and this level watches each client's"
    " round. Use `edgecmd audit step`, which makes secure sums and tests them."
)
CODED = (
    "federation.compression changed what travelled in this run, and a replay of its rounds sends weights as"
    " they are."
)
STATE, WEIGHTS = "state.json", "student.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What an audit looks at.

    Attributes:
        kind: One of `KINDS`.
        path: Folder or file that was named.
        run: The run that it is of.
        folder: Run folder; None for a single file.
        plan: Plan of the run's privacy; None without it.
        privacy: Content of ``privacy.json``; empty where there is none.
    """

    kind: str
    path: Path
    run: Run
    folder: Path | None
    plan: PrivacyPlan | None
    privacy: dict[str, Any]

    @property
    def claimed_epsilon(self) -> float | None:
        """Epsilon that the run claims of what it released; None where it claims nothing."""
        value = self.privacy.get("epsilon") if self.privacy.get("private") else None
        return None if value is None else float(value)

    @property
    def delta(self) -> float:
        """Probability beside epsilon."""
        return float(self.privacy.get("delta", self.run.privacy.delta))

    @property
    def student_file(self) -> Path | None:
        """The student's weights, where they are known."""
        if self.kind in ("student", "checkpoint"):
            return self.path
        path = self.folder / WEIGHTS if self.folder else None
        return path if path is not None and path.exists() else None

    @property
    def onnx_file(self) -> Path | None:
        """The exported file, where there is one."""
        if self.kind == "exported file":
            return self.path
        path = self.folder / "export" / "student.onnx" if self.folder else None
        return path if path is not None and path.exists() else None

    @property
    def record(self) -> Path:
        """Where ``audit.json`` of this target is: in the run folder, else beside the file."""
        return (self.folder or self.path.parent) / "audit.json"

    def about(self) -> dict[str, Any]:
        """What ``audit.json`` says of the target and of the claim, without paths of this machine."""
        return {
            "target": {"kind": self.kind, "name": self.path.name},
            "claim": {
                "epsilon": self.claimed_epsilon,
                "delta": self.delta,
                "unit": self.privacy.get("unit"),
                "relation": self.privacy.get("relation"),
                "mechanism": self.run.privacy.mechanism,
            },
        }


def trained_student(target: Target) -> Student | None:
    """The student whose weights the target has; None where it has none.

    Raises:
        DataError: The file is damaged, or a checkpoint's weights are not those of the run's student.
    """
    if target.student_file is None:
        return None
    if target.kind != "checkpoint":
        found = load_student(target.student_file, like=target.run.student.architecture)
        train_part(found, target.run.trainable)
        return found
    student = target.run.new_student()
    try:
        student.load_state_dict(load(target.student_file.read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(
            f"{target.path} does not hold weights of"
            f" student.architecture={target.run.student.architecture!r} ({error}). Give another file."
        ) from error
    return student.eval()


def student_of(target: Target) -> Student:
    """The target's student, or a new one where it has none yet."""
    return trained_student(target) or target.run.new_student()


def plan_of(target: Target) -> PrivacyPlan:
    """The plan of a target.

    Raises:
        PrivacyError: It has none, so there is no noise to measure.
    """
    if target.plan is None:
        raise PrivacyError(
            "privacy.mechanism='none' adds no noise, so there is no step to audit. Audit what the run leaks"
            " with `edgecmd audit one-run` or `edgecmd audit risk`, or train with"
            " privacy.mechanism=anchors."
        )
    return target.plan


def terms_for(plan: PrivacyPlan, summed: nn.Module) -> Terms:
    """Terms of a round of a plan's secure sum, for the vectors of this student or these moments."""
    assert plan.sum_plan is not None
    fixed: frozenset[str] = getattr(summed, "fixed", frozenset())
    dim = num_summed(summed) if plan.unit == "pair" else num_changed(to_arrays(summed), fixed=fixed)
    return plan.sum_plan.terms(run="", round_index=1, dim=dim, noise_std=plan.noise_std)


def cut_chunks(plan: PrivacyPlan, pairs: int = FEW_UNITS) -> PrivacyPlan:
    """The plan with chunks of ``pairs`` pairs at most, which changes nothing that it promises."""
    return replace(plan, chunk_size=min(plan.chunk_size, pairs * plan.num_views))
