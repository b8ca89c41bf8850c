"""Ready features as a user types them: a whole run at another width, and what is refused before training."""

import json
from pathlib import Path

import numpy as np
import pytest
from shapes import write_pairs

from tests.command_line import run

SETTINGS = (
    "data.name=folder",
    "data.path=pairs.npz",
    "data.image_size=16",
    "data.strict=false",
    "student.architecture=ws-50k",
    "distill.batch_size=8",
    "distill.num_anchors=8",
    "federation.num_clients=2",
    "federation.num_rounds=1",
    "federation.local_steps=1",
    "evaluate.num_labels=1",
    "evaluate.num_draws=1",
)
FILES = ("teacher.pair_features=clip.npz", "teacher.public_features=public.npz")


def sets(*more: str) -> list[str]:
    return [word for one in (*SETTINGS, *more) for word in ("--set", one)]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighty pairs, and features of 384 numbers in another order than that of the pairs."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pairs.npz")
    write_features(384)


def write_features(dim: int, public_dim: int = 0) -> None:
    noise = np.random.default_rng(0)
    ids = [f"source/shape-{row:03d}.png" for row in range(79, -1, -1)]
    np.savez("clip.npz", ids=np.array(ids), features=noise.normal(size=(80, dim)))
    keys = [f"{row:02d}" for row in range(40)]
    np.savez("public.npz", ids=np.array(keys), features=noise.normal(size=(40, public_dim or dim)))


def test_a_run_takes_their_width_and_leaves_the_teacher_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "run", *sets(*FILES, "name=ready")) == 0
    out = capsys.readouterr().out
    assert "ready features of clip.npz (384 numbers)" in out
    told = json.loads(Path("runs/ready/evaluation.json").read_text())
    assert "teacher as it is" not in told["baselines"]
    assert told["teacher"]["text"].startswith("ready features of clip.npz")
    assert json.loads(Path("runs/ready/export/report.json").read_text())["embedding_dim"] == 384
    assert "ready features of clip.npz" in Path("runs/ready/report.html").read_text()
    assert "clip.npz" not in Path("runs/ready/export/MODEL_CARD.md").read_text()
    assert run(monkeypatch, "verify", "runs/ready/export") == 0


def test_both_files_are_named_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_features(384, public_dim=128)
    assert run(monkeypatch, "run", *sets(*FILES, "name=ready")) == 4
    err = capsys.readouterr().err
    assert (
        "teacher.pair_features='clip.npz' has 384 numbers per row, teacher.public_features='public.npz' 128"
        in err
    )
    assert not Path("runs/ready/config.toml").exists()


def test_held_out_pairs_that_the_teacher_does_not_tell_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load("clip.npz") as file:
        ids, features = file["ids"], file["features"]
    # One pair differs, so that not all rows point one way; two of three parts show one thing.
    features[1:] = features[1] * np.linspace(1.0, 2.0, len(features) - 1)[:, None]
    # A name of its own: what was read is kept for a process by its settings.
    np.savez("alike.npz", ids=ids, features=features)
    given = sets("teacher.pair_features=alike.npz", FILES[1])
    said = []
    for words in (["run", *given, "--set", "name=ready"], ["data", "check", "pairs.npz", *given]):
        assert run(monkeypatch, *words) == 4
        printed = capsys.readouterr()
        said.append(printed.out + printed.err)
    assert all("pairs show 1 thing" in one for one in said)
    assert not Path("runs/ready/config.toml").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", *sets(*FILES, "distill.anchors=procedural")], 2, "the teacher that made them is not here"),
        (["run", *sets(*FILES, "student.architecture=seg-50k")], 4, "features of whole images"),
        (["run", *sets("teacher.pair_features=no.npz", FILES[1])], 4, "no.npz does not exist"),
        (["run", *sets("teacher.pair_features=pairs.npz", FILES[1])], 4, "lacks the array ids and features"),
        (["run", *sets("teacher.pair_features=clip.h5", FILES[1])], 4, "neither .npz nor .npy"),
        (["compare", *sets(*FILES), "--methods", "cmc,teacher"], 2, "Leave it out: --methods cmc"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *words) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_teacher_or_student_with_nan_is_named(
    tiny_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last four bytes of a file of weights are its last number: here they become NaN."""
    data = bytearray(tiny_files[1].read_bytes())
    data[-4:] = np.array([np.nan], "<f4").tobytes()
    Path("broken.safetensors").write_bytes(data)
    assert run(monkeypatch, "run", *sets("teacher.path=broken.safetensors")) == 4
    err = capsys.readouterr().err
    assert "broken.safetensors: 1 of " in err
    assert "are not finite" in err
