"""What is audited: a run folder, a checkpoint, a student's or an exported file, and the claim with it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import DataError, PrivacyError
from edgecmd.core.files import read_json
from edgecmd.models.student_file import load_student
from edgecmd.models.students import Student, refuse_dense
from edgecmd.privacy.plan import PrivacyPlan, make_plan
from edgecmd.training.run_folder import new_student

KINDS = ("run folder", "checkpoint", "student", "exported file")
# Pairs of a chunk that is cut, so that a dozen pairs fill several.
FEW_UNITS = 4
STATE, WEIGHTS = "state.json", "student.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What an audit looks at.

    Attributes:
        kind: One of `KINDS`.
        path: Folder or file that was named.
        config: Settings of the run.
        folder: Run folder; None where a file stands alone.
        plan: Plan of the run's privacy; None without it.
        privacy: Content of ``privacy.json``; empty where there is none.
    """

    kind: str
    path: Path
    config: RunConfig
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
        return float(self.privacy.get("delta", self.config.privacy.delta))

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
        """Where ``audit.json`` of this target lies: in the run folder, else beside the file."""
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
                "mechanism": self.config.privacy.mechanism,
            },
        }


def find_target(path: Path, *, config: RunConfig | None = None) -> Target:
    """Recognise what ``path`` is.

    Args:
        path: A run folder, a checkpoint of it, a student's ``.safetensors``, an ``.onnx`` file or a bundle.
        config: Settings for a file that lies in no run folder.

    Raises:
        DataError: It is none of these, or a lonely file comes without settings.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist. Give a run folder, a student's .safetensors or an exported .onnx file,"
            " or one of the audit's commands (edgecmd audit --help)."
        )
    kind, file = _kind(path)
    folder = _run_folder(file)
    if folder is None and config is None:
        raise DataError(
            f"{path} lies in no run folder, so its data and privacy settings are not known. Give them with"
            " --config or --set, or name the run folder."
        )
    settings = config if folder is None else _settings(folder)
    assert settings is not None
    refuse_dense(settings.student.architecture, what="An audit")
    told = folder / "privacy.json" if folder else None
    return Target(
        kind=kind,
        path=file,
        config=settings,
        folder=folder,
        plan=make_plan(settings),
        privacy=_statement(told) if told is not None and told.exists() else {},
    )


def _statement(path: Path) -> dict[str, Any]:
    table = read_json(path)
    if not isinstance(table, dict):
        raise DataError(f"{path} is no statement of edgecmd. `edgecmd resume` writes it again.")
    return table


def _kind(path: Path) -> tuple[str, Path]:
    if path.is_dir() and (path / "config.toml").is_file():
        return "run folder", path
    if path.is_dir() and (path / "student.onnx").is_file():
        return "exported file", path / "student.onnx"
    if path.is_dir() and (path / STATE).is_file() and (path / WEIGHTS).is_file():
        return "checkpoint", path / WEIGHTS
    if path.suffix == ".onnx":
        return "exported file", path
    if path.suffix == ".safetensors":
        return ("checkpoint" if (path.parent / STATE).is_file() else "student"), path
    raise DataError(
        f"{path} is neither a run folder (it has no config.toml), a checkpoint (no state.json), a bundle (no"
        " student.onnx), a .safetensors file nor an .onnx file."
    )


def trained_student(target: Target) -> Student | None:
    """The student whose weights the target has; None where it has none.

    Raises:
        DataError: The file is damaged, or a checkpoint's weights are not those of the run's student.
    """
    if target.student_file is None:
        return None
    if target.kind != "checkpoint":
        return load_student(target.student_file, like=target.config.student.architecture)
    student = new_student(target.config)
    try:
        student.load_state_dict(load(target.student_file.read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(
            f"{target.path} does not hold weights of"
            f" student.architecture={target.config.student.architecture!r} ({error}). Name another one."
        ) from error
    return student.eval()


def student_of(target: Target) -> Student:
    """The target's student, or a new one where it has none yet."""
    return trained_student(target) or new_student(target.config)


def plan_of(target: Target) -> PrivacyPlan:
    """The plan of a target.

    Raises:
        PrivacyError: It has none, so there is no noise to measure.
    """
    if target.plan is None:
        raise PrivacyError(
            "privacy.mechanism='none' makes no noise, so there is no step to audit. Audit what the run leaks"
            " with `edgecmd audit one-run` or `edgecmd audit risk`, or train with privacy.mechanism=anchors."
        )
    return target.plan


def cut_chunks(plan: PrivacyPlan, pairs: int = FEW_UNITS) -> PrivacyPlan:
    """The plan with chunks of ``pairs`` pairs at most, which changes nothing that it promises."""
    return replace(plan, chunk_size=min(plan.chunk_size, pairs * plan.num_views))


def _run_folder(path: Path) -> Path | None:
    """The nearest folder at or above ``path`` that has a ``config.toml``; two levels up at most."""
    near = (path, *path.resolve().parents[:3]) if path.is_dir() else path.resolve().parents[:3]
    return next((one for one in near if (one / "config.toml").is_file()), None)


def _settings(folder: Path) -> RunConfig:
    resolved = folder.resolve()
    return replace(load_config(folder / "config.toml"), out=str(resolved.parent), name=resolved.name)
