"""A student with GroupNorm from run to bundle without it, by the command line; and its bench."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecmd.config.reader import to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.settings import DataConfig
from tests.command_line import run


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


def as_depth(grey: np.ndarray) -> np.ndarray:
    """Millimetres of grey pictures; black is missing."""
    return np.asarray(grey, np.uint16) * 20


def as_sound(grey: np.ndarray) -> np.ndarray:
    """Samples of grey pictures, one after another, eight times."""
    return np.tile((grey.reshape(len(grey), -1).astype(np.int16) - 128) * 200, 8)


def of_other_targets(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[DataConfig], Experiment]:
    """The folder's loader with its targets changed."""
    from edgecmd.data.user_files.folder import load_folder

    def held(one: HeldOut) -> HeldOut:
        target = change(one.pairs.target)
        return replace(
            one, pairs=replace(one.pairs, target=target), labelled=replace(one.labelled, target=target)
        )

    def load(config: DataConfig) -> Experiment:
        whole = load_folder(config)
        parts = {name: held(getattr(whole, name)) for name in ("validation", "test", "test_strict")}
        return replace(whole, train=replace(whole.train, target=change(whole.train.target)), **parts)

    return load


@pytest.mark.parametrize(
    ("front_end", "architecture", "change"),
    [("depth16", "ws-50k", as_depth), ("wave", "audio-50k", as_sound)],
)
def test_depth_and_sound_go_from_pairs_to_a_bundle(
    front_end: str,
    architecture: str,
    change: Callable[[np.ndarray], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.tiny_federation import settings_of, write_pairs

    monkeypatch.setattr("edgecmd.data.user_files.folder.load_folder", of_other_targets(change))
    pairs = write_pairs(tmp_path / "pairs.npz")
    changes = [f'student.architecture="{architecture}"', "federation.num_rounds=1"]
    words = [word for one in [*settings_of(pairs, tmp_path), *changes] for word in ("--set", one)]
    assert run(monkeypatch, "simulate", *words) == 0, capsys.readouterr().err
    folder = tmp_path / "tiny"
    assert run(monkeypatch, "export", folder) == 0, capsys.readouterr().err
    report = json.loads((folder / "export" / "report.json").read_text())
    assert report["front_end"] == front_end
    assert report["parity"]["min_cosine"] >= 0.9995
    assert report["num_classes"] == 5
    capsys.readouterr()
    assert run(monkeypatch, "export", folder, "--fold-norm") in (2, 6)
    assert "stand in for images" in capsys.readouterr().err
    assert run(monkeypatch, "infer", folder / "export", "--check") == 0
    if front_end == "wave":
        told = ["--against", "torch", "--profiles", "w8", "--repeats", 2, "--starts", 1, "--json"]
        assert run(monkeypatch, "bench", "export", folder, *told) == 0
        out = capsys.readouterr().out
        bench = json.loads(out[out.index("{\n") :])
        assert set(bench["starts"]) == {"w8", "torch"}
