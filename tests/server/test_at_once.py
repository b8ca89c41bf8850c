"""Clients that train at once in a simulation: who with whom, what comes of it, and what is refused."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from clients.work import ClientError, Group, Taken, Turns
from edgecmd.config.assemble import comparable, run_folder
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.events import read_events
from edgecmd.experiments.run_plan import at_once_rows
from edgecmd.run import Run
from edgecmd.training.averaging import to_arrays
from edgecmd.training.task import Holding, Task
from server.loop import RoundReport
from server.resident.groups import groups_of
from server.resident.rounds import ResidentRounds
from tests.tiny_federation import run_of, simulate, tiny_config

SMALL = ("distill.batch_size=4", "federation.num_rounds=1", "federation.clients_at_once=4")


def groups(
    run: Run, monkeypatch: pytest.MonkeyPatch, cohort: list[int], *, most: int, sizes: list[int], side: int
) -> list[Group]:
    """Groups of clients of so many pairs, in batches of 8 at most, of so many pixels a side."""
    monkeypatch.setattr(Run, "part", lambda _, client: np.arange(sizes[client]))
    monkeypatch.setattr(Task, "input_shape", (1, side, side))
    federation = replace(run.federation, clients_at_once=most)
    return groups_of(replace(run, federation=federation, distill=replace(run.distill, batch_size=8)), cohort)


def test_groups_are_of_one_batch_size_in_the_order_of_the_cohort(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: twelve clients, of 9, 8 or 50 pairs (batches of 8), of 3, and of one pair alone."""
    run = run_of(tiny_config(pairs, tmp_path))
    given = partial(groups, run, monkeypatch, sizes=[9, 3, 8, 50, 1, 3, 8, 9, 3, 8, 3, 8], side=32)
    assert given(list(range(12)), most=5) == [(4,), (0, 2, 3, 6, 7), (1, 5, 8, 10), (9,), (11,)]
    assert given([11, 9, 7, 6], most=2) == [(11, 9), (7, 6)]
    assert given([5, 4, 3], most=1) == [(5,), (4,), (3,)]
    # Batches of 8 pairs of 64 pixels are just small enough, those of 128 pixels are not.
    assert given([0, 2, 3, 6], most=4, side=64) == [(0, 2, 3, 6)]
    assert given([0, 2, 3, 6], most=4, side=128) == [(0,), (2,), (3,), (6,)]


def turn(run: Run, group: Group) -> dict[int, Taken | ClientError]:
    turns = Turns(run, "0" * 16)
    turns.begin(to_arrays(run.new_student()), 1)
    found = turns.turn(group)
    return {
        client: one
        if isinstance(one, ClientError)
        else Taken(weights={name: value.copy() for name, value in one.weights.items()}, loss=one.loss)
        for client, one in found.items()
    }


def test_a_turn_of_several_is_that_of_each_alone(pairs: Path, tmp_path: Path) -> None:
    """In float32, by a step of plain gradients, as AdamW makes a whole step of a rounding error."""
    run = run_of(tiny_config(pairs, tmp_path, *SMALL, "distill.optimizer=sgd"))
    for client, taken in turn(run, (0, 1, 2, 3)).items():
        (alone,) = turn(run, (client,)).values()
        assert isinstance(taken, Taken)
        assert isinstance(alone, Taken)
        assert taken.loss == pytest.approx(alone.loss, rel=1e-5)
        assert taken.weights.keys() == alone.weights.keys()
        for name, value in taken.weights.items():
            atol = 1e-5 * float(np.abs(alone.weights[name]).max())
            np.testing.assert_allclose(value, alone.weights[name], rtol=0, atol=atol)


def test_a_client_that_is_not_asked_or_fails_moves_no_bit_of_the_others(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tiny_config(pairs, tmp_path, *SMALL))
    whole, without = turn(run, (0, 1, 2, 3)), turn(run, (0, None, 2, 3))
    held = Run.holding

    def holding(self: Run, client: int) -> Holding:
        if client == 1:
            raise KeyError("gone")
        found = held(self, client)
        data = replace(found.data, target=found.data.inputs * float("nan"))
        return replace(found, data=data) if client == 3 else found

    monkeypatch.setattr(Run, "holding", holding)
    failing = turn(run, (0, 1, 2, 3))
    assert str(failing[1]) == "client 1, stage data: KeyError: 'gone'"
    assert str(failing[3]).startswith("client 3, stage distil: FloatingPointError: loss=nan is not finite.")
    assert 1 not in without
    for client in (0, 2):
        one = whole[client]
        assert isinstance(one, Taken)
        for other in (without[client], failing[client]):
            assert isinstance(other, Taken)
            assert other.loss == one.loss
            assert all(np.array_equal(value, other.weights[name]) for name, value in one.weights.items())


