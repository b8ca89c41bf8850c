"""What a run leaves beside its rounds, the machine that made it; and whether its student suits the data."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from edgecmd.core.errors import ConfigError
from edgecmd.data.experiment import Experiment
from edgecmd.data.modalities.table import modality_of
from edgecmd.losses import loss_of
from edgecmd.models.students import ANY_FRONT, STUDENTS, student_row
from edgecmd.settings import DistillConfig
from edgecmd.training.places import require_dense

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


def check_modality(architecture: str, distill: DistillConfig, data: Experiment) -> None:
    """Refuse a student of pictures for recordings, and the other way round.

    Raises:
        ConfigError: With the students that suit the target.
    """
    row = student_row(architecture)
    modality = modality_of(data.train.target)
    if row.dense:
        require_dense(loss_of(distill))
    wrong = row.front not in (modality.front, ANY_FRONT)
    if wrong or (row.dense and modality.motion is None):
        allowed = ", ".join(
            name
            for name, one in STUDENTS.items()
            if one.front == modality.front and (modality.motion or not one.dense)
        )
        raise ConfigError(
            f"student.architecture={architecture!r} does not take the targets of"
            f" data.name={data.name!r}, which are {modality.nouns}. Allowed: {allowed}."
        )
