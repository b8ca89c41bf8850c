"""``edgecmd audit risk`` on a tiny federation: a run folder, a student's file, an exported file."""

import json
from pathlib import Path

import pytest

from tests.command_line import edgecmd
from tests.e2e.test_privacy_cli import sets

QUICK = ("--shadows", "4", "--shadow-steps", "2", "--inversion-steps", "2", "--pairs", "4", "--jobs", "1")


@pytest.fixture(scope="module")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("risk")
    done = edgecmd("run", "--no-baselines", *sets(pairs, folder), folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "tiny"


@pytest.fixture(scope="module")
def audited(run: Path) -> Path:
    done = edgecmd("audit", "risk", str(run), *QUICK, folder=run.parent)
    assert done.returncode == 0, done.stderr
    assert "risk indicator" in done.stdout
    return run


def test_student_and_exported_file_are_attacked_alike(audited: Path) -> None:
    found = {one["name"]: one for one in json.loads((audited / "audit.json").read_text())["findings"]}
    assert set(found) == {
        "membership, student",
        "membership, exported file",
        "gradient inversion, 1 pair a step",
        "gradient inversion, 4 pairs a step",
    }
    assert {one["verdict"] for one in found.values()} == {"risk indicator"}
    student, exported = found["membership, student"], found["membership, exported file"]
    assert student["measured"] == pytest.approx(exported["measured"], abs=0.02)
    assert exported["attacker"] == "device"
    assert len(exported["details"]["attacks"]["lira"]["roc"]) <= 200
    assert found["gradient inversion, 1 pair a step"]["attacker"] == "server"


def test_pictures_and_scores_lie_in_the_run_folder_and_no_example_in_the_record(audited: Path) -> None:
    names = sorted(path.name for path in (audited / "audit").glob("*.png"))
    assert names == ["inversion-1.png", "inversion-4.png"]
    assert len(list((audited / "audit").glob("shadows-*/*.npy"))) == 4
    assert (audited / "audit.json").stat().st_size < 100_000
    done = edgecmd("report", str(audited), folder=audited.parent)
    assert done.returncode == 0, done.stderr
    assert "membership, exported file" in (audited / "report.html").read_text()


def test_an_exported_file_alone_and_without_pictures(audited: Path) -> None:
    target = audited / "export" / "student.onnx"
    done = edgecmd(
        "audit", "risk", str(target), "--attacks", "membership", "--json", *QUICK, folder=audited.parent
    )
    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in json.loads(done.stdout)] == ["membership, exported file"]
    words = ("audit", "risk", str(audited), "--attacks", "inversion", "--no-pictures", *QUICK)
    done = edgecmd(*words, folder=audited.parent)
    assert done.returncode == 0, done.stderr
    assert not list((audited / "audit").glob("*.png"))


def test_training_again_gives_exchangeable_others(audited: Path) -> None:
    target = audited / "student.safetensors"
    words = ("--attacks", "membership", "--retrain", "--json", *QUICK)
    done = edgecmd("audit", "risk", str(target), *words, folder=audited.parent)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout[done.stdout.index("[") :])
    assert found["name"] == "membership, student, trained again"
    assert "exchangeable" in found["text"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--attacks", "membershp"], 2, "Did you mean 'membership'"),
        (["--shadows", "5"], 2, "even number"),
        (["--attacks", "inversion", "--pairs", "4000"], 2, "--pairs=4000 is too many"),
    ],
)
def test_mistakes_are_told(run: Path, words: list[str], code: int, text: str) -> None:
    done = edgecmd("audit", "risk", str(run), *words, folder=run.parent)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_foreign_onnx_file_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "foreign.onnx").write_bytes(b"not a model")
    done = edgecmd("audit", "risk", str(run / "foreign.onnx"), "--attacks", "membership", folder=tmp_path)
    assert done.returncode == 6
    assert "foreign.onnx" in done.stderr
    (run / "foreign.onnx").unlink()
