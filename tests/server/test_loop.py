"""The rounds: quorum, deadline, cohorts, event log, and stopping and going on after any round."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from edgecmd.core.errors import FederationError
from edgecmd.core.events import read_events
from server.checkpoint import newest_checkpoint
from server.faults import unavailable
from server.loop import RoundReport, draw_cohort, run_rounds
from server.patience import GridAround
from server.screening import UNKNOWN
from tests.hand_made import TOKEN, Weights, contexts, drift, federation, records, start

Step = Callable[[Weights, int, int], RecordDict]


WAY_OUT = "Finished rounds are saved: continue the run when more clients can answer."


def events(folder: Path) -> list[dict[str, Any]]:
    return list(read_events(folder / "events.jsonl", kind="round"))


def failing(*clients: int) -> Step:
    """Clients ``clients`` raise, the others drift."""

    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        if client in clients:
            raise OSError(f"client {client}, stage data: disk is gone")
        return drift(weights, round_index, client)

    return step


def assert_equal(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_one_round_is_reported_and_logged(tmp_path: Path) -> None:
    reports: list[RoundReport] = []
    with federation(tmp_path, "num_clients=3", "num_rounds=1", report=reports.append) as one:
        run_rounds(one, start())
    (report,) = reports
    # Clients hold 10, 20 and 30 pairs and report losses 1, 1/2 and 1/3: 30/60.
    assert (report.num_clients, report.num_examples, report.rejected) == (3, 60, ())
    assert report.loss == pytest.approx((10 * 1 + 20 / 2 + 30 / 3) / 60)
    # 8 weights of 4 bytes, to and from 3 clients.
    assert report.bytes_exchanged == 8 * 4 * 6
    (event,) = events(tmp_path)
    assert event["loss"] == report.loss
    assert (event["round"], event["clients"], event["num_examples"]) == (1, 3, 60)
    assert (event["bytes"], event["rejected"]) == (192, [])
    assert event["seconds"] >= 0


def test_metrics_of_an_evaluation_are_logged(tmp_path: Path) -> None:
    with federation(tmp_path, "num_clients=2", "num_rounds=2") as one:
        due = replace(one, evaluate=lambda index, arrays: {"val_recall@1": 0.5} if index == 2 else {})
        run_rounds(due, start())
    first, second = events(tmp_path)
    assert "val_recall@1" not in first
    assert second["val_recall@1"] == 0.5


def test_no_client_at_all_is_an_error_with_every_fault(tmp_path: Path) -> None:
    with (
        federation(tmp_path, "num_clients=3", "num_rounds=2", step=failing(0, 1, 2)) as one,
        pytest.raises(FederationError) as caught,
    ):
        run_rounds(one, start())
    expected = "Round 1: 0 usable replies, federation.min_clients=1 (automatic). 3 clients were asked: "
    faults = [f"1 x OSError: client {k}, stage data: disk is gone (node 10{k})" for k in range(3)]
    assert str(caught.value) == expected + "; ".join(faults) + f". {WAY_OUT}"
    assert caught.value.exit_code == 5
    assert events(tmp_path) == []


def test_some_failing_clients_are_reported_and_the_run_goes_on(tmp_path: Path) -> None:
    with federation(tmp_path, "num_clients=4", "num_rounds=2", step=failing(1, 3)) as one:
        found = run_rounds(one, start())
    for event in events(tmp_path):
        assert event["clients"] == 2
        assert [one["node"] for one in event["rejected"]] == [101, 103]
        assert "disk is gone" in event["rejected"][0]["reason"]
    with federation(tmp_path / "two", "num_clients=2", "num_rounds=2", step=alone(0, 2)) as one:
        assert_equal(found, run_rounds(one, start()))


def alone(*clients: int) -> Step:
    """Client ``i`` of this federation does what ``clients[i]`` does in another."""
    return lambda weights, index, client: drift(weights, index, clients[client])


@pytest.mark.parametrize(("num_failing", "passes"), [(2, True), (3, False)])
def test_the_quorum_is_the_number_of_usable_replies(tmp_path: Path, num_failing: int, passes: bool) -> None:
    settings = ["num_clients=5", "num_rounds=1", "min_clients=3"]
    with federation(tmp_path, *settings, step=failing(*range(num_failing))) as one:
        if passes:
            run_rounds(one, start())
            return
        with pytest.raises(FederationError, match="2 usable replies, federation.min_clients=3. 5 clients"):
            run_rounds(one, start())


def test_a_bad_reply_does_not_move_the_weights(tmp_path: Path) -> None:
    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        if client == 1:
            return records({name: value * np.nan for name, value in weights.items()}, client=1)
        return drift(weights, round_index, client)

    with federation(tmp_path, "num_clients=2", "num_rounds=2", step=step) as one:
        found = run_rounds(one, start())
    with federation(tmp_path / "one", "num_clients=1", "num_rounds=2") as one:
        assert_equal(found, run_rounds(one, start()))
    assert "NaN" in events(tmp_path)[1]["rejected"][0]["reason"]


def test_late_clients_are_dropped_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    # A clock that only client 1 moves: on a busy machine client 0 would be late by a real one.
    monkeypatch.setattr("server.local_grid.time", SimpleNamespace(monotonic=lambda: now[0]))

    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        now[0] += 0.6 * (client == 1)
        return drift(weights, round_index, client)

    with federation(tmp_path, "num_clients=3", "num_rounds=1", "deadline_s=0.4", step=step) as one:
        run_rounds(one, start())
    (event,) = events(tmp_path)
    assert event["clients"] == 1
    assert event["rejected"] == [
        {"node": node, "reason": "no reply within federation.deadline_s=0.4 s"} for node in (101, 102)
    ]


def test_every_client_late_is_a_missed_quorum(tmp_path: Path) -> None:
    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        time.sleep(0.2)
        return drift(weights, round_index, client)

    with (
        federation(tmp_path, "num_clients=2", "num_rounds=1", "deadline_s=0.05", step=step) as one,
        pytest.raises(
            FederationError, match=r"2 x no reply within federation.deadline_s=0.05 s \(nodes 100, 101\)"
        ),
    ):
        run_rounds(one, start())


def test_too_few_nodes_connect(tmp_path: Path) -> None:
    settings = ["num_clients=3", "num_rounds=1", "min_clients=3", "deadline_s=0.05"]
    with (
        federation(tmp_path, *settings, nodes=contexts(2)) as one,
        pytest.raises(FederationError, match="2 clients connected within 0.05 s.*Start more clients"),
    ):
        run_rounds(one, start())


def test_a_server_step_that_overflows_says_what_to_lower(tmp_path: Path) -> None:
    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        return records({name: value * 0 + 3e8 for name, value in weights.items()}, client=client)

    settings = ["num_clients=2", "num_rounds=40", 'strategy="fedavgm"', "server_learning_rate=1000"]
    huge = {name: np.full_like(value, -3e37) for name, value in start().items()}
    with (
        federation(tmp_path, *settings, step=step) as one,
        pytest.raises(FederationError, match="NaN or infinite. Lower federation.server_learning_rate=1000"),
        np.errstate(over="ignore"),
    ):
        run_rounds(one, huge)


def asked(folder: Path, nodes: dict[int, Context], *settings: str) -> list[tuple[int, ...]]:
    """Clients that were asked in each round."""
    cohorts: dict[int, list[int]] = {}

    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        cohorts.setdefault(round_index, []).append(client)
        return drift(weights, round_index, client)

    with federation(folder, "num_clients=10", "num_rounds=4", *settings, step=step, nodes=nodes) as one:
        run_rounds(one, start())
    return [tuple(cohort) for cohort in cohorts.values()]


def test_a_share_of_the_clients_is_asked(tmp_path: Path) -> None:
    cohorts = asked(tmp_path, contexts(10), "client_fraction=0.3")
    assert [len(set(cohort)) for cohort in cohorts] == [3, 3, 3, 3]
    assert len(set(cohorts)) > 1


def test_the_quorum_is_asked_even_of_a_small_share(tmp_path: Path) -> None:
    cohorts = asked(tmp_path, contexts(10), "client_fraction=0.1", "min_clients=4")
    assert [len(cohort) for cohort in cohorts] == [4, 4, 4, 4]


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_cohorts_do_not_depend_on_node_ids(tmp_path: Path, fraction: float) -> None:
    """Flower gives nodes random ids; the same clients must be asked."""
    shuffled = dict(sorted(contexts(10, first_node=900, step=-17).items()))
    setting = f"client_fraction={fraction}"
    expected = asked(tmp_path / "a", contexts(10), setting)
    found = asked(tmp_path / "b", shuffled, setting)
    assert [sorted(cohort) for cohort in found] == [sorted(cohort) for cohort in expected]


def test_weights_do_not_depend_on_node_ids(tmp_path: Path) -> None:
    found = []
    for name, nodes in (("a", contexts(7)), ("b", contexts(7, first_node=900, step=-17))):
        settings = ["num_clients=7", "num_rounds=3", "client_fraction=0.5", 'strategy="fedadam"']
        with federation(tmp_path / name, *settings, nodes=nodes) as one:
            found.append(run_rounds(one, start()))
    assert_equal(found[1], found[0])


def test_another_seed_asks_other_clients(tmp_path: Path) -> None:
    with federation(tmp_path, "num_clients=10", "client_fraction=0.3") as one:
        first, again, other = (
            [tuple(draw_cohort(replace(one, seed=seed), index)[0]) for index in range(1, 6)]
            for seed in (0, 0, 1)
        )
    assert first == again
    assert first != other


class Stopped(Exception):
    """Stands for whatever ends a process between two rounds."""


def stop_after(round_index: int) -> Callable[[RoundReport], None]:
    def report(one: RoundReport) -> None:
        if one.round_index == round_index:
            raise Stopped

    return report


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedmedian"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_stopping_after_any_round_changes_nothing(tmp_path: Path, strategy: str, stop: int) -> None:
    settings = ["num_clients=3", "num_rounds=4", f'strategy="{strategy}"', "client_fraction=0.7"]
    with federation(tmp_path / "whole", *settings) as one:
        expected = run_rounds(one, start())
    with federation(tmp_path / "cut", *settings, report=stop_after(stop)) as one, pytest.raises(Stopped):
        run_rounds(one, start())
    with federation(tmp_path / "cut", *settings) as one:
        assert_equal(run_rounds(one, start()), expected)
    assert [event["round"] for event in events(tmp_path / "cut")] == [1, 2, 3, 4]


def test_initial_weights_come_from_the_checkpoint_of_round_zero(tmp_path: Path) -> None:
    settings = ["num_clients=2", "num_rounds=1"]
    with federation(tmp_path, *settings, step=failing(0, 1)) as one, pytest.raises(FederationError):
        run_rounds(one, start())
    state = newest_checkpoint(tmp_path / "checkpoints")
    assert state is not None
    assert state.round_index == 0
    assert_equal(dict(sorted(state.arrays.items())), dict(sorted(start().items())))


@pytest.mark.parametrize("finished", [0, 2])
def test_what_a_killed_run_logged_after_its_checkpoint_is_cut_off(tmp_path: Path, finished: int) -> None:
    """The log got the next round's event and half a line before the process died."""
    log, settings = tmp_path / "events.jsonl", ["num_clients=2", "num_rounds=4"]
    stopping = stop_after(finished) if finished else (lambda _: None)
    step = drift if finished else failing(0, 1)
    with (
        federation(tmp_path, *settings, report=stopping, step=step) as one,
        pytest.raises((Stopped, FederationError)),
    ):
        run_rounds(one, start())
    with log.open("a") as file:
        file.write(json.dumps({"event": "round", "round": finished + 1, "loss": 99.0}) + '\n{"event": "rou')
    with federation(tmp_path, *settings) as one:
        run_rounds(one, start())
    assert [event["round"] for event in events(tmp_path)] == [1, 2, 3, 4]
    assert 99.0 not in [event["loss"] for event in events(tmp_path)]
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_going_on_with_a_finished_run_keeps_its_log(tmp_path: Path) -> None:
    settings = ["num_clients=2", "num_rounds=2"]
    with federation(tmp_path, *settings) as one:
        expected = run_rounds(one, start())
    log = tmp_path / "events.jsonl"
    with log.open("a") as file:
        file.write(json.dumps({"event": "stage", "name": "simulate"}) + "\n")
    before = log.read_bytes()
    with federation(tmp_path, *settings) as one:
        assert_equal(run_rounds(one, start()), expected)
    assert log.read_bytes() == before


