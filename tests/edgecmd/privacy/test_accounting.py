"""Composition against published and independently computed values."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.privacy.accounting import Spending, calibrate, merged, total_epsilon

DELTA = 1e-5


def spend(noise: float, rate: float, count: int) -> Spending:
    return Spending(noise_multiplier=noise, sampling_rate=rate, count=count)


# Noise multiplier, rate, steps: PLD of dp-accounting's own accountant, PRV and RDP of Opacus.
PINS = [
    ((1.0, 0.05, 500), 7.524, 7.534, 8.297),
    ((1.0, 0.128, 400), 19.39, 19.40, 21.06),
    ((2.0, 0.128, 400), 6.52, 6.53, 7.07),
    ((4.0, 0.25, 400), 5.86, 5.87, 6.34),
    ((1.0, 0.01, 2000), 2.58, 2.59, 2.87),
]


@pytest.mark.parametrize(("mechanism", "pld", "prv", "rdp"), PINS)
def test_pins(mechanism: tuple[float, float, int], pld: float, prv: float, rdp: float) -> None:
    for accountant, value in (("pld", pld), ("prv", prv), ("rdp", rdp)):
        found = total_epsilon([spend(*mechanism)], delta=DELTA, accountant=accountant)
        assert found == pytest.approx(value, abs=0.01)


@pytest.mark.parametrize("mechanism", [pin[0] for pin in PINS])
def test_our_composition_is_that_of_dp_accounting(mechanism: tuple[float, float, int]) -> None:
    from dp_accounting import dp_event, pld

    noise, rate, steps = mechanism
    oracle = pld.PLDAccountant()
    step = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
    oracle.compose(dp_event.SelfComposedDpEvent(step, steps))
    found = total_epsilon([spend(*mechanism)], delta=DELTA)
    assert found == pytest.approx(oracle.get_epsilon(DELTA), rel=2e-3)


def gaussian_epsilon(noise: float, count: int) -> float:
    """Exact epsilon of composed Gaussians (Balle and Wang 2018), by bisection."""
    from scipy.stats import norm

    mu = math.sqrt(count) / noise

    def delta(epsilon: float) -> float:
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)

    low, high = 0.0, 200.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if delta(middle) > DELTA else (low, middle)
    return high


@pytest.mark.parametrize(("noise", "count"), [(1.0, 1), (8.0, 100), (3.0, 5)])
def test_without_amplification_it_is_the_composed_gaussian(noise: float, count: int) -> None:
    found = total_epsilon([spend(noise, 1.0, count)], delta=DELTA)
    assert found == pytest.approx(gaussian_epsilon(noise, count), rel=2e-3)
    assert found >= gaussian_epsilon(noise, count) - 1e-9, "an upper bound"


def test_five_rounds_compose_and_a_fresh_accountant_would_not() -> None:
    """The example of Flower with Opacus: 2.838 is printed for ever; 4.899 is true after five rounds."""
    one = spend(1.1, 0.1, 10)
    rounds = [total_epsilon([one] * num, delta=DELTA, accountant="rdp") for num in range(1, 6)]
    assert rounds == pytest.approx([2.838, 3.497, 4.025, 4.484, 4.899], abs=1e-3)
    assert total_epsilon([one] * 5, delta=DELTA) < 4.899, "the tight accountant says a little less"


def test_different_mechanisms_compose() -> None:
    first, second = spend(2.0, 1.0, 1), spend(4.0, 1.0, 4)
    # 1 / 2^2 + 4 / 4^2 = 1 / 2, so both together are one Gaussian of noise multiplier sqrt(2).
    together = total_epsilon([first, second], delta=DELTA)
    assert together == pytest.approx(gaussian_epsilon(math.sqrt(2), 1), rel=2e-3)


def test_nothing_costs_nothing_and_no_noise_is_infinite() -> None:
    assert total_epsilon([], delta=DELTA) == 0.0
    assert total_epsilon([spend(0.0, 0.1, 1)], delta=DELTA) == math.inf
    assert total_epsilon([spend(1.0, 0.1, 0)], delta=DELTA) == 0.0


def test_equal_spendings_are_counted_together() -> None:
    assert merged([spend(1.0, 0.1, 2), spend(2.0, 0.1, 1), spend(1.0, 0.1, 3)]) == (
        spend(1.0, 0.1, 5),
        spend(2.0, 0.1, 1),
    )


# Rate, steps and the noise multipliers for epsilon 8, 4, 2, 1.
CALIBRATED = [
    (0.128, 400, (1.73, 2.92, 5.22, 9.65)),
    (0.25, 200, (2.29, 3.96, 7.17, 13.31)),
    (0.0256, 2000, (0.97, 1.44, 2.42, 4.38)),
]


@pytest.mark.parametrize(("rate", "steps", "expected"), CALIBRATED)
def test_calibrated_noise(rate: float, steps: int, expected: tuple[float, ...]) -> None:
    for epsilon, noise in zip((8.0, 4.0, 2.0, 1.0), expected, strict=True):
        found = calibrate(epsilon=epsilon, delta=DELTA, sampling_rate=rate, count=steps)
        assert found == pytest.approx(noise, rel=0.01)
        assert total_epsilon([spend(found, rate, steps)], delta=DELTA) <= epsilon


def test_what_no_noise_reaches_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"100 steps within epsilon=1e-09"):
        calibrate(epsilon=1e-9, delta=1e-15, sampling_rate=1.0, count=100)


@pytest.mark.filterwarnings("ignore:GDP accounting is experimental")
def test_gdp_is_refused_because_it_is_no_bound() -> None:
    from opacus.accountants import GaussianAccountant

    wrong = GaussianAccountant()
    wrong.history = [(1.0, 0.05, 500)]
    assert wrong.get_epsilon(DELTA) < 0.92 * total_epsilon([spend(1.0, 0.05, 500)], delta=DELTA)
    with pytest.raises(PrivacyError, match="not a bound"):
        total_epsilon([spend(1.0, 0.05, 500)], delta=DELTA, accountant="gdp")
    with pytest.raises(ConfigError, match="Did you mean 'pld'"):
        total_epsilon([], delta=DELTA, accountant="plt")


@settings(max_examples=15, deadline=None)
@given(noise=st.floats(0.6, 8.0), rate=st.floats(0.01, 1.0), count=st.integers(1, 60))
def test_more_releases_cost_more_and_more_noise_costs_less(noise: float, rate: float, count: int) -> None:
    now = total_epsilon([spend(noise, rate, count)], delta=DELTA)
    assert total_epsilon([spend(noise, rate, count + 20)], delta=DELTA) >= now
    assert total_epsilon([spend(noise * 1.5, rate, count)], delta=DELTA) <= now
