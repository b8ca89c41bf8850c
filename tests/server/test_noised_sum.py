"""Rounds of one noised sum a client over all of its pairs, on which the server's strategy takes the step."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from edgecmd.audits.finding import CONTRADICTED, NOT_CONTRADICTED
from edgecmd.audits.static.checks import check_target
from edgecmd.audits.static.sensitivity import Effort
from edgecmd.audits.step.sampling_coins import audit_coins
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import PrivacyError
from edgecmd.core.files import read_json
from edgecmd.privacy.ledger import Ledger
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step import private_step, randomness
from edgecmd.privacy.step.gradients import clipped_sum
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.privacy.step.units import StepSettings, Units, make_units, unit_loss
from edgecmd.training.averaging import part_of_step, to_arrays
from server.checkpoint import newest_checkpoint
from tests.edgecmd.audit.tiny_target import audit_noise, doubled, halved, tiny_target
from tests.tiny_federation import NUM_CLIENTS, find_target, plan_of, run_of, simulate, tiny_config

NOISED = ("privacy.aggregation=noised-sum", "federation.local_steps=1", "privacy.sampling_rate=1")
ANCHORS = (*NOISED, "privacy.mechanism=anchors")
# The search for the noise that spends a budget costs more than the rounds; most tests have no need of it.
GIVEN = ("privacy.noise_multiplier=2", "privacy.epsilon=1000")
ONE = "federation.num_rounds=1"


def folder_of(config: RunConfig) -> Path:
    return Path(config.out) / config.name


def moves_of(config: RunConfig) -> np.ndarray:
    """How all weights moved in a run."""
    before, after = to_arrays(run_of(config).new_student()), to_arrays(simulate(config))
    return np.concatenate([(before[name] - after[name]).ravel().astype(np.float64) for name in before])


def gradient_of_all(config: RunConfig, *, clip: float) -> dict[str, torch.Tensor]:
    """The sum of the clipped gradients of all pairs of all clients, one backward pass a pair."""
    run = run_of(config)
    effective, total = EffectiveStudent(run.new_student()), dict[str, torch.Tensor]()
    effective.refresh()
    settings = StepSettings(mechanism=config.privacy.mechanism, num_views=1, num_groups=8, chunk_size=8)
    for client in range(NUM_CLIENTS):
        holding = run.holding(client)
        rows, loss = np.arange(len(holding.data)), unit_loss(run.loss, holding.anchors)
        chunks = make_units(holding.data, rows, config=settings, augment=0.0, source=DeterministicSource(0))
        for name, value in clipped_sum(effective.module, chunks, loss, clip=clip, engine="loop").items():
            total[name] = value + total.get(name, 0)
    return dict(effective.pull_back(total))


@pytest.mark.parametrize(
    "settings",
    [
        ("privacy.mechanism=anchors",),
        ("privacy.mechanism=cosine", "distill.weight_decay=0.5", "distill.optimizer=sgd"),
    ],
    ids=["anchors", "cosine"],
)
def test_a_round_is_one_step_on_the_sum_of_all_clipped_gradients(
    settings: tuple[str, ...], pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the noise taken out; a client's own optimiser, schedule and decay have no part in it."""
    monkeypatch.setattr(private_step, "normal", lambda _, count: np.zeros(count))
    fixed = ("distill.augment=0", "privacy.clip=0.5", "federation.num_rounds=40")
    config = tiny_config(pairs, tmp_path, *NOISED, *GIVEN, *fixed, *settings)
    run = run_of(config)
    gradient = gradient_of_all(config, clip=0.5)

    class Enough(Exception):
        pass

    def stop(_: object) -> None:
        raise Enough

    with pytest.raises(Enough):
        simulate(config, report=stop)
    after = newest_checkpoint(folder_of(config) / "checkpoints")
    assert after is not None
    assert after.round_index == 1
    before = to_arrays(run.new_student())
    # The rise over the first twentieth of 40 rounds has two steps, so the first is half of the rate.
    rate, divisor = 0.5 * config.distill.learning_rate, NUM_CLIENTS * config.distill.batch_size
    for name, value in gradient.items():
        expected = before[name] - rate * value.numpy() / divisor
        assert np.allclose(after.arrays[name], expected, atol=2e-6), name
    assert any(not np.array_equal(after.arrays[name], before[name]) for name in gradient)


def test_the_step_follows_the_schedule_and_clients_do_not(pairs: Path, tmp_path: Path) -> None:
    """A cosine over four rounds; its rise is one round long."""
    run = run_of(tiny_config(pairs, tmp_path, *ANCHORS, *GIVEN, "federation.num_rounds=4"))
    found = [run.share_of_step(index) for index in (1, 2, 3, 4)]
    assert found == pytest.approx([(1 + math.cos(math.pi * one / 4)) / 2 for one in range(4)])
    places = [run.place(index, client=2) for index in (1, 4)]
    assert [(one.first_step, one.total_steps) for one in places] == [(0, 1), (0, 1)]
    assert [(one.round_index, one.client) for one in places] == [(1, 2), (4, 2)]
    plain = run_of(tiny_config(pairs, tmp_path, "federation.num_rounds=4"))
    assert [plain.share_of_step(index) for index in (1, 4)] == [1.0, 1.0]
    assert plain.place(4).first_step == 6


def test_part_of_a_step_by_hand() -> None:
    before, after = {"w": np.float32([1, 2])}, {"w": np.float32([3, 0])}
    assert part_of_step(before, after, share=0.25)["w"].tolist() == [1.5, 1.5]
    assert part_of_step(before, after, share=0.25)["w"].dtype == np.float32
    assert part_of_step(before, after, share=1.0)["w"] is after["w"]


