"""A federation under the faults of a deployment, compared with sums done by hand."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgecmd.config.assemble import run_folder
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, FederationError
from edgecmd.core.events import read_events
from edgecmd.privacy.ledger import Ledger
from server.checkpoint import newest_checkpoint
from server.faults import FATES, Faults, FaultyGrid, MadeUpTime, unavailable
from server.local_grid import LocalGrid
from server.loop import run_rounds
from server.patience import GridAround, PatientGrid
from tests.hand_made import Weights, app_of, contexts, drift, federation, question, start
from tests.tiny_federation import run_of, simulate, tiny_config

NUM_CLIENTS, NUM_ROUNDS = 4, 3
COUNTED = ("answered", "twice", "foreign")
"""Fates whose proper answer arrives in its round."""


def pulled(grid: FaultyGrid, *nodes: int, round_index: int = 1) -> list[tuple[int, int, bool]]:
    """(place of the question it answers, or -1; sender; whether it is an error) of each reply."""
    ids = list(grid.push_messages([question(node, round_index=round_index) for node in nodes]))
    replies = grid.pull_messages(ids)
    found = [(one.metadata.reply_to_message_id, one.metadata.src_node_id, one.has_error()) for one in replies]
    return [(ids.index(one) if one in ids else -1, node, error) for one, node, error in found]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("unavailable", [(0, SUPERLINK_NODE_ID, True)]),
        ("expired", [(0, SUPERLINK_NODE_ID, True)]),
        ("reply_expired", [(0, SUPERLINK_NODE_ID, True)]),
        ("crashed", [(0, 100, True)]),
        ("lost", []),
        ("late", []),
        ("twice", [(0, 100, False), (0, 100, False)]),
        ("foreign", [(-1, 100, False), (0, 100, False)]),
        ("impostor", [(0, 101, False)]),
        ("other_round", [(0, 100, False)]),
        ("other_run", [(0, 100, False)]),
    ],
)
def test_each_fault_is_what_it_says(kind: str, expected: list[tuple[int, int, bool]]) -> None:
    grid = FaultyGrid(LocalGrid(app_of(drift), contexts(2)), Faults(**{kind: 1.0}))  # type: ignore[arg-type]
    assert pulled(grid, 100) == expected
    assert [(one.turn, one.node, one.kind) for one in grid.journal] == [(1, 100, kind)]


def test_a_late_reply_comes_with_those_of_a_later_round() -> None:
    grid = FaultyGrid(LocalGrid(app_of(drift), contexts(2)), Faults(late=1.0))
    assert pulled(grid, 100) == []
    assert pulled(grid, 101, round_index=2) == [(-1, 100, False)]
    assert pulled(grid, round_index=3) == [(-1, 101, False)]


def test_the_codes_are_flower_s() -> None:
    codes = {
        "unavailable": ErrorCode.NODE_UNAVAILABLE,
        "expired": ErrorCode.MESSAGE_UNAVAILABLE,
        "reply_expired": ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        "crashed": ErrorCode.CLIENT_APP_CRASHED,
    }
    for kind, code in codes.items():
        grid = FaultyGrid(LocalGrid(app_of(drift), contexts(1)), Faults(**{kind: 1.0}))  # type: ignore[arg-type]
        (reply,) = grid.pull_messages(grid.push_messages([question(100)]))
        assert reply.error.code == code


def test_absent_and_reborn_nodes() -> None:
    grid = FaultyGrid(LocalGrid(app_of(drift), contexts(5)), Faults(absent=1.0))
    (only,) = grid.get_node_ids()
    assert only in range(100, 105)
    grid = FaultyGrid(LocalGrid(app_of(drift), contexts(2)), Faults(reborn=1.0))
    first = list(grid.get_node_ids())
    assert first == list(grid.get_node_ids()), "the same until something is sent"
    assert [node % 1000 for node in first] == [100, 101]
    assert pulled(grid, *first) == [(0, first[0], False), (1, first[1], False)]
    assert set(grid.get_node_ids()).isdisjoint({*first, 100, 101})
    assert [one.node for one in grid.journal] == [100, 101], "the journal names the node itself"


def test_a_failed_pull_is_repeated_at_most_three_times_in_a_row() -> None:
    time = MadeUpTime()
    grid = FaultyGrid(LocalGrid(app_of(drift), contexts(2)), Faults(failed_pull=1.0))
    replies = PatientGrid(grid, clock=time.clock()).send_and_receive([question(100)], timeout=600.0)
    assert len(list(replies)) == 1
    assert time.now_s == pytest.approx(9.0)


@pytest.mark.parametrize("wrong", [{"lost": 1.5}, {"absent": -0.1}, {"lost": 0.6, "late": 0.6}])
def test_probabilities_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"not a probability|add up to 1\.2"):
        Faults(**wrong)  # type: ignore[arg-type]


def by_hand(weights: Weights, round_index: int, clients: list[int]) -> Weights:
    """Client k holds 10 (k + 1) pairs and moves every weight by 0.01 (k + 1) (-1)^round + 0.002 round."""
    sizes = np.array([10.0 * (client + 1) for client in clients])
    moves = np.array([0.01 * (client + 1) * (-1) ** round_index + 0.002 * round_index for client in clients])
    step = (sizes * moves).sum() / sizes.sum()
    return {name: np.asarray(value, np.float64) + step for name, value in weights.items()}


@st.composite
def faults(draw: st.DrawFn) -> Faults:
    """Any mixture: shares of the fates by weights, the rest by themselves."""
    weights = draw(st.lists(st.integers(0, 3), min_size=len(FATES), max_size=len(FATES)))
    proper = draw(st.integers(1, 20))
    shares = {name: weight / (sum(weights) + proper) for name, weight in zip(FATES, weights, strict=True)}
    some = st.sampled_from([0.0, 0.2, 0.5, 1.0])
    return Faults(
        seed=draw(st.integers(0, 2**31 - 1)),
        absent=draw(some),
        reborn=draw(some),
        failed_pull=draw(some),
        **shares,
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=faults(), quorum=st.integers(1, 3), fraction=st.sampled_from([0.5, 1.0]))
@example(drawn=Faults(unavailable=1.0), quorum=1, fraction=1.0)
@example(drawn=Faults(absent=0.5, reborn=1.0, late=0.5, failed_pull=1.0), quorum=1, fraction=0.5)
def test_whatever_goes_wrong_the_sum_is_that_of_the_usable_replies(
    tmp_path_factory: pytest.TempPathFactory, drawn: Faults, quorum: int, fraction: float
) -> None:
    folder = tmp_path_factory.mktemp("faulty")
    changes = [f"num_clients={NUM_CLIENTS}", f"num_rounds={NUM_ROUNDS}", f"min_clients={quorum}"]
    with federation(folder, *changes, f"client_fraction={fraction}") as one:
        clock = MadeUpTime().clock()
        faulty = FaultyGrid(one.grid, drawn)  # type: ignore[arg-type]
        around = replace(one, grid=PatientGrid(faulty, clock=clock), clock=clock)
        try:
            found = run_rounds(around, start())
            error = None
        except FederationError as missed:
            found, error = None, str(missed)
    turns: dict[int, list[int]] = {}
    for fate in faulty.journal:
        if fate.message_type == "train":
            turns.setdefault(fate.turn, []).extend([fate.node - 100] * (fate.kind in COUNTED))
    expected, finished = start(), 0
    for clients in turns.values():
        if len(clients) < quorum:
            break
        finished += 1
        expected = by_hand(expected, finished, clients)
    assert [event["round"] for event in read_events(folder / "events.jsonl", kind="round")] == list(
        range(1, finished + 1)
    )
    assert (error is None) == (finished == NUM_ROUNDS)
    state = newest_checkpoint(folder / "checkpoints")
    assert state is not None
    assert state.round_index == finished
    for name, value in (found or state.arrays).items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-5)
    if error is not None and len(turns) > finished:
        assert f"Round {finished + 1}: {len(list(turns.values())[finished])} usable repl" in error


def test_a_drill_of_the_real_clients_repeats_itself(pairs: Path, tmp_path: Path) -> None:
    drill = Faults(seed=3, unavailable=0.2, late=0.2, twice=0.2, foreign=0.1, failed_pull=0.3)
    outcomes = []
    for name in ("one", "two"):
        config = tiny_config(pairs, tmp_path, f'name="{name}"')
        simulate(config, faults=drill)
        folder = run_folder(config)
        log = [
            {key: value for key, value in event.items() if key not in ("time", "seconds")}
            for event in read_events(folder / "events.jsonl", kind="round")
        ]
        outcomes.append(((folder / "student.safetensors").read_bytes(), log))
    assert outcomes[0] == outcomes[1]
    reasons = [dropped["reason"] for event in outcomes[0][1] for dropped in event["rejected"]]
    assert any("Node Unavailable" in reason for reason in reasons)


PRIVATE = (
    *("privacy.mechanism=anchors", "privacy.noise_multiplier=2", "privacy.epsilon=1000"),
    "privacy.deterministic=true",
)


def counted(config: RunConfig) -> list[list[int]]:
    """Rounds that each client's ledger counts, in the order of its lines."""
    books = [Ledger(run_of(config).client_ledger(client)).read() for client in range(NUM_CLIENTS)]
    return [[line["round"] for line in book.lines if line["kind"] == "spend"] for book in books]


