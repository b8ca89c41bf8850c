"""The command line as a user types it, in this process; bad input gives one line and an exit code."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.config.reader import to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.experiments.bench.simulation import earlier_ratios
from tests.command_line import run
from tests.tiny_federation import run_of


@pytest.fixture
def settings_file(tiny: RunConfig, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny), encoding="utf-8")
    return path


def test_the_whole_pipeline_writes_every_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tiny: RunConfig
) -> None:
    assert run(monkeypatch, "run", "--config", str(settings_file)) == 0
    folder = Path(tiny.out) / "tiny"
    names = ["config.toml", "environment.json", "events.jsonl", "student.safetensors", "evaluation.json"]
    names += ["partition.json", "retrieval.npz", "report.html", "export/student.onnx", "export/infer.py"]
    assert [name for name in names if not (folder / name).exists()] == []
    table = json.loads((folder / "evaluation.json").read_text())
    assert set(table["baselines"]) == {"untrained", "teacher as it is", "l2", "simclr", "scratch"}
    assert 0 <= table["student"]["retrieval"]["recall@1"] <= 1
    out = capsys.readouterr().out
    assert "Unseen pairs" in out
    assert "chance 2.08" in out
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(folder / "white.png")
    picture, model = str(folder / "white.png"), str(folder / "export" / "student.onnx")
    assert run(monkeypatch, "infer", model, picture, "--json") == 0
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert len(line["embedding"]) == 16
    shutil.rmtree(folder / "baselines")
    capsys.readouterr()
    assert run(monkeypatch, "evaluate", str(folder), "--baselines", "--json") == 0
    # The baselines are trained again, and stdout is one document all the same.
    assert set(json.loads(capsys.readouterr().out)) >= {"student", "l2", "simclr"}
    for words in (["evaluate", "--json"], ["report"], ["export"], ["resume"]):
        assert run(monkeypatch, words[0], str(folder), *words[1:]) == 0


def test_a_dry_run_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tiny: RunConfig
) -> None:
    assert run(monkeypatch, "run", "--config", str(settings_file), "--dry-run") == 0
    assert not Path(tiny.out).exists()
    assert "bytes a round" in capsys.readouterr().out


def test_compare_prints_intervals_and_does_not_repeat_finished_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tiny: RunConfig
) -> None:
    words = [
        "compare",
        "--config",
        str(settings_file),
        "--methods",
        "cmc,central:cmc,socket,central:presimclr,scratch,teacher,untrained",
    ]
    assert run(monkeypatch, *words, "--seeds", "2") == 0
    out = capsys.readouterr().out
    # Fifteen test items and two seeds: numbers alone, and why.
    assert "15 test pairs: too few to rank methods" in out
    assert "2 seeds: too few for intervals" in out
    assert not any(sign in out for sign in ("±", "[", "Best"))
    assert "Difference from cmc" in out
    assert (Path(tiny.out) / "tiny" / "compare.png").read_bytes()[:4] == b"\x89PNG"
    job = Path(tiny.out) / "tiny" / "seed-0" / "cmc.json"
    before = job.stat().st_mtime_ns
    assert run(monkeypatch, *words, "--seeds", "2", "--json") == 0
    assert job.stat().st_mtime_ns == before
    found = json.loads((Path(tiny.out) / "tiny" / "compare.json").read_text())["summary"]
    assert found["cmc"]["recall@1"]["num"] == 2
    assert found["cmc"]["recall@1"]["low"] is None
    assert "recall@1" not in found["central:presimclr"]
    paired = json.loads((Path(tiny.out) / "tiny" / "compare.json").read_text())["paired"]
    assert set(paired) == {"socket", "central:presimclr", "scratch", "teacher", "untrained"}
    assert paired["central:presimclr"]["nmi"]["against"] == "central:cmc"


def test_pretrain_init_data_and_doctor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "t.safetensors"
    assert run(monkeypatch, "pretrain", "--config", str(settings_file), "--out", str(teacher)) == 0
    assert teacher.exists()
    made = tmp_path / "made.toml"
    assert run(monkeypatch, "init", str(made)) == 0
    assert run(monkeypatch, "init", str(made)) == 2
    assert "already exists" in capsys.readouterr().err
    sheet = tmp_path / "sheet.png"
    assert (
        run(monkeypatch, "data", "show", "--config", str(settings_file), "--out", str(sheet), "--num", "4")
        == 0
    )
    with Image.open(sheet) as opened:
        assert opened.size[0] > 100
    capsys.readouterr()
    assert run(monkeypatch, "data", "list") == 0
    listed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    teachers = listed[listed.index("Teachers that ship (teacher.name)") + 1 :]
    assert teachers[0] == "name trained on labels licence"
    assert [line.split()[0] for line in teachers[1:4]] == ["icons", "indoor", "imagenet"]
    assert teachers[3].endswith("ImageNet's 1,000 classes Apache-2.0, Google and ML Illustrated")
    assert run(monkeypatch, "doctor") == 0
    assert run(monkeypatch, "doctor", "--json") == 0
    assert run(monkeypatch, "--version") == 0


def test_bench_simulate_reports_a_ratio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path
) -> None:
    """And the ratio to an earlier one, of the same work alone."""
    words = ["bench", "simulate", "--config", str(settings_file), "--clients", "2", "--rounds", "1"]
    assert run(monkeypatch, *words, "--repeats", "1", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["clients"] == 2
    assert 1.0 <= found["bytes_ratio"] < 1.2
    assert found["ratio_median"] > 0
    assert found["overhead_ms_min"] <= found["overhead_ms_median"] <= found["overhead_ms_max"]
    old = settings_file.parent / "old.json"
    for content, message in [
        ([found | {"rounds": 2}], "the file has 2 clients, 2 rounds. Measure the same"),
        ([], "the file has nothing"),
        ({"clients": 2}, "does not hold what"),
        ([3], "does not hold what"),
    ]:
        old.write_text(json.dumps(content))
        assert run(monkeypatch, *words, "--compare", str(old)) == 2
        assert message in capsys.readouterr().err
    old.write_text("{")
    assert run(monkeypatch, *words, "--compare", str(old)) == 4
    assert run(monkeypatch, *words[:4], "--clients", "2,x") == 2
    assert "--clients has 'x'" in capsys.readouterr().err


def test_a_measurement_is_divided_by_an_earlier_one() -> None:
    rows = [
        {"clients": 2, "rounds": 1, "ratio_median": 1.25},
        {"clients": 4, "rounds": 1, "ratio_median": 1.5},
    ]
    assert earlier_ratios(rows, clients=[2, 4], num_rounds=1) == [1.25, 1.5]
    with pytest.raises(ConfigError, match="2 clients, 1 rounds; 4 clients, 1 rounds"):
        earlier_ratios(rows, clients=[4, 2], num_rounds=1)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["simulate", "--set", "distill.los=cmc"], 2, "Did you mean"),
        (["simulate", "--set", "distill.loss=cmcc"], 2, "Did you mean 'cmc'"),
        (["simulate", "--set", "student.architecture=ws-200"], 2, "Did you mean 'ws-200k'"),
        (["simulate", "--set", "federation.num_rounds=0"], 2, "federation.num_rounds=0 is outside"),
        (["simulate", "--set", "device=gpu"], 2, "device='gpu' is unknown"),
        (["simulate", "--set", "data.name=folder", "--set", "data.path=/nowhere"], 4, "/nowhere"),
        (["simulate", "--set", "teacher.path=/nowhere.safetensors"], 4, "/nowhere.safetensors is not a file"),
        (["run", "--config", "/nowhere.toml"], 2, "/nowhere.toml"),
        (["resume", "/nowhere"], 5, "is not a run folder"),
        (["export", "/nowhere"], 5, "is not a run folder"),
        (["compare", "--methods", "cmd,crdd"], 2, "--methods has 'crdd'"),
        (["data", "build", "cats"], 2, "No such command 'cats'"),
        (["data", "check", "/nowhere"], 4, "/nowhere"),
        (["frobnicate"], 2, "frobnicate"),
        (["simulate", "--nonsense"], 2, "--nonsense"),
    ],
)
def test_bad_input_gives_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_run_folder_of_other_settings_is_not_continued(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: RunConfig, tmp_path: Path
) -> None:
    from edgecmd.config.assemble import start_run

    start_run(run_of(tiny))
    other = tmp_path / "other.toml"
    other.write_text(to_toml(replace(tiny, seed=5)), encoding="utf-8")
    for command in ("simulate", "run"):
        assert run(monkeypatch, command, "--config", str(other)) == 2
        err = capsys.readouterr().err
        assert "holds a run with other settings" in err
        assert "edgecmd resume" in err
        assert "--fresh" in err


def test_no_student_yet_is_said_plainly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: RunConfig
) -> None:
    from edgecmd.config.assemble import start_run

    assert run(monkeypatch, "evaluate", str(start_run(run_of(tiny)))) == 4
    assert "Train a student with" in capsys.readouterr().err


def test_the_chance_level_is_that_of_the_batches_which_the_clients_can_make(tiny: RunConfig) -> None:
    """56 training pairs or so over 4 clients: nobody has 64, so the level is log of each client's size."""
    from edgecmd.experiments.run_plan import chance

    config = replace(tiny, distill=replace(tiny.distill, batch_size=64))
    sizes = np.asarray([len(rows) for rows in run_of(config).parts])
    assert sizes.max() < 64
    assert chance(run_of(config)) == pytest.approx((sizes * np.log(sizes)).sum() / sizes.sum())
    assert chance(run_of(replace(tiny, distill=replace(tiny.distill, loss="l2")))) is None
