"""The coins of the real step: what the accountant assumes of them is tested, and each breach is caught."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from edgecmd.audits.finding import CONTRADICTED, NOT_CONTRADICTED
from edgecmd.audits.step import sampling_coins
from edgecmd.audits.step.noise import LEVEL
from edgecmd.audits.step.sampling_coins import (
    audit_coins,
    bins_statements,
    chernoff,
    num_steps,
    poisson_statements,
)
from edgecmd.experiments.faults.step_faults import fixed_size, shared_coin
from edgecmd.privacy.step import randomness, sampling
from edgecmd.privacy.step.randomness import DeterministicSource, Source, uniform
from tests.edgecmd.audit.tiny_target import tiny_target

ANCHORS = "privacy.mechanism=anchors"


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = itertools.count()
    monkeypatch.setattr(randomness, "make_source", lambda **_: DeterministicSource(next(seeds)))


@pytest.mark.usefixtures("repeatable", "brief")
@pytest.mark.parametrize("settings", [(), ("privacy.sampling=none",), ("privacy.sampling_rate=1",)])
def test_sound_coins_pass(settings: tuple[str, ...]) -> None:
    found = audit_coins(tiny_target(ANCHORS, *settings))
    assert found.verdict == NOT_CONTRADICTED, found.text
    assert found.counts["units"] == 1004


@pytest.mark.usefixtures("brief", "unchecked_shapes")
def test_coins_that_are_ignored_are_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "poisson_rows", lambda num, **_: np.arange(num))
    found = audit_coins(tiny_target(ANCHORS))
    assert (found.verdict, found.measured, found.claimed) == (CONTRADICTED, 1.0, 0.25)


@pytest.mark.usefixtures("brief", "unchecked_shapes")
def test_the_same_coins_in_every_step_are_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sampling, "poisson_rows", lambda num, rate, source: np.flatnonzero(np.arange(num) % 4 == 0)
    )
    found = audit_coins(tiny_target(ANCHORS))
    assert found.verdict == CONTRADICTED
    assert "coins repeat" in found.text


@pytest.mark.usefixtures("brief", "unchecked_shapes")
def test_a_pair_in_every_bin_is_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "bins", lambda num, num_bins, source: [np.arange(num)] * num_bins)
    found = audit_coins(tiny_target(ANCHORS, "privacy.sampling=none"))
    assert found.verdict == CONTRADICTED
    assert found.measured == 4.0


@pytest.mark.usefixtures("brief", "unchecked_shapes")
def test_a_sample_of_fixed_size_is_contradicted_by_its_missing_variance() -> None:
    """Each pair is in with the stated probability, and any two nearly as independently: 1/4 * 250/1003."""
    with fixed_size():
        found = audit_coins(tiny_target(ANCHORS))
    assert (found.verdict, found.quantity) == (CONTRADICTED, "variance of the size")
    assert found.measured == 0.0


@pytest.mark.usefixtures("few_small", "unchecked_shapes")
def test_two_pairs_that_share_a_coin_are_contradicted() -> None:
    with shared_coin():
        found = audit_coins(tiny_target(ANCHORS))
    assert (found.verdict, found.quantity) == (CONTRADICTED, "pairs in a step together")
    assert found.claimed == 0.25**2
    assert found.measured == pytest.approx(0.25, abs=0.12)


@pytest.mark.usefixtures("few_small", "unchecked_shapes")
def test_two_pairs_that_exclude_each_other_are_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(num: int, *, rate: float, source: Source) -> np.ndarray:
        coins = uniform(source, num)
        coins[1:2] = 1.0 - coins[:1]
        return np.flatnonzero(coins < rate)

    monkeypatch.setattr(sampling, "poisson_rows", drawn)
    found = audit_coins(tiny_target(ANCHORS, "privacy.sampling_rate=0.5"))
    assert found.verdict == CONTRADICTED
    assert "too rarely to be independent" in found.text


@pytest.mark.usefixtures("brief", "unchecked_shapes")
def test_bins_cut_from_a_permutation_are_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bin has exactly a quarter of the pairs, so one more pair moves others to other bins."""

    def cut(num: int, *, num_bins: int, source: Source) -> list[np.ndarray]:
        return np.array_split(np.argsort(uniform(source, num)), num_bins)

    monkeypatch.setattr(sampling, "bins", cut)
    found = audit_coins(tiny_target(ANCHORS, "privacy.sampling=none"))
    assert (found.verdict, found.quantity, found.measured) == (CONTRADICTED, "variance of the size", 0.0)


@pytest.mark.usefixtures("few_small", "unchecked_shapes")
def test_units_that_are_sampled_less_often_are_told_and_contradict_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def drawn(num: int, *, rate: float, source: Source) -> np.ndarray:
        coins = uniform(source, num)
        coins[7:8] = 1.0
        return np.flatnonzero(coins < rate)

    monkeypatch.setattr(sampling, "poisson_rows", drawn)
    found = audit_coins(tiny_target(ANCHORS))
    assert found.verdict == NOT_CONTRADICTED
    assert "costs no privacy" in found.text


