"""A grid over Flower's own that survives what a SuperLink does under load, and clocks, one of them made up.

Flower's grid retries a SuperLink that cannot be reached; any other failure of one poll, such as the HTTP
500 of a database that is locked, loses all replies of the round.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from edgecmd.core.errors import FederationError

Result = TypeVar("Result")
POLL_S, SHORTEST_POLL_S = 3.0, 0.2
# Of the time that was waited already: what a poll may add to a round.
POLL_SHARE = 0.1
PATIENCE_S = 120.0
SERVER_ERROR = 500
NOT_TAKEN = "the SuperLink did not accept the message for it: the node is gone, or the message is too large"


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """What waiting goes by.

    Attributes:
        now: Seconds, monotonic.
        sleep: Wait so many seconds.
        go_to: Go to a moment, as a resumed run does; None where time is real and goes its own way.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    go_to: Callable[[float], None] | None = None

    @property
    def made_up_s(self) -> float:
        """Made-up time that has passed, in seconds; 0 where time is real."""
        return self.now() if self.go_to is not None else 0.0


@dataclass(kw_only=True)
class MadeUpTime:
    """Time that passes only while somebody sleeps, at most until the next thing happens.

    Attributes:
        now_s: Seconds since the start.
        to_come: Moments at which something will happen.
    """

    now_s: float = 0.0
    to_come: set[float] = field(default_factory=set)

    def clock(self) -> Clock:
        """The clock to wait by."""
        return Clock(now=lambda: self.now_s, sleep=self._sleep, go_to=self._go_to)

    def _sleep(self, seconds: float) -> None:
        self.to_come = {one for one in self.to_come if one > self.now_s}
        self.now_s = min(self.now_s + max(seconds, 1e-3), *self.to_come, math.inf)

    def _go_to(self, moment_s: float) -> None:
        self.now_s = moment_s


class GridAround(Grid):
    """Passes everything on to another grid; what differs is overridden.

    Args:
        grid: The grid that carries the messages.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

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
        """Pass on."""
        return self._grid.get_node_ids()

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


class PatientGrid(GridAround):
    """A grid whose failed calls are repeated; what has come in of a round is never lost by one.

    Args:
        grid: Flower's grid.
        clock: What waiting goes by.

    Guarantees:
        `send_and_receive` ends within its timeout, give or take one call of the grid below, and returns all
        that came until then. A message that the SuperLink did not take is answered by an error in its node's
        name. A SuperLink that answers nothing for two minutes is a `FederationError`.
    """

    def __init__(self, grid: Grid, *, clock: Clock) -> None:
        super().__init__(grid)
        self._clock = clock

    def get_node_ids(self) -> Iterable[int]:
        """Node ids, asked for again while the SuperLink fails."""
        return list(self._insist(lambda: list(self._grid.get_node_ids())))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push, again while the SuperLink fails: it knows a message that it has by its id."""
        kept = list(messages)
        return self._insist(lambda: list(self._grid.push_messages(kept)))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What has come in, asked for again while the SuperLink fails."""
        kept = list(message_ids)
        return self._insist(lambda: list(self._grid.pull_messages(kept)))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and pull until all are answered or ``timeout`` seconds have passed."""
        kept = list(messages)
        taken = {one for one in self.push_messages(kept) if one}
        found = [not_taken(one) for one in kept if one.metadata.message_id not in taken]
        started = self._clock.now()
        end = None if timeout is None else started + timeout
        failing_since: float | None = None
        waiting = set(taken)
        while waiting and (end is None or self._clock.now() < end):
            try:
                arrived = list(self._grid.pull_messages(set(waiting)))
                failing_since = None
            except httpx.HTTPError as error:
                arrived = []
                failing_since = self._bear(error, since=failing_since)
            found += arrived
            waiting -= {one.metadata.reply_to_message_id for one in arrived}
            if waiting:
                now = self._clock.now()
                pause = POLL_S if failing_since is not None else _pause(now - started)
                self._clock.sleep(pause if end is None else max(0.0, min(pause, end - now)))
        return found

    def _insist(self, call: Callable[[], Result]) -> Result:
        """Result of ``call``, repeated while the SuperLink fails."""
        since: float | None = None
        while True:
            try:
                return call()
            except httpx.HTTPError as error:
                since = self._bear(error, since=since)
                self._clock.sleep(POLL_S)

    def _bear(self, error: httpx.HTTPError, *, since: float | None) -> float:
        """Since when the SuperLink fails.

        Raises:
            FederationError: For too long, or in a way that will not pass.
        """
        refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < SERVER_ERROR
        since = self._clock.now() if since is None else since
        if refused or self._clock.now() - since > PATIENCE_S:
            raise FederationError(
                f"The SuperLink does not answer: {type(error).__name__}: {error}. Finished rounds are saved:"
                " check the SuperLink, then start the same `flwr run` again with the same name; it"
                " continues."
            ) from error
        return since


def _pause(waited_s: float) -> float:
    """Seconds until the next poll: short rounds are asked for often, long ones cost the SuperLink little."""
    return min(POLL_S, max(SHORTEST_POLL_S, POLL_SHARE * waited_s))


def not_taken(message: Message) -> Message:
    """The answer to a message that was never on its way."""
    return Message(Error(ErrorCode.NODE_UNAVAILABLE, NOT_TAKEN), reply_to=message)
