"""The real clients on tiny pairs: seeds, workers, resuming, the run folder."""

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from flwr.serverapp import Grid
from safetensors.numpy import load_file

from clients.app import app
from edgecmd.config.assemble import run_folder
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, FederationError
from edgecmd.core.events import read_events
from edgecmd.core.files import read_json
from edgecmd.core.run_lock import owned
from edgecmd.models.student_file import load_student
from edgecmd.training.averaging import load_arrays, to_arrays
from server import loop
from server.checkpoint import Checkpoint
from server.faults import MadeUpTime
from server.federation import run_token
from server.local_grid import local_grid
from server.loop import RoundReport
from server.patience import GridAround
from tests.tiny_federation import NUM_CLIENTS, contexts, federate, run_of, simulate, tiny_config


class Stopped(Exception):
    """Stands for whatever ends a process between two rounds."""


def stop_after(round_index: int) -> Callable[[RoundReport], None]:
    def report(one: RoundReport) -> None:
        if one.round_index == round_index:
            raise Stopped

    return report


def student_bytes(config: RunConfig) -> bytes:
    return (run_folder(config) / "student.safetensors").read_bytes()


def run(config: RunConfig) -> bytes:
    simulate(config)
    return student_bytes(config)


@pytest.fixture(scope="module")
def calm(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """Bytes of a run with the given changes that nobody disturbs; each is made once."""
    made: dict[tuple[str, ...], bytes] = {}

    def bytes_of(*changes: str) -> bytes:
        if changes not in made:
            made[changes] = run(tiny_config(pairs, tmp_path_factory.mktemp("calm"), *changes))
        return made[changes]

    return bytes_of


def test_the_run_folder(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, "distill.keep_optimizer=true", "evaluate.every_rounds=2")
    student = simulate(config)
    folder = run_folder(config)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(".lock", "checkpoints", "clients", "config.toml", "environment.json", "events.jsonl"),
        *("federation.json", "student.safetensors", "token"),
    ]
    read = load_student(folder / "student.safetensors").state_dict()
    for name, value in student.state_dict().items():
        assert torch.equal(read[name], value)
    rounds = list(read_events(folder / "events.jsonl", kind="round"))
    assert [one["round"] for one in rounds] == [1, 2, 3]
    assert ["val_recall@1" in one for one in rounds] == [False, True, True]
    weights = sum(value.numel() for value in student.state_dict().values())
    assert {one["bytes"] for one in rounds} == {2 * 4 * weights * NUM_CLIENTS}


