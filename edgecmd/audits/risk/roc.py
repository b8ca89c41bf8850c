"""How well a score tells members from others: the area under the ROC curve, its interval, and its left end.

Shapes: N records, P points.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn import metrics

from edgecmd.core.errors import DataError


def auc(scores: np.ndarray, members: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a member scores above another, ties counted half.

    Args:
        scores: Higher for members, (N,).
        members: Which records are members, (N,).

    Raises:
        DataError: A score is not a number, shapes differ, or one of the two kinds is missing.
    """
    score_N, member_N = checked(scores, members)
    # By ranks, which is exact: the trapezoids of scikit-learn round, also where nobody is told from anybody.
    num_in = int(member_N.sum())
    rank_sum = float(rankdata(score_N)[member_N].sum())
    return (rank_sum - num_in * (num_in + 1) / 2) / (num_in * (len(score_N) - num_in))


def auc_interval(scores: np.ndarray, members: np.ndarray, *, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of the area, after Newcombe 2006 (Statistics in Medicine 25:559, method 5).

    All areas ``A`` with ``|A - auc| <= z sqrt(V(A))``, where ``V(A) = A (1 - A) (1 + K ((1 - A) / (2 - A)
    + A / (1 + A))) / (m n)`` is Hanley and McNeil's variance with ``K = (m + n) / 2 - 1`` for both kinds.
    As with Wilson's interval the variance is that of the area in question, so at an area of 1 the
    interval has a width.

    Args:
        scores: Higher for members, (N,); records are independent.
        members: Which records are members, (N,).
        confidence: Coverage, approximately.

    Raises:
        DataError: As `auc`, or ``confidence`` is not within (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise DataError(f"confidence={confidence!r} must be between 0 and 1, such as 0.95.")
    centre = auc(scores, members)
    num_in = int(np.asarray(members, dtype=bool).sum())
    num_out = len(members) - num_in
    z = float(ndtri((1.0 + confidence) / 2.0))

    def inside(area: float) -> bool:
        extra = (1.0 - area) / (2.0 - area) + area / (1.0 + area)
        pairs = num_in * num_out
        variance = area * (1.0 - area) * (1.0 + ((num_in + num_out) / 2.0 - 1.0) * extra) / pairs
        return (area - centre) ** 2 <= z * z * variance

    return _edge(inside, centre, outside=0.0), _edge(inside, centre, outside=1.0)


def _edge(inside: Callable[[float], bool], centre: float, *, outside: float) -> float:
    """Where ``inside`` ends between ``centre`` and ``outside``, by bisection."""
    if centre == outside:
        return outside
    kept, lost = centre, outside
    for _ in range(60):
        middle = (kept + lost) / 2.0
        kept, lost = (middle, lost) if inside(middle) else (kept, middle)
    return kept


def tpr_at_fpr(scores: np.ndarray, members: np.ndarray, *, fpr: float) -> float:
    """Largest true positive rate of a threshold whose false positive rate is at most ``fpr``.

    Nothing is interpolated: with fewer than ``1 / fpr`` non-members no false positive is allowed at all.

    Args:
        scores: Higher for members, (N,).
        members: Which records are members, (N,).
        fpr: Allowed false positive rate, in [0, 1].

    Raises:
        DataError: As `auc`, or ``fpr`` is not within [0, 1].
    """
    if not 0.0 <= fpr <= 1.0:
        raise DataError(f"fpr={fpr!r} must be in [0, 1], such as 0.01.")
    wrong_P, right_P = roc_curve(scores, members)
    return float(right_P[wrong_P <= fpr].max())


def roc_curve(scores: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of every threshold, from *nobody* (0, 0) to *everybody* (1, 1).

    Args:
        scores: Higher for members, (N,).
        members: Which records are members, (N,).

    Returns:
        Two non-decreasing lists, (P,), with a point for each distinct score and one before them.

    Raises:
        DataError: As `auc`.
    """
    score_N, member_N = checked(scores, members)
    rank_N = rankdata(score_N, method="dense")  # scores may be infinite
    wrong_P, right_P, _ = metrics.roc_curve(member_N, rank_N, drop_intermediate=False)
    return wrong_P, right_P


def roc_points(scores: np.ndarray, members: np.ndarray, *, num: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Points of the ROC curve for a chart with logarithmic axes.

    Args:
        scores: Higher for members, (N,).
        members: Which records are members, (N,).
        num: Points at most, at least 2.

    Returns:
        False and true positive rates, (P,), both non-decreasing, P at most ``num``: of each false
        positive rate the highest point, thinned to about equal steps of its logarithm. The point at
        rate 0 and the point (1, 1) are among them.

    Raises:
        DataError: As `auc`, or ``num`` is below 2.
    """
    if num < 2:
        raise DataError(f"num={num} points do not make a curve; give at least 2.")
    wrong_P, right_P = roc_curve(scores, members)
    last = np.append(np.diff(wrong_P) != 0.0, True)
    wrong_P, right_P = wrong_P[last], right_P[last]
    if len(wrong_P) > num:
        targets = np.append(0.0, np.geomspace(wrong_P[1], 1.0, num - 1))
        kept = np.unique(np.searchsorted(wrong_P, targets * (1.0 + 1e-12), side="right") - 1)
        wrong_P, right_P = wrong_P[kept], right_P[kept]
    return wrong_P, right_P


def checked(scores: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float64 and members as booleans, both (N,).

    Raises:
        DataError: A score is not a number, shapes differ, or one of the two kinds is missing.
    """
    score_N, member_N = np.asarray(scores, dtype=np.float64), np.asarray(members).astype(bool)
    if score_N.ndim != 1 or score_N.shape != member_N.shape:
        raise DataError(
            f"Scores {score_N.shape} and members {member_N.shape} must be two lists of the same length."
        )
    if np.isnan(score_N).any():
        raise DataError(f"{int(np.isnan(score_N).sum())} scores are not numbers.")
    if member_N.all() or not member_N.any():
        raise DataError(
            f"{int(member_N.sum())} of {len(member_N)} records are members; both kinds are needed."
        )
    return score_N, member_N
