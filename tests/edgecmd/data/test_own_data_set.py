"""A data set of a user's own, as ``module:factory`` and as one row of the table, through all that asks."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.catalogue.data_files import status
from edgecmd.catalogue.data_sets import DATA_SETS, DataSet, data_set
from edgecmd.config.reader import to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.pairs import PairedData
from edgecmd.settings import DataConfig
from tests.command_line import run
from tests.from_docs import module_of

OWN = "my_sets:squares"
ROW = DataSet(
    loader="made_up_row:load",
    kind="procedural",
    pair="rectangle -> silhouette, 130 pairs",
    licence="CC0",
    provenance="drawn by this test",
    attribution="none",
    limits="Rectangles say nothing about photographs.",
    pictures="drawn",
)


@pytest.fixture(autouse=True)
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The documentation's module, another that a row names, and that row."""
    module_of("extending.md", "my_sets", tmp_path, monkeypatch)
    (tmp_path / "made_up_row.py").write_text(
        "from my_sets import squares\n\n\ndef load(config):\n    return squares(config.image_size)\n"
    )
    monkeypatch.setitem(DATA_SETS, "made-up", ROW)
    yield
    for name in ("my_sets", "made_up_row"):
        sys.modules.pop(name, None)


def settings_file(tiny: RunConfig, tmp_path: Path, name: str) -> str:
    path = tmp_path / "run.toml"
    data = replace(tiny.data, name=name, path="")
    path.write_text(to_toml(replace(tiny, data=data)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", [OWN, "made-up"])
def test_it_is_trained_federated_evaluated_reported_and_exported(
    name: str, tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = settings_file(tiny, tmp_path, name)
    partition = "federation.partition=owner"
    assert run(monkeypatch, "run", "--config", file, "--no-baselines", "--set", partition) == 0
    folder = Path(tiny.out) / "tiny"
    clients = json.loads((folder / "partition.json").read_text())["table"]
    # Of the 80 training pairs of the module.
    assert sum(line["pairs"] for line in clients) == 80
    table = json.loads((folder / "evaluation.json").read_text())["student"]
    assert (table["num_test"], 0 <= table["retrieval"]["recall@1"] <= 1) == (30, True)
    assert (folder / "export" / "student.onnx").exists()
    page = (folder / "report.html").read_text()
    assert name in page
    assert ("Rectangles say nothing" in page) == (name == "made-up")


@pytest.mark.parametrize("name", [OWN, "made-up"])
def test_data_show_and_check_know_it(
    name: str,
    tmp_path: Path,
    tiny: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = settings_file(tiny, tmp_path, name)
    sheet = tmp_path / "sheet.png"
    assert run(monkeypatch, "data", "show", "--config", file, "--out", str(sheet), "--num", "2") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert sheet.exists()
    assert "squares (procedural)" in out
    assert ("Licence: CC0" if name == "made-up" else "Licence: yours") in out
    if name == OWN:
        assert run(monkeypatch, "data", "check", str(tmp_path), "--config", file) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "80 training, 20 validation, 30 test" in out
        assert "no problems found" in out


def test_a_row_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "data", "list") == 0
    assert "made-up: drawn by this test. Attributions: none." in capsys.readouterr().out
    assert status("made-up") == "ships"
    monkeypatch.setitem(DATA_SETS, "made-up", replace(ROW, build="edgecmd data build made-up"))
    assert status("made-up") == "`edgecmd data build made-up`"


def test_the_factory_gets_the_settings_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_experiment(DataConfig(name=OWN, image_size=32))
    assert whole.train.source.shape == (80, 32, 32, 3)
    assert data_set(OWN).kind == "user"


def changed(change: str) -> str:
    """A module that makes the documentation's set, and then something else of it."""
    return (
        "from dataclasses import replace\n"
        "import numpy as np\n"
        "from my_sets import squares\n\n\n"
        f"def make(image_size):\n    whole = squares(image_size)\n    return {change}\n"
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", ("no 'make'",)),
        ("make = 3\n", ("cannot be called",)),
        ("def make():\n    raise KeyError('left')\n", ("raised KeyError", "left")),
        ("def make(colour):\n    return colour\n", ("asks for 'colour'", "image_size")),
        ("import no_such_thing\n", ("cannot be imported", "no_such_thing")),
        (changed("whole.train"), ("type PairedData", "Experiment")),
        (changed("squares(2 * image_size)"), ("32 x 32 pixels", "data.source_size says 16")),
        (
            changed("replace(whole, train=replace(whole.train, target=np.zeros((80, 32, 32, 1), np.uint8)))"),
            ("target arrays of different kinds", "(16, 16, 1)", "(32, 32, 1)"),
        ),
        (
            changed("replace(whole, train=replace(whole.train, target=np.zeros((80, 400), np.int16)))"),
            ("target arrays of different kinds", "int16"),
        ),
    ],
)
def test_what_is_no_data_set_is_refused(code: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "made_up_row.py").write_text(code)
    with pytest.raises(ConfigError) as caught:
        load_experiment(DataConfig(name="made_up_row:make", image_size=16))
    message = str(caught.value)
    assert message.startswith("data.name='made_up_row:make'")
    for word in words:
        assert word in message


def test_a_wrong_name_ends_without_a_traceback(
    tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("my_sets:circles", "no_such_module:squares", ":squares", "my sets:squares"):
        file = settings_file(tiny, tmp_path, name)
        assert run(monkeypatch, "run", "--config", file) == ConfigError.exit_code
        error = capsys.readouterr().err
        assert "data.name=" in error
        assert "Traceback" not in error
    assert not (Path(tiny.out) / "tiny" / "student.safetensors").exists()


def test_samples_must_be_those_of_the_settings() -> None:
    from edgecmd.data.experiment import _check_own

    sound = PairedData(source=np.zeros((4, 16, 16, 3), np.uint8), target=np.zeros((4, 400), np.int16))
    config = DataConfig(name=OWN, image_size=16, clip_s=0.1)
    with pytest.raises(ConfigError, match=r"400 samples, but data.sampling_rate_hz and data.clip_s say 800"):
        _check_own("target", (sound.target,), config)
    _check_own("target", (sound.target,), replace(config, sampling_rate_hz=4000))


def test_reversed_pairs_need_a_row_that_says_so() -> None:
    with pytest.raises(ConfigError, match="data.reverse=true does not suit data.name='made-up'"):
        load_experiment(DataConfig(name="made-up", image_size=16, reverse=True))
    assert isinstance(load_experiment(DataConfig(name=OWN, image_size=16)), Experiment)