def test_weights_survive_the_way_to_numpy_and_back(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    student, other = (
        run_of(config).new_student(),
        run_of(tiny_config(pairs, tmp_path, "seed=1")).new_student(),
    )
    arrays = to_arrays(student)
    assert list(arrays) == sorted(arrays)
    assert {value.dtype for value in arrays.values()} == {np.dtype(np.float32)}
    load_arrays(other, arrays)
    for name, value in student.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_equal_settings_give_equal_bytes_whatever_the_global_seeds(pairs: Path, tmp_path: Path) -> None:
    found = set()
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - it must not matter
        torch.manual_seed(seed)
        found.add(run(tiny_config(pairs, tmp_path, f'name="run-{seed}"')))
    assert len(found) == 1


def test_another_seed_gives_other_weights(pairs: Path, tmp_path: Path, calm: Callable[..., bytes]) -> None:
    assert calm() != run(tiny_config(pairs, tmp_path, "seed=1"))


def test_two_workers_give_the_bytes_of_one_under_privacy(pairs: Path, tmp_path: Path, workers: None) -> None:
    settings = (
        "privacy.mechanism=anchors",
        "privacy.deterministic=true",
        "privacy.noise_multiplier=2",
        "privacy.epsilon=1000",
    )
    one = run(tiny_config(pairs, tmp_path, *settings, "name=one"))
    assert run(tiny_config(pairs, tmp_path, *settings, "name=two", "federation.num_workers=2")) == one


def test_two_workers_give_the_bytes_of_one(pairs: Path, tmp_path: Path, workers: None) -> None:
    """Also where clients fail, only some are asked, and the number changes when a run is resumed."""
    settings = [
        "distill.keep_optimizer=true",
        'federation.strategy="fedadam"',
        "federation.client_fraction=0.8",
        "federation.num_rounds=4",
    ]

    def fault(round_index: int, node: int) -> Exception | None:
        return OSError("drill") if (round_index, node) == (3, 101) else None

    outcomes = []
    for name, num_workers in (("one", 1), ("two", 2)):
        config = tiny_config(pairs, tmp_path, *settings, f'name="{name}"')
        with pytest.raises(Stopped):
            simulate(config, report=stop_after(2))
        for state in (run_folder(config) / "clients").glob("*/client-0002/*"):
            state.write_bytes(b"damaged")
        resumed = replace(config, federation=replace(config.federation, num_workers=num_workers))
        simulate(resumed, fault=fault)
        events = list(read_events(run_folder(config) / "events.jsonl", kind="round"))
        reasons = [[one["reason"].replace(f"/{name}/", "/") for one in event["rejected"]] for event in events]
        token = run_token(run_folder(config))
        outcomes.append((student_bytes(config), str(reasons).replace(token, "")))
    assert outcomes[0] == outcomes[1]
    assert "'OSError: drill'" in outcomes[0][1]
    assert "client 2, stage distil: FederationError: The client's state" in outcomes[0][1]


@pytest.mark.parametrize("fraction", [0.6, 1.0])
def test_node_ids_do_not_matter(
    pairs: Path, tmp_path: Path, fraction: float, calm: Callable[..., bytes]
) -> None:
    setting = f"federation.client_fraction={fraction}"
    expected = calm(setting)
    config = tiny_config(pairs, tmp_path, setting, 'name="other"')
    ids = [9182736455, 17, 555, 4]
    around = {}
    for node, context in zip(ids, contexts(config).values(), strict=True):
        context.node_id = node
        around[node] = context
    with local_grid(app, around) as grid:
        federate(grid, config)
    assert student_bytes(config) == expected


@pytest.mark.parametrize("keep_optimizer", ["true", "false"])
@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam"])
def test_a_resumed_run_is_bit_identical(
    pairs: Path, tmp_path: Path, strategy: str, keep_optimizer: str, calm: Callable[..., bytes]
) -> None:
    """Stopped after the first round, again after the second, then run to its end."""
    settings = [
        f'federation.strategy="{strategy}"',
        f"distill.keep_optimizer={keep_optimizer}",
        "federation.server_learning_rate=0.1",
    ]
    expected = calm(*settings)
    config = tiny_config(pairs, tmp_path, *settings, 'name="cut"')
    for stop in (1, 2):
        with pytest.raises(Stopped):
            simulate(config, report=stop_after(stop))
        assert not (run_folder(config) / "student.safetensors").exists()
    assert run(config) == expected


def test_the_settings_matter_that_resuming_must_carry_over(pairs: Path, tmp_path: Path) -> None:
    """Keeping the optimiser, and the strategy, do change the result; else the test above shows nothing."""
    found = {
        run(
            tiny_config(
                pairs,
                tmp_path,
                f'federation.strategy="{strategy}"',
                f"distill.keep_optimizer={keep}",
                f'name="{strategy}-{keep}"',
            )
        )
        for strategy in ("fedavg", "fedavgm")
        for keep in ("true", "false")
    }
    assert len(found) == 4


def test_a_round_cut_off_between_two_clients_is_repeated(
    pairs: Path, tmp_path: Path, calm: Callable[..., bytes]
) -> None:
    """Clients 0 and 1 have already saved their state of round 3 when the process ends."""
    setting = "distill.keep_optimizer=true"
    expected = calm(setting)
    config = tiny_config(pairs, tmp_path, setting, 'name="cut"')

    def fault(round_index: int, node: int) -> Exception | None:
        if (round_index, node) == (3, 102):
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        simulate(config, fault=fault)
    states = sorted(path.stem for path in (run_folder(config) / "clients").glob("*/client-0001/*"))
    assert states == ["round-000001", "round-000002", "round-000003"]
    assert run(config) == expected


def test_falling_back_by_one_checkpoint_finds_the_clients_states(
    pairs: Path, tmp_path: Path, calm: Callable[..., bytes]
) -> None:
    """The worst case: killed within round 4, and the checkpoint of round 3 is damaged."""
    settings = ["distill.keep_optimizer=true", "federation.num_rounds=4"]
    expected = calm(*settings)
    config = tiny_config(pairs, tmp_path, *settings, 'name="cut"')

    def fault(round_index: int, node: int) -> Exception | None:
        if (round_index, node) == (4, 103):
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        simulate(config, fault=fault)
    (run_folder(config) / "checkpoints" / "round-000003" / "state.json").write_text("{")
    assert run(config) == expected


def test_a_renamed_run_folder_can_be_continued(
    pairs: Path, tmp_path: Path, calm: Callable[..., bytes]
) -> None:
    expected = calm()
    with pytest.raises(Stopped):
        simulate(tiny_config(pairs, tmp_path, 'name="cut"'), report=stop_after(1))
    (tmp_path / "cut").rename(tmp_path / "renamed")
    assert run(tiny_config(pairs, tmp_path, 'name="renamed"')) == expected


def test_a_run_folder_with_other_settings_is_refused(pairs: Path, tmp_path: Path) -> None:
    simulate(tiny_config(pairs, tmp_path))
    with pytest.raises(ConfigError, match="holds a run with other settings.*edgecmd resume.*--fresh"):
        simulate(tiny_config(pairs, tmp_path, "distill.temperature=0.2"))


def test_a_wrong_strategy_is_found_before_anything_is_written(pairs: Path, tmp_path: Path) -> None:
    for setting in ('federation.strategy="fedprox"', 'federation.strategy="none"'):
        with pytest.raises(ConfigError):
            simulate(tiny_config(pairs, tmp_path, setting))
    assert list(tmp_path.iterdir()) == []


def test_fedprox_holds_the_students_back(pairs: Path, tmp_path: Path) -> None:
    """The same weight gives the same bytes through fedavg, and other bytes than no weight."""
    prox = run(
        tiny_config(pairs, tmp_path, 'federation.strategy="fedprox"', "distill.proximal_mu=0.5", 'name="a"')
    )
    same = run(tiny_config(pairs, tmp_path, "distill.proximal_mu=0.5", 'name="b"'))
    without = run(tiny_config(pairs, tmp_path, 'name="c"'))
    assert prox == same
    assert prox != without


def test_every_client_failing_names_client_and_stage(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    around = contexts(config)
    for context in around.values():
        context.node_config["partition-id"] = 50 + context.node_id
    with local_grid(app, around) as grid, pytest.raises(FederationError) as caught:
        federate(grid, config)
    assert "1 x ClientError: client 150, stage data: ConfigError: " in str(caught.value)
    assert "(node 100)" in str(caught.value)


def test_the_token_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    token = run_token(tmp_path / "a")
    assert len(token) == 16
    assert int(token, 16) >= 0
    assert run_token(tmp_path / "a") == token
    assert run_token(tmp_path / "b") != token


def test_a_checkpoint_holds_the_final_weights(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    arrays = to_arrays(simulate(config))
    newest = load_file(run_folder(config) / "checkpoints" / "round-000003" / "student.safetensors")
    assert sorted(newest) == sorted(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(newest[name], value)


# Where the clients of a run are.


def nodes_of(config: RunConfig, *ids: int) -> dict[int, Context]:
    """The clients' contexts on nodes ``ids``."""
    around = {}
    for node, context in zip(ids, contexts(config).values(), strict=False):
        context.node_id = node
        around[node] = context
    return around


def test_a_run_on_flower_is_not_continued_here_nor_the_other_way_round(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, "federation.client_fraction=0.5")
    with local_grid(app, nodes_of(config, 17, 4, 9, 23)) as grid, pytest.raises(Stopped):
        federate(grid, config, runtime="flower", report=stop_after(1))
    folder = run_folder(config)
    expected = {"runtime": "flower", "nodes": 4, "nodes_with_own_pairs": 0}
    assert read_json(folder / "federation.json") == expected
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        FederationError, match="was made on Flower.*flwr run . <federation> --run-config"
    ) as one:
        simulate(config)
    assert f'out="{tmp_path}" name="tiny"' in str(one.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with local_grid(app, nodes_of(config, 1, 2, 3, 5)) as grid:
        federate(grid, config, runtime="flower")
    simulated = tiny_config(pairs, tmp_path, "federation.client_fraction=0.5", 'name="simulated"')
    assert run(simulated) == student_bytes(config), "the same weights in either runtime"
    assert read_json(run_folder(simulated) / "federation.json")["runtime"] == "in-process"
    with local_grid(app, contexts(simulated)) as grid, pytest.raises(FederationError, match="edgecmd resume"):
        federate(grid, simulated, runtime="flower")


class Asking(GridAround):
    """Counts the questions for identities, and shows so many nodes at a time."""

    def __init__(self, grid: Grid, *, shown: int = NUM_CLIENTS) -> None:
        super().__init__(grid)
        self.shown, self.questions = shown, 0

    def get_node_ids(self) -> list[int]:
        return sorted(self._grid.get_node_ids())[: self.shown]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        self.questions += sum(one.metadata.message_type == "query.index" for one in sent)
        return self._grid.send_and_receive(sent, timeout=timeout)


def test_only_flower_s_nodes_are_asked_who_they_are_and_once(pairs: Path, tmp_path: Path) -> None:
    for runtime, fraction, questions in (
        ("in-process", 1.0, 0),
        ("in-process", 0.5, NUM_CLIENTS),
        ("flower", 1.0, NUM_CLIENTS),
        ("flower", 0.5, NUM_CLIENTS),
    ):
        name = f"{runtime}-{fraction}"
        config = tiny_config(pairs, tmp_path, f'name="{name}"', f"federation.client_fraction={fraction}")
        with local_grid(app, contexts(config)) as grid:
            asking = Asking(grid)
            federate(asking, config, runtime=runtime)  # type: ignore[arg-type]
            assert asking.questions == questions, name
            federate(asking, config, runtime=runtime)  # type: ignore[arg-type]
            assert asking.questions == questions, "a finished run asks nobody"


class Telling(GridAround):
    """Node 100 says what it has spent: at first 1, and 1 more with each question."""

    spent = 0.0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = list(self._grid.send_and_receive(messages, timeout=timeout))
        for one in replies:
            if one.metadata.message_type == "query.index" and one.metadata.src_node_id == 100:
                self.spent += 1
                one.content["metrics"].update({"epsilon": self.spent, "delta": 1e-5})
        return replies


def test_what_nodes_have_spent_is_asked_at_the_start_and_at_the_end(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    told = run_folder(config) / "told-epsilon.json"
    with local_grid(app, contexts(config)) as grid:
        with pytest.raises(Stopped):
            federate(Telling(grid), config, runtime="flower", report=stop_after(1))
        assert read_json(told) == {"100": {"epsilon": 1.0, "delta": 1e-5}}
        telling = Telling(grid)
        federate(telling, config, runtime="flower")
        assert read_json(told) == {"100": {"epsilon": 2.0, "delta": 1e-5}}
        federate(telling, config, runtime="flower")
        assert telling.spent == 2.0, "a finished run asks nobody"
        other = tiny_config(pairs, tmp_path, 'name="other"')
        federate(grid, other, runtime="flower")
    assert not (run_folder(other) / "told-epsilon.json").exists(), "nobody tells"


@pytest.mark.parametrize(("shown", "waited_s"), [(4, 0), (3, 600), (2, None)])
def test_a_deployment_waits_for_all_and_starts_with_more_than_half(
    pairs: Path, tmp_path: Path, shown: int, waited_s: float | None
) -> None:
    config, time = tiny_config(pairs, tmp_path, "federation.num_rounds=1"), MadeUpTime()
    with local_grid(app, contexts(config)) as grid:
        asking = Asking(grid, shown=shown)
        if waited_s is None:
            with pytest.raises(FederationError, match="2 clients connected within 600 s; 3 are needed"):
                federate(asking, config, runtime="flower", clock=time.clock())
            return
        federate(asking, config, runtime="flower", clock=time.clock())
    assert waited_s <= time.now_s <= waited_s + 1
    (event,) = read_events(run_folder(config) / "events.jsonl", kind="round")
    assert event["clients"] == shown


def test_flower_s_own_simulation_waits_for_nobody(pairs: Path, tmp_path: Path) -> None:
    config, time = tiny_config(pairs, tmp_path, "federation.num_rounds=1"), MadeUpTime()
    with local_grid(app, contexts(config)) as grid:
        federate(Asking(grid, shown=3), config, runtime="flower", may_grow=False, clock=time.clock())
    assert time.now_s == 0.0


def test_deadline_and_quorum_may_change_between_two_starts(pairs: Path, tmp_path: Path) -> None:
    """They decide who is waited for, and not what is computed; a quorum that enlarges cohorts does."""
    simulate(tiny_config(pairs, tmp_path))
    simulate(tiny_config(pairs, tmp_path, "federation.deadline_s=5", "federation.min_clients=2"))
    shares = ("federation.client_fraction=0.5", 'name="shares"')
    simulate(tiny_config(pairs, tmp_path, *shares))
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        simulate(tiny_config(pairs, tmp_path, *shares, "federation.min_clients=3"))


def test_a_folder_that_another_owns_is_refused_before_anything_is_written(
    pairs: Path, tmp_path: Path
) -> None:
    config = tiny_config(pairs, tmp_path)
    refused: list[str] = []

    def second() -> None:
        try:
            simulate(config)
        except FederationError as error:
            refused.append(str(error))

    with owned(run_folder(config)):
        other = threading.Thread(target=second)
        other.start()
        other.join()
        assert not (run_folder(config) / "config.toml").exists()
        assert refused
        simulate(config)
    assert "is in use by process" in refused[0]


@pytest.mark.parametrize(
    "changes",
    [(), ("federation.strategy=fedadam",), ("privacy.mechanism=anchors", "privacy.deterministic=true")],
)
def test_with_a_decay_the_student_is_the_mean_of_all_rounds_also_after_a_kill(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: tuple[str, ...]
) -> None:
    rounds, save = [], loop.save_checkpoint

    def noted(folder: Path, checkpoint: Checkpoint) -> None:
        rounds.append(checkpoint.arrays)
        save(folder, checkpoint)

    plain = to_arrays(simulate(tiny_config(pairs, tmp_path / "plain", *changes)))
    monkeypatch.setattr(loop, "save_checkpoint", noted)
    config = tiny_config(pairs, tmp_path / "mean", *changes, "federation.ema_decay=0.5")
    found = to_arrays(simulate(config))
    _, first, second, third = rounds
    for name, value in found.items():
        # Clients go on from the latest weights, so these are those of the run without a mean.
        assert np.array_equal(third[name], plain[name])
        mean = (0.25 * first[name] + 0.5 * second[name] + third[name]) / 1.75
        assert np.allclose(value, mean, atol=1e-6), name
    assert any(not np.array_equal(found[name], third[name]) for name in found)

    again = tiny_config(pairs, tmp_path / "again", *changes, "federation.ema_decay=0.5")
    with pytest.raises(Stopped):
        simulate(again, report=stop_after(2))
    resumed = to_arrays(simulate(again))
    assert all(np.array_equal(found[name], resumed[name]) for name in found)
