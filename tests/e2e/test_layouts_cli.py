"""Public sets as people have them on disk, as a user types it, on small made-up trees."""

import json
from pathlib import Path

import pytest

from tests.command_line import run
from tests.edgecmd.data.layouts import trees

SETTINGS = (
    "data.name=sketchy",
    "data.image_size=16",
    "data.strict=false",
    "student.architecture=ws-50k",
    "distill.batch_size=8",
    "distill.num_anchors=16",
    "federation.num_clients=2",
    "federation.num_rounds=2",
    "federation.local_steps=1",
    "evaluate.every_rounds=0",
    "evaluate.num_labels=1",
    "evaluate.num_draws=1",
)


def sets(*more: str) -> list[str]:
    """The settings as words, ``more`` last."""
    return [word for one in (*SETTINGS, *more) for word in ("--set", one)]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))


def test_the_whole_pipeline_on_sketchy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trees.sketchy(Path("sketchy"))
    words = sets("data.path=sketchy", "name=mine", "federation.partition=dirichlet")
    assert run(monkeypatch, "data", "check", "sketchy", *sets()) == 0
    assert run(monkeypatch, "run", "--no-baselines", *words) == 0
    out = capsys.readouterr().out
    assert "note: 2 of 48 sketches are in a list of invalid ones." in out
    assert "sketchy (real), " in out
    assert "Unseen photographs, real pairs" in out
    student = json.loads(Path("runs/mine/evaluation.json").read_text())["student"]
    assert (student["data"], student["kind"], student["unseen"]) == ("sketchy", "real", "photographs")
    assert student["few_labels"]["group"]["num_classes"] >= 2
    assert run(monkeypatch, "verify", "runs/mine/export") == 0
    assert run(monkeypatch, "data", "show", *words, "--num", "4") == 0


def test_sets_are_listed_and_damage_ends_with_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "data", "list") == 0
    listed = capsys.readouterr().out
    for name in ("sketchy", "tuberlin", "sunrgbd", "nyu", "vggsound"):
        assert name in listed
    root = trees.sunrgbd(Path("sun"))
    (root / "SUNRGBD/kv1/NYUdata/NYU0001/depth/0001.png").write_bytes(b"cut")
    assert run(monkeypatch, "data", "check", "sun", "--set", "data.name=sunrgbd", *sets()[2:]) == 4
    told = capsys.readouterr()
    assert "NYU0001/depth/0001.png cannot be decoded" in told.out
    assert run(monkeypatch, "run", "--dry-run", *sets("data.path=nowhere")) == 4
    assert "Expected: photo/tx_000000000000" in capsys.readouterr().err
