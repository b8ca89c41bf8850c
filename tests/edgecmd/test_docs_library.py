"""The code of docs/library.md and of the README runs, block after block, as a reader would type it."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgecmd as ec
from tests.quick import BRIEF_CHECKS

ROOT = Path(__file__).parents[2]


def code_of(page: str) -> str:
    """All Python of a page, each line at its own place, so that a traceback names it."""
    lines, inside = list[str](), False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        fence = re.match(r"```(\w*)", line)
        inside = fence[1] == "python" if fence else inside
        lines.append(line if inside and not fence else "")
    return "\n".join(lines)


def told_by(page: str, folder: Path, *, first: str = "", shorter: tuple[str, str] = ("", "")) -> str:
    """What the code of a page prints in a Python of its own, started in ``folder``.

    Args:
        page: Below the root.
        folder: Of what the code writes.
        first: A statement that comes before the code, on its first line, where a page has none.
        shorter: A text of the code, and what makes it run for less time.
    """
    file, code = folder / f"{Path(page).stem}.py", code_of(page)
    long, short = shorter
    assert not first or code.startswith("\n")
    assert not long or code.count(long) == 1
    file.write_text(first + (code.replace(long, short) if long else code), encoding="utf-8")
    found = subprocess.run(
        [sys.executable, file],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=1200,
    )
    assert found.returncode == 0, f"{page}: {found.stderr}"
    return found.stdout


def test_the_tour_of_the_library(tmp_path: Path) -> None:
    # The audit with canaries takes as many rounds as fit into eighty seconds of any machine; here one. What
    # many tries, fresh sources and clients of few pairs are needed for is told by the tests of the audit.
    brief = BRIEF_CHECKS + (
        "from edgecmd.audits.one_run import experiment; experiment.LADDER_BUDGET_S = 0.0;"
        "from edgecmd.audits.step import random_source as source, sampling_coins as coins;"
        "source.NUM_FRESH, coins.SMALL_STEPS = 1000, 32"
    )
    told = told_by("docs/library.md", tmp_path, first=brief)
    for part in ("epsilon = ", "add or remove one pair", "R@1", "Did you mean 'cmc'", "first weights"):
        assert part in told
    assert "contradicted" in (tmp_path / "runs/private/audit.json").read_text(encoding="utf-8")
    assert {one.name for one in (tmp_path / "bundle").glob("*.onnx")} >= {"student.onnx", "student.int8.onnx"}


def test_the_code_of_the_readme(tmp_path: Path) -> None:
    assert len([line for line in code_of("README.md").splitlines() if line]) <= 12
    # After 6 of its 30 rounds the probe is right on 30 of 100 drawings, by chance on 17: seven deviations.
    told = told_by("README.md", tmp_path, shorter=("rounds=30", "rounds=6")).splitlines()
    found = re.match(r"R@1 .* linear ([\d.]+)  \(chance ([\d.]+)", told[0])
    assert found
    assert float(found[1]) > float(found[2])
    assert len(told) == 2
    assert (tmp_path / "bundle" / "infer.py").is_file()


HOMES = sorted({getattr(ec, name).__module__ for name in ec.__all__ if name not in ("losses", "__version__")})


@pytest.mark.parametrize("name", HOMES)
def test_examples_of_docstrings_run(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_each_public_name_has_a_docstring_and_an_example_that_runs() -> None:
    tour = code_of("docs/library.md") + code_of("README.md")
    for name in (one for one in ec.__all__ if one != "__version__"):
        found = getattr(ec, name)
        assert found.__doc__, name
        made_by_another = name in (
            "Partition",
            "Scores",
            "Distilled",
            "Federated",
            "Finding",
            "Bundle",
            "BuiltIn",
        )
        assert made_by_another or ">>>" in found.__doc__ or f"ec.{name}" in tour, name
