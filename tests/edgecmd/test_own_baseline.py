"""A baseline that edgecmd does not know: rows of docs/extending.md, through a run and its report."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run
from quick import FEW_STEPS, exported_once, few_supervised_steps

from edgecmd.catalogue.baseline_rows import BASELINES
from edgecmd.config.reader import to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.evaluation import supervised
from edgecmd.experiments.run_baselines import baselines_of
from tests.from_docs import module_of
from tests.tiny_federation import run_of, simulate

BUILT_IN = ["untrained", "teacher as it is", "l2", "simclr", "scratch"]
OWN = ["pixels", "cmc after one round"]
TEXT = "the target's pixels, nothing trained"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_of("extending.md", "my_baselines", tmp_path, monkeypatch)
    for name, row in importlib.import_module("my_baselines").ROWS.items():
        monkeypatch.setitem(BASELINES, name, row)


def changed(config: RunConfig, section: str, **changes: object) -> RunConfig:
    return replace(config, **{section: replace(getattr(config, section), **changes)})


@pytest.mark.usefixtures("own")
def test_it_stands_in_the_evaluation_and_the_report(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny), encoding="utf-8")
    with few_supervised_steps(), exported_once({}):
        assert run(monkeypatch, "run", "--config", path) == 0
    folder = Path(tiny.out) / "tiny"
    table = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["baselines"]
    assert list(table) == [*BUILT_IN, *OWN]
    assert "retrieval" not in table["pixels"]
    assert 0 <= table["pixels"]["few_labels"]["group"]["knn"]["all"]["mean"] <= 1
    assert 0 <= table["cmc after one round"]["retrieval"]["recall@1"] <= 1
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert TEXT.replace("'", "&#39;") in page
    assert "cmc after one round" in page
    # The baseline's federation is the one that its settings name.
    simulate(replace(changed(tiny, "federation", num_rounds=1), name="one"))
    trained = folder / "baselines" / "cmc-after-one-round" / "student.safetensors"
    assert trained.read_bytes() == (Path(tiny.out) / "one" / "student.safetensors").read_bytes()


@pytest.mark.usefixtures("own")
def test_where_it_does_not_apply_it_is_left_out(tiny: RunConfig) -> None:
    config = changed(tiny, "federation", num_rounds=1)
    assert list(baselines_of(config, run_of(config))) == [*BUILT_IN, "pixels"]


def test_which_baselines_a_run_has_in_the_order_of_the_table(tiny: RunConfig, tmp_path: Path) -> None:
    started = changed(tiny, "student", path=str(tmp_path / "start.safetensors"))
    assert list(baselines_of(started, run_of(tiny))) == ["warm start", *BUILT_IN[1:]]
    dense = changed(tiny, "student", architecture="seg-50k")
    assert "simclr" not in baselines_of(dense, run_of(tiny))
    private = changed(changed(tiny, "privacy", mechanism="anchors"), "distill", loss="cmc-anchored")
    assert list(baselines_of(private, run_of(tiny))) == [
        *BUILT_IN[:2],
        "cmc-anchored without privacy",
        "cosine, same epsilon",
        "scratch",
    ]
    central = changed(tiny, "privacy", mechanism="client")
    assert list(baselines_of(central, run_of(tiny))) == [*BUILT_IN[:2], "cmc without privacy", "scratch"]


def test_few_steps_are_few_whatever_recipe_is_asked_for(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the tests of whole runs take minutes, and none fails."""
    steps: list[int] = []
    monkeypatch.setattr(supervised, "optimise", lambda _, num, **__: steps.append(num))
    supervised.scratch_accuracy(run_of(tiny), labelling="group", num_labels=1, draw=0)
    with few_supervised_steps():
        supervised.scratch_accuracy(run_of(tiny), labelling="group", num_labels=1, draw=0)
    assert steps == [supervised.NUM_STEPS, FEW_STEPS]
