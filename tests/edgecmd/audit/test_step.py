"""Level L1: sound noise passes, and each planted fault is caught where the docs say it is."""

import itertools
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED
from edgecmd.audits.step import checks
from edgecmd.audits.step import draws as draws_module
from edgecmd.audits.step.draws import audit_draws
from edgecmd.audits.step.noise import LEVEL, judge_noise, judge_steps, named, step_noise
from edgecmd.audits.step.sampling_coins import audit_coins
from edgecmd.core.errors import PrivacyError
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step import private_step, randomness
from edgecmd.privacy.step.gradients import Sum
from edgecmd.privacy.step.randomness import DeterministicSource, Source, SystemSource, normal
from tests.edgecmd.audit.tiny_target import audit_noise, tiny_target

ANCHORS = "privacy.mechanism=anchors"
STRONG = ("privacy.noise_multiplier=1.5", "privacy.epsilon=1000")


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound noise that is the same in each test session, so that no test fails once in a thousand."""
    seeds = itertools.count()
    monkeypatch.setattr(randomness, "make_source", lambda **_: DeterministicSource(next(seeds)))


@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("settings", [(ANCHORS,), ("privacy.mechanism=groups", "privacy.sampling=none")])
def test_sound_noise_passes(settings: tuple[str, ...]) -> None:
    """That sound coins pass is in test_sampler.py, for the same settings."""
    target = tiny_target(*settings)
    noise = audit_noise(target)
    assert noise.verdict == NOT_CONTRADICTED, noise.text
    assert noise.measured == pytest.approx(1.0, abs=0.02)
    assert noise.counts["draws"] >= 10_000
    assert noise.details["stated_std"] == target.plan.noise_std / target.plan.normaliser


def scaled(factor: float) -> Callable[[Source, int], np.ndarray]:
    return lambda source, count: factor * normal(source, count)


@pytest.mark.usefixtures("unchecked_shapes")
def test_half_the_noise_is_contradicted_and_twice_the_noise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_target(ANCHORS)
    monkeypatch.setattr(private_step, "normal", scaled(0.5))
    half = audit_noise(target)
    assert half.verdict == CONTRADICTED
    # Of all draws together, half a million, whose deviation is 0.0005.
    pooled = re.search(r"has (0\.\d+) of its standard deviation over (\d+) draws", half.text)
    assert pooled is not None
    assert int(pooled[2]) > 500_000
    assert float(pooled[1]) == pytest.approx(0.5, abs=0.004)
    # The least of some sixty groups, the smallest of which have few draws.
    assert half.measured == pytest.approx(0.5, abs=0.06)
    assert "too small" in half.text
    monkeypatch.setattr(private_step, "normal", scaled(2.0))
    twice = audit_noise(target)
    assert twice.verdict == NOT_CONTRADICTED
    assert "larger than stated" in twice.text


@pytest.mark.usefixtures("brief", "unchecked_shapes")
def test_noise_from_one_seed_for_all_is_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "make_source", lambda **_: DeterministicSource(0))
    found = audit_noise(tiny_target(ANCHORS))
    assert found.verdict == CONTRADICTED
    assert "repeated between call 1 step 1 and call 2 step 1" in found.text
    assert audit_coins(tiny_target(ANCHORS)).verdict == CONTRADICTED


@pytest.mark.usefixtures("unchecked_shapes")
def test_noise_drawn_anew_from_one_seed_in_each_step_is_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(10**6))

    def repeating(_: Source, count: int) -> np.ndarray:
        # Unlike for each round and client, and the same in both steps of one.
        return normal(DeterministicSource(next(calls) // 2), count)

    monkeypatch.setattr(private_step, "normal", repeating)
    target = tiny_target(ANCHORS)
    assert target.run.federation.local_steps == 2
    found = audit_noise(target)
    assert found.verdict == CONTRADICTED
    repeats = [one for one in found.details["failed"] if one.startswith("reuse: call") and " and call" in one]
    assert len(repeats) == 5
    assert all(f"call {call} step 1 and call {call} step 2" in repeats[call - 1] for call in range(1, 6))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", ["trunk.0.0.weight", "projector.bias", "trunk.3.scale"])
def test_a_layer_without_noise_is_contradicted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = private_step.add_noise

    def forgetful(total: Sum, *, plan: PrivacyPlan, source: Source) -> Sum:
        return {**real(total, plan=plan, source=source), name: total[name] / plan.normaliser}

    monkeypatch.setattr(private_step, "add_noise", forgetful)
    found = audit_noise(tiny_target(ANCHORS))
    assert found.verdict == CONTRADICTED
    assert name in found.text


@pytest.mark.usefixtures("brief", "unchecked_shapes")
def test_deterministic_noise_claims_nothing() -> None:
    target = tiny_target(ANCHORS, "privacy.deterministic=true")
    found = [audit_noise(target), audit_coins(target)]
    assert {one.verdict for one in found} == {INDICATOR}
    assert "NOT PRIVATE" in found[0].text


def test_without_privacy_there_is_no_step_to_audit() -> None:
    with pytest.raises(PrivacyError, match="one-run"):
        audit_noise(tiny_target())


# The tests themselves.


def test_the_level_holds_for_all_tests_together() -> None:
    """A hundred sound samples: one failing has a probability below LEVEL each, so none in 20 suites."""
    noise = np.random.default_rng(0)
    for _ in range(100):
        calls = [{"w": noise.normal(size=3000)} for _ in range(3)]
        layers = [{"w": noise.normal(size=200), "b": noise.normal(size=40)} for _ in range(2)]
        assert not judge_noise(calls, layers).failed
    assert LEVEL < 1e-3


def test_p_values_are_scipy_s() -> None:
    noise = np.random.default_rng(1)
    calls = [{"w": noise.normal(size=500)}, {"w": noise.normal(size=500)}]
    found = {one.name: one for one in judge_noise(calls, calls).tests}
    one, other = calls[0]["w"], calls[1]["w"]
    assert found["calls 1 and 2"].p_value == pytest.approx(stats.pearsonr(one, other).pvalue, rel=0.1)
    assert found["shape"].p_value == pytest.approx(stats.kstest(np.concatenate([one, other]), "norm").pvalue)


def test_a_shape_that_is_not_gaussian_fails_and_a_shift_is_told_apart() -> None:
    noise = np.random.default_rng(2)
    flat = [{"w": noise.uniform(-(3**0.5), 3**0.5, 20_000)}]
    assert judge_noise(flat, flat).misshapen
    shifted = [{"w": noise.normal(0.2, 1.0, 20_000)}]
    verdict = judge_noise(shifted, shifted)
    assert verdict.shifted
    assert not verdict.too_small + verdict.reused
    assert not verdict.misshapen


def test_sound_steps_fail_no_test_of_many() -> None:
    """Thirty audits of nine steps, 200 tests each; one failing has a probability below LEVEL."""
    noise = np.random.default_rng(3)
    for _ in range(30):
        steps = [
            step_noise(
                {"w": noise.normal(size=900), "b": noise.normal(size=40), "s": noise.normal(size=1)},
                call=call,
                index=index,
                rows=3 * (call - 1),
                along=float(noise.normal()) if call > 1 else None,
            )
            for call in (1, 2, 3)
            for index in (1, 2, 3)
        ]
        verdict = judge_steps(steps)
        assert not verdict.failed
        assert verdict.least == verdict.std
    kinds = [one.kind for one in verdict.tests]
    # All, three steps, three sizes, three parameters, each at three steps; 36 couples, 9 neighbours.
    assert (kinds.count("std"), kinds.count("reuse"), kinds.count("sum")) == (1 + 3 + 3 + 3 + 9, 36 + 9, 6)


def test_a_sentence_names_the_first_few() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named(list("abcdef")) == "a, b, c, d and 2 more"


def test_a_client_without_pairs_is_driven_on_made_up_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_target(ANCHORS)
    own = checks.pairs_of(target, client=1, num=3)
    monkeypatch.setattr(checks, "_rows_of", lambda *_: np.arange(0))
    made = checks.pairs_of(target, client=1, num=3)
    assert made.target.shape == own.target.shape
    assert made.teacher.shape == own.teacher.shape
    assert not torch.equal(made.target, own.target)
    assert len(checks.pairs_of(target, client=1, num=0)) == 0


# Many draws.


def test_a_bound_that_chance_lifts_above_the_claim_is_told_and_contradicts_nothing() -> None:
    lucky, text = draws_module._verdict(1.1, 0.7, claimed=1.0, ceiling=9.0)
    assert lucky == NOT_CONTRADICTED
    assert "which chance allows" in text
    assert draws_module._verdict(1.4, 1.1, claimed=1.0, ceiling=9.0)[0] == CONTRADICTED
    assert draws_module._verdict(0.9, 0.7, claimed=1.0, ceiling=9.0)[0] == NOT_CONTRADICTED
    assert draws_module._verdict(0.9, 0.7, claimed=None, ceiling=9.0)[0] == INDICATOR


@pytest.mark.usefixtures("repeatable", "unchecked_shapes")
def test_many_draws_of_a_sound_step_come_near_the_claim_and_not_above() -> None:
    target = tiny_target(ANCHORS, *STRONG)
    found = audit_draws(target, num_draws=1000)
    assert found.verdict == NOT_CONTRADICTED, found.text
    # A Gaussian step of noise multiplier 1.5 at delta 1e-5, from dp-accounting.
    from dp_accounting.pld import privacy_loss_distribution

    exact = privacy_loss_distribution.from_gaussian_mechanism(1.5).get_epsilon_for_delta(1e-5)
    assert found.claimed == pytest.approx(exact, rel=1e-3)
    assert 0.5 * exact < found.measured <= exact
    assert found.details["share_of_distance"] > 0.99


def test_worlds_of_a_student_whose_last_block_alone_is_trained() -> None:
    """Its first trained weight takes other channels than a picture has."""
    part = ("student.architecture=lite0-s", "student.trainable=last")
    target = tiny_target(ANCHORS, *STRONG, *part)
    assert target.plan is not None
    worlds, _ = draws_module.worst_worlds(target, target.plan, seed=0)
    assert set(worlds.larger) == {name for name, _ in target.run.new_student().named_parameters()}
    assert worlds.distance <= target.plan.sensitivity


@pytest.mark.usefixtures("unchecked_shapes")
def test_many_draws_with_half_the_noise_are_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_step, "normal", scaled(0.5))
    found = audit_draws(tiny_target(ANCHORS, *STRONG), num_draws=1000)
    assert found.verdict == CONTRADICTED
    assert found.measured > found.claimed


def test_scores_are_the_projection_in_units_of_the_stated_noise() -> None:
    plan = tiny_target(ANCHORS, *STRONG).plan
    assert plan is not None
    zero = {"a": torch.zeros(3, dtype=torch.float64), "b": torch.zeros(1, dtype=torch.float64)}
    moved = {"a": torch.tensor([0.0, 0.6, 0.0]).double(), "b": torch.tensor([0.8]).double()}
    worlds = draws_module.Worlds(smaller=zero, larger=moved, chosen=zero, kind="hand", distance=1.0)
    quiet = replace(plan, noise_multiplier=1e-9)
    found = draws_module._scores(released(moved, quiet, 120), worlds, plan=quiet)
    np.testing.assert_allclose(found * quiet.noise_std, np.ones(120), atol=1e-6)
    still = draws_module._scores(released(zero, plan, 4000), worlds, plan=plan)
    assert stats.kstest(still, "norm").pvalue > 1e-6
    assert isinstance(SystemSource(), Source)


def released(total: Sum, plan: PrivacyPlan, num: int) -> list[Sum]:
    """Draws of a release by the step's own call on copies of a sum."""
    copies = {name: value.repeat(num, 1) for name, value in total.items()}
    return [private_step.add_noise(copies, plan=plan, source=SystemSource())]