@pytest.mark.usefixtures("repeatable", "unchecked_shapes")
@pytest.mark.parametrize(
    ("settings", "steps"),
    [((ANCHORS,), 352), (("privacy.mechanism=groups", "privacy.sampling=none"), 4 * 352)],
    ids=["poisson", "bins"],
)
def test_sound_coins_pass_at_the_usual_number_of_steps(settings: tuple[str, ...], steps: int) -> None:
    # Coins know nothing of the engine; over a pair or two at a time the loop is the quicker one.
    found = audit_coins(tiny_target(*settings, "privacy.engine=loop"))
    assert found.verdict == NOT_CONTRADICTED, found.text
    assert found.counts["steps"] == steps


def _never_empty(num: int, *, rate: float, source: Source) -> np.ndarray:
    rows = np.flatnonzero(uniform(source, num) < rate)
    return rows if len(rows) else np.arange(min(1, num))


def _two_or_more(num: int, *, rate: float, source: Source) -> np.ndarray:
    rows = np.flatnonzero(uniform(source, num) < rate)
    while num >= 2 and len(rows) < 2:
        rows = np.flatnonzero(uniform(source, num) < rate)
    return rows


def _all_of_few(num: int, *, rate: float, source: Source) -> np.ndarray:
    coins = uniform(source, num)
    return np.arange(num) if num <= 16 else np.flatnonzero(coins < rate)


def _some_twice(num: int, *, rate: float, source: Source) -> np.ndarray:
    rows = np.flatnonzero(uniform(source, num) < rate)
    return np.sort(np.concatenate([rows, rows[:1]]))


@pytest.mark.usefixtures("brief", "unchecked_shapes")
@pytest.mark.parametrize("drawn", [_never_empty, _two_or_more, _all_of_few, _some_twice])
def test_samples_of_few_pairs_and_rows_in_them_twice_are_contradicted(
    drawn: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "poisson_rows", drawn)
    found = audit_coins(tiny_target(ANCHORS))
    assert found.verdict == CONTRADICTED
    assert ("list a unit twice" if drawn is _some_twice else "units in all") in found.text


# The statistics.


def test_p_values_are_scipy_s_times_the_number_of_cases() -> None:
    rate, coins = 0.3, np.random.default_rng(0)
    presence = coins.random((90, 40)) < rate
    found = {one.fault: one for one in poisson_statements(presence, rate)}
    often = found["a unit is sampled too often"]
    most = int(presence.sum(axis=0).max())
    exact = stats.binomtest(most, 90, rate, alternative="greater").pvalue
    assert often.p_value == pytest.approx(40 * exact)
    together = max(
        int((presence[:, one] & presence[:, two]).sum()) for one, two in itertools.combinations(range(40), 2)
    )
    share = found["two pairs are sampled together too often, so they share a coin"]
    exact = stats.binomtest(together, 90, rate**2, alternative="greater").pvalue
    assert share.p_value == pytest.approx(math.comb(40, 2) * exact)
    alike = min(
        int((presence[one] & presence[two]).sum()) for one, two in itertools.combinations(range(90), 2)
    )
    few = found["two steps share too few units to be independent"]
    exact = stats.binomtest(alike, 40, rate**2, alternative="less").pvalue
    assert few.p_value == pytest.approx(math.comb(90, 2) * exact)


def test_the_bound_on_a_mean_is_chernoff_s_for_coins() -> None:
    """exp(-n KL(mean | p)) for Bernoulli draws, and above the exact tail."""
    log_mass = np.log([0.7, 0.3])
    for mean in (0.1, 0.6):
        divergence = mean * math.log(mean / 0.3) + (1 - mean) * math.log((1 - mean) / 0.7)
        found = chernoff(log_mass, np.array([0.0, 1.0]), mean, num=50)
        assert found == pytest.approx(math.exp(-50 * divergence), rel=1e-3)
        exact = stats.binom.cdf(5, 50, 0.3) if mean < 0.3 else stats.binom.sf(29, 50, 0.3)
        assert exact < found


@pytest.mark.parametrize("rate", [0.02, 0.25, 0.7])
def test_sound_coins_fail_no_statement(rate: float) -> None:
    coins = np.random.default_rng(1)
    for _ in range(20):
        presence = coins.random((150, 120)) < rate
        assert all(one.p_value > LEVEL for one in poisson_statements(presence, rate))
        place = coins.integers(0, 3, (60, 1, 120))
        assert all(
            one.p_value > LEVEL
            for one in bins_statements((place == np.arange(3)[:, None]).reshape(180, 120), 3)
        )


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_number_of_steps_gives_the_stated_power(rate: float) -> None:
    num, enough = num_steps(rate)
    assert enough
    level = LEVEL / sampling_coins.SHARES / math.comb(1004, 2)
    # Two pairs with one coin are in together as often as one is in.
    least = next(count for count in range(num + 1) if stats.binom.sf(count - 1, num, rate**2) < level)
    assert stats.binom.sf(least - 1, num, rate) > 0.99


@pytest.mark.usefixtures("few_small", "unchecked_shapes")
def test_a_rate_that_is_too_small_for_power_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_steps(1e-4) == (sampling_coins.MOST_STEPS, False)
    monkeypatch.setattr(sampling_coins, "MOST_STEPS", 64)
    found = audit_coins(tiny_target(ANCHORS, "privacy.sampling_rate=0.01"))
    assert "more steps than were run would be needed" in found.text
    assert found.verdict == NOT_CONTRADICTED
