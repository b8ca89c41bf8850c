"""Versions and machine that made a run."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

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
