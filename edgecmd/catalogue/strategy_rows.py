"""The server's strategies: one row each, text only, so that the method can use them without Flower."""

from collections.abc import Mapping
from dataclasses import dataclass, field

FLOWER = "flwr.serverapp.strategy"
# Setting by argument of the strategy.
MOMENTUM = {"server_learning_rate": "server_learning_rate", "server_momentum": "server_momentum"}
ADAPTIVE = {"eta": "server_learning_rate", "beta_1": "server_momentum", "tau": "server_tau"}
TRIMMED, LIARS = {"beta": "trim_fraction"}, {"num_malicious_nodes": "num_malicious"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """One value of ``federation.strategy``.

    Attributes:
        build: ``module:name`` of a `flwr.serverapp.strategy.FedAvg`, or of a function that makes one.
        numbers: Setting by the argument that it is given as: a field of ``[federation]``, or ``proximal_mu``.
        linear: Whether the replies' weighted mean is all that it takes of them; with
            ``privacy.mechanism='client'`` the server has nothing else.
        is_mean: Whether that mean is the next round's weights, so that an audit can average in its place.
    """

    build: str
    numbers: Mapping[str, str] = field(default_factory=dict)
    linear: bool = False
    is_mean: bool = False


STRATEGIES = {
    "fedavg": Strategy(build=f"{FLOWER}:FedAvg", linear=True, is_mean=True),
    "fedprox": Strategy(
        build="server.strategies:fedprox",
        numbers={"proximal_mu": "proximal_mu"},
        linear=True,
        is_mean=True,
    ),
    "fedavgm": Strategy(build=f"{FLOWER}:FedAvgM", numbers=MOMENTUM, linear=True),
    "fedadam": Strategy(build=f"{FLOWER}:FedAdam", numbers=ADAPTIVE, linear=True),
    "fedyogi": Strategy(build=f"{FLOWER}:FedYogi", numbers=ADAPTIVE, linear=True),
    "fedmedian": Strategy(build=f"{FLOWER}:FedMedian"),
    "fedtrimmedavg": Strategy(build=f"{FLOWER}:FedTrimmedAvg", numbers=TRIMMED),
    "krum": Strategy(build=f"{FLOWER}:Krum", numbers=LIARS),
    "multikrum": Strategy(build="server.strategies:AllButMalicious", numbers=LIARS),
}
