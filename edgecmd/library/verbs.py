"""Audit and export: the verbs that reach into the rooms beside the method."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecmd.audits.finding import CONTRADICTED, Finding, refuse_contradicted
from edgecmd.library.data import Labelled
from edgecmd.library.results import Distilled, Federated

if TYPE_CHECKING:
    from export.loaded import Bundle

# What a level is called here beside its name in `edgecmd.audits.levels.LEVELS`.
ALSO = {"static": "check"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Findings of an audit.

    Attributes:
        findings: One a claim that was looked at, see `edgecmd.Finding`.
    """

    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        return "\n".join(f"{one.verdict}: {one.text}" for one in self.findings)

    @property
    def contradicted(self) -> tuple[Finding, ...]:
        """Findings that contradict what the run claims."""
        return tuple(one for one in self.findings if one.verdict == CONTRADICTED)

    def raise_if_contradicted(self) -> "Report":
        """The report, where nothing contradicts the claim.

        Raises:
            ContradictedError: Something does; the message has the first contradiction.
        """
        refuse_contradicted(self.findings)
        return self


def audit(result: Federated, *, levels: Sequence[str] = ("static",)) -> Report:
    """Hold a run's claim against the code that made it.

    Args:
        result: Of `edgecmd.federate` with ``out``.
        levels: ``static`` (nothing is trained: purity, sensitivity, ledgers, anchors), ``step`` (noise, coins
            and releases of real steps), ``one-run`` (one training with canaries, as many rounds as fit into
            ninety seconds), ``risk`` (attacks on the student; indicators, never proof).

    Returns:
        What was found; ``audit.json`` of the run folder has it too, and its report where there is one.

    Raises:
        ConfigError: A level is unknown, or the run's folder was thrown away.
    """
    from edgecmd.audits.target import Target
    from edgecmd.experiments import audit_ladder

    folder = result.require_folder()
    target = Target(
        kind="run folder",
        path=folder,
        run=result.run,
        folder=folder,
        plan=result.plan,
        privacy=dict(result.privacy),
    )
    names = [levels] if isinstance(levels, str) else levels
    found = audit_ladder.audit(target, levels=[ALSO.get(name, name) for name in names])
    return Report(findings=tuple(found))


def export(
    student: Distilled,
    folder: str | Path,
    *,
    profiles: Sequence[str] = ("w8",),
    labelled: Labelled | None = None,
    calibration: str = "public",
    min_cosine: float | None = None,
    license: str = "unspecified",  # noqa: A002 - what the file calls it
) -> "Bundle":
    """Export a student as checked ONNX files for a device.

    Args:
        student: Result of `edgecmd.distill` or `edgecmd.federate`.
        folder: Folder of the bundle; an older bundle there is replaced.
        profiles: ``w8``, ``fp32``, ``w4``, ``int8``, ``dyn8``; the first becomes student.onnx.
        labelled: Examples to fit a linear head on, which the file then tells of; None for no head.
        calibration: What int8 takes ranges from: ``public`` pictures, or ``procedural`` ones; never pairs.
        min_cosine: Smallest cosine between torch and ONNX Runtime; None for the profile's own.
        license: Licence of the weights, an SPDX name.

    Returns:
        The bundle, read again as a device reads it.

    Raises:
        ExportError: The exported file does not do what the student does, or what it is made of does not
            export; nothing is left behind.
        ConfigError: A profile is unknown.
    """
    from export.documents.provenance import provenance_of
    from export.from_task import export_student

    source = None
    if isinstance(student, Federated):
        source = replace(provenance_of(student.run), privacy=student.privacy)
    return export_student(
        student.student,
        folder,
        task=student.task,
        examples=None if labelled is None else labelled.classes(),
        profiles=profiles,
        calibration=calibration,
        min_cosine=min_cosine,
        license=license,
        provenance=source,
        seed=student.seed,
    )
