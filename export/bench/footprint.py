"""Cold start and memory: from starting a fresh process to its first answer."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecmd.core.errors import ExportError

# Each child does one inference and says how much of the processor and of memory it took.
TAIL = """
import json, os, resource, time
try:
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
except OSError:
    unit = 1024 if os.uname().sysname == "Darwin" else 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
print(json.dumps({"cpu_s": time.process_time(), "peak_kb": peak}), flush=True)
os._exit(0)
"""
# The bundle's own program, in a folder with the model.
DEVICE = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from infer import Student
Student(sys.argv[2])(np.load(sys.argv[3]))
"""
# No more of edgecmd than the network: what a person with torch on a device would write.
TORCH = """
import sys
from pathlib import Path
import torch
from edgecmd.models.student_file import load_student
torch.set_num_threads(1)
student = load_student(Path(sys.argv[1]), like=sys.argv[2])
with torch.inference_mode():
    student(torch.zeros([int(one) for one in sys.argv[3].split(",")]))
"""
TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """One fresh process from its start to its first answer.

    Attributes:
        wall_s: Seconds that passed, as seen from outside.
        cpu_s: Seconds of processor time that it took.
        peak_mb: Most memory that was resident, in 10^6 bytes.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """Several starts of one kind.

    Attributes:
        num: Starts.
        wall_s: The least.
        cpu_s: The least.
        cpu_s_median: The median.
        peak_mb: The median.
    """

    num: int
    wall_s: float
    cpu_s: float
    cpu_s_median: float
    peak_mb: float


def device_command(folder: Path, model: Path, inputs: Path) -> list[str]:
    """Start of the bundle's program.

    Args:
        folder: Holds infer.py.
        model: The ONNX file.
        inputs: A .npy file with one raw input.
    """
    return [sys.executable, "-c", DEVICE + TAIL, str(folder), str(model), str(inputs)]


def torch_command(weights: Path, architecture: str, shape: tuple[int, ...]) -> list[str]:
    """Start of torch with the same student, without its front end.

    Args:
        weights: File of the student, which says what to build.
        architecture: Names the student where that is code of its maker's own.
        shape: Of one scaled input (1, C, H, W).
    """
    return [sys.executable, "-c", TORCH + TAIL, str(weights), architecture, ",".join(map(str, shape))]


def footprints(commands: Mapping[str, list[str]], *, num: int) -> dict[str, Footprint]:
    """Run each command ``num`` times, in turns; one more before, to fill the cache of files.

    Raises:
        ExportError: A child failed.
    """
    starts: dict[str, list[Start]] = {name: [] for name in commands}
    for turn in range(num + 1):
        for name, command in commands.items():
            start = _start(name, command)
            if turn:
                starts[name].append(start)
    return {name: summarise(found) for name, found in starts.items()}


def summarise(starts: list[Start]) -> Footprint:
    """Least times and median memory of several starts."""
    return Footprint(
        num=len(starts),
        wall_s=min(one.wall_s for one in starts),
        cpu_s=min(one.cpu_s for one in starts),
        cpu_s_median=float(np.median([one.cpu_s for one in starts])),
        peak_mb=float(np.median([one.peak_mb for one in starts])),
    )


def _start(name: str, command: list[str]) -> Start:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=TIMEOUT_S,
        env=environment,
    )
    wall_s = time.perf_counter() - started
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise ExportError(f"A fresh process with {name} failed: {' '.join(last)[:300]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return Start(wall_s=wall_s, cpu_s=float(told["cpu_s"]), peak_mb=float(told["peak_kb"]) * 1.024e-3)
