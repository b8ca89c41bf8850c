"""Lower bounds of epsilon that an attacker's guesses certify, from one training run or from many.

Each bound is a statement of confidence: were the mechanism as private as the bound denies, guesses as
good as these would have come up in at most ``1 - confidence`` of all audits. `audit_scores` tries several
numbers of guesses and pays for each; everywhere else that number is fixed beforehand.

Sources: one run, Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), Theorem 5.2 and Corollary 5.4;
the same for Gaussian trade-offs, Mahloujifar, Melis and Chaudhuri 2024 (arXiv 2410.22235); many runs,
Jagielski, Ullman and Oprea 2020 (arXiv 2006.07709) with Clopper-Pearson intervals, and Nasr et al.
2023 (arXiv 2302.07956) for Gaussian trade-offs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.optimize import brentq

from edgecmd.core.errors import PrivacyError

CONFIDENCE = 0.95
FIXED_GRID = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of the canaries that are guessed; fixed, so that the correction does not depend on the scores."""
LARGEST_MU = 64.0
SECTIONS = 65
REFINEMENTS = 4  # mu to 64 / 64^4 = 4e-6


def one_run_p_value(
    *, num_canaries: int, num_guesses: int, num_correct: int, epsilon: float, delta: float
) -> float:
    """Probability of guessing at least this well if the run is (epsilon, delta)-private, at most.

    ``beta + 2 m delta alpha`` with ``W ~ Bin(r, e^eps / (1 + e^eps))``, ``beta = Pr[W >= v]`` and
    ``alpha = max_{1 <= i <= v} Pr[v > W >= v - i] / i`` (Theorem 5.2).

    Args:
        num_canaries: ``m``; each was included by a fair coin of its own.
        num_guesses: ``r``; chosen without a look at the coins, from which the rest abstain.
        num_correct: ``v`` of them that were right.
        epsilon: Claim under test.
        delta: Probability beside it.

    Raises:
        PrivacyError: A number is out of its range.
    """
    _check_guesses(num_canaries, num_guesses, num_correct)
    _check_delta(delta)
    if not 0.0 <= epsilon < math.inf:
        raise PrivacyError(f"epsilon={epsilon!r} cannot be tested; give a number of 0 or more.")
    share = float(special.expit(epsilon))
    beta = float(special.bdtrc(num_correct - 1, num_guesses, share))
    if delta == 0.0 or num_correct == 0:
        return min(1.0, beta)
    steps = np.arange(1, num_correct + 1)
    below = special.bdtrc(num_correct - steps - 1, num_guesses, share) - beta
    alpha = float(np.max(below / steps))
    return min(1.0, beta + 2.0 * num_canaries * delta * alpha)


