"""The clients of one round, shown to a strategy as if they were all there are."""

import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from edgecmd.errors import FederationError

POLL_S = 0.5
INDEX_TIMEOUT_S = 60.0


class CohortGrid(Grid):
    """A grid whose nodes are one round's cohort.

    Flower's strategies draw nodes from the global random generator; showing them only the cohort
    leaves nothing to draw.

    Args:
        grid: The grid that carries the messages.
        cohort: Node ids of the round.
    """

    def __init__(self, grid: Grid, cohort: list[int]) -> None:
        self._grid, self._cohort = grid, cohort

    def set_run(self, run: Run) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """Run of the carrying grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Pass on."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The cohort."""
        return list(self._cohort)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on."""
        return self._grid.send_and_receive(messages, timeout=timeout)


def wait_for_nodes(grid: Grid, *, minimum: int, deadline_s: float) -> list[int]:
    """Sorted node ids, once at least ``minimum`` are connected.

    Raises:
        FederationError: Too few connected before the deadline.
    """
    started = time.monotonic()
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= minimum:
            return nodes
        if time.monotonic() - started > deadline_s:
            raise FederationError(
                f"{len(nodes)} clients connected within {deadline_s:g} s; federation.min_clients={minimum}."
                " Start more clients, raise federation.deadline_s or lower federation.min_clients."
            )
        time.sleep(min(POLL_S, deadline_s))


def ask_indices(grid: Grid, nodes: Iterable[int], *, deadline_s: float) -> dict[int, int]:
    """Index of the client on each of ``nodes``; nodes that do not answer properly are left out."""
    messages = [Message(RecordDict({}), node, "query.index") for node in nodes]
    if not messages:
        return {}
    indices = {}
    for reply in grid.send_and_receive(messages, timeout=min(INDEX_TIMEOUT_S, deadline_s)):
        metrics = None if reply.has_error() else reply.content.metric_records.get("metrics")
        client = metrics.get("client") if metrics else None
        if isinstance(client, int):
            indices[reply.metadata.src_node_id] = client
    return indices
