"""What a run leaves beside its rounds: the machine that made it, and the student's file."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from edgecmd.config.schema import RunConfig
from edgecmd.core.devices import place
from edgecmd.core.errors import ConfigError, DataError, choose, nearest
from edgecmd.core.files import write_bytes_atomically
from edgecmd.core.tensors import load_weights, pack, require, unpack, whole_number
from edgecmd.data.experiment import Experiment
from edgecmd.data.pairs import target_kind
from edgecmd.losses import loss_of
from edgecmd.models.students import STUDENTS, Student, build_student
from edgecmd.settings import DistillConfig
from edgecmd.training.places import require_dense

# Modality of the target -> what its students have before the convolutions.
FRONT_OF = {"wave": "log-mel"}
PACKAGES = ("edgecmd", "torch", "flwr", "numpy", "onnx", "onnxruntime", "scikit-learn", "safetensors")


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
    from edgecmd.data.problem import task_of

    return task_of(config).input_shape[0]


def new_student(config: RunConfig) -> Student:
    """Being taken down: `edgecmd.run.Run.new_student`."""
    from edgecmd.data.problem import process

    return process().run(config).new_student()


def check_modality(architecture: str, distill: DistillConfig, data: Experiment) -> None:
    """Refuse a student of pictures for recordings, and the other way round.

    Raises:
        ConfigError: With the students that suit the target.
    """
    spec = choose("student.architecture", architecture, STUDENTS)
    modality = target_kind(data.train.target)
    front = FRONT_OF.get(modality, "none")
    if spec.decoder:
        require_dense(loss_of(distill))
    if spec.front != front:
        what = "recordings" if modality == "wave" else "pictures"
        allowed = ", ".join(name for name, one in STUDENTS.items() if one.front == front)
        raise ConfigError(
            f"student.architecture={architecture!r} does not take the targets of"
            f" data.name={data.name!r}, which are {what}. Allowed: {allowed}."
        )


def save_student(student: Student, path: Path, architecture: str) -> None:
    """Write a student with what is needed to rebuild it; equal weights give equal bytes."""
    write_bytes_atomically(path, student_bytes(student, architecture))


def student_bytes(student: Student, architecture: str) -> bytes:
    """Content of the file of a student: weights, and what is needed to rebuild it."""
    first = next(iter(student.parameters()))
    description = {
        "architecture": architecture,
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
