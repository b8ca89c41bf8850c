"""Bounds against closed forms, the papers' numbers, jax-privacy, and simulations where the truth is known."""

import functools
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from scipy.stats import binom, norm

from edgecmd.audits import bounds
from edgecmd.core.errors import PrivacyError


def steinke(m: int, r: int, v: int, delta: float, confidence: float = 0.95) -> float:
    return bounds.one_run_epsilon(
        num_canaries=m, num_guesses=r, num_correct=v, delta=delta, confidence=confidence
    )


def gauss(m: int, r: int, v: int) -> float:
    return bounds.one_run_gdp(num_canaries=m, num_guesses=r, num_correct=v)


# Steinke et al. 2023, Appendix D and section 7; the Gaussian ones are jax-privacy 2.0.0's.
@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "epsilon", "gaussian"),
    [(1000, 100, 75, 1e-4, 0.673, 0.8417), (100_000, 1510, 1439, 1e-5, 2.675, 3.3091)],
)
def test_published_numbers(m: int, r: int, v: int, delta: float, epsilon: float, gaussian: float) -> None:
    assert steinke(m, r, v, delta) == pytest.approx(epsilon, abs=1e-3)
    assert bounds.gdp_epsilon(gauss(m, r, v), delta=delta) == pytest.approx(gaussian, abs=1e-4)


@pytest.mark.parametrize("guesses", [5, 40, 1000])
def test_perfect_guesses_certify_what_a_binomial_says(guesses: int) -> None:
    share = 0.05 ** (1 / guesses)
    assert steinke(1000, guesses, guesses, 0.0) == pytest.approx(math.log(share / (1 - share)), abs=1e-5)