@pytest.mark.parametrize("sampling", ["poisson", "none"])
def test_draws_are_releases_of_the_whole_step_on_either_world(sampling: str) -> None:
    """Without noise each draw is the world's sum, which the step itself makes of the pairs that are there."""
    target = tiny_target(ANCHORS, *STRONG, f"privacy.sampling={sampling}")
    assert target.plan is not None
    plan = replace(target.plan, noise_multiplier=0.0)
    worlds, repeated = draws_module.worst_worlds(target, plan, seed=0)
    before = [value.detach().clone() for value in repeated.student.parameters()]
    for included, total in ((False, worlds.smaller), (True, worlds.larger)):
        (found,) = repeated.releases(included=included, num_draws=3)
        for name, value in found.items():
            assert value.shape == (3, int(worlds.chosen[name].sum()))
            torch.testing.assert_close(
                value * plan.normaliser, total[name].repeat(3, 1), rtol=1e-5, atol=1e-8
            )
    assert all(torch.equal(*both) for both in zip(before, repeated.student.parameters()))


@pytest.mark.usefixtures("unchecked_shapes")
def test_many_draws_see_noise_that_is_small_only_where_there_are_pairs() -> None:
    """The release of the empty sum, which `add_noise` apart from the step could be asked for, is sound."""
    from edgecmd.experiments.faults.step_faults import noise_without_pairs

    with noise_without_pairs():
        found = audit_draws(tiny_target(ANCHORS, *STRONG), num_draws=500)
    assert found.verdict == CONTRADICTED
