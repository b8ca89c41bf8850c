"""Flower's strategies, built from the settings, and the state that a checkpoint must hold.

Cohorts are drawn by the loop, so each strategy is told to ask every client that it is shown.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedAvgM, FedProx, MultiKrum
from flwr.serverapp.strategy.fedopt import FedOpt

from edgecmd.catalogue.data_sets import imported
from edgecmd.catalogue.strategy_rows import STRATEGIES
from edgecmd.core.errors import ConfigError, choose
from edgecmd.core.own_code import running
from edgecmd.settings import FederationConfig

ASK_ALL: dict[str, Any] = {
    "fraction_train": 1.0,
    "min_train_nodes": 1,
    "min_available_nodes": 1,
    "min_evaluate_nodes": 1,
}


def fedprox(*, proximal_mu: float, **options: Any) -> FedAvg:  # noqa: ANN401 - `ASK_ALL`
    """FedProx, which tells the clients its mu each round; without one it is FedAvg under another name.

    Raises:
        ConfigError: ``proximal_mu`` is 0.
    """
    if proximal_mu == 0:
        raise ConfigError(
            "federation.strategy='fedprox' needs distill.proximal_mu above 0; it is 0. Set it, for example to"
            " 0.01, or choose federation.strategy='fedavg'."
        )
    return FedProx(**options, proximal_mu=proximal_mu)


class AllButMalicious(MultiKrum):
    """Multi-Krum that averages as many replies as are honest: all that came but ``num_malicious``."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the replies that are nearest to their neighbours."""
        came = list(replies)
        self.num_nodes_to_select = max(1, len(came) - self.num_malicious_nodes)
        return super().aggregate_train(server_round, came)


def build_strategy(settings: FederationConfig, *, proximal_mu: float = 0.0) -> FedAvg:
    """Make the strategy that ``federation.strategy`` names, by its row.

    Args:
        settings: Its name and its numbers.
        proximal_mu: Weight of FedProx's term, which that strategy sends to the clients.

    Raises:
        ConfigError: The name is unknown, or fedprox has no proximal weight.
    """
    row = choose("federation.strategy", settings.strategy, STRATEGIES)
    numbers = {
        argument: proximal_mu if name == "proximal_mu" else getattr(settings, name)
        for argument, name in row.numbers.items()
    }
    build = imported(row.build)
    with running(f"The strategy {settings.strategy!r}", build):
        strategy: FedAvg = build(**ASK_ALL, **numbers)
    return strategy


def strategy_tensors(strategy: FedAvg) -> dict[str, np.ndarray]:
    """Momenta of a strategy as flat named arrays, for a checkpoint."""
    tensors: dict[str, np.ndarray] = {}
    for moment in ("m_t", "v_t"):
        for name, value in (getattr(strategy, moment, None) or {}).items():
            tensors[f"{moment}/{name}"] = np.asarray(value)
    for index, value in enumerate(getattr(strategy, "momentum_vector", None) or []):
        tensors[f"momentum_vector/{index:06d}"] = np.asarray(value)
    return tensors


def restore_strategy(strategy: FedAvg, tensors: Mapping[str, np.ndarray]) -> None:
    """Put back what `strategy_tensors` took out."""
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for key, value in tensors.items():
        moment, name = key.split("/", 1)
        grouped.setdefault(moment, {})[name] = value
    for moment, values in grouped.items():
        as_list = moment == "momentum_vector"
        setattr(strategy, moment, [values[name] for name in sorted(values)] if as_list else values)


def restore_current(strategy: FedAvg, record: ArrayRecord) -> None:
    """Let strategies with a step of their own step from the round's weights, whose dtype the loop keeps.

    They note these weights when they are asked for messages. A round of a hidden cohort that has nobody
    in it asks for none, and the weights after it must not tell.
    """
    if isinstance(strategy, FedAvgM):
        strategy.current_arrays = record
    elif isinstance(strategy, FedOpt):
        strategy.current_arrays = {name: array.numpy() for name, array in record.items()}


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Named numpy arrays as Flower's record."""
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})


def from_record(record: ArrayRecord, *, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Flower's record as numpy arrays with the names, order and dtypes of ``like``.

    FedAdam turns float32 into float64 under NumPy 2; the cast keeps the payload at four bytes. What
    does not fit becomes infinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return {name: record[name].numpy().astype(value.dtype) for name, value in like.items()}
