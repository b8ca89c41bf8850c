"""The server's strategies: one row each, which server, privacy and audits ask.

A new one is a function that builds a Flower strategy, and a row here. Rows hold words alone, so that the
method may ask them without Flower.
"""

from dataclasses import dataclass

ROOM = "server.strategies"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """One value of ``federation.strategy``.

    Attributes:
        build: ``module:function``, which makes the strategy, a `flwr.serverapp.strategy.FedAvg`; it gets
            ``numbers`` as keywords.
        text: What the server does with the replies of a round.
        numbers: Settings that it uses: fields of ``[federation]``, and ``proximal_mu`` of ``[distill]``.
        linear: Whether the replies' weighted mean is all that it takes of them; with
            ``privacy.mechanism='client'`` the server has nothing else.
        is_mean: Whether that mean is the next round's weights, so that an audit can average in its place.
    """

    build: str
    text: str
    numbers: tuple[str, ...] = ()
    linear: bool = False
    is_mean: bool = False


STRATEGIES = {
    "fedavg": Strategy(
        build=f"{ROOM}:fedavg",
        text="the mean of the clients, weighted by their pairs",
        linear=True,
        is_mean=True,
    ),
    "fedprox": Strategy(
        build=f"{ROOM}:fedprox",
        text="the mean of clients that are held back to the weights that they were sent",
        numbers=("proximal_mu",),
        linear=True,
        is_mean=True,
    ),
    "fedavgm": Strategy(
        build=f"{ROOM}:fedavgm",
        text="a step with momentum along the clients' mean move",
        numbers=("server_learning_rate", "server_momentum"),
        linear=True,
    ),
    "fedadam": Strategy(
        build=f"{ROOM}:fedadam",
        text="a step of Adam along the clients' mean move",
        numbers=("server_learning_rate", "server_momentum", "server_tau"),
        linear=True,
    ),
    "fedyogi": Strategy(
        build=f"{ROOM}:fedyogi",
        text="a step of Yogi along the clients' mean move",
        numbers=("server_learning_rate", "server_momentum", "server_tau"),
        linear=True,
    ),
    "fedmedian": Strategy(build=f"{ROOM}:fedmedian", text="the median of the clients, number by number"),
    "fedtrimmedavg": Strategy(
        build=f"{ROOM}:fedtrimmedavg",
        text="the mean of the clients without the lowest and highest, number by number",
        numbers=("trim_fraction",),
    ),
    "krum": Strategy(
        build=f"{ROOM}:krum",
        text="the client that lies nearest to the others",
        numbers=("num_malicious",),
    ),
}
