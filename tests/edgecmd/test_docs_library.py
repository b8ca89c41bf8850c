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

ROOT = Path(__file__).parents[2]


def code_of(page: str) -> str:
    """All Python of a page, each line at its own place, so that a traceback names it."""
    lines, inside = list[str](), False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        fence = re.match(r"```(\w*)", line)
        inside = fence[1] == "python" if fence else inside
        lines.append(line if inside and not fence else "")
    return "\n".join(lines)


def told_by(page: str, folder: Path) -> str:
    """What the code of a page prints in a Python of its own, started in ``folder``."""
    file = folder / f"{Path(page).stem}.py"
    file.write_text(code_of(page), encoding="utf-8")
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
    told = told_by("docs/library.md", tmp_path)
    for part in ("epsilon = ", "add or remove one pair", "R@1", "Did you mean 'cmc'", "first weights"):
        assert part in told
    assert "contradicted" in (tmp_path / "runs/private/audit.json").read_text(encoding="utf-8")
    assert {one.name for one in (tmp_path / "bundle").glob("*.onnx")} >= {"student.onnx", "student.int8.onnx"}


def test_the_code_of_the_readme(tmp_path: Path) -> None:
    assert len([line for line in code_of("README.md").splitlines() if line]) <= 12
    told = told_by("README.md", tmp_path).splitlines()
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
