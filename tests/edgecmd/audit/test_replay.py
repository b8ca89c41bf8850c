"""The replay is the federation: the same bytes as a simulation, and everything that an attacker sees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.audits.replayed_federation import Replay, Update, Watch, cohort
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.privacy.step.gradients import Sum
from edgecmd.training.averaging import average, to_arrays
from tests.edgecmd.audit.tiny_target import tiny_pairs
from tests.tiny_federation import run_of, simulate, tiny_config

NOISED = ("privacy.aggregation=noised-sum", "privacy.sampling_rate=1", "federation.local_steps=1")


class Tap:
    """A probe that adds nothing and keeps each step's release."""

    def __init__(self) -> None:
        self.released: list[Sum] = []

    def __len__(self) -> int:
        return 0

    def form(self, *_: object) -> None:
        """Look away."""

    def add(self, *_: object) -> None:
        """Add nothing."""

    def see(self, released: Sum) -> None:
        """Keep it."""
        self.released.append(released)


def replay_of(config: RunConfig, watch: Watch | None = None) -> Replay:
    run = run_of(config)
    holdings = [run.holding(client) for client in range(config.federation.num_clients)]
    return Replay(run=run, student=run.new_student(), holdings=holdings, watch=watch or Watch())


@pytest.mark.parametrize(
    "settings",
    [
        ("privacy.mechanism=anchors", "distill.keep_optimizer=true"),
        ("privacy.mechanism=cosine", "federation.client_fraction=0.5", "privacy.sampling=none"),
        ("privacy.mechanism=groups", "federation.strategy=fedprox", "distill.proximal_mu=0.1"),
        ("distill.optimizer=sgd", "distill.keep_optimizer=true"),
        ("privacy.mechanism=anchors", *NOISED),
    ],
    ids=lambda settings: settings[0],
)
def test_it_ends_bit_identical_to_a_simulation(settings: tuple[str, ...], tmp_path: Path) -> None:
    changes = [*settings, "privacy.deterministic=true", "federation.num_rounds=2"]
    config = tiny_config(tiny_pairs(), tmp_path, *changes)
    replay = replay_of(config)
    for index in (1, 2):
        replay.round(index)
    simulated = to_arrays(simulate(config))
    assert set(replay.arrays) == set(simulated)
    for name, value in simulated.items():
        np.testing.assert_array_equal(replay.arrays[name], value)
        assert replay.arrays[name].dtype == value.dtype


def test_the_auditor_sees_each_step_each_client_and_each_average(tmp_path: Path) -> None:
    clients: list[Update] = []
    averages: list[Update] = []
    taps: dict[tuple[int, int], Tap] = {}

    def probe(round_index: int, client: int) -> Tap:
        return taps.setdefault((round_index, client), Tap())

    config = tiny_config(tiny_pairs(), tmp_path, "privacy.mechanism=anchors", "privacy.deterministic=true")
    watched = replay_of(config, Watch(client=clients.append, average=averages.append, probe=probe))
    blind = replay_of(config)
    for index in (1, 2):
        watched.round(index)
        blind.round(index)
    assert [(one.round_index, one.client) for one in clients] == [(r, c) for r in (1, 2) for c in range(4)]
    assert all(len(tap.released) == config.federation.local_steps for tap in taps.values())
    assert averages[1].incoming is averages[0].outgoing
    for name, value in blind.arrays.items():
        np.testing.assert_array_equal(watched.arrays[name], value, err_msg="looking changed something")
        mean = np.mean([one.outgoing[name].astype(np.float64) for one in clients[:4]], axis=0)
        np.testing.assert_allclose(averages[0].outgoing[name], mean, rtol=1e-5, atol=1e-7)


def test_averages_are_weighted_and_keep_the_type() -> None:
    found = average([{"w": np.float32([1, 3])}, {"w": np.float32([5, 7])}], [1, 3])
    np.testing.assert_array_equal(found["w"], np.float32([4, 6]))
    assert found["w"].dtype == np.float32
    found = average([{"w": np.float32([1, 2])}, {"w": np.float32([5, 6])}], [3, 1])
    assert found["w"].tolist() == [2.0, 3.0]


def test_a_cohort_is_everyone_or_a_public_draw(tmp_path: Path) -> None:
    config = tiny_config(tiny_pairs(), tmp_path).federation
    assert cohort(config, seed=0, round_index=1) == [0, 1, 2, 3]
    half = replace(config, client_fraction=0.5)
    drawn = {tuple(cohort(half, seed=0, round_index=index)) for index in range(1, 9)}
    assert {len(one) for one in drawn} == {2}
    assert len(drawn) > 1


def test_the_server_s_noise_is_not_replayed(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="audit step"):
        replay_of(tiny_config(tiny_pairs(), tmp_path, "privacy.mechanism=client"))


def test_asynchronous_rounds_are_not_replayed(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="federation.buffer_size=2: in a replay, all clients of a round start"
    ):
        replay_of(tiny_config(tiny_pairs(), tmp_path, "federation.buffer_size=2"))
