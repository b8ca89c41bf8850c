"""Rank correlation against SciPy, exponents against curves that are known, terms by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from edgecmd.core.errors import DataError
from edgecmd.experiments.theory.fit import bound_terms, fit_power, rank_correlation


def coins() -> np.random.Generator:
    return np.random.default_rng(0)


def test_rank_correlation_is_scipy_s_and_lies_in_its_interval() -> None:
    x = coins().normal(size=20)
    y = x + np.random.default_rng(1).normal(0, 0.5, 20)
    found = rank_correlation(list(x), list(y), num_resamples=200, generator=coins())
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_a_monotone_curve_has_one_and_a_constant_none() -> None:
    found = rank_correlation([1, 2, 3, 4], [1, 4, 9, 16], num_resamples=50, generator=coins())
    assert found.value == pytest.approx(1.0)
    with pytest.raises(DataError, match="too few for a rank correlation"):
        rank_correlation([1, 1, 1, 1], [1, 2, 3, 4], num_resamples=50, generator=coins())
    with pytest.raises(DataError, match="3 points"):
        rank_correlation([1, 2, 3], [1, 2, 3], num_resamples=50, generator=coins())


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_the_exponent_of_a_known_curve_is_found(exponent: float, floor: float) -> None:
    size = [16, 32, 64, 128, 256, 512]
    error = [floor + 2.0 * n**-exponent for n in size]
    found = fit_power(size, error, num_resamples=20, generator=coins())
    assert found.exponent.value == pytest.approx(exponent, abs=0.011)
    assert found.floor == pytest.approx(floor, abs=0.02)
    assert found.scale == pytest.approx(2.0, rel=0.15)


def test_noise_widens_the_interval() -> None:
    size = np.repeat([16, 32, 64, 128, 256, 512], 3)
    error = 0.1 + 2.0 * size**-0.5 + np.random.default_rng(2).normal(0, 0.02, len(size))
    found = fit_power(size.tolist(), error.tolist(), num_resamples=60, generator=coins())
    assert found.exponent.low < 0.5 < found.exponent.high
    with pytest.raises(DataError, match="too few for an exponent"):
        fit_power([1, 2], [0.5, 0.4], num_resamples=5, generator=coins())


def test_terms_by_hand_and_what_cannot_be_told_is_said() -> None:
    terms = bound_terms(held_out=0.7, training=0.6, num_labels=80, head_norm=4.0, slope=0.3)
    values = [term.value for term in terms]
    assert values[0] == pytest.approx(2 * math.sqrt(math.log(80) / 160))
    assert values[1] == pytest.approx(8 / math.sqrt(80))
    assert values[2:5] == [0.6, pytest.approx(0.1), 0.3]
    assert [term.name for term in terms if term.value is None] == ["d_TV(P_A hat, P_A*)", "kappa", "R_B*"]
    assert all(term.text for term in terms)
