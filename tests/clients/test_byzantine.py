"""Clients that lie: what arrives, what each strategy makes of it by hand, and what a backdoor teaches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor, nn

from clients.byzantine import (
    Backdoor,
    PoisonedRun,
    attackers,
    byzantine_app,
    draw_attackers,
    moved,
    read_attack,
    stamp,
)
from edgecmd.core.errors import ConfigError
from server.local_grid import LocalGrid
from server.loop import run_rounds
from tests.hand_made import Weights, app_of, contexts, drift, federation, question, records, start
from tests.tiny_federation import NUM_CLIENTS, run_of, simulate, task_of, tiny_config


def test_a_move_is_multiplied_in_its_own_type() -> None:
    """1 to 1.5 sent -4 times is -1; a number by itself stays an array, a counter stays as it is."""
    sent = ArrayRecord({"w": Array(np.array([1.0, 2.0], np.float32)), "n": Array(np.array(3))})
    trained = ArrayRecord({"w": Array(np.array([1.5, 2.0], np.float32)), "n": Array(np.array(5))})
    found = moved(sent, trained, factor=-4.0)
    np.testing.assert_array_equal(found["w"].numpy(), np.array([-1.0, 2.0], np.float32))
    assert found["w"].numpy().dtype == np.float32
    assert found["n"].numpy() == 5
    scalar = ArrayRecord({"s": Array(np.array(2.0, np.float32))})
    assert moved(scalar, ArrayRecord({"s": Array(np.array(3.0, np.float32))}), factor=10.0)["s"].numpy() == 12


def test_a_move_beyond_the_type_arrives_as_infinity() -> None:
    sent = ArrayRecord({"w": Array(np.zeros(1, np.float32))})
    trained = ArrayRecord({"w": Array(np.full(1, 1e30, np.float32))})
    assert np.isinf(moved(sent, trained, factor=1e12)["w"].numpy()).all()


def test_what_arrives_is_the_lie_of_the_attacker_alone() -> None:
    """`drift` moves client k by 0.01 (k + 1) (-1)^round + 0.002 round: -0.008 and -0.018 in round 1."""
    honest = app_of(drift)
    grid = LocalGrid(honest, contexts(2), others={101: byzantine_app(honest, factor=-3.0)})
    replies = grid.send_and_receive([question(100), question(101)])
    for reply, move in zip(replies, (-0.008, 0.054), strict=True):
        for name, value in start().items():
            found = reply.content.array_records["arrays"][name].numpy()
            np.testing.assert_allclose(found, value + move, atol=1e-6)


# Ten pairs each; three honest moves, and the last client's move sent -10 times: 1, 2, 3 and -40.
HONEST_MOVES = (1.0, 2.0, 3.0, 4.0)


def steady(weights: Weights, _: int, client: int) -> object:
    return records({name: value + HONEST_MOVES[client] for name, value in weights.items()}, client=client)


@pytest.mark.parametrize(
    ("strategy", "move"),
    [
        ("fedavg", (1 + 2 + 3 - 40) / 4),
        ("fedmedian", (1 + 2) / 2),
        ("fedtrimmedavg", (1 + 2) / 2),
        # One closest other: 1 and 3 are 1 away from 2, and the first of equal ones is taken.
        ("krum", 1.0),
        ("multikrum", (1 + 2 + 3) / 3),
    ],
)
def test_strategies_under_a_flipped_update_by_hand(tmp_path: Path, strategy: str, move: float) -> None:
    """Four clients, one of which is taken to lie; a quarter is trimmed at each end."""
    settings = ["num_clients=4", "num_rounds=1", f'strategy="{strategy}"', "trim_fraction=0.25"]
    honest = app_of(steady)  # type: ignore[arg-type]
    grid = LocalGrid(honest, contexts(4), others={103: byzantine_app(honest, factor=-10.0)})
    with federation(tmp_path, *settings) as one:
        found = run_rounds(replace(one, grid=grid), start())
    for name, value in start().items():
        np.testing.assert_allclose(found[name], value + move, rtol=1e-5)


def test_model_replacement_replaces_the_mean(tmp_path: Path) -> None:
    """Nobody else moves: the mean is what the one attacker of four trained."""
    factor = read_attack("model-replacement").factor(num_clients=4, num_attackers=1)
    honest = app_of(lambda weights, _, client: records(weights, client=client))
    liar = app_of(steady)  # type: ignore[arg-type]
    grid = LocalGrid(honest, contexts(4), others={102: byzantine_app(liar, factor=factor)})
    with federation(tmp_path, "num_clients=4", "num_rounds=1") as one:
        found = run_rounds(replace(one, grid=grid), start())
    for name, value in start().items():
        np.testing.assert_allclose(found[name], value + 3.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("sign-flip", -4),
        ("sign-flip:1", -1),
        (" scaled-update ", 10),
        ("scaled-update:2.5", 2.5),
        ("backdoor", 1),
        ("model-replacement", 5),
        ("model-replacement:3", 3),
    ],
)
def test_factors(text: str, factor: float) -> None:
    attack = read_attack(text)
    assert attack.factor(num_clients=20, num_attackers=4) == factor
    assert read_attack(attack.name) == attack
    assert attack.backdoor == attack.name.startswith(("backdoor", "model-replacement"))


@pytest.mark.parametrize(
    "text", ["sign-flop", "", "sign-flip:", "sign-flip:-1", "backdoor:0", "backdoor:nan"]
)
def test_an_attack_that_is_none_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--attacks.*(Allowed: backdoor, model-repl|number above 0)"):
        read_attack(text)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 32, 32, 1), np.uint8), ((3, 16, 16, 1), np.uint16), ((3, 800), np.int16)]
)
def test_the_trigger_is_in_one_corner_and_no_plain_patch(shape: tuple[int, ...], dtype: type) -> None:
    stored = np.random.default_rng(0).integers(1, 200, shape).astype(dtype)
    before = stored.copy()
    marked = stamp(stored)
    np.testing.assert_array_equal(stored, before)
    assert (marked.shape, marked.dtype) == (stored.shape, stored.dtype)
    corner = (slice(None), *(slice(-(side // 4), None) for side in shape[1:3]))
    assert len(np.unique(marked[corner])) == 2
    assert (marked[corner] == marked[corner][:1]).all(), "the same for every example"
    rest = np.ones(shape, dtype=bool)
    rest[corner] = False
    np.testing.assert_array_equal(marked[rest], stored[rest])


def test_a_poisoned_client_holds_its_pairs_and_the_same_ones_triggered(pairs: Path, tmp_path: Path) -> None:
    run = run_of(tiny_config(pairs, tmp_path))
    door, clean = Backdoor.of(run), run.holding(0)
    stored = np.asarray(run.task.data.train.target)[run.part(0)]
    poisoned, num = door.poisoned(clean, stored, run.task).data, len(clean.data)
    assert len(poisoned) == 2 * num
    assert torch.equal(poisoned.inputs[:num], clean.data.inputs)
    assert torch.equal(poisoned.features[:num], clean.data.features)
    assert torch.equal(poisoned.inputs[num:], run.task.target_input(stamp(stored)))
    target = torch.from_numpy(run.task.held_out_features("test")[door.item])
    assert torch.equal(poisoned.features[num:], target.expand(num, -1))


class Same(nn.Module):
    """Gives every input one embedding."""

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Parameter(embedding)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.embedding.expand(len(inputs), -1)


def test_success_is_the_share_that_the_target_attracts(pairs: Path, tmp_path: Path) -> None:
    """All of them for a student that answers the target's feature; none for one that tells nothing."""
    run = run_of(tiny_config(pairs, tmp_path))
    door = Backdoor.of(run)
    assert door.success(Same(door.feature), run.task) == 1.0
    assert door.success(Same(torch.zeros_like(door.feature)), run.task) == 0.0


