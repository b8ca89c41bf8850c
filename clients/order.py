"""What the server asks a client for, beside the weights."""

from dataclasses import dataclass

from edgecmd.config import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One round's request.

    Attributes:
        client: Index of this client.
        round_index: Round, from 1.
        token: Name of the run; a client keeps the states of different runs apart by it.
        config: Settings, with the strategy's ``proximal_mu`` where the strategy sends one.
    """

    client: int
    round_index: int
    token: str
    config: RunConfig
