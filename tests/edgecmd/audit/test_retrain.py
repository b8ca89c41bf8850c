"""Training again in one process is what the federation did, and coins decide who takes part."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecmd.audits.risk.candidates import fair_coins
from edgecmd.audits.risk.retrain import check_retrain, retrain
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, PrivacyError
from tests.tiny_federation import run_of, simulate, task_of, tiny_config, write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("retrain") / "pairs.npz")


def all_pairs(config: RunConfig) -> np.ndarray:
    return np.ones(len(task_of(config).data.train), dtype=bool)


def weights(student: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in student.state_dict().values()])


def assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """Equal to the last bit."""
    assert torch.equal(weights(first), weights(second))


@pytest.mark.parametrize("changes", [[], ["distill.keep_optimizer=true"]])
def test_with_all_pairs_it_is_the_federation(pairs: Path, tmp_path: Path, changes: list[str]) -> None:
    config = tiny_config(pairs, tmp_path, *changes)
    ticks: list[int] = []
    again = retrain(run_of(config), all_pairs(config), tick=lambda done, _: ticks.append(done))
    assert ticks == [1, 2, 3]
    assert_same(again, simulate(config))


def test_a_private_run_is_trained_with_its_noise(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(
        pairs, tmp_path, "privacy.mechanism=anchors", "privacy.deterministic=true", "federation.num_rounds=2"
    )
    again = retrain(run_of(config), all_pairs(config), tick=lambda *_: None)
    assert_same(again, simulate(config))


def test_only_the_pairs_that_coins_keep_count(pairs: Path, tmp_path: Path) -> None:
    """The result depends on the pairs that take part: the same coins give the same, others do not."""
    config = tiny_config(pairs, tmp_path, "federation.num_rounds=1")
    keep = fair_coins(len(all_pairs(config)), seed=0)
    first, second = (retrain(run_of(config), keep, tick=lambda *_: None) for _ in range(2))
    assert torch.equal(weights(first), weights(second))
    other = retrain(run_of(config), ~keep, tick=lambda *_: None)
    assert not torch.equal(weights(first), weights(other))


def test_a_client_whose_coins_left_one_pair_takes_no_part(pairs: Path, tmp_path: Path) -> None:
    """Client 0 keeps one pair: the result is that of the other clients, whatever the pair is."""
    config = tiny_config(pairs, tmp_path, "federation.num_rounds=1")
    rows = run_of(config).parts[0]
    results = []
    for kept in rows[:2]:
        keep = all_pairs(config)
        keep[rows] = False
        keep[kept] = True
        results.append(weights(retrain(run_of(config), keep, tick=lambda *_: None)))
    assert torch.equal(*results)
    with pytest.raises(ConfigError, match="two pairs"):
        retrain(run_of(config), ~all_pairs(config), tick=lambda *_: None)


def test_coins_are_fair_and_derived() -> None:
    coins = fair_coins(10_000, seed=3)
    assert 4800 < coins.sum() < 5200
    assert (coins == fair_coins(10_000, seed=3)).all()
    assert (coins != fair_coins(10_000, seed=4)).any()


def test_what_cannot_be_trained_again_is_refused(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    with pytest.raises(ConfigError, match="krum"):
        check_retrain(run_of(replace(config, federation=replace(config.federation, strategy="krum"))))
    with pytest.raises(ConfigError, match="whole clients"):
        check_retrain(run_of(replace(config, privacy=replace(config.privacy, mechanism="client"))))
    with pytest.raises(ConfigError, match=r"federation.ema_decay=0.9 made a mean"):
        check_retrain(run_of(replace(config, federation=replace(config.federation, ema_decay=0.9))))
    summed = run_of(replace(config, privacy=replace(config.privacy, aggregation="secure-sum")))
    with pytest.raises(PrivacyError, match="shows nobody a client by itself"):
        retrain(summed, fair_coins(len(summed.task.data.train), seed=0), tick=lambda *_: None)
