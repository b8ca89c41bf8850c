"""``distance`` and ``theory`` as a user types them: files, resuming, refusals."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config, to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.experiments.presets import pair_settings
from edgecmd.experiments.theory import jobs as theory_jobs
from edgecmd.models.student_file import save_student
from tests.command_line import run
from tests.tiny_federation import run_of


@pytest.fixture
def settings_file(tiny: RunConfig, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny), encoding="utf-8")
    return path


def test_distance_of_a_probe_and_of_a_student(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings_file: Path,
    tiny: RunConfig,
    tmp_path: Path,
) -> None:
    words = ["distance", "--config", str(settings_file), "--part", "test", "--batch-size", "3"]
    warm = ["--set", "distill.teacher_temperature=5.0", "--set", "distill.temperature=5.0"]
    assert run(monkeypatch, *words, *warm) == 0
    assert "linear probe on features" in capsys.readouterr().out
    written = json.loads((Path(tiny.out) / "tiny" / "distance.json").read_text())
    assert written["low"] <= written["variation"] <= written["high"]
    assert written["variation"] <= written["ceiling"] + 1e-9
    assert written["convergence"][-1]["num_pairs"] == written["num_pairs"]
    save_student(run_of(tiny).new_student(), tmp_path / "s.safetensors")
    trained = [*words, *warm, "--student", str(tmp_path / "s.safetensors"), "--json"]
    assert run(monkeypatch, *trained) == 0
    of_file = json.loads(capsys.readouterr().out)
    assert run(monkeypatch, *words, *warm, "--probe", "untrained", "--json") == 0
    assert json.loads(capsys.readouterr().out)["variation"] == of_file["variation"]


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--batch-size", "8"], 4, "make 1 batches of 8"),
        (["--batch-size", "4", "--pairs", "8"], 4, "is based on 2 batches"),
        (
            ["--batch-size", "4", "--set", "distill.teacher_temperature=0.0001"],
            4,
            "dominated by the diagonal",
        ),
        (["--probe", "linaer"], 2, "Did you mean 'linear'"),
        (["--part", "train"], 2, "Allowed: test, validation"),
    ],
)
def test_a_distance_that_cannot_be_trusted_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings_file: Path,
    more: list[str],
    code: int,
    message: str,
) -> None:
    warm = ["--set", "distill.teacher_temperature=5.0", "--set", "distill.temperature=5.0"]
    part = [] if "--part" in more else ["--part", "test"]
    assert run(monkeypatch, "distance", "--config", str(settings_file), *part, *warm, *more) == code
    assert message in capsys.readouterr().err


def test_a_sweep_writes_its_files_and_does_not_repeat_finished_points(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tiny: RunConfig
) -> None:
    words = ["theory", "--config", str(settings_file), "--levels", "4", "--seeds", "1"]
    one_gap = ["--gaps", "erase", "--set", "federation.local_steps=1"]
    assert run(monkeypatch, *words, *one_gap) == 0
    out = capsys.readouterr().out
    assert "Spearman" in out
    assert "kappa" in out
    folder = Path(tiny.out) / "tiny"
    assert (folder / "theory.png").read_bytes()[:4] == b"\x89PNG"
    first = (folder / "theory.json").read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "theory").iterdir()}
    assert run(monkeypatch, *words, *one_gap, "--json") == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "theory").iterdir()} == stamps
    assert (folder / "theory.json").read_bytes() == first
    assert run(monkeypatch, *words, *one_gap, "--set", "distill.temperature=0.3") == 2
    assert "other settings" in capsys.readouterr().err
    assert run(monkeypatch, *words, "--gaps", "blurr") == 2
    assert "Did you mean 'blur'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one(
    monkeypatch: pytest.MonkeyPatch, settings_file: Path, tiny: RunConfig
) -> None:
    words = [
        "theory",
        "--config",
        str(settings_file),
        "--levels",
        "4",
        "--seeds",
        "1",
        "--gaps",
        "erase,noise",
    ]
    found = []
    for jobs in ("1", "2"):
        assert run(monkeypatch, *words, "--jobs", jobs, "--set", f"name=jobs-{jobs}") == 0
        folder = Path(tiny.out) / f"jobs-{jobs}"
        files = sorted((folder / "theory").iterdir())
        found.append([(folder / "theory.json").read_bytes(), *(file.read_bytes() for file in files)])
    assert len(found[0]) == 10
    assert found[0] == found[1]


def test_weights_of_simclr_on_the_source_are_a_run_s_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "start.safetensors"
    words = ["warm-start", "--simclr", "--steps", "2", "--config", str(settings_file), "--out", str(out)]
    assert run(monkeypatch, *words) == 0
    assert "distill.loss=simclr" in capsys.readouterr().out
    assert out.exists()


def test_rotation_compares_the_methods(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tiny: RunConfig
) -> None:
    words = ["theory", "--rotation", "--rounds", "2", "--seeds", "2", "--config", str(settings_file)]
    assert run(monkeypatch, *words, "--set", "federation.num_clients=2") == 0
    assert "cmd, FedProx" in capsys.readouterr().out
    found = json.loads((Path(tiny.out) / "tiny" / "rotation.json").read_text())
    fixes = {"cmd-anchored", "cmc+cmd", "cmc", "cmd, FedProx", "cmd, shared projector"}
    assert set(found["methods"]) == {"cmd", *fixes}
    assert [len(rows) for rows in found["methods"]["cmc"]] == [2, 2]
    assert found["methods"]["cmc"][0] != found["methods"]["cmc"][1]


def test_a_stopped_sweep_keeps_what_is_finished_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tiny: RunConfig
) -> None:
    """Ctrl-C in the third point; the second start measures the other seven."""
    work, calls = theory_jobs.WORK["point"], [0]

    def stopped_at_the_third(
        config: RunConfig, place: Mapping[str, Any], assembly: Assembly
    ) -> dict[str, Any]:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return work(config, place, assembly)

    words = ["theory", "--config", str(settings_file), "--levels", "4", "--seeds", "1", "--gaps", "erase"]
    words += ["--set", "federation.local_steps=1"]
    monkeypatch.setitem(theory_jobs.WORK, "point", stopped_at_the_third)
    assert run(monkeypatch, *words) == 130
    assert "Finished work is saved" in capsys.readouterr().err
    folder = Path(tiny.out) / "tiny"
    assert len(list((folder / "theory").iterdir())) == 2
    assert not (folder / "theory.json").exists()
    assert run(monkeypatch, *words) == 0
    out = capsys.readouterr().out
    num = len(list((folder / "theory").iterdir()))
    assert f"{num - 2} of {num} points to measure" in out
    assert calls[0] == num + 1
    assert run(monkeypatch, *words) == 0
    assert f"Already finished and read: {num} points." in capsys.readouterr().out


def test_a_pair_stands_for_data_and_student_and_the_user_s_settings_count() -> None:
    words = pair_settings("digits", run="theory-digits", settings=["seed=3", "name=mine"])
    config = load_config(None, words)
    assert (config.data.name, config.student.architecture) == ("digits", "audio-200k")
    assert (config.name, config.seed) == ("mine", 3)
    assert pair_settings("", run="x", settings=None) == []
    with pytest.raises(ConfigError, match="Did you mean 'emoji'"):
        pair_settings("emojis", run="x", settings=None)


def test_distance_to_anchors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tiny: RunConfig
) -> None:
    words = ["distance", "--config", str(settings_file), "--part", "test", "--batch-size", "3"]
    warm = ["--set", "distill.teacher_temperature=5.0"]
    assert run(monkeypatch, *words, *warm, "--relations", "anchors") == 0
    assert "relations to public anchors" in capsys.readouterr().out
    assert json.loads((Path(tiny.out) / "tiny" / "distance.json").read_text())["form"] == "anchors"
    assert run(monkeypatch, *words, "--relations", "anchor") == 2
    assert "Did you mean 'anchors'" in capsys.readouterr().err