def one_run_epsilon(
    *, num_canaries: int, num_guesses: int, num_correct: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """Largest epsilon that one run refutes together with ``delta`` (Corollary 5.4).

    Args:
        num_canaries: ``m``; each was included by a fair coin of its own.
        num_guesses: How many coins were guessed; a number fixed beforehand.
        num_correct: How many guesses were right.
        delta: Probability beside epsilon.
        confidence: Of the bound.

    Returns:
        A lower bound of epsilon; 0 where nothing is refuted.

    Raises:
        PrivacyError: A number is out of its range.
    """
    significance = _significance(confidence)

    def excess(epsilon: float) -> float:
        found = one_run_p_value(
            num_canaries=num_canaries,
            num_guesses=num_guesses,
            num_correct=num_correct,
            epsilon=epsilon,
            delta=delta,
        )
        return found - significance

    if excess(0.0) >= 0.0:
        return 0.0
    high = 1.0
    while excess(high) < 0.0:
        high *= 2.0
    return float(brentq(excess, 0.0, high, xtol=1e-6))


def one_run_gdp(
    *, num_canaries: int, num_guesses: int, num_correct: int, confidence: float = CONFIDENCE
) -> float:
    """Largest ``mu`` for which one run refutes mu-Gaussian differential privacy.

    The recursion ``audit_rh_with_cap`` of arXiv 2410.22235 with the trade-off of ``N(0, 1)`` against
    ``N(mu, 1)``. `gdp_epsilon` says what that is as epsilon, for a mechanism whose trade-off is
    Gaussian; of others it says only that they are not mu-GDP.

    Args:
        num_canaries: ``m``; each was included by a fair coin of its own.
        num_guesses: How many coins were guessed; a number fixed beforehand.
        num_correct: How many guesses were right.
        confidence: Of the bound.

    Returns:
        A lower bound of ``mu`` to 4e-6; 0 where nothing is refuted.

    Raises:
        PrivacyError: A number is out of its range.
    """
    _check_guesses(num_canaries, num_guesses, num_correct)
    significance = _significance(confidence)
    if 2 * num_correct <= num_guesses:
        return 0.0
    low, high = 0.0, LARGEST_MU
    for _ in range(REFINEMENTS):
        candidates = np.linspace(low, high, SECTIONS)
        refuted = _refuted(candidates, num_canaries, num_guesses, num_correct, significance)
        last = int(np.count_nonzero(refuted)) - 1
        if last < 0:
            return 0.0
        low, high = float(candidates[last]), float(candidates[min(last + 1, SECTIONS - 1)])
    return low


def _refuted(mu_M: np.ndarray, num: int, guesses: int, correct: int, significance: float) -> np.ndarray:
    """Whether each of ``mu_M`` is refuted; true up to some ``mu`` and false from there on."""
    right = np.full(len(mu_M), significance * correct / num)
    wrong = np.full(len(mu_M), significance * (guesses - correct) / num)
    for index in range(correct - 1, -1, -1):
        raised = np.maximum(wrong, special.ndtr(special.ndtri(right) - mu_M))
        if np.array_equal(raised, wrong):
            break
        right = np.minimum(right + index / (guesses - index) * (raised - wrong), 1.0)
        wrong = raised
    return np.asarray(right + wrong > guesses / num)


@dataclass(frozen=True, kw_only=True, slots=True)
class OneRunBound:
    """What one run with canaries certifies.

    Attributes:
        epsilon: Lower bound at the audit's delta; holds for any mechanism.
        gdp_mu: Lower bound of ``mu``.
        gdp_epsilon: ``gdp_mu`` as epsilon; a bound only where the trade-off is Gaussian.
        num_guesses: Guesses behind ``epsilon``: the best of the grid.
        num_correct: How many of them were right.
        ceiling: ``epsilon`` if every guess had been right.
        gdp_ceiling: ``gdp_epsilon`` if every guess had been right.
        confidence: Of ``epsilon`` and of ``gdp_mu``, each on its own.
    """

    epsilon: float
    gdp_mu: float
    gdp_epsilon: float
    num_guesses: int
    num_correct: int
    ceiling: float
    gdp_ceiling: float
    confidence: float


def audit_scores(
    scores: np.ndarray,
    included: np.ndarray,
    *,
    delta: float,
    confidence: float = CONFIDENCE,
    shares: Sequence[float] = FIXED_GRID,
) -> OneRunBound:
    """Bounds from one run's canary scores, over a fixed grid of numbers of guesses.

    For each share ``p`` of the ``m`` canaries, Steinke's bound guesses *in* for the ``p m / 2`` highest
    and *out* for the ``p m / 2`` lowest scores; the Gaussian one guesses *in* for the ``p m`` highest.
    Ties at the edge of a guess are broken against the attacker.

    Args:
        scores: Higher for members, (m,); computed without the coins.
        included: The coins, (m,); each fair and independent of the others.
        delta: Probability beside epsilon.
        confidence: Of each of the two bounds.
        shares: The grid; chosen without a look at the scores.

    Raises:
        PrivacyError: Shapes differ, a score is not a number, or a number is out of its range.

    Guarantees:
        Each cell of a grid of ``n`` shares is tested at ``1 - (1 - confidence) / n``. So all Steinke
        cells hold together, and with them the largest, at ``confidence``; so do all Gaussian cells. The
        two are *not* corrected for each other: both hold together at ``1 - 2 (1 - confidence)``.
    """
    score_M, coin_M = _checked(scores, included)
    if not shares or not all(0.0 < share <= 1.0 for share in shares):
        raise PrivacyError(f"shares={tuple(shares)} must be one or more numbers in (0, 1].")
    corrected = 1.0 - _significance(confidence) / len(shares)
    num = len(score_M)
    counts = [max(1, round(share * num / 2)) for share in shares]
    cells = [(2 * k, _top(score_M, coin_M, k) + _top(-score_M, ~coin_M, k)) for k in counts if 2 * k <= num]

    def steinke(r: int, v: int) -> float:
        return one_run_epsilon(
            num_canaries=num, num_guesses=r, num_correct=v, delta=delta, confidence=corrected
        )

    def gauss(r: int, v: int) -> float:
        return one_run_gdp(num_canaries=num, num_guesses=r, num_correct=v, confidence=corrected)

    found = [(steinke(guesses, correct), guesses, correct) for guesses, correct in cells]
    epsilon, guesses, correct = max(found, default=(0.0, 0, 0), key=lambda one: one[0])
    tops = [max(1, round(share * num)) for share in shares]
    mu = max(gauss(k, _top(score_M, coin_M, k)) for k in tops)
    return OneRunBound(
        epsilon=epsilon,
        gdp_mu=mu,
        gdp_epsilon=gdp_epsilon(mu, delta=delta),
        num_guesses=guesses,
        num_correct=correct,
        ceiling=max((steinke(guesses, guesses) for guesses, _ in cells), default=0.0),
        gdp_ceiling=gdp_epsilon(max(gauss(k, k) for k in tops), delta=delta),
        confidence=confidence,
    )


def _top(score_M: np.ndarray, right_M: np.ndarray, num: int) -> int:
    """How many of the ``num`` highest scores are right; of equal scores the wrong ones come first."""
    return int(right_M[np.lexsort((right_M, -score_M))[:num]].sum())


def _checked(scores: np.ndarray, included: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    score_M, coin_M = np.asarray(scores, dtype=np.float64), np.asarray(included)
    if score_M.ndim != 1 or score_M.shape != coin_M.shape or not len(score_M):
        raise PrivacyError(
            f"Scores of shape {score_M.shape} and coins of shape {coin_M.shape} must be two lists of the"
            " same length."
        )
    if not np.isfinite(score_M).all():
        raise PrivacyError(f"{int((~np.isfinite(score_M)).sum())} canary scores are not finite numbers.")
    if not np.isin(coin_M, (0, 1)).all():
        raise PrivacyError("Coins must be true or false (1 or 0).")
    return score_M, coin_M.astype(bool)


def gdp_delta(epsilon: float, *, mu: float) -> float:
    """Least delta of a mu-GDP mechanism at ``epsilon`` (Dong, Roth and Su 2019, Corollary 1).

    ``Phi(-eps / mu + mu / 2) - e^eps Phi(-eps / mu - mu / 2)``

    Raises:
        PrivacyError: ``mu`` is negative.
    """
    _check_mu(mu)
    if mu == 0.0:
        return 0.0
    first = float(special.ndtr(-epsilon / mu + mu / 2.0))
    second = math.exp(epsilon + float(special.log_ndtr(-epsilon / mu - mu / 2.0)))
    return max(0.0, first - second)


def gdp_epsilon(mu: float, *, delta: float) -> float:
    """Least epsilon of a mu-GDP mechanism at ``delta``.

    Raises:
        PrivacyError: ``mu`` is negative or ``delta`` not within (0, 1).
    """
    _check_mu(mu)
    if not 0.0 < delta < 1.0:
        raise PrivacyError(f"delta={delta!r} must be between 0 and 1; at 0 a Gaussian has no epsilon.")
    if gdp_delta(0.0, mu=mu) <= delta:
        return 0.0
    high = 1.0
    while gdp_delta(high, mu=mu) > delta:
        high *= 2.0
    return float(brentq(lambda epsilon: gdp_delta(epsilon, mu=mu) - delta, 0.0, high, xtol=1e-9))


def clopper_pearson_upper(successes: int, trials: int, *, alpha: float) -> float:
    """Upper end of the exact one-sided interval of a rate, at confidence ``1 - alpha``.

    Raises:
        PrivacyError: There are more successes than trials, no trials, or ``alpha`` is not within (0, 1).
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise PrivacyError(
            f"{successes} successes of {trials} trials are impossible; allowed: 0 to trials, from 1."
        )
    if not 0.0 < alpha < 1.0:
        raise PrivacyError(f"alpha={alpha!r} must be between 0 and 1.")
    if successes == trials:
        return 1.0
    return float(special.betaincinv(successes + 1, trials - successes, 1.0 - alpha))


def clopper_pearson(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact two-sided interval of a rate.

    Raises:
        PrivacyError: As `clopper_pearson_upper`.
    """
    alpha = (1.0 - confidence) / 2.0
    low = 1.0 - clopper_pearson_upper(trials - successes, trials, alpha=alpha)
    return low, clopper_pearson_upper(successes, trials, alpha=alpha)


def many_runs_epsilon(
    *,
    false_positives: int,
    num_out: int,
    false_negatives: int,
    num_in: int,
    delta: float,
    confidence: float = CONFIDENCE,
) -> float:
    """Lower bound of epsilon from many runs with the record and many without.

    ``max(log((1 - FNR - delta) / FPR), log((1 - FPR - delta) / FNR))`` with both rates at the upper end
    of their Clopper-Pearson interval, each at ``1 - (1 - confidence) / 2``.

    Args:
        false_positives: Runs without the record that the attacker took for runs with it.
        num_out: Runs without the record.
        false_negatives: Runs with the record that the attacker took for runs without it.
        num_in: Runs with the record.
        delta: Probability beside epsilon.
        confidence: Of the bound, both directions together.

    Returns:
        0 where nothing is refuted.

    Raises:
        PrivacyError: A number is out of its range.

    Guarantees:
        Holds for any mechanism, if the runs are independent and the attacker's rule was fixed before
        these runs were seen.
    """
    _check_delta(delta)
    wrong_in, wrong_out = _rates(false_positives, num_out, false_negatives, num_in, confidence)
    both = ((1.0 - wrong_out - delta, wrong_in), (1.0 - wrong_in - delta, wrong_out))
    return max(0.0, *(math.log(right / wrong) if right > 0.0 else 0.0 for right, wrong in both))


def many_runs_ceiling(*, num_out: int, num_in: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """What `many_runs_epsilon` certifies when every guess is right: the most it can."""
    none = {"false_positives": 0, "false_negatives": 0}
    return many_runs_epsilon(**none, num_out=num_out, num_in=num_in, delta=delta, confidence=confidence)


def many_runs_gdp(
    *, false_positives: int, num_out: int, false_negatives: int, num_in: int, confidence: float = CONFIDENCE
) -> float:
    """Lower bound of ``mu`` from many runs: ``Phi^-1(1 - FPR) - Phi^-1(FNR)`` at the same two rates.

    Returns:
        0 where nothing is refuted. As epsilon (`gdp_epsilon`) it is a bound only for a mechanism whose
        trade-off curve is Gaussian; of any other it says that it is not mu-GDP.

    Raises:
        PrivacyError: A number is out of its range.
    """
    wrong_in, wrong_out = _rates(false_positives, num_out, false_negatives, num_in, confidence)
    if wrong_in >= 1.0 or wrong_out >= 1.0:
        return 0.0
    return max(0.0, float(-special.ndtri(wrong_in) - special.ndtri(wrong_out)))


def _rates(
    false_positives: int, num_out: int, false_negatives: int, num_in: int, confidence: float
) -> tuple[float, float]:
    """Upper bounds of the rates of false positives and of false negatives, together at ``confidence``."""
    alpha = _significance(confidence) / 2.0
    return (
        clopper_pearson_upper(false_positives, num_out, alpha=alpha),
        clopper_pearson_upper(false_negatives, num_in, alpha=alpha),
    )


def _significance(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise PrivacyError(f"confidence={confidence!r} must be between 0 and 1, such as 0.95.")
    return 1.0 - confidence


def _check_guesses(canaries: int, guesses: int, correct: int) -> None:
    if not (canaries >= 1 and 0 <= correct <= guesses <= canaries):
        raise PrivacyError(
            f"num_canaries={canaries}, num_guesses={guesses}, num_correct={correct} cannot be; allowed:"
            " num_correct <= num_guesses <= num_canaries, with at least one canary."
        )


def _check_delta(delta: float) -> None:
    if not 0.0 <= delta < 1.0:
        raise PrivacyError(f"delta={delta!r} must be in [0, 1).")


def _check_mu(mu: float) -> None:
    if not 0.0 <= mu < math.inf:
        raise PrivacyError(f"mu={mu!r} must be a number of 0 or more.")
