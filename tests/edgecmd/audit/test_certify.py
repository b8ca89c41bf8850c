"""Certifying from released weights: right on made-up weights whose truth is known, and never by peeking."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from edgecmd.audits.many_runs.certify import certify
from edgecmd.core.errors import PrivacyError


def made_up(shift: float, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    coins = np.random.default_rng(seed)
    along = np.array([1.0, 0.0, 0.0])
    return coins.standard_normal((num, 3)) + shift * along, coins.standard_normal((num, 3))


def test_what_nobody_can_mistake_reaches_the_ceiling() -> None:
    found = certify(*made_up(40.0, 100, 0), delta=1e-5)
    wrong = 1 - 0.025 ** (1 / 50)
    assert found.epsilon == found.ceiling == pytest.approx(math.log((1 - wrong - 1e-5) / wrong))
    assert (found.auc, found.auc_high) == (1.0, 1.0)
    assert found.auc_low < 1.0
    assert (found.false_positives, found.false_negatives, found.num_held_out) == (0, 0, 50)
    assert found.gdp_epsilon > found.epsilon


def test_area_is_that_of_the_shift() -> None:
    found = certify(*made_up(1.0, 8000, 1), delta=1e-5)
    assert found.auc == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.02)
    assert found.auc_low < norm.cdf(1 / math.sqrt(2)) < found.auc_high


def test_equal_worlds_are_told_apart_as_rarely_as_was_said() -> None:
    found = [certify(*made_up(0.0, 60, seed), delta=1e-5).epsilon > 0 for seed in range(200)]
    assert sum(found) <= binom.ppf(0.9999, 200, 0.05)


def test_a_good_known_direction_is_preferred_to_a_fitted_one() -> None:
    coins = np.random.default_rng(2)
    wide = np.zeros(400)
    wide[0] = 1.0
    with_NP, without_NP = coins.standard_normal((40, 400)) + 4 * wide, coins.standard_normal((40, 400))
    assert certify(with_NP, without_NP, delta=1e-5, directions={"known": wide}).direction == "known"
    assert certify(with_NP, without_NP, delta=1e-5, directions={"bad": -wide}).direction == "fitted"


def test_the_half_that_certifies_chose_nothing() -> None:
    with_NP, without_NP = made_up(2.0, 80, 3)
    before = certify(with_NP, without_NP, delta=1e-5)
    # Exchanging the worlds of the second half exchanges its errors and moves neither line nor threshold.
    mixed_in = np.concatenate([with_NP[:40], without_NP[40:]])
    mixed_out = np.concatenate([without_NP[:40], with_NP[40:]])
    after = certify(mixed_in, mixed_out, delta=1e-5)
    assert after.false_negatives == 40 - before.false_positives
    assert after.false_positives == 40 - before.false_negatives
    assert after.auc == pytest.approx(1 - before.auc)
    assert after.epsilon == 0.0


@pytest.mark.parametrize(
    ("with_NP", "without_NP", "word"),
    [
        (np.zeros((10, 2)), np.zeros((9, 2)), "must have the same shape"),
        (np.zeros(10), np.zeros(10), "must have the same shape"),
        (np.zeros((7, 2)), np.zeros((7, 2)), "7 runs of each kind are too few"),
        (np.full((8, 2), np.nan), np.zeros((8, 2)), "not finite"),
    ],
)
def test_impossible_weights_are_named(with_NP: np.ndarray, without_NP: np.ndarray, word: str) -> None:
    with pytest.raises(PrivacyError, match=word):
        certify(with_NP, without_NP, delta=1e-5)


def test_equal_weights_certify_nothing() -> None:
    found = certify(np.zeros((8, 2)), np.zeros((8, 2)), delta=1e-5)
    assert (found.epsilon, found.auc) == (0.0, 0.5)