def test_p_value_is_the_theorem_written_out() -> None:
    m, r, v, epsilon, delta = 50, 12, 10, 0.7, 1e-3
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    pmf = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    beta = sum(pmf[v:])
    alpha = max(sum(pmf[v - i : v]) / i for i in range(1, v + 1))
    found = bounds.one_run_p_value(num_canaries=m, num_guesses=r, num_correct=v, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(beta + 2 * m * delta * alpha, rel=1e-12)


def jax_privacy_auditing() -> ModuleType:
    """``auditing.py`` by its path: it needs numpy, scipy and dp_accounting; its package would need jax."""
    spec = importlib.util.find_spec("jax_privacy")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("jax-privacy is not installed (pip install --no-deps 'jax-privacy>=2,<3')")
    path = Path(next(iter(spec.submodule_search_locations))) / "auditing.py"
    own = importlib.util.spec_from_file_location("jax_privacy_auditing", path)
    assert own is not None
    assert own.loader is not None
    module = importlib.util.module_from_spec(own)
    sys.modules["jax_privacy_auditing"] = module
    own.loader.exec_module(module)
    return module


def test_one_run_agrees_with_jax_privacy() -> None:
    theirs = jax_privacy_auditing()
    coins = np.random.default_rng(0)
    for _ in range(30):
        m = int(coins.integers(50, 3000))
        r = int(coins.integers(1, m + 1))
        v = int(coins.integers(r // 2, r + 1))
        delta = float(10 ** coins.uniform(-8, -2))
        assert steinke(m, r, v, delta) == pytest.approx(
            theirs._epsilon_one_run(0.0, m, r, v, 0.05, delta), abs=1e-5
        )
        if v > r / 2 and r < 600:
            ours = bounds.gdp_epsilon(gauss(m, r, v), delta=delta)
            assert ours == pytest.approx(theirs._epsilon_one_run_fdp(0.0, m, r, v, 0.05, delta), abs=2e-4)


def test_clopper_pearson_agrees_with_jax_privacy() -> None:
    theirs = jax_privacy_auditing()
    for k, n in ((0, 7), (3, 10), (10, 10), (250, 300)):
        ours = bounds.clopper_pearson_upper(k, n, alpha=0.025)
        assert ours == pytest.approx(float(theirs._clopper_pearson_upper(np.array([k]), n, 0.025)[0]))


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (19, 20)])
def test_clopper_pearson_is_where_the_binomial_tail_is_alpha(k: int, n: int) -> None:
    assert binom.cdf(k, n, bounds.clopper_pearson_upper(k, n, alpha=0.025)) == pytest.approx(0.025)


def test_gdp_delta_is_the_hockey_stick_divergence() -> None:
    grid = np.linspace(-12, 14, 400_001)
    for mu, epsilon in ((0.5, 0.3), (1.0, 2.0), (3.0, 5.0)):
        excess = np.maximum(norm.pdf(grid - mu) - math.exp(epsilon) * norm.pdf(grid), 0.0)
        expected = float(np.sum(excess) * (grid[1] - grid[0]))
        assert bounds.gdp_delta(epsilon, mu=mu) == pytest.approx(expected, abs=1e-7)
        assert bounds.gdp_epsilon(mu, delta=expected) == pytest.approx(epsilon, abs=1e-4)


def test_no_mu_costs_nothing_and_a_huge_one_stays_finite() -> None:
    assert bounds.gdp_delta(0.0, mu=0.0) == 0.0
    assert bounds.gdp_epsilon(0.0, delta=1e-5) == 0.0
    assert bounds.gdp_epsilon(1e-6, delta=1e-5) == 0.0
    assert bounds.gdp_epsilon(60.0, delta=1e-5) == pytest.approx(
        60.0**2 / 2 + 60.0 * norm.isf(1e-5), rel=1e-2
    )


def test_many_runs_in_closed_form() -> None:
    wrong = 1 - 0.025 ** (1 / 300)
    ceiling = bounds.many_runs_ceiling(num_out=300, num_in=300, delta=1e-5)
    assert ceiling == pytest.approx(math.log((1 - wrong - 1e-5) / wrong), rel=1e-9)
    mu = bounds.many_runs_gdp(false_positives=0, num_out=300, false_negatives=0, num_in=300)
    assert mu == pytest.approx(2 * norm.isf(wrong), rel=1e-9)


def test_a_coin_certifies_nothing() -> None:
    half = {"false_positives": 150, "num_out": 300, "false_negatives": 150, "num_in": 300}
    assert bounds.many_runs_epsilon(**half, delta=1e-5) == 0.0
    assert bounds.many_runs_gdp(**half) == 0.0
    assert steinke(1000, 400, 200, 1e-5) == 0.0
    assert gauss(1000, 400, 200) == 0.0
    everything = {"false_positives": 30, "num_out": 30, "false_negatives": 0, "num_in": 30}
    assert bounds.many_runs_epsilon(**everything, delta=1e-5) == 0.0
    assert bounds.many_runs_gdp(**everything) == 0.0


@given(
    m=st.integers(10, 400),
    share=st.floats(0.05, 1.0),
    good=st.floats(0.5, 1.0),
    delta=st.sampled_from([0.0, 1e-6, 1e-3]),
)
@settings(max_examples=25, deadline=None)
def test_more_right_or_less_delta_never_certify_less(m: int, share: float, good: float, delta: float) -> None:
    r = max(1, round(share * m))
    v = min(r - 1, round(good * r))
    assert steinke(m, r, v, delta) <= steinke(m, r, v + 1, delta) + 1e-5
    assert steinke(m, r, v, 2 * delta) <= steinke(m, r, v, delta) + 1e-5
    assert steinke(m, r, v, delta, confidence=0.99) <= steinke(m, r, v, delta) + 1e-5
    assert gauss(m, r, v) <= gauss(m, r, v + 1) + 1e-5


@given(wrong=st.integers(0, 99), other=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_fewer_errors_never_certify_less(wrong: int, other: int) -> None:
    def both(fp: int) -> tuple[float, float]:
        counts = {"false_positives": fp, "num_out": 100, "false_negatives": other, "num_in": 100}
        return bounds.many_runs_epsilon(**counts, delta=1e-5), bounds.many_runs_gdp(**counts)

    assert both(wrong) >= both(wrong + 1)
    assert both(wrong)[0] <= bounds.many_runs_ceiling(num_out=100, num_in=100, delta=1e-5)


REPETITIONS = 200
TOO_MANY = int(binom.ppf(0.9999, REPETITIONS, 0.05))


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of equal counts are computed once: two hundred repetitions give few different ones."""
    for name in ("one_run_epsilon", "one_run_gdp", "gdp_epsilon"):
        monkeypatch.setattr(bounds, name, functools.cache(getattr(bounds, name)))


@pytest.mark.usefixtures("remembered")
def test_one_run_bound_covers_randomised_response() -> None:
    epsilon, coins, found = 1.5, np.random.default_rng(1), []
    for _ in range(REPETITIONS):
        included = coins.random(200) < 0.5
        right = coins.random(200) < 1 / (1 + math.exp(-epsilon))
        scores = np.where(included == right, 1.0, -1.0) * coins.random(200)
        found.append(bounds.audit_scores(scores, included, delta=1e-12, shares=(0.2, 0.5, 1.0)).epsilon)
    assert sum(one > epsilon for one in found) <= TOO_MANY
    assert np.mean(found) > 0.6


@pytest.mark.usefixtures("remembered")
def test_one_run_bounds_cover_a_gaussian() -> None:
    mu, coins = 1.0, np.random.default_rng(2)
    found = []
    for _ in range(REPETITIONS):
        included = coins.random(150) < 0.5
        scores = mu * included + coins.standard_normal(150)
        found.append(bounds.audit_scores(scores, included, delta=1e-5, shares=(0.2, 0.5)))
    assert sum(one.gdp_mu > mu for one in found) <= TOO_MANY
    assert sum(one.epsilon > bounds.gdp_epsilon(mu, delta=1e-5) for one in found) <= TOO_MANY
    assert np.mean([one.gdp_mu for one in found]) > 0.2


def test_many_runs_bound_covers_randomised_response() -> None:
    epsilon, coins, found = 1.5, np.random.default_rng(3), []
    for _ in range(REPETITIONS):
        fp, fn = coins.binomial(200, 1 / (1 + math.exp(epsilon)), 2)
        counts = {"false_positives": int(fp), "num_out": 200, "false_negatives": int(fn), "num_in": 200}
        found.append(bounds.many_runs_epsilon(**counts, delta=0.0))
    assert sum(one > epsilon for one in found) <= TOO_MANY
    assert np.mean(found) > 0.9


def test_perfect_scores_reach_the_ceiling_and_equal_ones_certify_nothing() -> None:
    included = np.arange(1000) % 2 == 0
    perfect = bounds.audit_scores(included.astype(float), included, delta=1e-5)
    assert perfect.epsilon == perfect.ceiling == pytest.approx(4.533, abs=1e-3)
    assert perfect.num_correct == perfect.num_guesses == 500
    assert perfect.gdp_epsilon == perfect.gdp_ceiling
    for order in (included, np.sort(included), np.sort(included)[::-1]):
        equal = bounds.audit_scores(np.zeros(1000), order, delta=1e-5)
        assert equal.epsilon == equal.gdp_mu == 0.0


def test_order_of_canaries_does_not_matter() -> None:
    coins = np.random.default_rng(4)
    included = coins.random(500) < 0.5
    scores = np.round(included + coins.standard_normal(500), 1)
    mixed = coins.permutation(500)
    assert bounds.audit_scores(scores, included, delta=1e-5) == bounds.audit_scores(
        scores[mixed], included[mixed], delta=1e-5
    )


def test_one_canary_makes_no_pair_of_guesses() -> None:
    assert bounds.audit_scores(np.ones(1), np.ones(1), delta=1e-5).epsilon == 0.0


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: steinke(10, 11, 5, 1e-5), "num_guesses=11"),
        (lambda: steinke(10, 5, 6, 1e-5), "num_correct=6"),
        (lambda: steinke(0, 0, 0, 1e-5), "num_canaries=0"),
        (lambda: steinke(10, 5, 5, 1.0), "delta=1.0"),
        (lambda: steinke(10, 5, 5, 1e-5, confidence=95.0), "confidence=95.0"),
        (lambda: bounds.gdp_epsilon(1.0, delta=0.0), "delta=0.0"),
        (lambda: bounds.gdp_delta(1.0, mu=-1.0), "mu=-1.0"),
        (lambda: bounds.clopper_pearson_upper(3, 2, alpha=0.1), "3 successes of 2"),
        (lambda: bounds.clopper_pearson_upper(1, 2, alpha=0.0), "alpha=0.0"),
        (lambda: bounds.many_runs_ceiling(num_out=0, num_in=3, delta=0.0), "0 trials"),
        (lambda: bounds.audit_scores(np.zeros(3), np.zeros(4), delta=1e-5), "lists of the same length"),
        (lambda: bounds.audit_scores(np.array([1.0, np.nan]), np.zeros(2), delta=1e-5), "1 canary scores"),
        (lambda: bounds.audit_scores(np.zeros(2), np.array([0.0, 2.0]), delta=1e-5), "Coins"),
        (lambda: bounds.audit_scores(np.zeros(2), np.zeros(2), delta=1e-5, shares=(2.0,)), "shares"),
        (
            lambda: bounds.one_run_p_value(
                num_canaries=9, num_guesses=5, num_correct=5, epsilon=-1.0, delta=0.0
            ),
            "epsilon=-1.0",
        ),
    ],
)
def test_impossible_numbers_are_named(call: object, word: str) -> None:
    with pytest.raises(PrivacyError, match=word):
        call()  # type: ignore[operator]


# A run whose canaries are all guessed with one confidence. Its law for a single record is that of a
# Gaussian with mean +-mu/2; how sure a guess is, |mu x|, is drawn once for all records.


def shared_tail(correct: int, *, num: int, mu: float) -> float:
    """Probability that at least so many of ``num`` guesses are right where all share one confidence."""
    place = np.linspace(-10.0, 10.0, 4001)
    mass = norm.pdf(place, loc=mu / 2) * (place[1] - place[0])
    return float(mass @ binom.sf(correct - 1, num, special.expit(np.abs(mu * place))))


def test_a_shared_confidence_is_gaussian_private_for_each_record() -> None:
    place = np.linspace(-10.0, 10.0, 40_001)
    mass = norm.pdf(place, loc=0.5) * (place[1] - place[0])
    sure = np.abs(place)
    for epsilon in (0.0, 0.5, 1.0, 2.0):
        apart = special.expit(sure) - math.exp(epsilon) * special.expit(-sure)
        assert mass @ np.maximum(apart, 0.0) == pytest.approx(bounds.gdp_delta(epsilon, mu=1.0), abs=1e-5)


def test_the_bound_holds_where_errors_are_not_independent_and_a_binomial_one_does_not() -> None:
    """Why the errors of a run's guesses may not be taken for independent coins, as tighter bounds do."""
    num, mu = 1000, 1.0
    refuted = next(
        correct
        for correct in range(num // 2, num + 1)
        if bounds.one_run_gdp(num_canaries=num, num_guesses=num, num_correct=correct) > mu
    )
    assert shared_tail(refuted, num=num, mu=mu) <= 0.05
    by_coins = int(binom.isf(0.05, num, norm.cdf(mu / 2))) + 1
    assert binom.sf(by_coins - 1, num, norm.cdf(mu / 2)) <= 0.05
    assert shared_tail(by_coins, num=num, mu=mu) > 0.4