def test_a_damaged_checkpoint_costs_one_round(tmp_path: Path) -> None:
    settings = ["num_clients=3", "num_rounds=4", 'strategy="fedavgm"']
    with federation(tmp_path / "whole", *settings) as one:
        expected = run_rounds(one, start())
    cut = tmp_path / "cut"
    with federation(cut, *settings, report=stop_after(3)) as one, pytest.raises(Stopped):
        run_rounds(one, start())
    (cut / "checkpoints" / "round-000003" / "student.safetensors").write_bytes(b"")
    with federation(cut, *settings) as one:
        assert_equal(run_rounds(one, start()), expected)
    assert [event["round"] for event in events(cut)] == [1, 2, 3, 4]


# Whose a reply is, and who claims what.


class Altered(GridAround):
    """A grid whose replies pass through a function before they are handed out."""

    def __init__(self, grid: Grid, change: Callable[[list[Message], list[Message]], list[Message]]) -> None:
        super().__init__(grid)
        self._change = change

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        return self._change(sent, list(self._grid.send_and_receive(sent, timeout=timeout)))


def test_a_node_that_is_down_is_answered_for_by_the_superlink_and_the_round_goes_on(tmp_path: Path) -> None:
    """The SuperLink's own reply comes from node 1, which is no client's."""

    def down(sent: list[Message], replies: list[Message]) -> list[Message]:
        return [unavailable(sent[1]), *replies[:1], *replies[2:]]

    with federation(tmp_path, "num_clients=3", "num_rounds=1") as one:
        found = run_rounds(replace(one, grid=Altered(one.grid, down)), start())
    (event,) = events(tmp_path)
    assert event["clients"] == 2
    ((node, reason),) = [(dropped["node"], dropped["reason"]) for dropped in event["rejected"]]
    assert node == 101
    assert reason.startswith("Error: Node Unavailable")
    # Clients 0 and 2 hold 10 and 30 pairs and move each weight by -0.008 and -0.028 in round 1.
    for name, value in start().items():
        np.testing.assert_allclose(found[name], value + (10 * -0.008 + 30 * -0.028) / 40, rtol=1e-6)


