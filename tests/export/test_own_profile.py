"""An export profile that edgecmd does not know: the row of docs/extending.md, and all follows from it."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecmd.config.reader import load_config, to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from export.bench.measure import Closeness, Row, recommendations
from export.bench.subject import bundle_files
from export.bench.timing import Timing
from export.loaded import load_bundle
from export.profiles.table import PROFILES, choose_profiles, limits_of
from export.trust.checks import verify_bundle
from tests.command_line import run
from tests.from_docs import module_of

TIMING = Timing(num=10, p50_ms=1.0, p95_ms=1.0, min_ms=1.0)


@pytest.fixture(autouse=True)
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_of("extending.md", "my_profiles", tmp_path, monkeypatch)
    monkeypatch.setitem(PROFILES, "half", importlib.import_module("my_profiles").HALF)


def row(name: str, num_bytes: int) -> Row:
    same = Closeness(max_abs=0.0, min_cosine=1.0, agreement=1.0, agreement_classes=None, metric=None)
    return Row(name=name, num_bytes=num_bytes, load_ms=1.0, latency=TIMING, per_second=1.0, closeness=same)


def test_it_goes_from_the_settings_into_a_checked_bundle(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny, export=replace(tiny.export, profiles="w8,half"))
    settings, folder = tmp_path / "half.toml", Path(config.out) / config.name
    settings.write_text(to_toml(config), encoding="utf-8")
    assert load_config(settings).export.profiles == "w8,half"
    assert run(monkeypatch, "simulate", "--config", settings) == 0
    # Twice: an older bundle with the file of the profile is a bundle, and is replaced.
    assert (
        run(monkeypatch, "export", folder)
        == run(monkeypatch, "export", folder, "--profiles", "fp32,half")
        == 0
    )
    assert "; half " in capsys.readouterr().out
    bundle = folder / "export"
    assert verify_bundle(bundle).error is None
    assert run(monkeypatch, "verify", bundle) == 0
    told = json.loads((bundle / "report.json").read_text(encoding="utf-8"))["profiles"]["half"]
    assert told["file"] == "student.half.onnx"
    assert told["summary"] == "16-bit weights, float32 arithmetic"
    assert told["limits"]["min_cosine"] == 0.9995
    assert "half: 16-bit weights, float32 arithmetic" in (bundle / "MODEL_CARD.md").read_text(
        encoding="utf-8"
    )
    bill = (bundle / "ml-bom.cdx.json").read_text(encoding="utf-8")
    assert "student.half.onnx" in bill

    # What it promises holds: large weights are float16, half of their bytes, and answers are near.
    weights = onnx.load(bundle / "student.half.onnx").graph.initializer
    large = [one for one in weights if np.prod(one.dims) >= 1000]
    assert {one.data_type for one in large} == {onnx.TensorProto.FLOAT16}
    spared = 2 * sum(int(np.prod(one.dims)) for one in large)
    sizes = {name: (bundle / name).stat().st_size for name in ("student.onnx", "student.half.onnx")}
    assert sizes["student.onnx"] - sizes["student.half.onnx"] == pytest.approx(spared, rel=0.05)
    inputs = np.load(bundle / "golden.npz")["image"]
    found, exact = (load_bundle(bundle, profile=name) for name in ("half", "fp32"))
    assert found.device.path.name == "student.half.onnx"
    assert float((found.embed(inputs) * exact.embed(inputs)).sum(axis=1).min()) > 0.9995
    np.save(tmp_path / "one.npy", inputs[0])
    assert run(monkeypatch, "infer", bundle, tmp_path / "one.npy", "--profile", "half") == 0
    assert run(monkeypatch, "infer", bundle, "--check", "--profile", "half") == 0
    assert set(bundle_files(bundle)) == {"fp32", "half"}


def test_its_row_says_what_may_replace_its_limit_and_where_it_is_advised() -> None:
    assert choose_profiles("half") == ("half",)
    assert limits_of("half", min_cosine=0.99).min_cosine == 0.99
    # Nothing is known of a browser; the smallest of the exact ones is advised.
    advice = recommendations([row("fp32", 900), row("w8", 300), row("half", 200)], metric=None)
    assert advice[-1].profile == "half"


def test_a_misspelt_one_is_named() -> None:
    with pytest.raises(ConfigError, match=r"export.profiles='hafl' is unknown.*Did you mean 'half'"):
        choose_profiles("hafl")
