"""A strategy that edgecmd does not know: the row of docs/extending.md, run, stopped and resumed."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.audits.risk.retrain import check_retrain
from edgecmd.catalogue.strategy_rows import STRATEGIES
from edgecmd.core.errors import ConfigError, PrivacyError
from server.loop import RoundReport, run_rounds
from tests.command_line import run
from tests.from_docs import module_of
from tests.hand_made import federation, records
from tests.tiny_federation import plan_of, run_of, settings_of, simulate, tiny_config

RATE = "federation.server_learning_rate=0.5"
BALL = ("federation.strategy=heavy", RATE)


@pytest.fixture(autouse=True)
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_of("extending.md", "my_strategies", tmp_path, monkeypatch)
    monkeypatch.setitem(STRATEGIES, "heavy", importlib.import_module("my_strategies").ROW)


def test_two_rounds_by_hand(tmp_path: Path) -> None:
    """Clients of 1 and 3 pairs move by 4 and 0, in the mean by 1: steps 0.5, then 0.5 + 0.5 * 0.5."""

    def step(weights: dict[str, np.ndarray], round_index: int, client: int) -> object:
        moved = {name: value + np.float32((4, 0)[client]) for name, value in weights.items()}
        return records(moved, client=client, num_examples=(1, 3)[client])

    with federation(tmp_path / "run", "num_clients=2", "num_rounds=2", *BALL, step=step) as one:
        found = run_rounds(one, {"w": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(found["w"], np.array([1.25, 1.25], np.float32))


def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(one: RoundReport) -> None:
        if one.round_index == 2:
            raise InterruptedError

    words = [word for one in [*settings_of(pairs, tmp_path), *BALL, "name=whole"] for word in ("--set", one)]
    assert run(monkeypatch, "simulate", *words) == 0
    config = tiny_config(pairs, tmp_path, *BALL, "name=cut")
    with pytest.raises(InterruptedError):
        simulate(config, report=stop)
    assert not (tmp_path / "cut" / "student.safetensors").exists()
    assert run(monkeypatch, "resume", tmp_path / "cut") == 0
    whole = (tmp_path / "whole" / "student.safetensors").read_bytes()
    assert (tmp_path / "cut" / "student.safetensors").read_bytes() == whole
    simulate(tiny_config(pairs, tmp_path, "name=mean"))
    assert (tmp_path / "mean" / "student.safetensors").read_bytes() != whole


def test_privacy_and_audits_ask_the_row(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(pairs, tmp_path, *BALL)
    private = tiny_config(pairs, tmp_path, *BALL, "privacy.mechanism=client")
    with pytest.raises(
        PrivacyError, match="'heavy' looks at single updates.*fedavg, fedprox, fedavgm, fedadam,"
    ):
        plan_of(private)
    with pytest.raises(ConfigError, match=r"--retrain averages clients \(fedavg, fedprox\)"):
        check_retrain(run_of(config))
    monkeypatch.setitem(STRATEGIES, "heavy", replace(STRATEGIES["heavy"], linear=True, is_mean=True))
    assert plan_of(private) is not None
    check_retrain(run_of(config))


def test_a_misspelt_name_gets_the_nearest(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*settings_of(pairs, tmp_path), "federation.strategy=heavi"]
    words = [word for one in settings for word in ("--set", one)]
    assert run(monkeypatch, "simulate", *words) == 2
    assert "'heavy'" in capsys.readouterr().err
