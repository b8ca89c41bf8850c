"""`audit` and `export`: the functions that use the packages beside edgecmd."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from edgecmd.arguments import refuse_outside
from edgecmd.audits.finding import CONTRADICTED, Finding, refuse_contradicted
from edgecmd.core.errors import ConfigError
from edgecmd.core.files import named_path
from edgecmd.library.data import Labelled
from edgecmd.library.results import Distilled, Federated, origin_of
from edgecmd.library.task import Task

if TYPE_CHECKING:
    from export.loaded import Bundle

# What a level is called here beside its name in `edgecmd.audits.levels.LEVELS`.
ALSO = {"static": "check"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Findings of an audit.

    Attributes:
        findings: One per claim that was tested, see `edgecmd.Finding`.
    """

    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        return "\n".join(f"{one.verdict}: {one.text}" for one in self.findings)

    @property
    def contradicted(self) -> tuple[Finding, ...]:
        """Findings that contradict what the run claims."""
        return tuple(one for one in self.findings if one.verdict == CONTRADICTED)

    def raise_if_contradicted(self) -> "Report":
        """Return the report if nothing contradicts the claim.

        Raises:
            ContradictedError: Something does; the message gives the first contradiction.
        """
        refuse_contradicted(self.findings)
        return self


def audit(result: Federated, *, levels: Sequence[str] = ("static",)) -> Report:
    """Test a run's privacy claim against the code that made it.

    Args:
        result: From `edgecmd.federate` with ``out``.
        levels: ``static`` (nothing is trained: purity, sensitivity, ledgers, anchors), ``step`` (noise, coins
            and releases of real steps), ``one-run`` (one training run with canaries, as many rounds as fit
            into ninety seconds), ``risk`` (attacks on the student; indicators, never proof).

    Returns:
        The findings, which are also written to ``audit.json`` in the run folder, and to its report if any.

    Raises:
        ConfigError: A level is unknown or needs a run with privacy, or the run's folder was temporary.
    """
    from edgecmd.audits.target import Target
    from edgecmd.experiments import audit_ladder

    if not isinstance(result, Federated):
        raise ConfigError(
            f"audit takes what edgecmd.federate returns, but this is of type {type(result).__name__}."
        )
    folder = result.require_folder()
    target = Target(
        kind="run folder",
        path=folder,
        run=result.run,
        folder=folder,
        plan=result.plan,
        privacy=dict(result.privacy),
    )
    if not isinstance(levels, Iterable):
        raise ConfigError(f"levels={levels!r} names no level. Give level names, such as ['static', 'step'].")
    names = [levels] if isinstance(levels, str) else list(levels)
    if not names:
        raise ConfigError(f"levels={levels!r} is empty. Give at least one level, such as 'static'.")
    levels = [ALSO.get(name, name) if isinstance(name, str) else name for name in names]
    found = audit_ladder.audit(target, levels=levels, pass_over=False)
    return Report(findings=tuple(found))


def export(  # noqa: PLR0913 - what a bundle is made of
    student: Distilled | nn.Module,
    folder: str | Path,
    *,
    task: Task | None = None,
    profiles: str | Sequence[str] = ("w8",),
    labelled: Labelled | None = None,
    formats: str | Sequence[str] = (),
    calibration: str = "public",
    min_cosine: float | None = None,
    license: str = "unspecified",  # noqa: A002 - what the file calls it
) -> "Bundle":
    """Export a student as checked ONNX files for a device.

    Args:
        student: Result of `edgecmd.distill` or `edgecmd.federate`, or its student.
        folder: Folder of the bundle; an older bundle there is replaced.
        task: The task it was distilled on, for a student that does not remember it.
        profiles: ``w8``, ``fp32``, ``w4``, ``int8``, ``dyn8``, ``core``; the first becomes student.onnx.
        labelled: Examples to fit a linear head on, which the file then reveals; None for no head.
        formats: Files for phones beside these: ``ort``, ``litert``, ``executorch``, ``coreml``.
        calibration: What int8 takes its ranges from: ``public`` or ``procedural`` images; never pairs.
        min_cosine: Smallest cosine allowed between torch and ONNX Runtime; None: the profile's own limit.
        license: Licence of the weights: an SPDX name, an expression of them, or LicenseRef-<a name of yours>.

    Returns:
        The bundle, read back as a device reads it.

    Raises:
        ExportError: The exported file does not reproduce the student, or a part of the student cannot be
            exported; nothing is left behind.
        ConfigError: A profile, a format or the licence is unknown, or the student was not distilled here and
            no task is given.
    """
    from export.documents.provenance import provenance_of
    from export.from_task import export_student

    trained = student.student if isinstance(student, Distilled) else student
    for name, made, wanted in (
        ("student", trained, nn.Module),
        ("labelled", labelled, Labelled | None),
        ("profiles", profiles, str | list | tuple),
        ("formats", formats, str | list | tuple),
        ("min_cosine", min_cosine, Real | None),
        ("license", license, str),
    ):
        if not isinstance(made, wanted):
            raise ConfigError(f"{name}={made!r} is of type {type(made).__name__}; allowed is {wanted}.")
    if min_cosine is not None:
        refuse_outside("min_cosine", min_cosine, least=-1, most=1, kind=float)
    place, origin, source = named_path("folder", folder), origin_of(trained, task), None
    if origin.run is not None:
        source = replace(provenance_of(origin.run), privacy=origin.privacy)
    return export_student(
        trained,
        place,
        task=origin.task,
        examples=None if labelled is None else labelled.classes(),
        profiles=[profiles] if isinstance(profiles, str) else profiles,
        formats=[formats] if isinstance(formats, str) else formats,
        calibration=calibration,
        min_cosine=min_cosine,
        license=license,
        provenance=source,
        seed=origin.seed,
    )
