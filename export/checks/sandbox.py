"""Running a stranger's model in a process of its own, with limits of time, memory and disk.

This stops accidents and bombs. It is no wall against an attacker who owns a hole in onnxruntime: the process
runs as the same user.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecmd.errors import ConfigError
from export.checks import worker
from export.checks.errors import AGAIN, TrustError
from export.checks.npz import read_npz

MEBIBYTE = 1 << 20
OUT_OF_MEMORY = 11
MAX_OUTPUT_BYTES = 64 * MEBIBYTE
MAX_REASON = 300
# Beside the golden inputs, which are small, one large input is tried: height and width of pictures and depth
# maps, of those of dense students, and samples of recordings.
LARGE_PICTURE, LARGE_DENSE, LARGE_WAVE = (1200, 1600), (768, 1024), 1 << 20
LARGE = "large"


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
    large: np.ndarray | None = None,
) -> list[dict[str, np.ndarray]]:
    """Outputs of a model by name, for each input.

    Args:
        path: An ONNX file that has passed the gate, in a folder of ours.
        inputs: Arrays for its one input.
        outputs: Names of the outputs to compute.
        limits: Of the process.
        large: One more input, tried last under the same limits, whose outputs are of no interest; the first
            must be finite.

    Raises:
        TrustError: The model cannot be loaded or run, or needs more than the limits; the message says which.
    """
    with tempfile.TemporaryDirectory(prefix="edgecmd-verify-") as name:
        folder = Path(name)
        arrays: dict[str, Any] = {str(index): value for index, value in enumerate(inputs)}
        if large is not None:
            arrays[LARGE] = large
        np.savez(folder / "in.npz", **arrays)
        job = {
            "model": str(path),
            "inputs": str(folder / "in.npz"),
            "outputs": str(folder / "out.npz"),
            "names": list(outputs),
            "large": str(folder / LARGE),
            "memory_bytes": limits.memory_mb * MEBIBYTE,
            "cpu_s": math.ceil(limits.timeout_s),
            "file_bytes": MAX_OUTPUT_BYTES,
        }
        code, reason = _run(job, folder, timeout_s=limits.timeout_s)
        if code != 0:
            reason = reason.replace(str(path), path.name)
            given = large is not None and (folder / LARGE).exists()
            where = f", given an input of shape {large.shape}," if given and large is not None else ""
            raise TrustError(f"{path.name}{where} {_fault(code, reason, limits)} {AGAIN}")
        found = read_npz(folder / "out.npz", max_bytes=MAX_OUTPUT_BYTES)
    if large is not None and not np.isfinite(found[f"{LARGE}.{outputs[0]}"]).all():
        raise TrustError(
            f"{path.name}, given an input of shape {large.shape}, gives {outputs[0]} that is not finite."
            f" {AGAIN}"
        )
    return [{one: found[f"{index}.{one}"] for one in outputs} for index in range(len(inputs))]


def large_input(dims: Sequence[int], dtype: np.dtype[Any], *, dense: bool) -> np.ndarray:
    """One large input of seeded noise.

    Args:
        dims: Sizes of the model's input, 0 where they are free: (B, H, W, C) or (B, T).
        dtype: Of its elements.
        dense: Whether the model tells a class for each pixel, and needs memory for each.
    """
    usual = (1, LARGE_WAVE) if len(dims) == 2 else (1, *(LARGE_DENSE if dense else LARGE_PICTURE), 1)
    shape = [size or free for size, free in zip(dims, usual, strict=True)]
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
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait()
    with log.open("rb") as errors:
        return code, errors.read(4 * MAX_REASON).decode("utf-8", "replace")


def _fault(code: int | None, reason: str, limits: SandboxLimits) -> str:
    if code is None or code == -signal.SIGXCPU:
        return (
            f"was not loaded and run within {limits.timeout_s:g} seconds; a student needs less than one. On a"
            " slow machine allow more with --timeout."
        )
    if code == OUT_OF_MEMORY:
        return (
            f"needs more than {limits.memory_mb} MiB of memory to be loaded and run. A large student may get"
            " more with --memory."
        )
    text = ascii(" ".join(reason.split())[:MAX_REASON])
    if code < 0:
        return f"made onnxruntime crash with signal {-code} under {limits.memory_mb} MiB of memory: {text}."
    return f"cannot be loaded and run by onnxruntime: {text}."
