"""A level of anyone's own, made up here as one row: the command line, audit.json, the report, the library."""

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding, refuse_contradicted
from edgecmd.audits.levels import LEVELS, Level
from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.experiments.audit_ladder import audit
from tests.command_line import run
from tests.from_docs import module_of
from tests.quick import brief_checks
from tests.tiny_federation import find_target


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The level of the documentation: one row of the table, known nowhere else."""
    module_of("extending.md", "my_levels", tmp_path, monkeypatch)
    module = importlib.import_module("my_levels")
    monkeypatch.setitem(LEVELS, "size", module.ROW)
    return module


@pytest.mark.usefixtures("own")
def test_it_is_climbed_kept_and_reported(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied("anchors")
    assert run(monkeypatch, "audit", folder, "--levels", "size") == 0
    assert "size, largest weight (device): The largest weight is" in capsys.readouterr().out
    table = json.loads((folder / "audit.json").read_text())
    (kept,) = table["findings"]
    assert (table["verdict"], kept["level"], kept["quantity"]) == (NOT_CONTRADICTED, "size", "weight")
    assert math.isfinite(kept["measured"])
    assert run(monkeypatch, "report", folder) == 0
    page = (folder / "report.html").read_text()
    assert "largest weight" in page
    assert "1e+06 is allowed" in page


def test_what_it_contradicts_ends_with_exit_code_3(
    own: ModuleType,
    copied: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = copied("anchors")
    monkeypatch.setattr(own, "LARGEST", 1e-9)
    assert run(monkeypatch, "audit", "run", folder, "--levels", "size", "--json") == 3
    shown = capsys.readouterr()
    assert json.loads(shown.out)[0]["verdict"] == CONTRADICTED
    assert "1 of 1 audit contradicts. First: The largest weight is" in " ".join(shown.err.split())
    assert json.loads((folder / "audit.json").read_text())["verdict"] == CONTRADICTED


@pytest.mark.usefixtures("own")
def test_it_is_passed_over_where_it_has_nothing_to_ask(copied: Callable[[str], Path]) -> None:
    folder = copied("anchors")
    alone = find_target(folder / "student.safetensors")
    with pytest.raises(ConfigError, match=r"names 'size', which does not apply to this student: choose"):
        audit(alone, levels=["size"])
    with brief_checks():
        assert {one.level for one in audit(alone, levels=["size", "check"])} == {"check"}
    (found,) = audit(find_target(folder), levels=["size"])
    assert found.level == "size"
    refuse_contradicted([found])


@pytest.mark.usefixtures("own")
def test_a_misspelt_level_is_refused_before_anything_is_audited(copied: Callable[[str], Path]) -> None:
    folder = copied("anchors")
    with pytest.raises(ConfigError, match="levels='sise'.*size"):
        audit(find_target(folder), levels=["size", "sise"])
    assert not (folder / "audit.json").exists()


def test_a_row_that_proves_nothing_cannot_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"name": "x", "attacker": "device", "text": "", "quantity": "weight"}
    with pytest.raises(PrivacyError, match="allowed: check, step, one-run, many-runs, risk"):
        Finding(level="size", verdict=INDICATOR, **said)
    monkeypatch.setitem(LEVELS, "size", Level(text="a guess", audit=lambda *_: [], proves=False))
    assert Finding(level="size", verdict=INDICATOR, **said).level == "size"
    with pytest.raises(PrivacyError, match="cannot contradict"):
        Finding(level="size", verdict=CONTRADICTED, **said)