def test_no_epsilon_is_lost_or_counted_twice_whatever_becomes_of_the_replies(
    pairs: Path, tmp_path: Path
) -> None:
    """Weights that left count, wherever they ended; a repeat without faults is as if there had been none."""
    drill = Faults(seed=5, failed_pull=0.3, **dict.fromkeys(FATES, 0.06))
    config = tiny_config(pairs, tmp_path / "faulty", *PRIVATE)
    simulate(config, faults=drill)
    reasons = [one for event in read_events(run_folder(config) / "events.jsonl") for one in event["rejected"]]
    assert reasons
    assert counted(config) == [[1, 2, 3]] * NUM_CLIENTS
    undisturbed, repeat = (tiny_config(pairs, tmp_path / name, *PRIVATE) for name in ("one", "two"))
    for one in (undisturbed, repeat):
        simulate(one)
        assert counted(one) == [[1, 2, 3]] * NUM_CLIENTS
    first, second = (run_folder(one) / "student.safetensors" for one in (undisturbed, repeat))
    assert first.read_bytes() == second.read_bytes()


def test_a_round_whose_replies_were_lost_is_answered_again_at_no_cost(pairs: Path, tmp_path: Path) -> None:
    config, whole = (tiny_config(pairs, tmp_path / name, *PRIVATE) for name in ("broken", "whole"))
    with pytest.raises(FederationError, match="Round 1: 0 usable replies"):
        simulate(config, faults=Faults(lost=1.0))
    assert counted(config) == [[1]] * NUM_CLIENTS
    simulate(config)
    simulate(whole)
    assert counted(config) == counted(whole) == [[1, 2, 3]] * NUM_CLIENTS
    broken, expected = (run_folder(one) / "student.safetensors" for one in (config, whole))
    assert broken.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(
    ("faults", "cause"),
    [
        (Faults(unavailable=1.0), "Error: Node Unavailable .*"),
        (Faults(lost=1.0), "no reply within 120 s"),
    ],
)
def test_a_missed_quorum_names_the_nodes_that_did_not_say_who_they_are(
    tmp_path: Path, faults: Faults, cause: str
) -> None:
    """Where a share is asked, a node must say first which client it is; a node that is down does not."""
    time = MadeUpTime()
    with federation(tmp_path, f"num_clients={NUM_CLIENTS}", "client_fraction=0.5") as one:
        grid = PatientGrid(FaultyGrid(one.grid, faults), clock=time.clock())
        words = (
            rf"0 clients were asked: 4 x did not say which client it is: {cause} \(nodes 100, 101, 102, 103\)"
        )
        with pytest.raises(FederationError, match=words):
            run_rounds(replace(one, grid=grid, clock=time.clock()), start())


def test_a_node_that_does_not_say_who_it_is_is_among_the_rejected_of_the_round(tmp_path: Path) -> None:
    """Of four, one is down for the whole run: two of the other three are asked in each round."""

    class Down(GridAround):
        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> Iterable[Message]:
            sent = list(messages)
            replies = list(self._grid.send_and_receive(sent, timeout=timeout))
            gone = [one for one in sent if one.metadata.dst_node_id == 102]
            return [*map(unavailable, gone), *(one for one in replies if one.metadata.src_node_id != 102)]

    settings = [f"num_clients={NUM_CLIENTS}", "client_fraction=0.5", "num_rounds=2"]
    with federation(tmp_path, *settings) as one:
        run_rounds(replace(one, grid=Down(one.grid)), start())
    rounds = list(read_events(tmp_path / "events.jsonl", kind="round"))
    assert [one["clients"] for one in rounds] == [2, 2]
    for event in rounds:
        (rejected,) = event["rejected"]
        assert rejected["node"] == 102
        assert rejected["reason"].startswith("did not say which client it is: Error: Node Unavailable")
