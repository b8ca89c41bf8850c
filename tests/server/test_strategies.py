"""Flower's strategies against the formulas of their papers, written out by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, FedProx

from edgecmd.catalogue.strategy_rows import STRATEGIES
from edgecmd.core.errors import ConfigError
from server.local_grid import LocalGrid
from server.loop import run_rounds
from server.strategies import from_record, restore_strategy, strategy_tensors
from tests.hand_made import Weights, app_of, contexts, drift, federation, records, run_config, start
from tests.tiny_federation import strategy_of

# Weights of the two clients, as multiples added to what they were sent, in rounds 1 and 2.
STEPS = ((0.1, -0.3), (0.2, 0.05))
# Clients 0 and 1 hold 1 and 3 pairs.
SHARES = (0.25, 0.75)


def two_clients(weights: Weights, round_index: int, client: int) -> RecordDict:
    moved = {
        name: value + np.float32(STEPS[round_index - 1][client]) * np.sign(value)
        for name, value in weights.items()
    }
    return records(moved, client=client, num_examples=(1, 3)[client])


def mean_move(weights: Weights, round_index: int) -> Weights:
    """Average of the clients minus what they were sent, in float64."""
    step = sum(share * one for share, one in zip(SHARES, STEPS[round_index - 1], strict=True))
    return {name: step * np.sign(value.astype(np.float64)) for name, value in weights.items()}


def outcome(folder: Path, *changes: str) -> Weights:
    """Weights after two rounds of the real loop."""
    with federation(folder, "num_clients=2", "num_rounds=2", *changes, step=two_clients) as one:
        return dict(run_rounds(one, start()))


def oracle(rule: Callable[[np.ndarray, np.ndarray, dict[str, np.ndarray], int], np.ndarray]) -> Weights:
    """Two rounds of ``rule(weights, move, moments, round)`` in float64."""
    weights = {name: value.astype(np.float64) for name, value in start().items()}
    moments: dict[str, dict[str, np.ndarray]] = {name: {} for name in weights}
    for round_index in (1, 2):
        moves = mean_move(weights, round_index)
        weights = {
            name: rule(value, moves[name], moments[name], round_index) for name, value in weights.items()
        }
    return weights


def assert_close(found: Weights, expected: Weights) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_fedavg_of_two_clients_by_hand(tmp_path: Path) -> None:
    """Client 0 with 1 pair says 1 and 2, client 1 with 3 pairs says 5 and 6: 16/4 and 20/4."""

    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        value = np.array([[1.0, 2.0], [5.0, 6.0]][client], dtype=np.float32)
        return records({"w": value}, client=client, num_examples=(1, 3)[client])

    with federation(tmp_path, "num_clients=2", "num_rounds=1", step=step) as one:
        found = run_rounds(one, {"w": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(found["w"], np.array([4.0, 5.0], np.float32))


def test_fedavg_adds_the_mean_move(tmp_path: Path) -> None:
    assert_close(outcome(tmp_path), oracle(lambda weights, move, moments, index: weights + move))


@pytest.mark.parametrize(("rate", "momentum"), [(1.0, 0.9), (0.5, 0.0), (0.3, 0.5), (1.0, 0.0)])
def test_fedavgm(tmp_path: Path, rate: float, momentum: float) -> None:
    """Hsu et al. 2019: ``v = momentum v + move`` (v = move at first), ``w += rate v``."""

    def rule(weights: np.ndarray, move: np.ndarray, moments: dict[str, np.ndarray], index: int) -> np.ndarray:
        moments["v"] = momentum * moments.get("v", np.zeros_like(move)) + move
        return weights + rate * moments["v"]

    settings = [f"server_learning_rate={rate}", f"server_momentum={momentum}", 'strategy="fedavgm"']
    assert_close(outcome(tmp_path, *settings), oracle(rule))


ADAPTIVE = ["server_learning_rate=0.05", "server_momentum=0.8", "server_tau=0.01"]


def test_fedadam(tmp_path: Path) -> None:
    """Reddi et al. 2021, with Adam's bias correction as Flower 1.41 has it: exponent round + 1."""

    def rule(weights: np.ndarray, move: np.ndarray, moments: dict[str, np.ndarray], index: int) -> np.ndarray:
        zero = np.zeros_like(move)
        moments["m"] = 0.8 * moments.get("m", zero) + 0.2 * move
        moments["v"] = 0.99 * moments.get("v", zero) + 0.01 * move**2
        rate = 0.05 * np.sqrt(1 - 0.99 ** (index + 1)) / (1 - 0.8 ** (index + 1))
        return weights + rate * moments["m"] / (np.sqrt(moments["v"]) + 0.01)

    assert_close(outcome(tmp_path, 'strategy="fedadam"', *ADAPTIVE), oracle(rule))


