"""Flower's own programs, started by tests: kept to a folder of their own, on free ports, calling nobody."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from edgecmd.catalogue import data_files
from tests.flower_table import PYPROJECT

ROOT = PYPROJECT.parent
BIN = Path(sys.executable).parent


def environment(home: Path) -> dict[str, str]:
    """A process that finds this interpreter's programs, keeps to ``home`` and calls nobody."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # The bundle has no data files, and a checkout need not be installed.
        data_files.SHIPPED_VARIABLE: str(data_files.BESIDE),
    }


def flwr(home: Path, *words: str, folder: Path = ROOT) -> str:
    done = subprocess.run(
        [str(BIN / "flwr"), *words],
        cwd=folder,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
