"""Rounds without messages: what they give is what Flower's messages give, to the bit."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.work import Turns
from edgecmd.config.assemble import run_folder
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import FederationError, MachineError
from edgecmd.core.events import read_events
from edgecmd.run import Run
from edgecmd.training.averaging import to_arrays
from server.resident import workers
from server.resident.rounds import ResidentRounds, may_stay
from server.resident.workers import Layout, TurnWorkers
from tests.tiny_federation import run_of, simulate, tiny_config

ENGINES = {"turns": False, "messages": True}


def outcome(config: RunConfig, **options: object) -> tuple[bytes, list[object]]:
    """The student's file, and the events but for what depends on the machine and the name of the run."""
    simulate(config, **options)
    folder = run_folder(config)
    events = list(read_events(folder / "events.jsonl"))
    told = [{name: value for name, value in one.items() if name not in ("seconds", "time")} for one in events]
    return (folder / "student.safetensors").read_bytes(), told


@pytest.mark.parametrize(
    "changes",
    [
        ("distill.keep_optimizer=true", "evaluate.every_rounds=2"),
        ("federation.strategy=fedprox", "distill.proximal_mu=0.1"),
        ("federation.strategy=fedavgm", "federation.client_fraction=0.6"),
        ("federation.strategy=fedadam", "federation.server_learning_rate=0.01", "federation.ema_decay=0.5"),
        ("federation.strategy=fedyogi", "federation.server_learning_rate=0.01", "student.batch_norm=keep"),
        ("distill.loss=simclr", "federation.partition=dirichlet"),
    ],
    ids=lambda changes: changes[0].partition("=")[2],
)
def test_turns_give_what_messages_give(pairs: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    found = [
        outcome(tiny_config(pairs, tmp_path / name, *changes), messages=messages)
        for name, messages in ENGINES.items()
    ]
    assert found[0] == found[1]


class BadTurns(Exception):
    """Of a drill."""


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Spoils what local training leaves: client by client, in either engine."""

    def spoil(change: Callable[[torch.nn.Module, int], float | None]) -> None:
        train = Run.train_locally

        def spoiling(self: Run, student: torch.nn.Module, *rest: object, **options: object) -> float:
            loss = train(self, student, *rest, **options)  # type: ignore[arg-type]
            with torch.no_grad():
                told = change(student, options["place"].client)  # type: ignore[attr-defined]
            return loss if told is None else told

        monkeypatch.setattr(Run, "train_locally", spoiling)

    return spoil


def test_clients_that_fail_are_dropped_for_the_same_reasons_with_the_same_bytes(
    pairs: Path, tmp_path: Path, spoilt: Callable[..., None]
) -> None:
    """Of four clients one raises, one has weights that are NaN, one too large a weight, in turn."""

    def change(student: torch.nn.Module, client: int) -> float | None:
        weight = next(student.parameters())
        if client == 1:
            raise BadTurns("no")
        if client == 2:
            weight[0] = float("nan")
        return None

    def fault(round_index: int, node: int) -> Exception | None:
        return OSError("drill") if (round_index, node) == (2, 103) else None

    spoilt(change)
    found = [
        outcome(
            tiny_config(pairs, tmp_path / name, "distill.keep_optimizer=true", "federation.min_clients=1"),
            messages=messages,
            fault=fault,
        )
        for name, messages in ENGINES.items()
    ]
    assert found[0] == found[1]
    rounds = [one for one in found[0][1] if isinstance(one, dict) and one.get("event") == "round"]
    reasons = [[(one["node"], one["reason"]) for one in event["rejected"]] for event in rounds]
    assert [node for node, _ in reasons[0]] == [101, 102]
    assert [node for node, _ in reasons[1]] == [101, 102, 103]
    assert reasons[1][0][1] == "ClientError: client 1, stage distil: BadTurns: no"
    assert "holds NaN or infinity" in reasons[1][1][1]
    assert reasons[1][2][1] == "OSError: drill"
    assert [event["clients"] for event in rounds] == [2, 1, 2]


def test_a_weight_beyond_belief_and_an_infinite_loss_are_no_answers(
    pairs: Path, tmp_path: Path, spoilt: Callable[..., None]
) -> None:
    def change(student: torch.nn.Module, client: int) -> float | None:
        if client == 0:
            next(student.parameters())[0] = 2e9
        return float("inf") if client == 1 else None

    spoilt(change)
    found = [
        outcome(tiny_config(pairs, tmp_path / name, "federation.num_rounds=1"), messages=messages)
        for name, messages in ENGINES.items()
    ]
    assert found[0] == found[1]
    assert "beyond 1e+09" in str(found[0][1])
    assert "loss=inf is not finite" in str(found[0][1])


def test_a_round_in_which_nobody_answers_ends_the_run_with_every_cause(
    pairs: Path, tmp_path: Path, spoilt: Callable[..., None]
) -> None:
    def change(student: torch.nn.Module, client: int) -> None:
        raise BadTurns("none")

    spoilt(change)
    messages = []
    for name, as_messages in ENGINES.items():
        with pytest.raises(FederationError) as caught:
            simulate(tiny_config(pairs, tmp_path / name), messages=as_messages)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "0 usable replies" in messages[0]
    assert "ClientError: client 3, stage distil: BadTurns: none" in messages[0]


class Late:
    """Turns of two clients in time; the others come too late."""

    def __init__(self, weights: dict[int, np.ndarray]) -> None:
        self.weights = weights

    def begin(self, arrays: object, round_index: int) -> None:
        pass

    def line_up(self, clients: Iterator[int]) -> None:
        pass

    def take(self, client: int, *, end: float) -> object:
        from clients.work import Taken

        return Taken(weights={"w": self.weights[client]}, loss=1.0) if client in self.weights else None


def test_a_deadline_leaves_the_late_out_and_divides_by_those_that_answered(
    pairs: Path, tmp_path: Path
) -> None:
    """By hand: the mean over clients 0 and 2, weighed by their pairs, whatever the other two hold."""
    run = run_of(tiny_config(pairs, tmp_path))
    weights = {0: np.array([1.0, 5.0], np.float32), 2: np.array([4.0, -1.0], np.float32)}
    rounds = ResidentRounds(run=run, turns=Late(weights), first_node=100)  # type: ignore[arg-type]
    gathered = rounds.gather({"w": weights[0]}, [100, 101, 102, 103], 1, deadline_s=60.0)
    sizes = {client: len(run.part(client)) for client in weights}
    expected = sum(sizes[one] * weights[one].astype(float) for one in weights) / sum(sizes.values())
    (reply,) = gathered.usable
    np.testing.assert_allclose(reply.content.array_records["arrays"]["w"].numpy(), expected, rtol=1e-6)
    assert reply.content.metric_records["metrics"]["num-examples"] == sum(sizes.values())
    assert [one.node_id for one in gathered.rejected] == [101, 103]
    assert {one.reason for one in gathered.rejected} == {"no reply within federation.deadline_s=60 s"}
    assert gathered.num_clients == 2


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        ((), True),
        (("federation.strategy=fedmedian",), False),
        (("federation.strategy=krum",), False),
        (("privacy.mechanism=anchors",), False),
        (("privacy.mechanism=client",), False),
        (("privacy.aggregation=secure-sum",), False),
    ],
)
def test_what_is_private_or_needs_every_reply_goes_by_messages(
    pairs: Path, tmp_path: Path, changes: tuple[str, ...], stays: bool
) -> None:
    assert may_stay(run_of(tiny_config(pairs, tmp_path, *changes))) is stays


def test_memory_of_a_round_does_not_grow_with_its_clients(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mean is held: of what the turns give, nothing lives on when the next begins."""
    import weakref

    alive: list[weakref.ref[np.ndarray]] = []
    most = []
    take = Turns.take

    def watched(self: Turns, client: int, *, end: float) -> object:
        from dataclasses import replace

        taken = take(self, client, end=end)
        assert taken is not None
        copies = {name: value.copy() for name, value in taken.weights.items()}
        most.append(sum(one() is not None for one in alive))
        alive.extend(weakref.ref(value) for value in copies.values())
        return replace(taken, weights=copies)

    monkeypatch.setattr(Turns, "take", watched)
    run = run_of(tiny_config(pairs, tmp_path, "federation.num_rounds=1"))
    simulate(tiny_config(pairs, tmp_path, "federation.num_rounds=1"))
    assert max(most) <= len(to_arrays(run.new_student()))


def test_weights_lie_in_memory_that_processes_share() -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "count": np.array(7, np.int64),
        "none": np.zeros((0, 2), np.float32),
    }
    layout = Layout.of(arrays)
    memory = np.zeros(3 * layout.num_bytes, np.uint8)
    for place in (0, 2):
        for name, view in layout.views(memory, place).items():
            view[...] = arrays[name] * (place + 1)
    for place in (0, 2):
        for name, view in layout.views(memory, place).items():
            assert view.dtype == arrays[name].dtype
            np.testing.assert_array_equal(view, arrays[name] * (place + 1))
    assert not memory[layout.num_bytes : 2 * layout.num_bytes].any()


