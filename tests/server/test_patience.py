"""Failed polls of a SuperLink lose nothing, and end a run with a sentence when they do not stop."""

from collections.abc import Callable, Iterable

import httpx
import numpy as np
import pytest
from flwr.app import Message

from edgecmd.core.errors import FederationError
from server.faults import MadeUpTime, server_error
from server.local_grid import LocalGrid
from server.patience import NOT_TAKEN, PATIENCE_S, GridAround, PatientGrid
from server.screening import match
from tests.hand_made import app_of, contexts, drift, question


class Failing(GridAround):
    """Calls of one kind fail as told: ``fails(number of the call)`` gives the error, or None."""

    def __init__(self, kind: str, fails: Callable[[int], Exception | None]) -> None:
        super().__init__(LocalGrid(app_of(drift), contexts(3)))
        self._kind, self._fails = kind, fails
        self.calls = 0

    def _call(self, kind: str) -> None:
        if kind != self._kind:
            return
        self.calls += 1
        error = self._fails(self.calls)
        if error is not None:
            raise error

    def get_node_ids(self) -> Iterable[int]:
        self._call("nodes")
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._call("push")
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._call("pull")
        return self._grid.pull_messages(list(message_ids)[:1])


def exchange(grid: GridAround, time: MadeUpTime, *, timeout: float | None = 600.0) -> list[int]:
    """Nodes that answered a question to all three."""
    patient = PatientGrid(grid, clock=time.clock())
    messages = [question(node) for node in patient.get_node_ids()]
    replies = list(patient.send_and_receive(messages, timeout=timeout))
    assert not any(one.has_error() for one in replies)
    return [one.metadata.src_node_id for one in replies]


ERRORS = [
    server_error(),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("cut off"),
]


@pytest.mark.parametrize("kind", ["nodes", "push", "pull"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("timeout", [600.0, None])
def test_failures_that_pass_lose_no_reply(kind: str, error: Exception, timeout: float | None) -> None:
    time = MadeUpTime()
    grid = Failing(kind, lambda call: error if call <= 5 else None)
    assert sorted(exchange(grid, time, timeout=timeout)) == [100, 101, 102]
    assert time.now_s <= 5 * 3 + 3 * 3


def test_what_came_before_a_failure_is_kept_when_the_deadline_passes() -> None:
    """The first poll brings one reply, all later ones fail until the deadline of 60 seconds."""
    time = MadeUpTime()
    found = exchange(Failing("pull", lambda call: server_error() if call > 1 else None), time, timeout=60.0)
    assert len(found) == 1
    assert time.now_s == pytest.approx(60.0)


@pytest.mark.parametrize("kind", ["nodes", "push", "pull"])
def test_failures_that_do_not_pass_end_the_run_with_the_way_out(kind: str) -> None:
    time = MadeUpTime()
    with pytest.raises(FederationError, match="does not answer: HTTPStatusError.*start the same `flwr run`"):
        exchange(Failing(kind, lambda _: server_error()), time)
    assert PATIENCE_S <= time.now_s <= PATIENCE_S + 10


def test_failures_now_and_then_never_add_up() -> None:
    time = MadeUpTime()
    grid = Failing("pull", lambda call: server_error() if call % 30 else None)
    assert sorted(exchange(grid, time)) == [100, 101, 102]
    assert time.now_s > 2 * PATIENCE_S


def test_a_refusal_is_not_repeated() -> None:
    request = httpx.Request("POST", "http://superlink")
    error = httpx.HTTPStatusError("404", request=request, response=httpx.Response(404, request=request))
    time, grid = MadeUpTime(), Failing("push", lambda _: error)
    with pytest.raises(FederationError, match="404"):
        exchange(grid, time)
    assert (grid.calls, time.now_s) == (1, 0.0)


@pytest.mark.parametrize("error", [KeyError("bug"), ValueError("`message_ids` contains invalid IDs")])
def test_an_error_of_another_kind_is_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        exchange(Failing("pull", lambda _: error), MadeUpTime())


def test_pulls_of_its_own_lose_nothing_when_some_fail() -> None:
    """As asynchronous rounds pull, without a message to send."""
    time = MadeUpTime()
    patient = PatientGrid(
        Failing("pull", lambda call: server_error() if call % 2 else None), clock=time.clock()
    )
    ids = list(patient.push_messages([question(node) for node in (100, 101, 102)]))
    found: list[str] = []
    while len(found) < 3:
        (reply,) = patient.pull_messages([one for one in ids if one not in found])
        found.append(reply.metadata.reply_to_message_id)
    assert sorted(found) == sorted(ids)
    assert time.now_s == pytest.approx(9.0)


def test_made_up_time_stops_at_what_is_to_come_and_goes_on_where_a_run_was() -> None:
    time = MadeUpTime(to_come={1.25, 7.0})
    clock = time.clock()
    moments = []
    for seconds in (3.0, 3.0, 3.0, 0.0):
        clock.sleep(seconds)
        moments.append(clock.now())
    assert moments == [1.25, 4.25, 7.0, 7.001]
    assert clock.go_to is not None
    clock.go_to(0.1 + 0.2)
    assert clock.now() == 0.1 + 0.2


@pytest.mark.parametrize("left_out", [None, ""])
def test_a_message_that_the_superlink_does_not_take_is_answered_for_its_node(
    left_out: str | None,
) -> None:
    class Forgetful(GridAround):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            ids = list(self._grid.push_messages(messages))
            return [one for one in (ids[0], left_out, ids[2]) if one is not None]

    patient = PatientGrid(Forgetful(LocalGrid(app_of(drift), contexts(3))), clock=MadeUpTime().clock())
    messages = [question(node) for node in (100, 101, 102)]
    replies = list(patient.send_and_receive(messages, timeout=60.0))
    found, dropped = match(replies, {one.metadata.message_id: one for one in messages}, silence="silent")
    assert {node: one.has_error() for node, one in found.items()} == {100: False, 101: True, 102: False}
    assert found[101].error.reason == NOT_TAKEN
    assert dropped == []


def test_nothing_to_send_waits_for_nothing() -> None:
    time = MadeUpTime()
    patient = PatientGrid(LocalGrid(app_of(drift), contexts(1)), clock=time.clock())
    assert list(patient.send_and_receive([], timeout=None)) == []
    assert time.now_s == 0.0


def test_a_grid_around_another_passes_everything_on() -> None:
    inner = LocalGrid(app_of(drift), contexts(2))
    around = GridAround(inner)
    assert around.run is inner.run
    assert list(around.get_node_ids()) == [100, 101]
    made = around.create_message(question(100).content, "train", 101, "g", 5.0)
    assert (made.metadata.dst_node_id, made.metadata.group_id, made.metadata.ttl) == (101, "g", 5.0)
    (reply,) = around.send_and_receive([question(100)], timeout=600.0)
    (pulled,) = around.pull_messages(around.push_messages([question(100)]))
    for one in (reply, pulled):
        weights = one.content.array_records["arrays"]
        assert all(np.isfinite(weights[name].numpy()).all() for name in weights)