def test_each_client_adds_the_whole_noise(pairs: Path, tmp_path: Path) -> None:
    """A round that is little but noise: 55,000 numbers, whose spread is known to half a percent."""
    loud = ("privacy.noise_multiplier=50", "privacy.epsilon=1000", 'student.architecture="gn-50k"')
    config = tiny_config(pairs, tmp_path, *ANCHORS, *loud, ONE)
    stated = config.distill.learning_rate * 50.0 / config.distill.batch_size / math.sqrt(NUM_CLIENTS)
    assert float(np.sqrt(np.mean(moves_of(config) ** 2))) == pytest.approx(stated, rel=0.03)


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedmedian", "krum"])
def test_every_strategy_takes_the_step(strategy: str, pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *ANCHORS, *GIVEN, ONE, f"federation.strategy={strategy}")
    assert np.abs(moves_of(config)).max() > 0


def test_a_round_costs_one_gaussian_without_amplification(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *ANCHORS, "privacy.noise_multiplier=3", "privacy.epsilon=20")
    simulate(config)
    table = read_json(folder_of(config) / "privacy.json")
    oracle = PLDAccountant()
    oracle.compose(SelfComposedDpEvent(GaussianDpEvent(3.0), 3))
    assert table["epsilon"] == pytest.approx(oracle.get_epsilon(1e-5), rel=1e-3)
    assert table["aggregation"] == "noised-sum"
    assert table["sampler"] == "none: everything is in every round"
    assert (table["sampling_rate"], table["releases_per_round"], table["sensitivity"]) == (1.0, 1, 1.0)
    for client in range(NUM_CLIENTS):
        assert Ledger(run_of(config).client_ledger(client)).num_rounds() == 3
    events = (folder_of(config) / "events.jsonl").read_text().splitlines()
    rounds = [one for one in map(json.loads, events) if one["event"] == "round"]
    assert {(one["num_examples"], one["loss"]) for one in rounds} == {(None, None)}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (("federation.local_steps=2",), "federation.local_steps=2 and privacy.sampling_rate=1. Set both"),
        (("privacy.sampling_rate=0.5",), "privacy.sampling_rate=0.5. Set both to 1"),
        (("privacy.mechanism=none",), "privacy.mechanism='none' adds none there. Set"),
        (
            ("privacy.mechanism=client",),
            "to one of anchors, cosine, groups, logits, statistics, or privacy.aggregation",
        ),
        (("distill.keep_optimizer=true",), "Set distill.keep_optimizer=false"),
    ],
)
def test_what_does_not_go_together_is_refused(
    changes: tuple[str, ...], text: str, pairs: Path, tmp_path: Path
) -> None:
    config = tiny_config(pairs, tmp_path, *ANCHORS, *GIVEN, *changes)
    with pytest.raises(PrivacyError, match="privacy.aggregation='noised-sum'") as caught:
        simulate(config)
    assert text in str(caught.value)
    assert not folder_of(config).exists() or not any(folder_of(config).glob("student*"))


def test_settings_of_a_plan_lead_to_it_again() -> None:
    plan = PrivacyPlan.calibrate(
        epsilon=8, delta=1e-5, rounds=4, local_steps=1, sampling_rate=1, aggregation="noised-sum"
    )
    kept = plan.settings()
    assert (kept.aggregation, kept.sampling, kept.sampling_rate) == ("noised-sum", "none", 1.0)
    assert plan.epsilon_after(4) == pytest.approx(8.0, rel=0.01)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    strategy: str, pairs: Path, tmp_path: Path
) -> None:
    """With noise from the seed, which is NOT PRIVATE: fresh noise would be all that differs."""
    settings = (*ANCHORS, *GIVEN, "privacy.deterministic=true", f"federation.strategy={strategy}")

    class Stopped(Exception):
        pass

    def stop(report: object) -> None:
        if getattr(report, "round_index", 0) == 2:
            raise Stopped

    calm = to_arrays(simulate(tiny_config(pairs, tmp_path, *settings, "name=calm")))
    config = tiny_config(pairs, tmp_path, *settings, "name=cut")
    with pytest.raises(Stopped):
        simulate(config, report=stop)
    found = to_arrays(simulate(config))
    for name, value in calm.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that is the same in each test session, so that no test fails once in a million."""
    seeds = itertools.count()
    monkeypatch.setattr(randomness, "make_source", lambda **_: DeterministicSource(next(seeds)))


@pytest.mark.usefixtures("repeatable", "unchecked_shapes")
def test_audits_find_a_sound_run_sound_and_half_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_target(*ANCHORS, *GIVEN)
    sound, coins = audit_noise(target), audit_coins(target)
    assert (sound.verdict, coins.verdict) == (NOT_CONTRADICTED, NOT_CONTRADICTED)
    assert coins.claimed == 1.0
    monkeypatch.setattr(private_step, "normal", halved)
    assert audit_noise(target).verdict == CONTRADICTED


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(("planted", "verdict"), [(make_units, NOT_CONTRADICTED), (doubled, CONTRADICTED)])
def test_a_pair_that_counts_twice_is_contradicted(
    planted: Callable[..., list[Units]], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_step, "make_units", planted)
    target = tiny_target(*ANCHORS, *GIVEN, "distill.augment=0")
    found = check_target(target, Effort(num_tries=12))
    assert next(one.verdict for one in found if one.quantity == "sensitivity") == verdict


def test_an_audit_finds_the_run_by_its_folder(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *ANCHORS, *GIVEN, ONE)
    simulate(config)
    plan = find_target(folder_of(config)).plan
    assert plan is not None
    assert plan == plan_of(config)
    assert plan.whole_batches
