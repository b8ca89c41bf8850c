"""Integers and their noise: sensitivity by search, the Renyi bound against exact divergences, variances."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive, logsumexp

from edgecmd.privacy.secure_sum.integers import (
    ROUNDING,
    decoded,
    encoded,
    finest_scale,
    is_plausible,
    noise_share,
    scale_for,
)
from edgecmd.privacy.secure_sum.skellam import LEAST_UNITS, gaussian_multiplier, skellam_divergence
from edgecmd.privacy.step.randomness import DeterministicSource
from tests.edgecmd.privacy.secure_rounds import made_terms, whole_round


def exact(order: int, moves: tuple[int, ...], variance: float) -> float:
    """Renyi divergence of independent Skellam coordinates moved by whole numbers, summed over probabilities.

    The probability of ``k`` is ``exp(-mu) I_|k|(mu)`` with the modified Bessel function; those 30 standard
    deviations out are far below any digit that counts.
    """
    reach = np.arange(-int(30 * math.sqrt(variance)), int(30 * math.sqrt(variance)) + 1)
    total = 0.0
    for move in moves:
        here, moved = ive(np.abs(reach), variance), ive(np.abs(reach - move), variance)
        kept = (here > 0) & (moved > 0)
        terms = order * np.log(moved[kept]) - (order - 1) * np.log(here[kept])
        total += float(logsumexp(terms)) / (order - 1)
    return total


@pytest.mark.parametrize("order", [2, 3, 5, 8])
@pytest.mark.parametrize("moves", [(1,), (3,), (1, 1), (2, -3)])
@pytest.mark.parametrize("variance", [8.0, 40.0, 400.0])
def test_the_bound_is_above_the_exact_divergence_in_one_and_two_dimensions(
    order: int, moves: tuple[int, ...], variance: float
) -> None:
    l1, l2 = float(sum(map(abs, moves))), math.hypot(*moves)
    bound = skellam_divergence(order, l1=l1, l2=l2, variance=variance)
    found = exact(order, moves, variance)
    assert found <= bound * (1 + 1e-9)
    # Not above the Gaussian's by more than the second term, so the bound says something.
    assert bound <= order * l2**2 / (2 * variance) + 3 * l1 / (2 * variance)
    assert variance < 40.0 or found >= 0.8 * order * l2**2 / (2 * variance)


def test_the_gaussian_that_stands_for_the_noise_costs_no_less_at_any_order() -> None:
    for sigma in (0.05, 0.3, 1.0, 6.4, 100.0):
        for units in (LEAST_UNITS, 4 * LEAST_UNITS):
            stand_in = gaussian_multiplier(sigma)
            for order in (2, 3, 10, 64, 4096):
                # Integers: an L1 norm is at most the square of the L2 norm.
                cost = skellam_divergence(order, l1=units**2, l2=units, variance=(sigma * units) ** 2)
                assert cost <= order / (2 * stand_in**2) * (1 + 1e-12)
            assert 1.0 - 1e-4 < stand_in / sigma < 1.0 or sigma < 0.3


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.floats(0.01, 100.0), st.integers(0, 2**32 - 1))
def test_one_unit_moves_the_integers_by_no_more_than_is_counted(dim: int, clip: float, seed: int) -> None:
    """Also where the bound of the norm bites, for a move along the vector, across it and anywhere."""
    generator = np.random.default_rng(seed)
    scale = scale_for(dim, clip=clip)
    assert scale * clip >= LEAST_UNITS
    assert math.sqrt(dim) <= ROUNDING * scale * clip
    bound = clip * generator.uniform(0.5, 4.0)
    terms = made_terms(dim=dim, scale=scale, bound=bound)
    for _ in range(5):
        start = generator.normal(size=dim)
        start *= clip * generator.uniform(0.0, 8.0) / np.linalg.norm(start)
        move = generator.normal(size=dim)
        move *= clip / np.linalg.norm(move)
        moved = encoded(start + move, terms) - encoded(start, terms)
        assert np.linalg.norm(moved) <= scale * clip * (1 + ROUNDING) * (1 + 1e-12)
        assert np.linalg.norm(encoded(start, terms)) <= scale * bound + math.sqrt(dim)


def test_the_finest_scale_fits_and_twice_as_fine_does_not() -> None:
    for cohort in (2, 3, 10, 1000):
        for bound in (0.3, 1.0, 128.0):
            scale = finest_scale(cohort=cohort, bound=bound)
            made_terms(cohort=cohort, survivors=cohort, scale=scale, bound=bound)
            with pytest.raises(ValueError, match="32 bits"):
                made_terms(cohort=cohort, survivors=cohort, scale=2 * scale, bound=bound)


def _spread(terms_variance: float, *, halved: bool = False) -> float:
    """Variance of the sum of three survivors' noise through the real protocol, over what was promised."""
    terms = made_terms(cohort=3, survivors=3, dim=20_000, bound=1.0, variance=terms_variance)
    vectors = {}
    for client in range(3):
        noise = noise_share(terms, DeterministicSource(7, client=client))
        vectors[f"client-{client}"] = noise // 2 if halved else noise
    sums = whole_round(terms, vectors)
    return float(np.mean(sums.astype(np.float64) ** 2)) / terms_variance


def test_the_noise_of_the_sum_has_the_promised_variance_and_half_of_it_is_seen() -> None:
    """20,000 squares of a nearly normal variate: one deviation of their mean is 1%; 5% is five."""
    assert abs(_spread(1e8) - 1.0) < 0.05
    assert abs(_spread(50.0) - 1.0) < 0.05
    assert _spread(1e8, halved=True) < 0.3


def test_fewer_honest_parties_bring_what_is_promised_and_more_bring_more() -> None:
    terms = made_terms(cohort=5, survivors=4, colluding=1, variance=300.0)
    assert terms.share_variance == 100.0
    shares = [noise_share(terms, DeterministicSource(1, client=client)) for client in range(2)]
    assert not np.array_equal(shares[0], shares[1])
    wide = made_terms(dim=50_000, variance=3e4)
    assert abs(noise_share(wide, DeterministicSource(1)).astype(float).var() / 1e4 - 1.0) < 0.04


def test_no_noise_is_exactly_none_and_a_sum_comes_back_in_its_units() -> None:
    terms = made_terms(scale=1024.0, bound=2.0)
    assert not noise_share(terms, DeterministicSource(0)).any()
    vectors = {f"client-{i}": encoded(np.array([0.5, -0.25, 0.0, 1.0]), terms) for i in range(3)}
    total = whole_round(terms, vectors).astype(np.uint32)
    assert decoded(total, terms).tolist() == [1.5, -0.75, 0.0, 3.0]
    assert is_plausible(decoded(total, terms), terms)


def test_garbage_is_not_plausible() -> None:
    terms = made_terms(dim=1000, scale=2.0**14, bound=10.0, variance=1e9)
    garbage = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    assert not is_plausible(decoded(garbage, terms), terms)
    noise = sum(noise_share(terms, DeterministicSource(3, client=one)) for one in range(5))
    assert is_plausible(decoded(np.asarray(noise).astype(np.uint32), terms), terms)
