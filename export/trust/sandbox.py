"""Running a stranger's model in a process of its own, with limits of time, memory and disk.

This stops accidents and bombs. It is no wall against an attacker who owns a hole in onnxruntime: the process
runs as the same user.
"""

import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecmd.core.errors import ConfigError
from export.engines.lone_process import run_alone
from export.trust import worker
from export.trust.errors import AGAIN, TrustError
from export.trust.npz import read_npz

MEBIBYTE = 1 << 20
OUT_OF_MEMORY = 11
MAX_OUTPUT_BYTES = 64 * MEBIBYTE
MAX_REASON = 300
# Beside the golden inputs, which are small, one large input is tried (`export.graph.front_graph.Kind.large`).
# Pictures and maps of that area are also tried as strips.
STRIP = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxLimits:
    """What one model may use to be loaded and to compute its golden values.

    Attributes:
        timeout_s: Seconds, of the clock and of the processor.
        memory_mb: Address space in MiB, of which Python, numpy and onnxruntime take about 160.

    Raises:
        ConfigError: A limit is out of range.
    """

    timeout_s: float = 60.0
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        if not (0 < self.timeout_s <= 86400 and 256 <= self.memory_mb <= 1 << 20):
            raise ConfigError(
                f"timeout={self.timeout_s} and memory={self.memory_mb} must be above 0 to 86400 seconds and"
                " 256 to 1048576 MiB."
            )


def run_model(
    path: Path,
    inputs: Sequence[np.ndarray],
    *,
    outputs: Sequence[str],
    limits: SandboxLimits,
    tried: Sequence[np.ndarray] = (),
) -> list[dict[str, np.ndarray]]:
    """Outputs of a model by name, for each input.

    Args:
        path: An ONNX file that has passed the gate, in a folder of ours.
        inputs: Arrays for its one input.
        outputs: Names of the outputs to compute.
        limits: Of the process.
        tried: Further inputs, tried last under the same limits; all that is asked of their outputs is that
            they are finite.

    Raises:
        TrustError: The model cannot be loaded or run, needs more than the limits, or gives
            what is not finite; the message says which.
    """
    with tempfile.TemporaryDirectory(prefix="edgecmd-verify-") as name:
        folder = Path(name)
        arrays: dict[str, Any] = {str(index): value for index, value in enumerate(inputs)}
        extra = {f"tried{place}": value for place, value in enumerate(tried)}
        arrays.update(extra)
        np.savez(folder / "in.npz", **arrays)
        job = {
            "model": str(path),
            "inputs": str(folder / "in.npz"),
            "outputs": str(folder / "out.npz"),
            "names": list(outputs),
            "tried": list(extra),
            "begun": f"{folder}{os.sep}",
            "memory_bytes": limits.memory_mb * MEBIBYTE,
            "cpu_s": math.ceil(limits.timeout_s),
            "file_bytes": MAX_OUTPUT_BYTES,
        }
        code, reason = _run(job, folder, timeout_s=limits.timeout_s)
        if code != 0:
            reason = reason.replace(str(path), path.name)
            begun = [value for key, value in extra.items() if (folder / key).exists()]
            where = f", given {_told(begun[-1])}," if begun else ""
            raise TrustError(f"{path.name}{where} {_fault(code, reason, limits)} {AGAIN}")
        found = read_npz(folder / "out.npz", max_bytes=MAX_OUTPUT_BYTES)
    for key, value in extra.items():
        for one in outputs:
            if not found[f"{key}.{one}"].all():
                raise TrustError(
                    f"{path.name}, given {_told(value)}, gives {one} that is not finite. {AGAIN}"
                )
    return [{one: found[f"{index}.{one}"] for one in outputs} for index in range(len(inputs))]


def _told(value: np.ndarray) -> str:
    least, most = value.min(), value.max()
    return f"an input of shape {value.shape}" + (f" that is {least:g} everywhere" if least == most else "")


def flat_inputs(like: np.ndarray) -> list[np.ndarray]:
    """One input of the least of its type alone, one of zeros, one of the largest; of recordings -1, 0, 1.

    Args:
        like: Inputs with the type and the sizes.
    """
    if like.dtype.kind == "f":
        values = [-1.0, 0.0, 1.0]
    else:
        values = sorted({np.iinfo(like.dtype).min, 0, np.iinfo(like.dtype).max})
    return [np.full_like(like[:1], value) for value in values]


def large_inputs(dims: Sequence[int], dtype: np.dtype[Any], *, large: Sequence[int]) -> list[np.ndarray]:
    """Large inputs of seeded noise: one of usual form, and of images of free size two strips.

    Args:
        dims: Sizes of the model's input, 0 where they are free: (B, H, W, C) or (B, T).
        dtype: Of its elements.
        large: Sizes of the free axes: (H, W) or (T,).
    """
    if len(large) == 1:
        forms: list[tuple[int, ...]] = [(1, *large)]
    else:
        height, width = large
        long = height * width // STRIP
        forms = [(1, height, width, 1), (1, STRIP, long, 1), (1, long, STRIP, 1)]
    shapes = [tuple(size or free for size, free in zip(dims, form, strict=True)) for form in forms]
    return [_noise(shape, dtype) for shape in dict.fromkeys(shapes)]


def _noise(shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    generator = np.random.default_rng(0)
    if dtype.kind == "f":
        return generator.uniform(-0.5, 0.5, shape).astype(dtype)
    return generator.integers(0, 256, shape, dtype=np.uint8).astype(dtype)


def _run(job: Mapping[str, object], folder: Path, *, timeout_s: float) -> tuple[int | None, str]:
    """Exit code, None for a timeout, and the first letters of standard error."""
    command = [sys.executable, "-I", str(Path(worker.__file__).resolve()), json.dumps(job)]
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    environment |= {key: os.environ[key] for key in ("LD_LIBRARY_PATH", "PATH") if key in os.environ}
    log = folder / "log"
    with log.open("xb") as errors:
        code = run_alone(command, folder=folder, environment=environment, errors=errors, timeout_s=timeout_s)
    with log.open("rb") as errors:
        return code, errors.read(4 * MAX_REASON).decode("utf-8", "replace")


def _fault(code: int | None, reason: str, limits: SandboxLimits) -> str:
    if code is None or code == -signal.SIGXCPU:
        return (
            f"was not loaded and run within {limits.timeout_s:g} seconds; a student needs less than one. On"
            " a slow machine, allow more time with --timeout."
        )
    if code == OUT_OF_MEMORY:
        return (
            f"needs more than {limits.memory_mb} MiB of memory to be loaded and run. For a large student,"
            " allow more with --memory."
        )
    text = ascii(" ".join(reason.split())[:MAX_REASON])
    if code < 0:
        return f"made onnxruntime crash with signal {-code} under {limits.memory_mb} MiB of memory: {text}."
    return f"cannot be loaded and run by onnxruntime: {text}."
