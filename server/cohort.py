"""Who takes part: how many clients must connect, who they are, and which of them a round asks."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from edgecmd.core.errors import FederationError
from edgecmd.core.text import counted
from edgecmd.settings import FederationConfig
from server.patience import Clock, GridAround
from server.screening import Rejection, error_words, match

POLL_S = 0.5
INDEX_TIMEOUT_S = 120.0
UNKNOWN_INDEX = "did not say which client it is"
NO_INDEX = "an answer without an index"
SIMULATION_DEADLINE_S, DEPLOYMENT_DEADLINE_S = 3600.0, 600.0
LOG = logging.getLogger("edgecmd")


class CohortGrid(GridAround):
    """A grid whose nodes are one round's cohort.

    Flower's strategies draw nodes from the global random generator; showing them only the cohort
    leaves nothing to draw.

    Args:
        grid: The grid that carries the messages.
        cohort: Node ids of the round.
    """

    def __init__(self, grid: Grid, cohort: list[int]) -> None:
        super().__init__(grid)
        self._cohort = cohort

    def get_node_ids(self) -> Iterable[int]:
        """The cohort."""
        return list(self._cohort)


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Whom a federation waits for, and how long: ``federation.min_clients`` and ``deadline_s`` made plain.

    Attributes:
        num_nodes: Clients to wait for at the start; with fewer it goes on after the deadline.
        min_nodes: Clients without which no round begins.
        min_replies: Usable replies without which no round ends.
        deadline_s: Seconds to wait, at the start and in each round.
        quorum: The setting, as messages name it.
    """

    num_nodes: int
    min_nodes: int
    min_replies: int
    deadline_s: float
    quorum: str

    def cohort_size(self, num_nodes: int, *, fraction: float) -> int:
        """Clients that are asked when ``num_nodes`` are there: a share, but never fewer than the quorum."""
        return min(num_nodes, max(1, self.min_replies, round(num_nodes * fraction)))


def terms_of(config: FederationConfig, *, on_flower: bool, may_grow: bool = True) -> Terms:
    """Quorum and deadline of a run; what the settings leave open depends on where its clients are.

    Args:
        config: Settings; what they name is obeyed.
        on_flower: Whether clients are nodes of Flower, which may be slow, late or gone. Else they are
            simulated in this process, all there from the start, and what fails is worth no wait.
        may_grow: Whether more nodes may connect, as they may not in Flower's own simulation.
    """
    deadline_s = config.deadline_s or (DEPLOYMENT_DEADLINE_S if on_flower else SIMULATION_DEADLINE_S)
    if config.min_clients:
        min_nodes = min_replies = config.min_clients
        quorum = f"federation.min_clients={config.min_clients}"
    else:
        min_nodes, min_replies = (
            (config.num_clients // 2 + 1, config.answers_a_round // 2 + 1) if on_flower else (1, 1)
        )
        quorum = f"federation.min_clients={min_replies} (automatic)"
    return Terms(
        num_nodes=config.num_clients if on_flower and may_grow else min_nodes,
        min_nodes=min_nodes,
        min_replies=min_replies,
        deadline_s=deadline_s,
        quorum=quorum,
    )


def wait_for_nodes(
    grid: Grid, terms: Terms, *, wanted: int | None = None, clock: Clock | None = None
) -> list[int]:
    """Sorted node ids, once as many as ``wanted`` are connected, or the least number after the deadline.

    Args:
        grid: Where the clients are.
        terms: The least number, and the deadline.
        wanted: How many to wait for; None for the least number.
        clock: What waiting goes by.

    Raises:
        FederationError: Fewer than the least number connected before the deadline.
    """
    clock, wanted = clock or Clock(), terms.min_nodes if wanted is None else wanted
    started = clock.now()
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= wanted:
            return nodes
        left = terms.deadline_s - (clock.now() - started)
        if left <= 0 and len(nodes) >= terms.min_nodes:
            LOG.warning(
                "%d of %d clients connected within %g s; continuing with them.",
                *(len(nodes), wanted, terms.deadline_s),
            )
            return nodes
        if left <= 0:
            raise FederationError(
                f"{counted(len(nodes), 'client')} connected within {terms.deadline_s:g} s;"
                f" {terms.min_nodes} are needed ({terms.quorum}). Start more clients, raise"
                " federation.deadline_s or lower federation.min_clients."
            )
        clock.sleep(min(POLL_S, max(left, 0.001)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a node says of itself.

    Attributes:
        client: Index of its client. A claim: it orders clients and tells nobody apart.
        own_pairs: Whether its pairs are its own, and not a part of the run's set.
        spent: Epsilon that its ledger has counted over all runs, and delta; None where it is not told.
    """

    client: int
    own_pairs: bool
    spent: tuple[float, float] | None = None


def ask_identities(
    grid: Grid, nodes: Iterable[int], *, deadline_s: float, private: bool = False
) -> tuple[dict[int, Identity], list[Rejection]]:
    """Ask ``nodes`` who they are.

    Args:
        grid: Where the nodes are.
        nodes: Node ids.
        deadline_s: Seconds to wait for a round; for this answer at most two minutes.
        private: Whether no text of a client may be written down.

    Returns:
        What each says of itself, by node id in order, and the nodes that did not say it properly, with why.
    """
    messages = [Message(RecordDict({}), node, "query.index") for node in nodes]
    if not messages:
        return {}, []
    timeout_s = min(INDEX_TIMEOUT_S, deadline_s)
    replies = grid.send_and_receive(messages, timeout=timeout_s)
    asked = {one.metadata.message_id: one for one in messages}
    answers, dropped = match(replies, asked, silence=f"no reply within {timeout_s:g} s")
    identities: dict[int, Identity] = {}
    for node, reply in sorted(answers.items()):
        identity = None if reply.has_error() else _identity(reply)
        if identity is not None:
            identities[node] = identity
            continue
        reason = error_words(reply.error, private=private) if reply.has_error() else NO_INDEX
        dropped.append(Rejection(node_id=node, reason=reason))
    without = {one.metadata.dst_node_id for one in messages} - set(identities)
    unknown = (one for one in dropped if one.node_id in without)
    told = (Rejection(node_id=one.node_id, reason=f"{UNKNOWN_INDEX}: {one.reason}") for one in unknown)
    return identities, sorted(told, key=lambda one: one.node_id)


def _identity(reply: Message) -> Identity | None:
    """What the answer says; None for anything but an index and a 0 or 1."""
    metrics = reply.content.get("metrics")
    if not isinstance(metrics, MetricRecord):
        return None
    client, own = metrics.get("client"), metrics.get("own-pairs", 0)
    if not isinstance(client, int) or client < 0 or not isinstance(own, int) or own not in (0, 1):
        return None
    return Identity(client=client, own_pairs=bool(own), spent=_spent(metrics))


def _spent(metrics: MetricRecord) -> tuple[float, float] | None:
    """What a node says that it has spent; None for anything but two numbers that can be that."""
    epsilon, delta = metrics.get("epsilon"), metrics.get("delta")
    if not isinstance(epsilon, float) or not isinstance(delta, float):
        return None
    return (epsilon, delta) if 0 <= epsilon < math.inf and 0 < delta <= 1 else None


def shared_indices(clients: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """Indices that more than one node claims, with those nodes in order.

    Args:
        clients: Claimed index of each node.
    """
    claimed: dict[int, list[int]] = {}
    for node in sorted(clients):
        claimed.setdefault(clients[node], []).append(node)
    return {client: tuple(nodes) for client, nodes in sorted(claimed.items()) if len(nodes) > 1}
