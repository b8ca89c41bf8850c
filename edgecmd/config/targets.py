"""What an audit is asked to look at, found by its path and read with the settings beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecmd.audits.target import STATE, WEIGHTS, Target
from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import DataError
from edgecmd.core.files import read_json
from edgecmd.models.students import refuse_dense


def find_target(path: Path, *, config: RunConfig | None = None, assembly: Assembly | None = None) -> Target:
    """Recognise what ``path`` is.

    Args:
        path: A run folder, a checkpoint of it, a student's ``.safetensors``, an ``.onnx`` file or a bundle.
        config: Settings for a file that is in no run folder.
        assembly: Makes the run; None for a new one.

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
            f"{path} is not in a run folder, so its data and privacy settings are unknown. Give them with"
            " --config or --set, or give the run folder."
        )
    settings = config if folder is None else _settings(folder)
    assert settings is not None
    refuse_dense(settings.student.architecture, what="An audit")
    run = (assembly or Assembly()).run(settings)
    told = folder / "privacy.json" if folder else None
    return Target(
        kind=kind,
        path=file,
        run=run,
        folder=folder,
        plan=run.plan,
        privacy=_statement(told) if told is not None and told.exists() else {},
    )


def _statement(path: Path) -> dict[str, Any]:
    table = read_json(path)
    if not isinstance(table, dict):
        raise DataError(f"{path} is not a privacy statement of edgecmd. `edgecmd resume` writes it again.")
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
        f"{path} is not a run folder (it has no config.toml), a checkpoint (no state.json), a bundle (no"
        " student.onnx), a .safetensors file or an .onnx file. Give one of these."
    )


def _run_folder(path: Path) -> Path | None:
    """The nearest folder at or above ``path`` that has a ``config.toml``; two levels up at most."""
    near = (path, *path.resolve().parents[:3]) if path.is_dir() else path.resolve().parents[:3]
    return next((one for one in near if (one / "config.toml").is_file()), None)


def _settings(folder: Path) -> RunConfig:
    resolved = folder.resolve()
    return replace(load_config(folder / "config.toml"), out=str(resolved.parent), name=resolved.name)
