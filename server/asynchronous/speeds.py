"""Simulated speeds of clients: their answers come as late as they are slow, by made-up time."""

from collections.abc import Iterable, Mapping

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from edgecmd.core.seeding import numpy_generator
from edgecmd.settings import FederationConfig
from server.local_grid import REBORN_ID
from server.patience import GridAround, MadeUpTime


def answer_seconds(federation: FederationConfig, *, seed: int) -> list[float]:
    """Simulated seconds that each client takes for a round: from 1 to ``federation.slowest``.

    They lie evenly on a scale of logarithms, and the seed says which client has which.
    """
    num = federation.num_clients
    places = numpy_generator(seed, "speeds").permutation(num)
    # A power may differ in its last bit from machine to machine, and ties would be broken by it.
    return [round(float(federation.slowest ** (place / max(1, num - 1))), 6) for place in places]


class TimedGrid(GridAround):
    """A grid whose rounds are answered as late as its clients are slow, by made-up time.

    Args:
        grid: Answers as soon as it is asked, or not at all.
        answer_s: Seconds that each node takes for a round.
        time: Passes while somebody waits for the answers.

    Guarantees:
        When an answer comes depends on when it was asked for and on ``answer_s``, not on the machine.
    """

    def __init__(self, grid: Grid, answer_s: Mapping[int, float], time: MadeUpTime) -> None:
        super().__init__(grid)
        self._answer_s, self._time = answer_s, time
        self._due_s: dict[str, float] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push, and note when the answers are due."""
        kept = list(messages)
        ids = list(self._grid.push_messages(kept))
        for sent in (one.metadata for one in kept if one.metadata.message_type == MessageType.TRAIN):
            due_s = self._time.now_s + self._answer_s[sent.dst_node_id % REBORN_ID]
            self._due_s[sent.message_id] = due_s
            self._time.to_come.add(due_s)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies that are due."""
        return self._grid.pull_messages(
            [one for one in message_ids if self._due_s.get(one, 0.0) <= self._time.now_s]
        )
