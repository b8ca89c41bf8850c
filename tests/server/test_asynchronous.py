"""Asynchronous rounds, against sums and timetables done by hand."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, FederationError
from edgecmd.core.events import read_events
from edgecmd.core.files import read_json
from edgecmd.privacy.ledger import Ledger
from server.asynchronous.buffer import Buffer, rebase, weight_of
from server.asynchronous.speeds import answer_seconds
from server.checkpoint import newest_checkpoint
from server.faults import FATES, Faults, FaultyGrid
from server.local_grid import LocalGrid, set_identity
from server.loop import RoundReport, run_rounds
from server.messages import Gathered, Messenger
from server.patience import NOT_TAKEN, GridAround
from tests.hand_made import Weights, drift, federation, records, run_config, start
from tests.tiny_federation import plan_of, run_of, simulate, tiny_config

Used = Sequence[Sequence[tuple[int, int]]]
"""For each round the answers that it aggregates, as (client, version of the weights that it started from)."""


def speeds(*seconds: float) -> dict[int, float]:
    return {100 + client: float(one) for client, one in enumerate(seconds)}


def move(client: int, version: int) -> float:
    """What `drift` adds to every weight in the round that follows ``version``."""
    return 0.01 * (client + 1) * (-1) ** (version + 1) + 0.002 * (version + 1)


def by_hand(used: Used, *, rate: float = 1.0) -> Weights:
    """Client k holds 10 (k + 1) pairs; an answer that is tau rounds old weighs 1 / sqrt(1 + tau)."""
    total = 0.0
    for version, answers in enumerate(used):
        pairs = [10 * (client + 1) for client, _ in answers]
        steps = [move(client, sent) / math.sqrt(1 + version - sent) for client, sent in answers]
        total += rate * sum(num * step for num, step in zip(pairs, steps, strict=True)) / sum(pairs)
    return {name: np.asarray(value, np.float64) + total for name, value in start().items()}


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Rounds of the log, without what depends on the machine."""
    rounds = read_events(folder / "events.jsonl", kind="round")
    return [{key: one[key] for key in one if key not in ("time", "seconds")} for one in rounds]


def assert_close(found: Any, expected: Weights) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6)


