"""One engine or converter in a process of its own, which may crash or hang, and whose answer is a file."""

import json
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecmd.core.text import one_line
from export.engines.engine_table import Found
from export.engines.lone_process import run_alone

MOST_REASON = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one process gave.

    Attributes:
        version: Of the engine.
        cases: For each case its outputs, or why there are none.
        reason: Why there is nothing at all; empty where there is.
    """

    version: str = ""
    cases: tuple[Mapping[str, np.ndarray] | str, ...] = ()
    reason: str = ""


def run_engine(
    found: Found,
    model: Path,
    inputs: Sequence[np.ndarray],
    *,
    port: str,
    outputs: Sequence[str],
    timeout_s: float,
) -> Answers:
    """What an engine gives for each input, in a process of its own that may crash or hang.

    Args:
        found: How it is started.
        model: The file that it runs.
        inputs: As the file takes them.
        port: Name of the file's input.
        outputs: Names of its outputs.
        timeout_s: Seconds for all inputs.
    """
    with tempfile.TemporaryDirectory(prefix="edgecmd-engine-") as name:
        folder, headers = Path(name), []
        for place, given in enumerate(inputs):
            path = folder / f"{place}.in"
            given.astype(given.dtype.newbyteorder("<")).tofile(path)
            headers.append({"file": str(path), "dtype": given.dtype.name, "shape": [*given.shape]})
        job = {
            **{"engine": "", "packages": "", "browser": ""},
            **found.job,
            "model": str(model),
            "input": port,
            "outputs": list(outputs),
            "cases": headers,
            "folder": str(folder),
        }
        reason = run_process([*found.command, json.dumps(job)], folder, timeout_s=timeout_s)
        if reason:
            return Answers(reason=reason)
        try:
            told = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            answers = tuple(_answer(one) for one in told["cases"])
            if len(answers) != len(inputs):
                raise ValueError(f"{len(answers)} answers to {len(inputs)} inputs")
            return Answers(version=one_line(str(told["version"])), cases=answers)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return Answers(
                reason=f"it ended without an answer ({type(error).__name__}: {error})"[:MOST_REASON]
            )


def _answer(told: Mapping[str, Any]) -> Mapping[str, np.ndarray] | str:
    if "reason" in told:
        return one_line(str(told["reason"]))[:MOST_REASON]
    return {name: np.array(values, dtype=np.float64) for name, values in told["outputs"].items()}


def run_process(command: Sequence[str], folder: Path, *, timeout_s: float) -> str:
    """Why a process did not end well; empty where it did. Whatever it started is ended with it."""
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "SYSTEMROOT")
    environment = {"OMP_NUM_THREADS": "1", **{key: os.environ[key] for key in kept if key in os.environ}}
    with (folder / "log").open("wb") as log:
        code = run_alone(command, folder=folder, environment=environment, errors=log, timeout_s=timeout_s)
    if code is None:
        return f"no answer within {timeout_s:g} seconds (--timeout)"
    lines = (folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code < 0:
        return f"it crashed with signal {-code} ({signal.Signals(-code).name})"
    return "" if code == 0 else one_line(lines[-1] if lines else f"exit code {code}")[:MOST_REASON]
