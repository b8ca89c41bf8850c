"""Who takes part: the quorum and the deadline of each runtime, waiting, and what nodes say of themselves."""

from collections.abc import Iterable

import pytest
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from edgecmd.core.errors import ConfigError, FederationError
from edgecmd.settings import FederationConfig
from server.cohort import Identity, Terms, ask_identities, shared_indices, terms_of, wait_for_nodes
from server.faults import MadeUpTime, unavailable
from server.local_grid import LocalGrid
from server.patience import GridAround
from server.screening import Rejection
from tests.hand_made import app_of, contexts, drift


@pytest.mark.parametrize(
    ("settings", "on_flower", "expected"),
    [
        # clients to wait for at the start, least clients, least replies, seconds
        ({"num_clients": 10}, False, (1, 1, 1, 3600)),
        ({"num_clients": 10}, True, (10, 6, 6, 600)),
        ({"num_clients": 3}, True, (3, 2, 2, 600)),
        ({"num_clients": 2}, True, (2, 2, 2, 600)),
        ({"num_clients": 1}, True, (1, 1, 1, 600)),
        ({"num_clients": 10, "min_clients": 4}, False, (4, 4, 4, 3600)),
        ({"num_clients": 10, "min_clients": 4}, True, (10, 4, 4, 600)),
        ({"num_clients": 10, "min_clients": 1}, True, (10, 1, 1, 600)),
        ({"num_clients": 10, "deadline_s": 7.5}, False, (1, 1, 1, 7.5)),
        ({"num_clients": 10, "deadline_s": 7.5}, True, (10, 6, 6, 7.5)),
        # A third of ten are asked: more than half of those three.
        ({"num_clients": 10, "client_fraction": 0.3}, True, (10, 6, 2, 600)),
        ({"num_clients": 10, "client_fraction": 0.01}, True, (10, 6, 1, 600)),
        ({"num_clients": 10, "client_fraction": 0.3}, False, (1, 1, 1, 3600)),
    ],
)
def test_what_the_settings_leave_open_depends_on_where_the_clients_are(
    settings: dict[str, float], on_flower: bool, expected: tuple[float, ...]
) -> None:
    terms = terms_of(FederationConfig(**settings), on_flower=on_flower)  # type: ignore[arg-type]
    assert (terms.num_nodes, terms.min_nodes, terms.min_replies, terms.deadline_s) == expected


@pytest.mark.parametrize("num_clients", range(1, 12))
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("min_clients", [0, 1])
def test_no_cohort_is_smaller_than_its_quorum(num_clients: int, fraction: float, min_clients: int) -> None:
    for on_flower in (False, True):
        config = FederationConfig(
            num_clients=num_clients, client_fraction=fraction, min_clients=min_clients * num_clients
        )
        terms = terms_of(config, on_flower=on_flower)
        for there in range(terms.min_nodes, num_clients + 1):
            size = terms.cohort_size(there, fraction=fraction)
            assert terms.min_replies <= size <= there
            asked = max(1, round(num_clients * fraction))
            if on_flower and not min_clients:
                assert 2 * terms.min_replies > asked, "more than half of those who are asked"


def test_in_flower_s_own_simulation_nobody_is_waited_for() -> None:
    config = FederationConfig(num_clients=10)
    assert terms_of(config, on_flower=True, may_grow=False).num_nodes == 6


@pytest.mark.parametrize("settings", [{"min_clients": -1}, {"deadline_s": -1.0}, {"deadline_s": 0.001}])
def test_zero_alone_is_automatic(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="outside the allowed range"):
        FederationConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="min_clients=4 exceeds federation.num_clients=3"):
        FederationConfig(num_clients=3, min_clients=4)


# Waiting.


class Arriving(GridAround):
    """Nodes connect at given times."""

    def __init__(self, time: MadeUpTime, at_s: dict[int, float]) -> None:
        super().__init__(LocalGrid(app_of(drift), {}))
        self._time, self._at_s = time, at_s

    def get_node_ids(self) -> Iterable[int]:
        return [node for node, at_s in self._at_s.items() if at_s <= self._time.now_s]


TERMS = Terms(num_nodes=3, min_nodes=2, min_replies=2, deadline_s=60.0, quorum="federation.min_clients=2")