def test_fedyogi(tmp_path: Path) -> None:
    """Reddi et al. 2021: ``v -= 0.01 move^2 sign(v - move^2)``."""

    def rule(weights: np.ndarray, move: np.ndarray, moments: dict[str, np.ndarray], index: int) -> np.ndarray:
        second = moments.get("v", np.zeros_like(move))
        moments["m"] = 0.8 * moments.get("m", np.zeros_like(move)) + 0.2 * move
        moments["v"] = second - 0.01 * move**2 * np.sign(second - move**2)
        return weights + 0.05 * moments["m"] / (np.sqrt(moments["v"]) + 0.01)

    assert_close(outcome(tmp_path, 'strategy="fedyogi"', *ADAPTIVE), oracle(rule))


def sent(values: list[float]) -> Callable[[Weights, int, int], RecordDict]:
    """Client ``i`` answers ``values[i]``."""
    return lambda weights, _, client: records(
        {name: np.full_like(value, values[client]) for name, value in weights.items()}, client=client
    )


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("fedmedian", 3.0),
        ("fedtrimmedavg", (2.9 + 3 + 4) / 3),
        ("krum", 3.0),
        ("multikrum", (2.9 + 3 + 4 + 1) / 4),
    ],
)
def test_robust_strategies_withstand_one_liar(tmp_path: Path, strategy: str, expected: float) -> None:
    """Krum takes the one with the nearest two others: 3, at distances 0.1 and 1; Multi-Krum all but one."""
    values = [2.9, 3.0, 1000.0, 4.0, 1.0]
    settings = ["num_clients=5", "num_rounds=1", f'strategy="{strategy}"', "trim_fraction=0.2"]
    with federation(tmp_path, *settings, step=sent(values)) as one:
        found = run_rounds(one, start())
    for value in found.values():
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_keeps_names_order_and_dtype(tmp_path: Path, strategy: str) -> None:
    settings = ["num_clients=4", "num_rounds=2", f'strategy="{strategy}"', "distill.proximal_mu=0.1"]
    seen: list[list[str]] = []

    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        seen.append(list(weights))
        assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
        return drift(weights, round_index, client)

    with federation(tmp_path, *settings, step=step) as one:
        found = run_rounds(one, start())
    assert len(seen) == 8
    assert {tuple(names) for names in [*seen, list(found)]} == {tuple(sorted(start()))}
    for name, value in start().items():
        assert found[name].dtype == np.float32
        assert found[name].shape == value.shape
        assert not np.array_equal(found[name], value)


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi"])
def test_momenta_survive_taking_out_and_putting_back(tmp_path: Path, strategy: str) -> None:
    settings = ["num_clients=3", "num_rounds=2", f'strategy="{strategy}"']
    with federation(tmp_path, *settings) as one:
        run_rounds(one, start())
        taken = strategy_tensors(one.strategy)
    assert taken
    fresh = strategy_of(run_config(*settings))
    assert strategy_tensors(fresh) == {}
    restore_strategy(fresh, taken)
    again = strategy_tensors(fresh)
    assert list(again) == list(taken)
    for name, value in taken.items():
        np.testing.assert_array_equal(again[name], value)
        assert value.dtype == np.float32


def test_an_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="federation.strategy='fedadm' is unknown.*'fedadam'"):
        strategy_of(run_config('strategy="fedadm"'))


def test_fedprox_without_a_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="distill.proximal_mu above 0"):
        strategy_of(run_config('strategy="fedprox"'))


@pytest.mark.parametrize(("strategy", "sent_mu"), [("fedprox", 0.25), ("fedavg", None)])
def test_only_fedprox_sends_its_weight_to_the_clients(strategy: str, sent_mu: float | None) -> None:
    """Flower's FedProx puts ``proximal-mu`` beside the round; the clients take it from there."""
    from flwr.app import ConfigRecord

    grid = LocalGrid(app_of(drift), contexts(2))
    built = strategy_of(run_config(f'strategy="{strategy}"', "distill.proximal_mu=0.25"))
    assert isinstance(built, FedProx) == (strategy == "fedprox")
    arrays = ArrayRecord({name: Array(value) for name, value in start().items()})
    messages: list[Message] = list(built.configure_train(3, arrays, ConfigRecord({}), grid))
    assert [one.metadata.dst_node_id for one in messages] in ([100, 101], [101, 100])
    for one in messages:
        config = one.content.config_records["config"]
        assert config["server-round"] == 3
        assert config.get("proximal-mu") == sent_mu


def test_a_float64_that_does_not_fit_becomes_infinite_without_a_warning() -> None:
    record = ArrayRecord({"w": Array(np.array([1e300, 1.0]))})
    found = from_record(record, like={"w": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(found["w"], np.array([np.inf, 1.0], np.float32))


def test_every_builder_gives_a_strategy() -> None:
    for name in STRATEGIES:
        config = run_config(f'strategy="{name}"', "distill.proximal_mu=0.1")
        assert isinstance(strategy_of(config), FedAvg)