def test_late_replies_of_an_earlier_round_do_not_count_in_a_later_one(tmp_path: Path) -> None:
    kept: list[Message] = []

    def hold_back(_: list[Message], replies: list[Message]) -> list[Message]:
        late, now = kept[:], replies[:-1]
        kept[:] = replies[-1:]
        return [*late, *now, *late]

    with federation(tmp_path, "num_clients=3", "num_rounds=3") as one:
        run_rounds(replace(one, grid=Altered(one.grid, hold_back)), start())
    silent = {"node": 102, "reason": "no reply within federation.deadline_s=3600 s"}
    late = {"node": 102, "reason": UNKNOWN}
    assert [event["rejected"] for event in events(tmp_path)] == [
        [silent],
        [late, late, silent],
        [late, late, silent],
    ]
    assert [event["clients"] for event in events(tmp_path)] == [2, 2, 2]


def test_two_nodes_that_claim_one_index_are_both_used_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients 0, 1 and 2, and the last says that it is client 0; by hand: all three count."""

    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        content = drift(weights, round_index, client)
        content.metric_records["metrics"]["client"] = client % 2
        return content

    with federation(tmp_path, "num_clients=3", "num_rounds=2", step=step) as one:
        found = run_rounds(one, start())
    with federation(tmp_path / "honest", "num_clients=3", "num_rounds=2") as one:
        expected = run_rounds(one, start())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    (warning,) = read_events(tmp_path / "events.jsonl", kind="warning")
    assert warning["round"] == 1
    assert warning["reason"].startswith("nodes 100, 102 all claim to be client 0; all are used.")
    assert [one.message for one in caplog.records if one.name == "edgecmd"] == [warning["reason"]]
    assert list(read_events(tmp_path / "honest" / "events.jsonl", kind="warning")) == []


def test_messages_live_as_long_as_the_deadline_and_say_their_round(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []

    def look(sent: list[Message], replies: list[Message]) -> list[Message]:
        seen.extend((one.metadata.group_id, one.metadata.ttl) for one in sent)
        return replies

    for deadline_s in (500.0, 1e6):
        settings = ["num_clients=1", "num_rounds=2", f"deadline_s={deadline_s}"]
        with federation(tmp_path / str(deadline_s), *settings) as one:
            run_rounds(replace(one, grid=Altered(one.grid, look)), start())
    twelve_hours = 12 * 3600.0
    assert seen == [("1", twelve_hours), ("2", twelve_hours), ("1", 1e6), ("2", 1e6)]


def test_what_clients_compare_with_their_own_is_sent_with_each_round(tmp_path: Path) -> None:
    seen: list[dict[str, object]] = []

    def look(sent: list[Message], replies: list[Message]) -> list[Message]:
        seen.extend(dict(one.content.config_records["config"]) for one in sent)
        return replies

    with federation(tmp_path, "num_clients=1", "num_rounds=2") as one:
        around = replace(
            one, grid=Altered(one.grid, look), expectations={"teacher-sha256": "ab", "run": "no"}
        )
        run_rounds(around, start())
    expected = {"teacher-sha256": "ab", "run": TOKEN}
    assert seen == [{**expected, "server-round": 1}, {**expected, "server-round": 2}]
