"""The ladder of audits with what it needs of the exported file's runtime, the server and the report."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecmd.audits import levels as table
from edgecmd.audits.audit_file import write_findings
from edgecmd.audits.finding import Finding
from edgecmd.audits.step.noise import FEWEST_DRAWS, Draws
from edgecmd.audits.step.summed import Released
from edgecmd.audits.target import Target
from edgecmd.core.errors import ConfigError, ExportError
from edgecmd.data.pairs import Targets
from edgecmd.evaluation.evaluate import Embed
from edgecmd.evaluation.metrics import unit_rows
from edgecmd.models.students import Student
from edgecmd.privacy.ledger import Ledger
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.report import refresh_report
from edgecmd.report.pictures import inversion_sheet
from edgecmd.run import Run
from edgecmd.training.averaging import to_arrays
from edgecmd.training.task import Task

NUM_SERVER_ROUNDS = 4
BATCH = 256


def audit(
    target: Target,
    *,
    levels: Iterable[str] | None = None,
    setting: str = "levels",
    pass_over: bool = True,
) -> list[Finding]:
    """Audit a target level by level, and keep what each finds in its ``audit.json`` and report.

    Args:
        target: What is audited.
        levels: Names of levels, in order; None for the whole ladder (`edgecmd.audits.levels.ladder`).
        setting: What a message calls ``levels``.
        pass_over: See `edgecmd.audits.levels.audit`.

    Returns:
        All findings; whether one contradicts is for `edgecmd.audits.finding.refuse_contradicted` to say.

    Raises:
        ConfigError: A level is unknown or has nothing to ask of the target; nothing was audited then.
    """
    chosen = table.ladder() if levels is None else levels
    return table.audit(target, levels=chosen, rooms=ROOMS, keep=keep, setting=setting, pass_over=pass_over)


def audit_level(target: Target, level: str, effort: object = None) -> list[Finding]:
    """One level with an effort of its own; nothing is written.

    Args:
        target: What is audited.
        level: A key of `edgecmd.audits.levels.LEVELS`.
        effort: The level's own kind of effort; None for its usual one.

    Raises:
        ConfigError: The level has nothing to ask of a run with this mechanism.
    """
    row = table.LEVELS[level]
    if target.plan is not None and not row.asks(target):
        raise ConfigError(f"The level {level!r} needs {row.needs}.")
    return list(row.audit(target, effort, ROOMS))


def keep(target: Target, findings: Sequence[Finding]) -> None:
    """Write findings into ``audit.json``, and the run's report again where there is one."""
    write_findings(target.record, findings, about=target.about())
    if target.folder is not None:
        refresh_report(target.folder)


def exported_embedder(path: Path) -> Embed:
    """The exported file through onnxruntime alone, as on a device: uint8 images in, unit rows (N, D) out.

    Raises:
        ExportError: It is not a file that edgecmd exported.
    """
    from export.device.reading import InferError
    from export.device.student import Student
    from export.trust.gate import gate_file

    gate_file(path)
    try:
        student = Student(path)
    except InferError as error:
        raise ExportError(str(error)) from error

    def embed(images: Targets) -> np.ndarray:
        parts = range(0, len(images), BATCH)
        return unit_rows(np.concatenate([student(images[at : at + BATCH]).embedding for at in parts]))

    return embed


def train_again(run: Run) -> Student:
    """The run's federation in this process; one that was interrupted goes on."""
    from server.simulate import simulate

    return simulate(run)


def export(student: Student, task: Task, folder: Path) -> Path:
    """The file for a device, without a head: no label is looked at."""
    from export.from_task import export_student

    export_student(student, folder, task=task)
    return folder / "student.onnx"


def server_noise(run: Run, plan: PrivacyPlan) -> list[Draws]:
    """Rounds of `server.privacy.client_privacy` without replies, from zero weights, with a ledger of its own.

    Returns:
        What each round added to each weight, in standard deviations of the plan's noise.
    """
    from server.privacy.client_privacy import central_privacy

    zeros = {name: np.zeros_like(value) for name, value in to_arrays(run.new_student()).items()}
    num = NUM_SERVER_ROUNDS + FEWEST_DRAWS // sum(value.size for value in zeros.values())
    scale = plan.normaliser / plan.noise_std
    found: list[Draws] = []
    with tempfile.TemporaryDirectory() as folder:
        # A ledger that nothing limits: what is drawn here is drawn about no data.
        central = central_privacy(replace(plan, epsilon=float("inf")), run, token="0" * 16)
        assert central is not None
        central.ledger = Ledger(Path(folder) / "server.jsonl")
        for index in range(1, num + 1):
            record = central.combine([], zeros, round_index=index).content.array_records["arrays"]
            found.append({name: record[name].numpy().astype(np.float64) * scale for name in zeros})
    return found


def sums(run: Run, student: Student, num: int) -> list[Released]:
    """Secure sums of the run's own client app, each with ledgers of its own, from the student's weights."""
    from server.simulate import sum_alone

    found, rounds = [], run.federation.num_rounds
    for index in range(num):
        with tempfile.TemporaryDirectory() as folder:
            alone = replace(run, folder=Path(folder), privacy=replace(run.privacy, ledger_dir=""))
            total, clients = sum_alone(alone, student, round_index=1 + index % rounds)
        found.append(Released(total=total, clients=clients, round_index=1 + index % rounds))
    return found


ROOMS = table.Rooms(
    open_exported=exported_embedder,
    train_again=train_again,
    export=export,
    server_noise=server_noise,
    sums=sums,
    inversion_sheet=inversion_sheet,
)
