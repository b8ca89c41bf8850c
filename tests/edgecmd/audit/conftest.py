"""Finished tiny runs that the tests of the audits share; each test alters a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecmd.audits.step import sampling_coins
from tests.tiny_federation import simulate, tiny_config, write_pairs

PRIVATE = ("privacy.mechanism=anchors", "privacy.sampling_rate=0.2")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.npz")


@pytest.fixture(scope="session")
def runs(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished run by its mechanism, made once."""
    folder = tmp_path_factory.mktemp("runs")

    def finished(mechanism: str) -> Path:
        if not (folder / mechanism).exists():
            settings = (*PRIVATE[1:], f"privacy.mechanism={mechanism}", f"name={mechanism}")
            simulate(tiny_config(pairs, folder, *settings))
        return folder / mechanism

    return finished


@pytest.fixture
def copied(runs: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a finished run that a test may alter."""
    return lambda mechanism: Path(shutil.copytree(runs(mechanism), tmp_path / "copy"))


@pytest.fixture
def few_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps of clients with few units: what is planted in them shows in all, or there is nothing."""
    monkeypatch.setattr(sampling_coins, "SMALL_STEPS", 32)


@pytest.fixture
def brief(few_small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps than two pairs with one coin would need, for what shows in the first few."""
    monkeypatch.setattr(sampling_coins, "num_steps", lambda _: (64, True))
