"""Versions and machine that made a run."""

import platform
import sys
from collections.abc import Sequence
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
        "packages": versions(PACKAGES),
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages; ``not installed`` where there is none."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
