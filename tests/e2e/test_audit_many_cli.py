"""Many-run audits from the command line: the table, a kill and a second go, exit codes, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.command_line import edgecmd

ROOT = Path(__file__).parents[2]
SMALL = ("federation.num_rounds=1", "federation.local_steps=2", "distill.batch_size=8")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgecmd", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def student(folder: Path, *settings: str) -> list[str]:
    """A lonely file and its settings: all that this audit needs of a target."""
    path = folder / "student.safetensors"
    path.touch()
    return [str(path), *(word for one in (*SMALL, *settings) for word in ("--set", one))]


def test_a_killed_headline_goes_on_from_what_was_finished(tmp_path: Path) -> None:
    arguments = ("audit", "headline", "--runs", "10", "--jobs", "1", "--out", "headline")
    running = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL
    )
    first = tmp_path / "headline" / "naive" / "runs-000000.npy"
    until = time.monotonic() + 1200
    while not first.exists() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "headline").rglob("runs-*.npy")}
    assert first in before
    assert all(np.load(path).shape == (5, 2, 808) for path in before)

    done = edgecmd(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "Opacus, in-batch negatives" in done.stdout
    table = json.loads((tmp_path / "headline" / "audit.json").read_text())
    assert {one["name"]: one["counts"]["runs_with"] for one in table["findings"]} == {
        "Opacus, in-batch negatives": 10,
        "Opacus, public anchors": 10,
        "edgecmd, public anchors": 10,
    }
    assert all(one["measured"] <= one["ceiling"] for one in table["findings"])


def test_a_targets_plan_is_audited_and_kept_beside_it(tmp_path: Path) -> None:
    words = student(tmp_path, "privacy.mechanism=anchors", "privacy.epsilon=2")
    done = edgecmd("audit", "many-runs", *words, "--runs", "8", "--jobs", "1", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert (found["level"], found["attacker"], found["verdict"]) == (
        "many-runs",
        "device",
        "not contradicted",
    )
    assert 1.9 < found["claimed"] <= 2.0
    assert json.loads((tmp_path / "audit.json").read_text())["findings"] == [found]


def test_a_target_without_privacy_is_refused(tmp_path: Path) -> None:
    done = edgecmd("audit", "many-runs", *student(tmp_path), folder=tmp_path)
    assert done.returncode == 7
    assert "privacy.mechanism='none'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "audit.json").exists()
