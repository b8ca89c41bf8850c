"""From the weights that many runs released, with and without the canary, to a lower bound of epsilon.

A quarter of the runs fits a direction in weight space, a quarter chooses between directions and sets
the threshold, and the other half, unseen by both, certifies.

Shapes: N runs of each kind, P parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgecmd.audits import bounds
from edgecmd.audits.risk import roc
from edgecmd.core.errors import PrivacyError

LEAST_RUNS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Certified:
    """What the unseen half of the runs certifies.

    Attributes:
        epsilon: Lower bound, for any mechanism.
        ceiling: ``epsilon`` if no run had been mistaken.
        gdp_epsilon: Lower bound for a mechanism whose trade-off is Gaussian.
        auc: Area under the ROC curve, and its interval.
        auc_low: Lower end.
        auc_high: Upper end.
        direction: Which direction was chosen.
        false_positives: Runs without the canary taken for runs with it.
        false_negatives: Runs with the canary taken for runs without it.
        num_held_out: Runs of each kind that certify.
        confidence: Of the bounds and the interval, each on its own.
    """

    epsilon: float
    ceiling: float
    gdp_epsilon: float
    auc: float
    auc_low: float
    auc_high: float
    direction: str
    false_positives: int
    false_negatives: int
    num_held_out: int
    confidence: float


def certify(
    with_NP: np.ndarray,
    without_NP: np.ndarray,
    *,
    delta: float,
    directions: Mapping[str, np.ndarray] | None = None,
    confidence: float = bounds.CONFIDENCE,
) -> Certified:
    """Attack released weights along a line and certify what the attack shows.

    Args:
        with_NP: Released weights of runs with the canary, (N, P).
        without_NP: The same of runs without it, (N, P).
        delta: Probability beside epsilon.
        directions: Directions to look along beside the fitted one, each (P,), known before the runs.
        confidence: Of the bounds.

    Raises:
        PrivacyError: Shapes differ, there are fewer than 8 runs of each kind, or a weight is not finite.

    Guarantees:
        Direction and threshold are functions of the first half of the runs (by index), so for
        independent runs the bound of `edgecmd.audits.bounds.many_runs_epsilon` holds on the second.
    """
    _check(with_NP, without_NP)
    quarter, half = len(with_NP) // 4, len(with_NP) // 2
    fitted = with_NP[:quarter].mean(axis=0) - without_NP[:quarter].mean(axis=0)
    candidates = {"fitted": fitted, **(directions or {})}
    choices = []
    for name, line in candidates.items():
        seen_in, seen_out = with_NP[quarter:half] @ line, without_NP[quarter:half] @ line
        threshold, found = _threshold(seen_in, seen_out, delta=delta, confidence=confidence)
        choices.append((found, roc.auc(*_together(seen_in, seen_out)), name, threshold))
    _, _, direction, threshold = max(choices)
    score_in, score_out = with_NP[half:] @ candidates[direction], without_NP[half:] @ candidates[direction]
    return _certified(score_in, score_out, threshold, direction=direction, delta=delta, confidence=confidence)


def _certified(
    score_in: np.ndarray,
    score_out: np.ndarray,
    threshold: float,
    *,
    direction: str,
    delta: float,
    confidence: float,
) -> Certified:
    counts = _counts(score_in, score_out, threshold)
    scores, members = _together(score_in, score_out)
    low, high = roc.auc_interval(scores, members, confidence=confidence)
    mu = bounds.many_runs_gdp(**counts, confidence=confidence)
    return Certified(
        epsilon=bounds.many_runs_epsilon(**counts, delta=delta, confidence=confidence),
        ceiling=bounds.many_runs_ceiling(
            num_out=len(score_out), num_in=len(score_in), delta=delta, confidence=confidence
        ),
        gdp_epsilon=bounds.gdp_epsilon(mu, delta=delta),
        auc=roc.auc(scores, members),
        auc_low=low,
        auc_high=high,
        direction=direction,
        false_positives=counts["false_positives"],
        false_negatives=counts["false_negatives"],
        num_held_out=len(score_in),
        confidence=confidence,
    )


def _counts(score_in: np.ndarray, score_out: np.ndarray, threshold: float) -> dict[str, int]:
    """Errors of *with the canary, if the score is at least the threshold*."""
    return {
        "false_positives": int((score_out >= threshold).sum()),
        "num_out": len(score_out),
        "false_negatives": int((score_in < threshold).sum()),
        "num_in": len(score_in),
    }


def _threshold(
    score_in: np.ndarray, score_out: np.ndarray, *, delta: float, confidence: float
) -> tuple[float, float]:
    """Threshold that certifies the most on these runs, the middle one of equals; and what it certifies."""
    ordered = np.unique(np.concatenate([score_in, score_out]))
    middles = (ordered[:-1] + ordered[1:]) / 2.0 if len(ordered) > 1 else ordered
    epsilon = partial(bounds.many_runs_epsilon, delta=delta, confidence=confidence)
    found = np.array([epsilon(**_counts(score_in, score_out, float(one))) for one in middles])
    best = np.flatnonzero(found == found.max())
    return float(middles[best[len(best) // 2]]), float(found.max())


def _together(score_in: np.ndarray, score_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    members = np.arange(len(score_in) + len(score_out)) < len(score_in)
    return np.concatenate([score_in, score_out]), members


def _check(with_NP: np.ndarray, without_NP: np.ndarray) -> None:
    if with_NP.ndim != 2 or with_NP.shape != without_NP.shape:
        raise PrivacyError(
            f"Weights {with_NP.shape} with and {without_NP.shape} without the canary must have the same"
            " shape, (N, P)."
        )
    if len(with_NP) < LEAST_RUNS:
        raise PrivacyError(f"{len(with_NP)} runs of each kind are too few; give at least {LEAST_RUNS}.")
    if not (np.isfinite(with_NP).all() and np.isfinite(without_NP).all()):
        raise PrivacyError("A run ended with weights that are not finite; they certify nothing.")
