"""What is run alone leaves nothing behind."""

import os
import sys
from pathlib import Path

import pytest

from export.engines.lone_process import run_alone


@pytest.mark.parametrize(
    ("timeout_s", "ends", "code"), [(600.0, "sys.exit(7)", 7), (5.0, "time.sleep(600)", None)]
)
def test_a_program_ends_with_what_it_started(
    tmp_path: Path, timeout_s: float, ends: str, code: int | None
) -> None:
    """Its child holds the writing end of a pipe as long as it lives; then reading finds the end."""
    pipe = tmp_path / "alive"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    child = f"import time; held = open({str(pipe)!r}, 'w'); print('here', flush=True); time.sleep(600)"
    program = (
        "import subprocess, sys, time;"
        f" child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE);"
        f" child.stdout.readline(); {ends}"
    )
    with (tmp_path / "log").open("wb") as errors:
        found = run_alone(
            [sys.executable, "-c", program],
            folder=tmp_path,
            environment={},
            errors=errors,
            timeout_s=timeout_s,
        )
    os.set_blocking(reading, True)
    assert found == code
    assert os.read(reading, 1) == b""
    os.close(reading)
