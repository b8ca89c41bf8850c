"""``edgecmd audit check`` and ``audit faults`` as a user runs them: verdicts and exit codes."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import edgecmd
from tests.tiny_federation import settings_of

LOSSES = """
from edgecmd.losses import cmc, cmc_anchored

def sound(student, teacher, anchors):
    return cmc_anchored(student, teacher, anchors, temperature=0.1)

def in_batch(student, teacher, anchors, temperature=0.1):
    return cmc(student, teacher, temperature=temperature)
"""
# `audit faults`. It draws from its 400,000 sources once for all audits of the same, sound source, tosses the
# coins of a step once for all audits of sound coins from that source, and takes fewer steps of clients with
# few pairs, whose coins no planted fault treats otherwise. Where `few` is true it plants a fault of the step
# for each level, audits it by two tries of each of the six kinds of neighbours, where a user has four, draws
# from fewer sources, and leaves out the many runs of both arms, which `test_many_runs` makes and judges.
FAULTS = """
from dataclasses import replace

from edgecmd.core.machine import import_torch_quickly

import_torch_quickly()

from edgecmd.audits.step import checks, random_source, sampling_coins
from edgecmd.cli import main
from edgecmd.experiments.faults import every_level
from edgecmd.privacy.step import sampling
from edgecmd.privacy.step.randomness import SystemSource

sampling_coins.SMALL_STEPS = 32
words, rows = SystemSource.words, sampling.poisson_rows
audit_level, step_faults = every_level.audit_level, every_level.step_faults
FEW = "clip over the batch mean for the last layer", "noise too small by 2, in the release"


def briefly(target, level, effort):
    return audit_level(
        target, level, replace(effort, num_tries=12, climb_length=2) if level == "check" else effort
    )


def fewer(*runs, **audits):
    return [one for one in step_faults(*runs, **audits) if one.name in FEW]


if few:
    every_level.audit_level, every_level.step_faults = briefly, fewer
    every_level.run_faults, random_source.NUM_FRESH = lambda folder: [], 1000


def once(call, key, is_sound):
    found = {}

    def asked(one):
        if not is_sound():
            return call(one)
        if key(one) not in found:
            found[key(one)] = call(one)
        return found[key(one)]

    return asked


random_source.repeated_starts = once(
    random_source.repeated_starts, lambda num: num, lambda: SystemSource.words is words
)
checks.audit_coins = once(
    checks.audit_coins,
    lambda target: target.path,
    lambda: (SystemSource.words, sampling.poisson_rows) == (words, rows),
)
main()
"""
# What is measured of each fault: above the first number, and at most the second.
MEASURED = {
    # Proven: at most (2 n - 1) C at n = 256, and 2 (n - 2) C is there to be found.
    "in-batch negatives under Opacus": (450, 511),
    "anchors with gradient under Opacus": (1.5, math.inf),
    "sequential chunks as groups": (4, math.inf),
    "noise too small by 2, in the release": (0.48, 0.52),
    "noise x 0.1 when the sample is not empty": (0.09, 0.11),
    "noise x 0.1 from the 4th step on": (0.09, 0.11),
    "noise x 0.7 every second step": (0.68, 0.72),
    # Equal views, each clipped to C for itself.
    "four views as four records": (2.4, 4.0),
    "views mixed with another pair's": (1, math.inf),
    "clip over the batch mean for the last layer": (1.0, math.inf),
    "sampling without replacement": (-1e-9, 0.0),
    "two pairs that share a coin": (0.15, math.inf),
    "a 32-bit seed": (1, math.inf),
    "a pair scaled by 2.5 after the clip, in a sum": (1.02, 4.0),
    "vectors of a sum without their bound": (767, 769),
    "shares of noise x 0.5, in a sum": (0.48, 0.52),
    "no noise, in a sum": (-1e-9, 1e-3),
}
ROOT = Path(__file__).parents[2]
SMALL = ("--set", "data.image_size=16", "--set", "student.architecture=ws-50k")


@pytest.fixture(scope="module")
def finished(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    words = [word for one in settings_of(pairs, folder) for word in ("--set", one)]
    done = edgecmd("simulate", *words, "--set", "privacy.mechanism=anchors", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "tiny"


def test_a_sound_run_passes_and_is_written_down(finished: Path) -> None:
    done = edgecmd("audit", "check", "tiny", "--tries", "6", "--pairs", "4", folder=finished.parent)
    assert done.returncode == 0, done.stderr
    assert "books: epsilon" in done.stdout
    record = json.loads((finished / "audit.json").read_text())
    assert record["verdict"] == "not contradicted"
    assert {one["level"] for one in record["findings"]} == {"check"}


@pytest.mark.parametrize(
    ("file", "old", "new", "code", "text"),
    [
        ("privacy.json", '"epsilon": ', '"epsilon": 0.01,\n  "was": ', 3, "privacy.json claims epsilon=0.01"),
        ("privacy.json", '"epsilon": ', '"epsilon": "low",\n  "was": ', 4, "'low' is not an epsilon"),
        ("ledger/client-0001.jsonl", '"round": 2', '"round": 9', 7, "is damaged at line 3"),
    ],
)
def test_altered_books_end_with_their_exit_code(
    file: str, old: str, new: str, code: int, text: str, finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "altered")
    content = (run / file).read_text()
    assert old in content
    (run / file).write_text(content.replace(old, new, 1))
    done = edgecmd("audit", "check", str(run), "--tries", "2", "--pairs", "3", folder=tmp_path)
    assert (done.returncode, text in done.stderr, "Traceback" in done.stderr) == (code, True, False)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--loss", "own:in_batch", "--temperature", "0.2", "--pairs", "32"], 3, "2 of 4 audits contradict"),
        (["--loss", "own.py:sound", "--pairs", "32", "--engine", "opacus-ghost"], 0, ""),
        (["--engine", "opacus"], 2, "needs something to check"),
    ],
)
def test_own_code(words: list[str], code: int, text: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(LOSSES)
    done = edgecmd("audit", "check", *words, *SMALL, "--json", folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert not (tmp_path / "audit.json").exists()
    if code in (0, 3):
        found = {one["quantity"]: one for one in json.loads(done.stdout)[:3]}
        assert (found["sensitivity"]["measured"] > 50) is (code == 3)


# All of them have tests of their own, too, beside the audit that finds them.
@pytest.mark.parametrize(
    ("few", "levels"),
    [
        (True, ["check"] * 7 + ["step"] * 2),
        pytest.param(False, ["check"] * 11 + ["step"] * 10 + ["many-runs"], marks=pytest.mark.slow),
    ],
)
def test_every_planted_fault_is_caught_and_every_twin_passes(
    few: bool, levels: list[str], tmp_path: Path
) -> None:
    # In a process of its own, where no call is checked for its shapes: that takes half of the time.
    done = subprocess.run(
        [sys.executable, "-c", f"few = {few}\n{FAULTS}", "audit", "faults", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["level"] for one in found] == levels
    for one in found:
        assert one["passed"]
        assert one["caught"]["verdict"] == "contradicted"
        assert one["sound"]["verdict"] != "contradicted"
    measured = {one["fault"]: one["caught"]["measured"] for one in found}
    assert few or set(measured) > set(MEASURED)
    for name in measured.keys() & MEASURED.keys():
        low, high = MEASURED[name]
        assert low < measured[name] <= high, name
    assert {"ledger that forgets rounds", "a forgotten round"} <= set(measured)
    leak = found[-1]["caught"]
    assert few or leak["measured"] > leak["claimed"] > 0.9
