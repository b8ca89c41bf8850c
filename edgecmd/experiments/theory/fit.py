"""Sums of a sweep: rank correlation, exponents, and the terms of the bound that can be estimated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls
from scipy.stats import spearmanr

from edgecmd.core.errors import DataError
from edgecmd.experiments.theory.distance import bootstrap_interval

EXPONENTS = np.arange(0.02, 2.001, 0.02)
DELTA = 0.05
MIN_POINTS = 4

Numbers = Sequence[int | float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with a 95% bootstrap interval.

    Attributes:
        value: The estimate on all points.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def rank_correlation(
    distance: Numbers,
    error: Numbers,
    *,
    num_resamples: int,
    generator: np.random.Generator,
) -> Estimate:
    """Spearman's rho with a bootstrap interval over the points.

    Args:
        distance: One a point.
        error: One a point.
        num_resamples: Draws.
        generator: Source of randomness.

    Raises:
        DataError: Fewer than four points, or one of the two is constant.
    """
    points = np.column_stack([distance, error]).astype(np.float64)
    if len(points) < MIN_POINTS or any(np.ptp(points, axis=0) == 0):
        raise DataError(
            f"{len(points)} points, distances between {min(distance):.3f} and {max(distance):.3f}: too few"
            " for a rank correlation. Use at least four different levels."
        )
    low, high = bootstrap_interval(
        points, num_resamples=num_resamples, generator=generator, statistic=_spearman
    )
    return Estimate(value=_spearman(points), low=low, high=high)


def _spearman(points: Float[np.ndarray, "num 2"]) -> float:
    # A draw may hold one point alone, of which no order can be told.
    if any(np.ptp(points, axis=0) == 0):
        return 0.0
    return float(spearmanr(points[:, 0], points[:, 1]).statistic)


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """``error = floor + scale * size ** -exponent``, all three at least 0.

    Attributes:
        exponent: The fit on all points with a bootstrap interval; the bound has 0.5.
        floor: Error that more of it would not take away.
        scale: The factor before the power.
    """

    exponent: Estimate
    floor: float
    scale: float


def fit_power(size: Numbers, error: Numbers, *, num_resamples: int, generator: np.random.Generator) -> Power:
    """Least squares of `Power` over a grid of exponents from 0.02 to 2, floor and scale by NNLS.

    Args:
        size: Pairs or labels, one a point.
        error: Target error, one a point.
        num_resamples: Draws.
        generator: Source of randomness.

    Raises:
        DataError: Fewer than four points.
    """
    if len(size) < MIN_POINTS:
        raise DataError(f"{len(size)} points are too few for an exponent; at least {MIN_POINTS} are needed.")
    points = np.column_stack([size, error]).astype(np.float64)
    low, high = bootstrap_interval(
        points, num_resamples=num_resamples, generator=generator, statistic=lambda one: _power(one)[0]
    )
    exponent, floor, scale = _power(points)
    return Power(exponent=Estimate(value=exponent, low=low, high=high), floor=floor, scale=scale)


def _power(points: Float[np.ndarray, "num 2"]) -> tuple[float, float, float]:
    best = (float("inf"), 0.0, 0.0, 0.0)
    unit_size = points[:, 0] / points[:, 0].min()
    for exponent in EXPONENTS:
        (floor, scale), residual = nnls(
            np.column_stack([np.ones(len(points)), unit_size**-exponent]), points[:, 1]
        )
        if residual < best[0] - 1e-12:
            best = (float(residual), float(exponent), float(floor), float(scale))
    return best[1], best[2], best[3] * float(points[:, 0].min()) ** best[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One term of the bound.

    Attributes:
        name: As in docs/theory.md.
        value: The estimate; None where there is none.
        text: What it means, or why it cannot be estimated.
    """

    name: str
    value: float | None
    text: str


def bound_terms(
    *, held_out: float, training: float, num_labels: int, head_norm: float, slope: float | None
) -> list[Term]:
    """The terms of the statement in docs/theory.md, for losses between 0 and 1.

    Args:
        held_out: Distance on held-out pairs without a gap.
        training: The same student's distance on pairs that it was trained on.
        num_labels: Labels in all, m.
        head_norm: Frobenius norm of the fitted head on unit embeddings.
        slope: Error by distance, least squares over the sweep; None where the distance does not change.
    """
    return [
        Term(
            name="2 L sqrt(log(4/delta) / (2 m))",
            value=2.0 * math.sqrt(math.log(4.0 / DELTA) / (2.0 * num_labels)),
            text=f"chance in the draw of {num_labels} labels, L = 1, delta = {DELTA}",
        ),
        Term(
            name="2 Rad_m(head)",
            value=2.0 * head_norm / math.sqrt(num_labels),
            text="linear heads of the fitted norm on this student's unit embeddings; the maximum over"
            " students in the statement is not taken, so it is a lower reading",
        ),
        Term(
            name="d_TV(P_B hat, P_A hat), training pairs",
            value=training,
            text="relations within a batch: what stays apart even on pairs that were seen (modality distance,"
            " limits of student and steps)",
        ),
        Term(
            name="d_TV(P_B hat, P_A hat), held-out minus training",
            value=held_out - training,
            text="the same on unseen pairs, what is added: the part that the statement bounds by sqrt(C/M)",
        ),
        Term(
            name="slope of error by distance",
            value=slope,
            text="over the sweep; in the place of kappa L, if the statement were tight. Not kappa",
        ),
        Term(
            name="d_TV(P_A hat, P_A*)",
            value=None,
            text="the ideal source features P_A* are unknown, so the teacher's own error cannot be estimated",
        ),
        Term(name="kappa", value=None, text="the constant of the informative condition; no data reveal it"),
        Term(
            name="R_B*", value=None, text="the best error of any student and head; only errors are measured"
        ),
    ]