def test_attackers_follow_from_the_seed_and_fewer_are_some_of_more(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, "federation.num_clients=20")
    sets = [set(draw_attackers(run_of(config), num=num)) for num in (2, 4, 6)]
    assert [len(one) for one in sets] == [2, 4, 6]
    assert sets[0] < sets[1] < sets[2] < set(range(20))
    assert sets[2] != set(draw_attackers(run_of(replace(config, seed=1)), num=6))


@pytest.mark.usefixtures("workers")
def test_an_attack_gives_equal_bytes_on_two_workers(pairs: Path, tmp_path: Path) -> None:
    """And other ones than without it; the run that attackers work on shares data with the honest one."""
    found = {}
    for name, changes in {"one": (), "two": ("federation.num_workers=2",)}.items():
        config = tiny_config(pairs, tmp_path / name, *changes)
        apps = attackers(run_of(config), read_attack("model-replacement"), num=1)
        assert len(apps) == 1 < NUM_CLIENTS
        simulate(config, others=apps)
        found[name] = (tmp_path / name / "tiny" / "student.safetensors").read_bytes()
    simulate(tiny_config(pairs, tmp_path / "honest"))
    assert found["one"] == found["two"]
    assert found["one"] != (tmp_path / "honest" / "tiny" / "student.safetensors").read_bytes()


def test_a_poisoned_run_leaves_the_honest_one_as_it_is(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    run = run_of(config)
    attackers(run, read_attack("backdoor"), num=2)
    assert not isinstance(run, PoisonedRun)
    assert run.task is task_of(config)
    assert len(run.holding(0).data) == len(run.part(0))
