"""Flower's strategies, built from the settings, and the state that a checkpoint must hold.

Cohorts are drawn by the loop, so each strategy is told to ask every client that it is shown.
"""

from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
)

from edgecmd.config import FederationConfig
from edgecmd.errors import choose

ASK_ALL = {"fraction_train": 1.0, "min_train_nodes": 1, "min_available_nodes": 1, "min_evaluate_nodes": 1}

BUILDERS: dict[str, Callable[[FederationConfig], FedAvg]] = {
    "fedavg": lambda config: FedAvg(**ASK_ALL),
    "fedprox": lambda config: FedProx(**ASK_ALL),
    "fedavgm": lambda config: FedAvgM(
        **ASK_ALL, server_learning_rate=config.server_learning_rate, server_momentum=config.server_momentum
    ),
    "fedadam": lambda config: FedAdam(
        **ASK_ALL, eta=config.server_learning_rate, beta_1=config.server_momentum, tau=config.server_tau
    ),
    "fedyogi": lambda config: FedYogi(
        **ASK_ALL, eta=config.server_learning_rate, beta_1=config.server_momentum, tau=config.server_tau
    ),
    "fedmedian": lambda config: FedMedian(**ASK_ALL),
    "fedtrimmedavg": lambda config: FedTrimmedAvg(**ASK_ALL, beta=config.trim_fraction),
    "krum": lambda config: Krum(**ASK_ALL, num_malicious_nodes=config.num_malicious),
}


def build_strategy(config: FederationConfig) -> FedAvg:
    """Make the strategy that ``federation.strategy`` names.

    Raises:
        ConfigError: The name is unknown.
    """
    return choose("federation.strategy", config.strategy, BUILDERS)(config)


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
        if moment == "momentum_vector":
            setattr(strategy, moment, [values[name] for name in sorted(values)])
        else:
            setattr(strategy, moment, values)


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Named numpy arrays as Flower's record."""
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})


def from_record(record: ArrayRecord, *, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Flower's record as numpy arrays with the names, order and dtypes of ``like``.

    FedAdam turns float32 into float64 under NumPy 2; the cast keeps the payload at four bytes.
    """
    return {name: record[name].numpy().astype(value.dtype) for name, value in like.items()}