def die_once(work: "workers._Work") -> "workers.Told":
    """In a worker: the first turn of client 1 ends its process."""
    mark = work.path.parent / "died"
    if 1 in work.group and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return workers._turn(work)


class Dying:
    """Workers of which every turn ends one."""

    def __init__(self, num: int, *, begin: object) -> None:
        pass

    def submit(self, *work: object) -> "Future[workers.Told]":
        future: Future[workers.Told] = Future()
        future.set_exception(BrokenProcessPool())
        return future

    def shutdown(self, **how: bool) -> None:
        pass


def test_a_worker_that_is_killed_costs_its_turn_and_no_more(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client's turn is taken again, in another process, with the same bytes; a second death is told."""
    expected, _ = outcome(tiny_config(pairs, tmp_path / "one"))
    monkeypatch.setattr(TurnWorkers, "turn", staticmethod(die_once))
    two = tiny_config(pairs, tmp_path / "two", "federation.num_workers=2")
    found, events = outcome(two)
    assert found == expected
    assert "'rejected': [{" not in str(events)
    monkeypatch.setattr(workers, "Workers", Dying)
    with pytest.raises(MachineError, match="A worker process was killed.*edgecmd resume"):
        simulate(tiny_config(pairs, tmp_path / "three", "federation.num_workers=2"))