@pytest.mark.parametrize(
    ("at_s", "expected", "waited_s"),
    [
        ({9: 0, 7: 0, 8: 0}, [7, 8, 9], 0),
        ({9: 0, 7: 30, 8: 40}, [7, 8, 9], 40),
        ({9: 0, 7: 30, 8: 400}, [7, 9], 60),
        ({9: 0, 7: 30}, [7, 9], 60),
    ],
)
def test_a_start_waits_for_all_and_goes_on_with_the_quorum(
    at_s: dict[int, float], expected: list[int], waited_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    time = MadeUpTime()
    found = wait_for_nodes(Arriving(time, at_s), TERMS, wanted=3, clock=time.clock())
    assert found == expected
    assert waited_s <= time.now_s <= waited_s + 1
    told = [one.message for one in caplog.records]
    assert told == (
        [] if len(expected) == 3 else ["2 of 3 clients connected within 60 s; continuing with them."]
    )


def test_too_few_by_the_deadline_is_an_error_with_the_quorum() -> None:
    time = MadeUpTime()
    with pytest.raises(FederationError) as caught:
        wait_for_nodes(Arriving(time, {9: 0, 7: 61}), TERMS, wanted=3, clock=time.clock())
    assert str(caught.value) == (
        "1 client connected within 60 s; 2 are needed (federation.min_clients=2). Start more clients, raise"
        " federation.deadline_s or lower federation.min_clients."
    )


def test_a_round_waits_for_the_least_number_alone() -> None:
    time = MadeUpTime()
    assert wait_for_nodes(Arriving(time, {9: 0, 7: 5}), TERMS, clock=time.clock()) == [7, 9]
    assert time.now_s <= 6


# What nodes say of themselves.


def test_nodes_are_asked_for_their_index() -> None:
    grid = LocalGrid(app_of(drift), contexts(3, first_node=50, step=7))
    expected = {64: Identity(client=2, own_pairs=False), 50: Identity(client=0, own_pairs=False)}
    assert ask_identities(grid, [64, 50], deadline_s=600.0) == (expected, [])
    assert ask_identities(grid, [], deadline_s=600.0) == ({}, [])


def answering(content: RecordDict | Error) -> ClientApp:
    app = ClientApp()

    @app.query("index")
    def index(message: Message, context: Context) -> Message:
        proper = RecordDict({"metrics": MetricRecord({"client": 4, "own-pairs": 1})})
        return Message(content if context.node_id == 101 else proper, reply_to=message)

    return app


NO_INDEX = "an answer without an index"


@pytest.mark.parametrize(
    "content",
    [
        Error(3, "failed"),
        Error(777),
        RecordDict({}),
        RecordDict({"metrics": MetricRecord({})}),
        RecordDict({"metrics": MetricRecord({"client": 1.0})}),
        RecordDict({"metrics": MetricRecord({"client": -1})}),
        RecordDict({"metrics": MetricRecord({"client": [1]})}),
        RecordDict({"metrics": MetricRecord({"client": 1, "own-pairs": 2})}),
        RecordDict({"metrics": MetricRecord({"client": 1, "own-pairs": 1.0})}),
        RecordDict({"metrics": ArrayRecord({})}),
    ],
)
def test_an_answer_of_a_wrong_kind_is_no_answer(content: RecordDict | Error) -> None:
    grid = LocalGrid(answering(content), contexts(3))
    expected = Identity(client=4, own_pairs=True)
    found, (unknown,) = ask_identities(grid, [100, 101, 102], deadline_s=600.0)
    assert found == {100: expected, 102: expected}
    why = (content.reason or "an error without a reason") if isinstance(content, Error) else NO_INDEX
    assert unknown == Rejection(node_id=101, reason=f"did not say which client it is: {why}")


def test_under_privacy_no_word_of_a_node_that_does_not_say_who_it_is_is_written_down() -> None:
    grid = LocalGrid(answering(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "/home/ann/cats")), contexts(2))
    _, (unknown,) = ask_identities(grid, [100, 101], deadline_s=600.0, private=True)
    assert unknown.node_id == 101
    assert unknown.reason.endswith("is: it failed; the reason stays in the log of the client")


def test_own_pairs_and_other_words_beside_them() -> None:
    content = RecordDict({"metrics": MetricRecord({"client": 1, "own-pairs": 1, "version": 2})})
    found = ask_identities(LocalGrid(answering(content), contexts(3)), [101], deadline_s=600.0)
    assert found == ({101: Identity(client=1, own_pairs=True)}, [])


@pytest.mark.parametrize(
    ("told", "spent"),
    [
        ({"epsilon": 1.5, "delta": 1e-5}, (1.5, 1e-5)),
        ({"epsilon": 0.0, "delta": 1.0}, (0.0, 1.0)),
        ({"epsilon": 1.5}, None),
        ({"epsilon": -1.0, "delta": 1e-5}, None),
        ({"epsilon": float("nan"), "delta": 1e-5}, None),
        ({"epsilon": float("inf"), "delta": 1e-5}, None),
        ({"epsilon": 1.5, "delta": 0.0}, None),
        ({"epsilon": [1.5], "delta": 1e-5}, None),
    ],
)
def test_what_a_node_has_spent_is_a_number_or_not_told(
    told: dict[str, float | list[float]], spent: tuple[float, float] | None
) -> None:
    content = RecordDict({"metrics": MetricRecord({"client": 1, "own-pairs": 1, **told})})
    found, _ = ask_identities(LocalGrid(answering(content), contexts(3)), [101], deadline_s=600.0)
    assert found == {101: Identity(client=1, own_pairs=True, spent=spent)}


def test_an_answer_belongs_to_the_node_that_was_asked_and_the_superlink_s_to_none() -> None:
    class Faulty(GridAround):
        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> Iterable[Message]:
            sent = list(messages)
            first, *others = self._grid.send_and_receive(sent)
            return [unavailable(sent[0]), first, *others, *others]

    grid: Grid = Faulty(LocalGrid(app_of(drift), contexts(3)))
    found, unknown = ask_identities(grid, [100, 101, 102], deadline_s=600.0)
    assert {node: one.client for node, one in found.items()} == {101: 1, 102: 2}
    # Its own answer came after the SuperLink's.
    assert [one.node_id for one in unknown] == [100, 100]
    assert sorted("Node Unavailable" in one.reason for one in unknown) == [False, True]


def test_the_project_s_client_knows_its_index() -> None:
    from clients.app import app

    found, unknown = ask_identities(LocalGrid(app, contexts(2)), [100, 101], deadline_s=600.0)
    assert unknown == []
    assert {node: (one.client, one.own_pairs) for node, one in found.items()} == {
        100: (0, False),
        101: (1, False),
    }


def test_shared_indices_name_every_node_that_claims_them() -> None:
    assert shared_indices({}) == {}
    assert shared_indices({7: 0, 5: 1, 6: 2}) == {}
    assert shared_indices({7: 0, 5: 0, 6: 2, 9: 2, 8: 2, 1: 4}) == {0: (5, 7), 2: (6, 8, 9)}
