"""A student with GroupNorm from run to bundle without it, by the command line; and its bench."""

import json
import sys
from pathlib import Path

import onnx
import pytest

from edgecmd.cli.app import main
from edgecmd.config import RunConfig
from edgecmd.settings import to_toml


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Exit code of one command."""
    monkeypatch.setattr(sys, "argv", ["edgecmd", *map(str, words)])
    try:
        main()
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


@pytest.fixture(scope="module")
def folder(tiny_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a gn-50k student."""
    from shapes import shapes_config

    out = tmp_path_factory.mktemp("fold-e2e")
    config: RunConfig = shapes_config(*tiny_files, out)
    (out / "tiny.toml").write_text(to_toml(config), encoding="utf-8")
    words = ["--config", out / "tiny.toml", "--set", "student.architecture=gn-50k"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(monkeypatch, "simulate", *words) == 0
    return out / config.name


def test_group_norm_is_folded_away_and_the_card_says_what_it_cost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "folded"
    words = ["--fold-norm", "--fold-steps", 8, "--floor", 0.01, "--profiles", "fp32,w8"]
    assert run(monkeypatch, "export", folder, "--out", bundle, *words) == 0, capsys.readouterr().err
    assert "GroupNorm folded away: cosine" in capsys.readouterr().out
    report = json.loads((bundle / "report.json").read_text())
    folding = report["folding"]
    assert (report["architecture"], folding["original"]) == ("plain-50k", "gn-50k")
    assert (folding["num_steps"], folding["metric_name"]) == (8, "recall@1")
    assert folding["metric"] == pytest.approx(report["parity"]["metric_torch"])
    assert -1 <= folding["cosine_before"] <= folding["cosine"] <= 1
    card = (bundle / "MODEL_CARD.md").read_text()
    assert f"{folding['cosine_before']:.4f} before these steps, {folding['cosine']:.4f} after" in card
    assert f"{folding['metric_original']:.4f} as trained" in card
    operators = {node.op_type for node in onnx.load(bundle / "student.onnx").graph.node}
    assert "InstanceNormalization" not in operators

    told = ["--against", "", "--repeats", 2, "--starts", 0, "--json"]
    assert run(monkeypatch, "bench", "export", bundle, *told) == 0
    bench = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in bench["rows"]] == ["fp32", "w8"]
    assert bench["reference"] == "fp32"


def test_a_floor_that_is_missed_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--fold-norm", "--fold-steps", 0, "--floor", 1.0]
    assert run(monkeypatch, "export", folder, "--out", tmp_path / "none", *words) == 6
    error = capsys.readouterr().err
    assert "with GroupNorm and" in error
    assert "the floor is 1" in error
    assert list(tmp_path.iterdir()) == []


def test_bench_of_a_run_in_torch_and_in_every_profile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--against", "torch", "--profiles", "fp32,w8,dyn8", "--repeats", 2, "--starts", 0]
    assert run(monkeypatch, "bench", "export", folder, *words, "--picture", tmp_path / "bench.png") == 0
    out = capsys.readouterr().out
    assert "dyn8: Profile dyn8 is for transformers" in out
    assert "For wasm: " in out
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--against", "torhc"), "torch"),
        (("--profiles", "int9"), "int8"),
    ],
)
def test_a_misspelt_engine_or_profile_gets_the_nearest(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, str],
    message: str,
) -> None:
    assert run(monkeypatch, "bench", "export", folder, *words) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_neither_run_nor_bundle_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "bench", "export", tmp_path) == 4
    assert "neither student.safetensors nor student.onnx" in capsys.readouterr().err


def test_students_are_compared_and_what_is_finished_is_not_repeated(
    tiny_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from shapes import shapes_config

    (tmp_path / "tiny.toml").write_text(to_toml(shapes_config(*tiny_files, tmp_path)), encoding="utf-8")
    words = ["--config", tmp_path / "tiny.toml", "--architectures", "gn-50k", "--method", "cmc"]
    words += ["--seeds", 1, "--warm-steps", 1, "--fold-steps", 2, "--set", "name=students"]
    assert run(monkeypatch, "bench", "students", *words) == 0
    first = capsys.readouterr().out
    assert "gn-50k, folded" in first
    record = json.loads((tmp_path / "students" / "students.json").read_text())
    assert set(record["rows"]) == {"gn-50k", "gn-50k, folded"}
    assert record["rows"]["gn-50k, folded"]["pure"]["mean"] == 1.0
    assert set(record["rows"]["gn-50k"]) >= {"recall@1", "pure"}
    monkeypatch.setattr("server.simulate.simulate", None)
    assert run(monkeypatch, "bench", "students", *words) == 0
    assert capsys.readouterr().out == first
    exported = tmp_path / "students" / "seed-0" / "gn-50k"
    assert (exported / "config.toml").is_file()