def assert_equal(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


# Clients that take 1, 1.5 and 4 seconds, two answers a round:
#
#   round 1 ends at 1.5: client 0 (at 1.0) and 1 (at 1.5), both from the first weights
#   round 2 ends at 3.0: client 0 (at 2.5) and 1 (at 3.0), both from version 1
#   round 3 ends at 4.0: client 0 (at 4.0) from version 2 and client 2 (at 4.0) from the first weights
#   round 4 ends at 5.0: client 1 (at 4.5) from version 2 and client 0 (at 5.0) from version 3
THREE = ("num_clients=3", "num_rounds=4", "buffer_size=2")
THREE_S = speeds(1.0, 1.5, 4.0)
TIMETABLE: Used = [[(0, 0), (1, 0)], [(0, 1), (1, 1)], [(0, 2), (2, 0)], [(0, 3), (1, 2)]]


def test_a_round_is_the_mean_of_the_first_answers_older_ones_weighing_less(tmp_path: Path) -> None:
    with federation(tmp_path, *THREE, answer_s=THREE_S) as one:
        found = run_rounds(one, start())
    assert_close(found, by_hand(TIMETABLE))
    rounds = log_of(tmp_path)
    assert [one["staleness"] for one in rounds] == [[0, 0], [0, 0], [0, 2], [0, 1]]
    assert [one["simulated_seconds"] for one in rounds] == [1.5, 1.5, 1.0, 1.0]
    assert [one["num_examples"] for one in rounds] == [30, 30, 40, 30]
    # 8 weights of 4 bytes: 3, 2, 2 and 2 messages out, 2 back.
    assert [one["bytes"] for one in rounds] == [32 * 5, 32 * 4, 32 * 4, 32 * 4]


def test_the_server_s_learning_rate_is_that_of_its_strategy(tmp_path: Path) -> None:
    strategy = ('strategy="fedavgm"', "server_momentum=0", "server_learning_rate=0.5")
    with federation(tmp_path, *THREE, *strategy, answer_s=THREE_S) as one:
        found = run_rounds(one, start())
    assert_close(found, by_hand(TIMETABLE, rate=0.5))


def test_the_weight_of_an_answer() -> None:
    assert [weight_of(age) for age in (0, 3, 8)] == [1.0, 0.5, pytest.approx(1 / 3)]


def test_statistics_are_mixed_so_that_a_variance_stays_one() -> None:
    """From a variance of 4 to 0.5, three rounds late, where it is 1 now: 1 + (0.5 - 1) / 2, not 1 - 1.75."""
    set_identity()
    reply = Message(records({"w": np.float32([2.0]), "var": np.float32([0.5])}, client=0), 100, "train")
    old = {"w": np.float32([1.0]), "var": np.float32([4.0])}
    new = {"w": np.float32([10.0]), "var": np.float32([1.0])}
    rebase(reply, old, new, staleness=3, mixed=frozenset({"var"}))
    record = reply.content.array_records["arrays"]
    assert [record[name].numpy().tolist() for name in ("w", "var")] == [[10.5], [0.75]]


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam"])
def test_with_all_clients_in_the_buffer_rounds_are_the_synchronous_ones(
    tmp_path: Path, strategy: str
) -> None:
    settings = ("num_clients=4", "num_rounds=3", f'strategy="{strategy}"')
    with federation(tmp_path / "sync", *settings) as one:
        expected = run_rounds(one, start())
    with federation(tmp_path / "async", *settings, "buffer_size=4", answer_s=speeds(1, 1, 1, 1)) as one:
        assert_equal(run_rounds(one, start()), expected)
    assert [one["staleness"] for one in log_of(tmp_path / "async")] == [[0] * 4] * 3


def test_answers_that_come_at_once_and_are_too_many_wait_for_the_next_round(tmp_path: Path) -> None:
    """Four at second 1: two rounds. Then 0 and 1 from version 1, and 2 and 3 from version 2, at second 2."""
    settings = ("num_clients=4", "num_rounds=4", "buffer_size=2")
    with federation(tmp_path, *settings, answer_s=speeds(1, 1, 1, 1)) as one:
        found = run_rounds(one, start())
    assert_close(found, by_hand([[(0, 0), (1, 0)], [(2, 0), (3, 0)], [(0, 1), (1, 1)], [(2, 2), (3, 2)]]))
    rounds = log_of(tmp_path)
    assert [one["staleness"] for one in rounds] == [[0, 0], [1, 1], [1, 1], [1, 1]]
    assert [one["simulated_seconds"] for one in rounds] == [1.0, 0.0, 1.0, 0.0]


class Shuffled(GridAround):
    """Hands out what came in in another order."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return list(self._grid.pull_messages(message_ids))[::-1]


def test_the_order_of_arrival_within_a_buffer_changes_nothing(tmp_path: Path) -> None:
    outcomes = []
    settings = ("num_clients=3", "num_rounds=3", "buffer_size=3")
    for name, seconds, around in (
        ("a", speeds(1, 2, 3), lambda grid: grid),
        ("b", speeds(3, 1, 2), lambda grid: grid),
        ("c", speeds(1, 1, 1), Shuffled),
    ):
        with federation(tmp_path / name, *settings, answer_s=seconds, between=around) as one:
            outcomes.append(run_rounds(one, start()))
    for other in outcomes[1:]:
        assert_equal(other, outcomes[0])


def test_an_answer_that_is_too_old_is_dropped_and_said(tmp_path: Path) -> None:
    """Client 2 answers at second 4, in round 3: two rounds old. Client 1 (at 4.5) takes its place."""
    with federation(tmp_path, *THREE, "max_staleness=1", answer_s=THREE_S) as one:
        found = run_rounds(one, start())
    # Round 4 begins at 4.5 and asks clients 0, 1 and 2; 0 (at 5.5) and 1 (at 6.0) answer.
    assert_close(found, by_hand([*TIMETABLE[:2], [(0, 2), (1, 2)], [(0, 3), (1, 3)]]))
    rounds = log_of(tmp_path)
    assert [one["rejected"] for one in rounds] == [
        [],
        [],
        [
            {
                "node": 102,
                "reason": "an answer to weights that are 2 rounds old, more than federation.max_staleness=1",
            }
        ],
        [],
    ]
    assert [one["simulated_seconds"] for one in rounds] == [1.5, 1.5, 1.5, 1.5]


class Stopped(Exception):
    """Stands for whatever ends a process between two rounds."""


def stop_after(round_index: int) -> Callable[[RoundReport], None]:
    def report(one: RoundReport) -> None:
        if one.round_index == round_index:
            raise Stopped

    return report


@pytest.mark.parametrize(
    ("strategy", "seconds"),
    [
        ("fedavg", (1.0, 1.5, 4.0, 2.2)),
        ("fedadam", (1.0, 1.0, 1.0, 1.0)),
        ("fedavg", (1.0, 1.0, 9.0, 3.0)),
    ],
)
def test_stopping_after_any_round_changes_nothing(
    tmp_path: Path, strategy: str, seconds: tuple[float, ...]
) -> None:
    settings = ("num_clients=4", "num_rounds=7", "buffer_size=2", "max_staleness=3", f'strategy="{strategy}"')
    with federation(tmp_path / "whole", *settings, answer_s=speeds(*seconds)) as one:
        expected = run_rounds(one, start())
    for stop in range(1, 7):
        folder = tmp_path / f"cut-{stop}"
        with (
            federation(folder, *settings, answer_s=speeds(*seconds), report=stop_after(stop)) as one,
            pytest.raises(Stopped),
        ):
            run_rounds(one, start())
        with federation(folder, *settings, answer_s=speeds(*seconds)) as one:
            assert_equal(run_rounds(one, start()), expected)
        assert log_of(folder) == log_of(tmp_path / "whole")


class Cut(GridAround):
    """The process ends at the given pull."""

    def __init__(self, grid: LocalGrid, *, at: int) -> None:
        super().__init__(grid)
        self.left = at

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.left -= 1
        if self.left == 0:
            raise Stopped
        return self._grid.pull_messages(message_ids)


@pytest.mark.parametrize("at", [1, 4, 7, 9])
def test_stopping_within_a_round_changes_nothing(tmp_path: Path, at: int) -> None:
    settings = ("num_clients=4", "num_rounds=5", "buffer_size=2")
    seconds = speeds(1.0, 1.5, 4.0, 2.2)
    with federation(tmp_path / "whole", *settings, answer_s=seconds) as one:
        expected = run_rounds(one, start())
    with (
        federation(
            tmp_path / "cut", *settings, answer_s=seconds, between=lambda grid: Cut(grid, at=at)
        ) as one,
        pytest.raises(Stopped),
    ):
        run_rounds(one, start())
    with federation(tmp_path / "cut", *settings, answer_s=seconds) as one:
        assert_equal(run_rounds(one, start()), expected)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_what_is_in_flight_is_asked_again_as_it_was(tmp_path: Path) -> None:
    """At second 3, after round 2, client 2 works on the first weights; it is sent them again."""
    asked: list[tuple[int, int, float]] = []

    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        asked.append((client, round_index, float(weights["scale"])))
        return drift(weights, round_index, client)

    with (
        federation(tmp_path, *THREE, answer_s=THREE_S, report=stop_after(2), step=step) as one,
        pytest.raises(Stopped),
    ):
        run_rounds(one, start())
    before, asked[:] = list(asked), []
    with federation(tmp_path, *THREE, answer_s=THREE_S, step=step) as one:
        run_rounds(one, start())
    assert asked[0] == (2, 1, 1.5)
    assert asked[0] in before
    assert [one[:2] for one in asked[1:3]] == [(0, 3), (1, 3)]


def test_a_checkpoint_that_another_needs_is_kept_and_the_newest_may_be_damaged(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    seconds = speeds(1.0, 1.5, 100.0)
    with federation(tmp_path, *THREE, answer_s=seconds) as one:
        expected = run_rounds(one, start())
    # Client 2 still works on the first weights.
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "round-000000",
        "round-000003",
        "round-000004",
    ]
    newest = newest_checkpoint(checkpoints)
    assert newest is not None
    assert newest.in_flight == {102: 0}
    assert_equal(dict(sorted(newest.earlier[0].arrays.items())), dict(sorted(start().items())))
    (checkpoints / "round-000004" / "state.json").write_text("{")
    with federation(tmp_path, *THREE, answer_s=seconds) as one:
        assert_equal(run_rounds(one, start()), expected)
    (checkpoints / "round-000000" / "student.safetensors").write_bytes(b"")
    with (
        federation(tmp_path, *THREE, answer_s=seconds) as one,
        pytest.raises(FederationError, match="No checkpoint under .* can be read"),
    ):
        run_rounds(one, start())


# Faults


class Recorded(Buffer):
    """Notes the answers that each round was given."""

    def __init__(self, like: Buffer) -> None:
        super().__init__(size=like.size, max_staleness=like.max_staleness)
        self.used: list[list[tuple[int, int]]] = []

    def gather(self, messenger: Messenger, arrays: Any, round_index: int) -> Gathered:
        gathered = super().gather(messenger, arrays, round_index)
        clients = [int(one.content.metric_records["metrics"]["client"]) for one in gathered.usable]
        ages = gathered.staleness
        self.used.append([(client, round_index - 1 - age) for client, age in zip(clients, ages, strict=True)])
        return gathered


@st.composite
def faults(draw: st.DrawFn) -> Faults:
    weights = draw(st.lists(st.integers(0, 3), min_size=len(FATES), max_size=len(FATES)))
    proper = draw(st.integers(1, 20))
    shares = {name: weight / (sum(weights) + proper) for name, weight in zip(FATES, weights, strict=True)}
    some = st.sampled_from([0.0, 0.3, 1.0])
    return Faults(
        seed=draw(st.integers(0, 2**31 - 1)),
        absent=draw(some),
        reborn=draw(some),
        failed_pull=draw(some),
        **shares,
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=faults(), size=st.integers(1, 4))
def test_whatever_goes_wrong_an_answer_counts_once_and_with_its_age(
    tmp_path_factory: pytest.TempPathFactory, drawn: Faults, size: int
) -> None:
    folder = tmp_path_factory.mktemp("faulty")
    changes = ("num_clients=4", "num_rounds=6", f"buffer_size={size}", "deadline_s=20")
    around: list[FaultyGrid] = []

    def between(grid: LocalGrid) -> FaultyGrid:
        around.append(FaultyGrid(grid, drawn))
        return around[0]

    with federation(folder, *changes, answer_s=speeds(1, 1.5, 3, 8), between=between) as one:
        assert one.buffer is not None
        recorded = Recorded(one.buffer)
        missed = ""
        try:
            run_rounds(replace(one, buffer=recorded), start())
        except FederationError as error:
            missed = str(error)
    assert not missed or f"Round {len(recorded.used)}: 0 usable replies" in missed
    recorded.used = [answers for answers in recorded.used if answers]
    state = newest_checkpoint(folder / "checkpoints")
    assert state is not None
    assert state.round_index == len(recorded.used)
    assert_close(state.arrays, by_hand(recorded.used))
    used = [answer for answers in recorded.used for answer in answers]
    assert len(used) == len(set(used)), "a client answers a version once"
    assert all(1 <= len(answers) <= size for answers in recorded.used)
    proper = {
        fate.node - 100 for fate in around[0].journal if fate.kind in ("answered", "twice", "foreign", "late")
    }
    assert {client for client, _ in used} <= proper


def test_duplicates_and_foreign_answers_are_dropped_and_change_nothing(tmp_path: Path) -> None:
    with federation(tmp_path / "calm", *THREE, answer_s=THREE_S) as one:
        expected = run_rounds(one, start())
    drill = Faults(seed=5, twice=0.5, foreign=0.5)
    with federation(
        tmp_path / "drill", *THREE, answer_s=THREE_S, between=lambda grid: FaultyGrid(grid, drill)
    ) as one:
        assert_equal(run_rounds(one, start()), expected)
    reasons = {dropped["reason"] for event in log_of(tmp_path / "drill") for dropped in event["rejected"]}
    assert reasons == {"a second reply to one message", "a reply to a message that this round did not send"}


class Deaf(GridAround):
    """The first ``num`` messages to node 102 are lost on their way."""

    def __init__(self, grid: LocalGrid, *, num: int = 1) -> None:
        super().__init__(grid)
        self.left = num

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        kept = []
        for reply in self._grid.pull_messages(message_ids):
            lost = reply.metadata.src_node_id == 102 and self.left > 0
            self.left -= lost
            kept += [] if lost else [reply]
        return kept


def test_a_client_that_does_not_answer_is_asked_again_after_the_deadline(tmp_path: Path) -> None:
    """Client 2 would answer at second 4; at second 7 it is given up, in the middle of round 6."""
    settings = ("num_clients=3", "num_rounds=9", "buffer_size=2", "deadline_s=7")
    with federation(tmp_path, *settings, answer_s=THREE_S, between=Deaf) as one:
        run_rounds(one, start())
    rounds = log_of(tmp_path)
    rejected = {one["round"]: one["rejected"] for one in rounds if one["rejected"]}
    # Clients 0 and 1 alone: a round each 1.5 seconds, so that round 5 begins at 6.0 and ends at 7.5.
    assert rejected == {5: [{"node": 102, "reason": "no reply within federation.deadline_s=7 s"}]}
    # Asked in round 6, at 7.5, it answers at 11.5: in round 8, which began at 10.5.
    assert [one["round"] for one in rounds if 2 in one["staleness"]] == [8]


class Refusing(GridAround):
    """Takes no message to node 101 in the first push."""

    pushes = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.pushes += 1
        kept = list(messages)
        ids = list(self._grid.push_messages(kept))
        gone = [one.metadata.dst_node_id == 101 and self.pushes == 1 for one in kept]
        return ["" if one else number for one, number in zip(gone, ids, strict=True)]


def test_a_message_that_is_not_taken_is_said_and_sent_again(tmp_path: Path) -> None:
    settings = ("num_clients=3", "num_rounds=2", "buffer_size=2")
    with federation(tmp_path, *settings, answer_s=speeds(1, 1, 1), between=Refusing) as one:
        found = run_rounds(one, start())
    assert_close(found, by_hand([[(0, 0), (2, 0)], [(0, 1), (1, 1)]]))
    assert [one["rejected"] for one in log_of(tmp_path)] == [[{"node": 101, "reason": NOT_TAKEN}], []]


def test_a_round_in_which_nobody_can_answer_ends_with_every_cause(tmp_path: Path) -> None:
    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        raise OSError(f"client {client}: disk is gone")

    with (
        federation(tmp_path, *THREE, answer_s=THREE_S, step=step) as one,
        pytest.raises(FederationError, match="Round 1: 0 usable replies, .* 3 clients were asked: 1 x OSErr"),
    ):
        run_rounds(one, start())


def test_a_round_ends_with_fewer_answers_where_no_more_can_come(tmp_path: Path) -> None:
    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        if client > 0:
            raise OSError("disk is gone")
        return drift(weights, round_index, client)

    with federation(tmp_path, *THREE, answer_s=THREE_S, step=step) as one:
        found = run_rounds(one, start())
    assert_close(found, by_hand([[(0, version)] for version in range(4)]))
    with (
        federation(tmp_path / "strict", *THREE, "min_clients=2", answer_s=THREE_S, step=step) as one,
        pytest.raises(FederationError, match="1 usable reply, federation.min_clients=2"),
    ):
        run_rounds(one, start())


# Settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["num_clients=3", "buffer_size=4"], "buffer_size=4 exceeds federation.num_clients=3"),
        (["buffer_size=2", "min_clients=3"], "min_clients=3 exceeds federation.buffer_size=2"),
        (["buffer_size=2", "client_fraction=0.5"], "keeps all clients busy; .*client_fraction=0.5"),
        (["buffer_size=2", "strategy=krum"], "'krum' compares .* Use one of fedavg, fedprox, fedavgm"),
        (["buffer_size=2", "strategy=fedmedian"], "'fedmedian' compares the answers of a whole round"),
        (["buffer_size=2", "privacy.mechanism=client"], "'client' do not go together"),
        (["buffer_size=-1"], "outside the allowed range"),
        (["buffer_size=2.5"], "buffer_size"),
        (["max_staleness=-1"], "outside the allowed range"),
        (["slowest=0.5"], "outside the allowed range"),
        (["slowest=nan"], "slowest"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_the_reason(changes: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_config(*changes)


def test_speeds_lie_between_one_second_and_the_slowest() -> None:
    config = run_config("num_clients=5", "slowest=16").federation
    assert sorted(answer_seconds(config, seed=0)) == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert answer_seconds(config, seed=0) == answer_seconds(config, seed=0)
    assert len({tuple(answer_seconds(config, seed=seed)) for seed in range(8)}) > 1
    assert answer_seconds(run_config("num_clients=1", "slowest=16").federation, seed=0) == [1.0]
    assert answer_seconds(run_config("num_clients=3").federation, seed=0) == [1.0, 1.0, 1.0]


def test_synchronous_rounds_take_as_long_as_the_slowest_client(tmp_path: Path) -> None:
    settings = ("num_clients=3", "num_rounds=2")
    with federation(tmp_path / "timed", *settings, answer_s=THREE_S) as one:
        found = run_rounds(one, start())
    with federation(tmp_path / "plain", *settings) as one:
        assert_equal(found, run_rounds(one, start()))
    assert [one["simulated_seconds"] for one in log_of(tmp_path / "timed")] == [4.0, 4.0]
    assert "simulated_seconds" not in log_of(tmp_path / "plain")[0]


def test_on_real_time_a_round_waits_for_the_first_answers(tmp_path: Path) -> None:
    """The in-process grid answers at once: three answers, of which the third waits for round 2."""
    with federation(tmp_path, "num_clients=3", "num_rounds=2", "buffer_size=2") as one:
        found = run_rounds(one, start())
    assert_close(found, by_hand([[(0, 0), (1, 0)], [(0, 1), (2, 0)]]))
    assert "simulated_seconds" not in log_of(tmp_path)[0]


# Real clients

UNEVEN = ("federation.slowest=4", "federation.buffer_size=2", "federation.num_rounds=5")
PRIVATE = ("privacy.mechanism=anchors", "privacy.sampling_rate=0.1", "distill.batch_size=2",
           "privacy.noise_multiplier=2", "privacy.epsilon=1000")  # fmt: skip


def student_of(config: RunConfig, **options: object) -> bytes:
    simulate(config, **options)
    return (Path(config.out) / config.name / "student.safetensors").read_bytes()


def test_the_student_depends_on_seed_and_speeds_and_not_on_workers(
    pairs: Path, tmp_path: Path, workers: None
) -> None:
    one = student_of(tiny_config(pairs, tmp_path, *UNEVEN, "name=one"))
    two = student_of(tiny_config(pairs, tmp_path, *UNEVEN, "name=two", "federation.num_workers=2"))
    assert one == two
    assert log_of(tmp_path / "one") == log_of(tmp_path / "two")
    other = student_of(tiny_config(pairs, tmp_path, *UNEVEN, "name=other", "federation.slowest=9"))
    assert other != one


def test_simulated_speeds_change_nothing_of_synchronous_rounds(pairs: Path, tmp_path: Path) -> None:
    plain = student_of(tiny_config(pairs, tmp_path, "name=plain"))
    assert student_of(tiny_config(pairs, tmp_path, "name=timed", "federation.slowest=9")) == plain
    assert [one["simulated_seconds"] for one in log_of(tmp_path / "timed")] == [9.0, 9.0, 9.0]
    everybody = ("name=buffer", "federation.buffer_size=4", "federation.slowest=1")
    assert student_of(tiny_config(pairs, tmp_path, *everybody)) == plain


def test_each_answer_is_counted_once_whatever_is_asked_again(pairs: Path, tmp_path: Path) -> None:
    """The answers of a run, and of one that was killed, are the lines of its ledgers: no more, no fewer."""
    settings = (*UNEVEN, *PRIVATE, "privacy.deterministic=true", "distill.keep_optimizer=true")
    whole = tiny_config(pairs, tmp_path, *settings, "name=whole")
    killed = tiny_config(pairs, tmp_path, *settings, "name=killed")
    expected = student_of(whole)
    with pytest.raises(Stopped):
        student_of(killed, report=stop_after(2))
    assert student_of(killed) == expected
    counts = []
    for config in (whole, killed):
        lines = [Ledger(run_of(config).client_ledger(client)).read().lines for client in range(4)]
        counts.append([[one["round"] for one in book if one["kind"] == "spend"] for book in lines])
    assert counts[0] == counts[1]
    in_all = [number for numbers in counts[0] for number in numbers]
    # 4 are asked at first, and after each of 4 rounds the 2 that answered.
    assert len(in_all) == 4 + 4 * 2
    assert all(len(numbers) == len(set(numbers)) <= 5 for numbers in counts[0])


def test_epsilon_is_that_of_the_client_that_answered_most(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *UNEVEN, *PRIVATE)
    simulate(config)
    table = read_json(tmp_path / "tiny" / "privacy.json")
    plan = plan_of(config)
    assert plan is not None
    made = [Ledger(run_of(config).client_ledger(client)).num_rounds() for client in range(4)]
    assert len(set(made)) > 1, "fast clients answer more often"
    expected = {f"client {client}": plan.epsilon_after(num) for client, num in enumerate(made)}
    assert table["epsilon_by_client"] == pytest.approx(expected)
    assert table["epsilon"] == max(table["epsilon_by_client"].values())
    assert (table["rounds"], max(made)) == (5, 5)


def test_a_drill_of_asynchronous_rounds_repeats_itself(pairs: Path, tmp_path: Path) -> None:
    drill = Faults(seed=3, unavailable=0.2, late=0.2, twice=0.2, foreign=0.1, failed_pull=0.3)
    outcomes = []
    for name in ("one", "two"):
        student = student_of(tiny_config(pairs, tmp_path, *UNEVEN, f"name={name}"), faults=drill)
        outcomes.append((student, log_of(tmp_path / name)))
    assert outcomes[0] == outcomes[1]
    reasons = [dropped["reason"] for event in outcomes[0][1] for dropped in event["rejected"]]
    assert any("Node Unavailable" in reason for reason in reasons)
