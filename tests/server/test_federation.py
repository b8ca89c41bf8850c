"""The real clients on tiny pairs: seeds, workers, resuming, the run folder."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from clients.app import app
from edgecmd.config import RunConfig
from edgecmd.errors import ConfigError, FederationError
from edgecmd.events import read_events
from edgecmd.runs import load_student, run_folder
from server.federation import federate, load_arrays, run_token, to_arrays
from server.local_grid import local_grid
from server.loop import RoundReport
from server.simulate import contexts, simulate
from tests.tiny_federation import NUM_CLIENTS, tiny_config


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
        *("checkpoints", "clients", "config.toml", "environment.json", "events.jsonl"),
        *("student.safetensors", "token"),
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
    from edgecmd.runs import new_student

    config = tiny_config(pairs, tmp_path)
    student, other = new_student(config), new_student(tiny_config(pairs, tmp_path, "seed=1"))
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


def test_two_workers_give_the_bytes_of_one(pairs: Path, tmp_path: Path) -> None:
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
    assert "client 2, stage distil: FederationError: The optimiser's state" in outcomes[0][1]


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
    with pytest.raises(FederationError, match="holds a run with other settings.*edgecmd resume"):
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
    assert "First fault, node 100: ClientError: client 150, stage data: ConfigError: " in str(caught.value)


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
