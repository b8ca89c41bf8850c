"""Flower's strategies, built from the settings, and the state that a checkpoint must hold.

Cohorts are drawn by the loop, so each strategy is told to ask every client that it is shown.
"""

from collections.abc import Callable, Mapping
from typing import Any

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

from edgecmd.core.errors import ConfigError, choose
from edgecmd.settings import FederationConfig

ASK_ALL: dict[str, Any] = {
    "fraction_train": 1.0,
    "min_train_nodes": 1,
    "min_available_nodes": 1,
    "min_evaluate_nodes": 1,
}


def _fedprox(_: FederationConfig, proximal_mu: float) -> FedAvg:
    """FedProx tells the clients its mu each round; without one it would be FedAvg under another name."""
    if proximal_mu == 0:
        raise ConfigError(
            "federation.strategy='fedprox' needs distill.proximal_mu above 0; it is 0. Set it, for example to"
            " 0.01, or choose federation.strategy='fedavg'."
        )
    return FedProx(**ASK_ALL, proximal_mu=proximal_mu)


def _fedavgm(settings: FederationConfig, _: float) -> FedAvg:
    rate, momentum = settings.server_learning_rate, settings.server_momentum
    return FedAvgM(**ASK_ALL, server_learning_rate=rate, server_momentum=momentum)


def _adaptive(settings: FederationConfig, kind: type[FedAdam] | type[FedYogi]) -> FedAvg:
    return kind(
        **ASK_ALL, eta=settings.server_learning_rate, beta_1=settings.server_momentum, tau=settings.server_tau
    )


BUILDERS: dict[str, Callable[[FederationConfig, float], FedAvg]] = {
    "fedavg": lambda _, __: FedAvg(**ASK_ALL),
    "fedprox": _fedprox,
    "fedavgm": _fedavgm,
    "fedadam": lambda settings, _: _adaptive(settings, FedAdam),
    "fedyogi": lambda settings, _: _adaptive(settings, FedYogi),
    "fedmedian": lambda _, __: FedMedian(**ASK_ALL),
    "fedtrimmedavg": lambda settings, _: FedTrimmedAvg(**ASK_ALL, beta=settings.trim_fraction),
    "krum": lambda settings, _: Krum(**ASK_ALL, num_malicious_nodes=settings.num_malicious),
}


def build_strategy(settings: FederationConfig, *, proximal_mu: float = 0.0) -> FedAvg:
    """Make the strategy that ``federation.strategy`` names.

    Args:
        settings: Its name and its numbers.
        proximal_mu: Weight of FedProx's term, which that strategy sends to the clients.

    Raises:
        ConfigError: The name is unknown, or fedprox has no proximal weight.
    """
    return choose("federation.strategy", settings.strategy, BUILDERS)(settings, proximal_mu)


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

    FedAdam turns float32 into float64 under NumPy 2; the cast keeps the payload at four bytes. What
    does not fit becomes infinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return {name: record[name].numpy().astype(value.dtype) for name, value in like.items()}
