"""The runs of a folder, each with its headline: what ``edgecmd runs`` prints."""

from dataclasses import dataclass
from pathlib import Path

from edgecmd.core.errors import DataError, EdgecmdError
from edgecmd.core.run_lock import SETTINGS, seems_owned
from edgecmd.report import scores
from edgecmd.report.read import RunFiles, read_run

COLUMNS = ("run", "state", "data", "student", "rounds", "R@1", "probe", "epsilon", "audit")
NOTHING = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One run.

    Attributes:
        run: Name of its folder.
        state: ``running``, ``done``, ``stopped``, or why it cannot be read.
        data: Name of its data set.
        student: Name of the student.
        rounds: Finished rounds and those of the plan.
        recall_at_1: R@1 on the test; None where it was not measured.
        probe: Linear probe with all labels of the pool; None likewise.
        epsilon: What was promised; None without a privacy mechanism.
        audit: Verdict of `edgecmd audit`; empty where there was none.
    """

    run: str
    state: str
    data: str = ""
    student: str = ""
    rounds: str = ""
    recall_at_1: float | None = None
    probe: float | None = None
    epsilon: float | None = None
    audit: str = ""

    @property
    def cells(self) -> list[str]:
        """The row of `COLUMNS`."""
        numbers = [
            NOTHING if one is None else f"{one:.3f}" for one in (self.recall_at_1, self.probe, self.epsilon)
        ]
        texts = [self.run, self.state, self.data, self.student, self.rounds, *numbers, self.audit]
        return [one or NOTHING for one in texts]


def list_runs(folder: Path) -> list[Listed]:
    """Runs below ``folder``, the newest first.

    Args:
        folder: Folder that holds run folders, such as ``runs``; or a run folder itself.

    Raises:
        DataError: ``folder`` is no folder.

    Guarantees:
        A run that is damaged is listed with the reason, and hides no other.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder. Give the folder of your runs; `edgecmd run` makes runs/<name>."
        )
    inside = (
        [folder] if (folder / SETTINGS).is_file() else [one.parent for one in folder.glob(f"*/{SETTINGS}")]
    )
    newest = sorted(inside, key=lambda one: (-(one / SETTINGS).stat().st_mtime, one.name))
    return [_listed(one) for one in newest]


def _listed(folder: Path) -> Listed:
    try:
        run = read_run(folder)
        return _headline(run, is_running=seems_owned(folder), name=folder.resolve().name)
    except (EdgecmdError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Listed(run=folder.resolve().name, state=f"cannot be read: {error}")


def _headline(run: RunFiles, *, is_running: bool, name: str) -> Listed:
    total, done = run.setting("federation.num_rounds", NOTHING), len(run.rounds)
    state = "running" if is_running else "done" if run.evaluation or run.export else "stopped"
    found = {title: one.value for title, one in scores.of_student(run.evaluation).items()}
    probes = [value for title, value in found.items() if title.startswith("probe ")]
    epsilon = run.privacy.get("epsilon")
    return Listed(
        run=name,
        state=state,
        data=run.setting("data.name"),
        student=run.setting("student.architecture"),
        rounds=f"{done}/{total}",
        recall_at_1=found.get("R@1"),
        probe=probes[-1] if probes else None,
        epsilon=None if epsilon is None else float(epsilon),
        audit=str(run.audit.get("verdict", "")),
    )
