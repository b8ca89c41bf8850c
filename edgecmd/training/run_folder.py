"""The run folder: what is written into it at the start, and the student at the end."""

import platform
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from edgecmd.config.reader import load_config, to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.core.artefacts import declare
from edgecmd.core.devices import place, resolve_device
from edgecmd.core.errors import ConfigError, DataError, choose, nearest
from edgecmd.core.files import json_bytes, write_bytes_atomically, write_files_atomically
from edgecmd.core.seeding import torch_generator
from edgecmd.core.tensors import load_weights, pack, require, unpack, whole_number
from edgecmd.data.pairs import input_shape, target_kind
from edgecmd.data.problem import experiment, public_anchors
from edgecmd.losses import loss_of
from edgecmd.models.students import STUDENTS, Student, build_student
from edgecmd.training.places import require_dense

# Modality of the target -> what its students have before the convolutions.
FRONT_OF = {"wave": "log-mel"}
PACKAGES = ("edgecmd", "torch", "flwr", "numpy", "onnx", "onnxruntime", "scikit-learn", "safetensors")


def run_folder(config: RunConfig) -> Path:
    """Folder of the run, ``<out>/<name>``."""
    return Path(config.out) / config.name


def start_run(config: RunConfig) -> Path:
    """Make the run folder with ``config.toml`` and ``environment.json``, or check that it is the same run.

    Raises:
        ConfigError: The folder holds a run with other settings.
    """
    folder = run_folder(config)
    settings = folder / "config.toml"
    if settings.exists():
        if comparable(load_config(settings)) != comparable(config):
            raise ConfigError(
                f"{folder} holds a run with other settings. Continue that one with `edgecmd resume {folder}`,"
                " choose another name with --set name=..., or delete it and begin anew with `edgecmd run"
                " --fresh`."
            )
        return folder
    declare("environment.json", may_leave=True)
    declare("config.toml", may_leave=False)
    write_files_atomically(
        {
            folder / "environment.json": json_bytes(environment(), path=folder / "environment.json"),
            settings: to_toml(config).encode(),
        }
    )
    return folder


def comparable(config: RunConfig) -> str:
    """Settings without what changes no result: where it is written, the workers, the deadline, the quorum.

    The quorum counts where it may enlarge a cohort.
    """
    federation = replace(config.federation, num_workers=1, deadline_s=0.0)
    if federation.client_fraction == 1:
        federation = replace(federation, min_clients=0)
    return to_toml(replace(config, name="run", out="", federation=federation))


def environment() -> dict[str, object]:
    """Versions and machine, without names or paths."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "byteorder": sys.byteorder,
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def student_channels(config: RunConfig) -> int:
    """Channels of a student's input for the target modality of ``config``."""
    return input_shape(experiment(config.data).train.target)[0]


def new_student(config: RunConfig) -> Student:
    """First weights of ``config``: those at ``student.path``, else random; equal settings give equal weights.

    Raises:
        ConfigError: The student is not one for the target's modality.
        DataError: The file at ``student.path`` is missing or holds another student.
    """
    check_modality(config)
    student = build_student(
        config.student.architecture,
        in_channels=student_channels(config),
        embedding_dim=public_anchors(config).shape[1],
        generator=torch_generator(config.seed, "student-init"),
    )
    if config.student.path:
        _load_first_weights(student, config)
    return place(student, resolve_device(config.device))


def check_modality(config: RunConfig) -> None:
    """Refuse a student of pictures for recordings, and the other way round.

    Raises:
        ConfigError: With the students that suit the target.
    """
    spec = choose("student.architecture", config.student.architecture, STUDENTS)
    modality = target_kind(experiment(config.data).train.target)
    front = FRONT_OF.get(modality, "none")
    if spec.decoder:
        require_dense(loss_of(config.distill))
    if spec.front != front:
        what = "recordings" if modality == "wave" else "pictures"
        allowed = ", ".join(name for name, one in STUDENTS.items() if one.front == front)
        raise ConfigError(
            f"student.architecture={config.student.architecture!r} does not take the targets of"
            f" data.name={config.data.name!r}, which are {what}. Allowed: {allowed}."
        )


def _load_first_weights(student: Student, config: RunConfig) -> None:
    path = Path(config.student.path)
    first = load_student(path).state_dict()
    own = {name: tuple(value.shape) for name, value in student.state_dict().items()}
    if {name: tuple(value.shape) for name, value in first.items()} != own:
        raise DataError(
            f"student.path={str(path)!r} holds another student than student.architecture="
            f"{config.student.architecture!r} for this data. Make one with `edgecmd warm-start` and the same"
            " settings."
        )
    student.load_state_dict(first)


def save_student(student: Student, path: Path, config: RunConfig) -> None:
    """Write a student with what is needed to rebuild it; equal weights give equal bytes."""
    write_bytes_atomically(path, student_bytes(student, config))


def student_bytes(student: Student, config: RunConfig) -> bytes:
    """Content of the file of a student: weights, and what is needed to rebuild it."""
    first = next(iter(student.parameters()))
    description = {
        "architecture": config.student.architecture,
        "in_channels": str(first.shape[1]),
        "embedding_dim": str(student.projector.out_features),
    }
    return pack(student.state_dict(), description)


def load_student(path: Path) -> Student:
    """Read a student that `save_student` wrote, on the CPU and in evaluation mode.

    Raises:
        DataError: The file is missing or not a student.
    """
    advice = "Train a student with `edgecmd simulate` or `edgecmd run`."
    tensors, description = unpack(path, advice=advice)
    require(description, {"architecture", "in_channels", "embedding_dim"}, path=path, advice=advice)
    architecture = description["architecture"]
    if architecture not in STUDENTS:
        raise DataError(
            f"{path} holds a student of the architecture {architecture[:40]!r}."
            f" {nearest(architecture, STUDENTS)} {advice}"
        )
    student = build_student(
        architecture,
        in_channels=whole_number(description, "in_channels", path=path, advice=advice),
        embedding_dim=whole_number(description, "embedding_dim", path=path, advice=advice),
        generator=torch.Generator().manual_seed(0),
    )
    load_weights(student, tensors, path=path, what=f"a {architecture} student")
    return place(student, torch.device("cpu")).eval()
