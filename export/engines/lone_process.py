"""A program in a session of its own, which may crash or hang, and with which all ends that it started."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO


def run_alone(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    errors: IO[bytes],
    timeout_s: float,
) -> int | None:
    """Run a program in a session of its own, and end it with all that it started.

    Args:
        command: The program and its arguments.
        folder: Where it starts.
        environment: All that it has of one.
        errors: Open file for its standard error; it reads nothing, and what it prints is dropped.
        timeout_s: Seconds after which it is ended.

    Returns:
        Its exit code, below 0 for a signal; None where it took too long.
    """
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
        return process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
