"""Audit, export and run: the verbs that reach into the rooms beside the method.

Shapes: N inputs, D embedding dimension, G classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgecmd.audits.finding import CONTRADICTED, ContradictedError, Finding
from edgecmd.core.errors import ExportError
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import Targets
from edgecmd.library.data import Labelled
from edgecmd.library.results import Distilled, Federated
from edgecmd.library.task import Task

if TYPE_CHECKING:
    from export.device.infer import Student as Runtime
    from export.graph.spec import LinearHead

LEVELS = ("static", "step", "one-run")


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
        if self.contradicted:
            raise ContradictedError(
                f"{len(self.contradicted)} of {len(self.findings)} findings contradict the claim. First:"
                f" {self.contradicted[0].text}"
            )
        return self


def audit(result: Federated, *, levels: Sequence[str] = ("static",)) -> Report:
    """Hold a run's claim against the code that made it.

    Args:
        result: Of `edgecmd.federate` with ``out``.
        levels: ``static`` (nothing is trained: purity, sensitivity, ledgers, anchors), ``step`` (noise, coins
            and releases of real steps), ``one-run`` (one training with canaries; minutes).

    Returns:
        What was found; ``audit.json`` of the run folder has it too.

    Raises:
        ConfigError: A level is unknown, or the run's folder was thrown away.
    """
    from edgecmd.audits.audit_file import write_findings
    from edgecmd.audits.one_run.experiment import Effort, audit_one_run
    from edgecmd.audits.static.checks import check_target
    from edgecmd.audits.static.sensitivity import Effort as SearchEffort
    from edgecmd.audits.step.checks import audit_steps
    from edgecmd.audits.target import Target
    from edgecmd.core.errors import choose

    folder = result.require_folder()
    target = Target(
        kind="run folder",
        path=folder,
        run=result.run,
        folder=folder,
        plan=result.plan,
        privacy=dict(result.privacy),
    )
    work = {
        "static": lambda: list(check_target(target, SearchEffort())),
        "step": lambda: audit_steps(target) if result.plan is not None else [],
        "one-run": lambda: list(audit_one_run(target, Effort())),
    }
    found: list[Finding] = []
    for name in [levels] if isinstance(levels, str) else levels:
        found += choose("levels", name, work)()
        write_findings(target.record, found, about=target.about())
    return Report(findings=tuple(found))


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """An exported student, checked, as a device runs it.

    Attributes:
        folder: Where it lies.
        runtime: ONNX Runtime on its model.
    """

    folder: Path
    runtime: "Runtime"

    def embed(self, raw: Targets) -> np.ndarray:
        """Unit embeddings, float32, (N, D).

        Args:
            raw: Inputs as a sensor gives them: uint8 (N, H, W, C), uint16 millimetres (N, H, W, 1) or int16
                (N, T).
        """
        return np.asarray(self.runtime(raw).embedding)

    def classify(self, raw: Targets) -> list[str]:
        """The likeliest class of each input.

        Raises:
            ExportError: The bundle has no head.
        """
        scores = self.runtime(raw).scores
        if scores is None or not self.runtime.classes:
            raise ExportError(f"{self.folder} has no head. Export with labelled examples: labelled=...")
        return [self.runtime.classes[row] for row in scores.argmax(axis=1)]


def export(
    student: Distilled,
    folder: str | Path,
    *,
    profiles: Sequence[str] = ("w8",),
    labelled: Labelled | None = None,
    calibration: str = "public",
    min_cosine: float | None = None,
    license: str = "unspecified",  # noqa: A002 - what the file calls it
) -> Bundle:
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
    from export.bundle import Options, export_bundle
    from export.graph.frontends import front_end_of
    from export.graph.spec import ExportSpec
    from export.profiles.calibration import calibration_of
    from export.profiles.table import PROFILES, choose_profiles
    from export.trust.verify import Task as Metric

    task, trained = student.task, student.student
    chosen = choose_profiles(",".join(profiles))
    probe = _probe(task, labelled)
    spec = ExportSpec(
        architecture=trained.architecture,
        image_size=task.input_shape[2],
        channels=task.in_channels,
        embedding_dim=trained.embedding_dim,
        offset=task.target_offset,
        scale=task.target_scale,
        license=license,
        front_end=front_end_of(modality_of(task.data.train.target), dense=False),
        rate_hz=0,
        head=None if labelled is None else _head(student, labelled),
    )
    wanted = student.embed(probe)
    metric = Metric(
        name="cosine to the student", metric=lambda found: float((found * wanted).sum(axis=1).mean())
    )
    calibrated = any(PROFILES[name].calibrated for name in chosen)
    options = Options(
        profiles=chosen,
        min_cosine=min_cosine,
        calibration=calibration_of(task, calibration, seed=student.seed) if calibrated else None,
    )
    export_bundle(trained, Path(folder), spec=spec, probe_images=probe, task=metric, options=options)
    return load_bundle(folder)


def load_bundle(folder: str | Path) -> Bundle:
    """A bundle, checked before its model is loaded.

    Args:
        folder: What `export` or ``edgecmd export`` wrote.

    Raises:
        ExportError: It is not what it claims to be; the message has the first check that failed.
    """
    from export.device.infer import Student as Runtime
    from export.device.reading import InferError
    from export.trust.checks import verify_bundle

    path = Path(folder)
    verdict = verify_bundle(path)
    if verdict.error is not None:
        raise verdict.error
    try:
        return Bundle(folder=path, runtime=Runtime(path))
    except InferError as error:
        raise ExportError(str(error)) from error


def _probe(task: Task, labelled: Labelled | None) -> Targets:
    """Inputs that torch and ONNX Runtime are compared on: labelled ones, else made-up ones, never a pair."""
    if labelled is not None:
        return labelled.target
    target = task.data.train.target
    coins = np.random.default_rng(20_071)
    shape = (16, *target.shape[1:])
    low, high = int(target.min()), int(target.max())
    return np.asarray(coins.integers(low, max(high, low + 1), shape, dtype=target.dtype, endpoint=True))


def _head(student: Distilled, labelled: Labelled) -> "LinearHead":
    from edgecmd.evaluation.metrics import linear_head
    from export.graph.spec import LinearHead

    weight, bias, names = linear_head(student.embed(labelled.target), labelled.classes().labels["group"])
    return LinearHead(weight=weight, bias=bias, names=names)