def test_what_fails_for_all_is_told_of_each(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(self: Run, *_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Run, "train_together", train)
    found = turn(run_of(tiny_config(pairs, tmp_path, *SMALL)), (0, 1))
    assert [str(one).partition(":")[0] for one in found.values()] == [
        "client 0, stage distil",
        "client 1, stage distil",
    ]
    monkeypatch.setattr(Run, "holding", train)
    found = turn(run_of(tiny_config(pairs, tmp_path, *SMALL)), (0, 1))
    assert all("stage data" in str(one) for one in found.values())


def outcome(config: RunConfig, **options: object) -> tuple[bytes, list[dict[str, object]]]:
    simulate(config, **options)
    folder = run_folder(config)
    rounds = [one for one in read_events(folder / "events.jsonl") if one["event"] == "round"]
    return (folder / "student.safetensors").read_bytes(), rounds


def test_workers_change_no_byte_and_a_dropped_client_is_told_as_ever(
    pairs: Path, tmp_path: Path, workers: None
) -> None:
    """Of four clients one fails by a drill in the second round; their state is kept from round to round."""

    def fault(round_index: int, node: int) -> Exception | None:
        return OSError("drill") if (round_index, node) == (2, 101) else None

    def config(name: str, *changes: str) -> RunConfig:
        more = ("federation.num_rounds=2", "distill.keep_optimizer=true", *changes)
        return tiny_config(pairs, tmp_path / name, *SMALL, *more)

    one, rounds = outcome(config("one"), fault=fault)
    two, again = outcome(config("two", "federation.num_workers=2"), fault=fault)
    assert one == two
    assert [event["at_once"] for event in rounds] == [4, 3]
    assert [event["loss"] for event in rounds] == [event["loss"] for event in again]
    assert rounds[1]["rejected"] == [{"node": 101, "reason": "OSError: drill"}]


class Stopped(Exception):
    """Stands for whatever ends a process between two rounds."""


def test_a_run_that_is_stopped_goes_on_to_the_bytes_of_a_calm_one(pairs: Path, tmp_path: Path) -> None:
    """Weights and optimisers of clients and server: after the first round all come from the run folder."""
    more = ("federation.num_rounds=3", "distill.keep_optimizer=true", 'federation.strategy="fedadam"')
    calm, stopped = (tiny_config(pairs, tmp_path / way, *SMALL, *more) for way in ("calm", "stopped"))
    expected, rounds = outcome(calm)

    def stop(_: RoundReport) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        simulate(stopped, report=stop)
    assert not (run_folder(stopped) / "student.safetensors").exists()
    found, again = outcome(stopped)
    assert found == expected
    assert [one["at_once"] for one in again] == [one["at_once"] for one in rounds] == [4, 4, 4]
    assert [one["loss"] for one in again] == [one["loss"] for one in rounds]


def test_losses_are_those_of_clients_one_by_one(pairs: Path, tmp_path: Path) -> None:
    """Of the second round too, which starts from what the first sent in a byte a number."""
    more = (*SMALL, "federation.num_rounds=2", "federation.compression=int8")
    _, rounds = outcome(tiny_config(pairs, tmp_path / "many", *more))
    _, alone = outcome(tiny_config(pairs, tmp_path / "one", *more, "federation.clients_at_once=1"))
    for event, other in zip(rounds, alone, strict=True):
        assert event["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert event["at_once"] == 4
        assert "at_once" not in other


def test_a_late_group_is_left_out(pairs: Path, tmp_path: Path) -> None:
    run = run_of(tiny_config(pairs, tmp_path, *SMALL))
    rounds = ResidentRounds(run=run, turns=Turns(run, "0" * 16), first_node=100)
    gathered = rounds.gather(to_arrays(run.new_student()), [100, 101, 102, 103], 1, deadline_s=-1.0)
    assert [one.node_id for one in gathered.rejected] == [100, 101, 102, 103]
    assert gathered.num_at_once == 0


def test_the_number_is_one_of_the_settings_of_a_run_and_in_its_plan(pairs: Path, tmp_path: Path) -> None:
    config, other = (
        tiny_config(pairs, tmp_path, f"federation.clients_at_once={most}", "distill.batch_size=4")
        for most in (1, 4)
    )
    assert comparable(config) != comparable(other)
    assert at_once_rows(run_of(config)) == []
    assert at_once_rows(run_of(other)) == [
        ["clients at once", "up to 4; the steps of 4 of 4 are small enough"]
    ]


@pytest.mark.parametrize(
    "change",
    [
        "privacy.mechanism=client",
        "privacy.aggregation=secure-sum",
        "federation.strategy=krum",
        "federation.buffer_size=2",
        "federation.slowest=2.0",
        "distill.precision=bf16",
        "distill.rows_at_once=2",
    ],
)
def test_what_trains_each_client_by_itself_is_refused_with_the_way_out(
    pairs: Path, tmp_path: Path, change: str
) -> None:
    with pytest.raises(ConfigError, match="do not go together.*Set federation.clients_at_once=1") as caught:
        tiny_config(pairs, tmp_path, *SMALL, change)
    assert change.partition("=")[0] in str(caught.value)


def test_a_student_that_cannot_is_refused_before_the_run_begins(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *SMALL, "student.architecture=seg-50k")
    with pytest.raises(ConfigError, match="federation.clients_at_once=4: student.architecture='seg-50k'"):
        simulate(config)
    assert not run_folder(config).exists()
