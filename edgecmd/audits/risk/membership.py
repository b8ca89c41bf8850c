"""Membership inference on a black box: raw scores, offline LiRA and RMIA, each as a ROC curve.

Shapes: N pairs (records), Z records of the population, S shadow students (reference models).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, ndtri
from scipy.stats import rankdata

from edgecmd.audits.bounds import clopper_pearson
from edgecmd.audits.risk.roc import auc, checked, roc_points, tpr_at_fpr
from edgecmd.core.errors import DataError
from edgecmd.core.statistics import CONFIDENCE

FPRS = (0.001, 0.01)
RMIA_A = 0.3
RMIA_GAMMA = 2.0
ATTACKS = {
    "lira": "offline LiRA",
    "rmia": "offline RMIA",
    "raw": "the raw score",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shadows:
    """Scores of the pairs under students that were trained on a random half of them.

    Attributes:
        scores: Score of each pair, (S, N).
        out: Which pairs a student was not trained on, (S, N).
    """

    scores: Float[np.ndarray, "shadows num"]
    out: Bool[np.ndarray, "shadows num"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """How well one attack told members from others.

    Attributes:
        auc: Area under the ROC curve.
        low: Lower end of its 95% interval.
        high: Upper end.
        tpr: True positive rate at each of `FPRS`.
        points: False and true positive rates, 200 at most.
        tpr_between: Exact 95% interval of each of ``tpr``, the threshold taken as given; none where pairs of
            a group depend on each other.
    """

    auc: float
    low: float
    high: float
    tpr: tuple[float, ...]
    points: tuple[tuple[float, float], ...] = ()
    tpr_between: tuple[tuple[float, float], ...] = ()

    def table(self) -> dict[str, object]:
        """Plain values for ``audit.json``."""
        rates: dict[str, object] = {f"tpr_at_{fpr:g}": value for fpr, value in zip(FPRS, self.tpr)}
        rates |= {f"tpr_at_{fpr:g}_between": list(one) for fpr, one in zip(FPRS, self.tpr_between)}
        curve = [[round(x, 6), round(y, 6)] for x, y in self.points]
        return {"auc": self.auc, "low": self.low, "high": self.high, **rates, "roc": curve}

    def chance(self) -> bool:
        """Whether the interval holds one half."""
        return self.low <= 0.5 <= self.high


def attack(
    observed: Float[np.ndarray, " num"],
    shadows: Shadows,
    *,
    member: Bool[np.ndarray, " num"],
    group: Int[np.ndarray, " num"],
) -> dict[str, Curve]:
    """Every attack of `ATTACKS` on the scores that a black box gave.

    Args:
        observed: Score of each pair under the attacked model, (N,); higher means surer.
        shadows: Reference scores of the same pairs.
        member: Truth, (N,).
        group: Pairs of a group are members together or not at all, (N,); intervals count groups.

    Raises:
        DataError: A score is not finite, or members or others are missing.
    """
    lira = lira_offline(observed, shadows.scores, mask_SN=shadows.out)
    sure, reference, others = expit(observed), expit(shadows.scores), ~member
    rmia = rmia_offline(
        sure,
        reference,
        observed_Z=sure[others],
        out_SZ=reference[:, others],
        mask_SN=shadows.out,
        mask_SZ=shadows.out[:, others],
        a=offline_a(reference, shadows.out),
    )
    scores = {"lira": lira, "rmia": rmia, "raw": observed}
    return {name: curve(values, member, group=group) for name, values in scores.items()}


def offline_a(reference: Float[np.ndarray, "shadows num"], out: Bool[np.ndarray, "shadows num"]) -> float:
    """RMIA's ``a`` from the shadow students themselves, which did see half of the pairs.

    Offline RMIA supposes ``p_in = a p_out + 1 - a`` (arXiv 2312.03262, appendix B.2.2). A probability among
    a thousand anchors is far below 1 for members too, so the usual 0.3 would drown ``p_out``.

    Args:
        reference: Probability of each pair under each shadow student, (S, N).
        out: Which pairs a student was not trained on, (S, N).

    Returns:
        Fit over all pairs, within [0, 1].
    """
    known = np.where(out, reference, 0.0).sum(axis=0) / np.maximum(1, out.sum(axis=0))
    seen = np.where(out, 0.0, reference).sum(axis=0) / np.maximum(1, (~out).sum(axis=0))
    room = float((1.0 - known).sum())
    return float(np.clip(1.0 - (seen - known).sum() / room, 0.0, 1.0)) if room > 0 else 1.0


def lira_offline(
    observed_N: np.ndarray, out_SN: np.ndarray, *, mask_SN: np.ndarray | None = None, pooled_sd: bool = True
) -> np.ndarray:
    """Offline likelihood ratio attack (Carlini et al. 2022, arXiv 2112.03570, equation 4).

    ``(s - mean_out) / sd_out``, which ranks records as ``Pr[N(mean_out, sd_out^2) < s]`` does and, unlike
    it, does not saturate at 1.

    Args:
        observed_N: Score of each record under the attacked model, (N,); about normal, such as a logit.
        out_SN: Score of each record under each reference model, (S, N).
        mask_SN: Which reference models did *not* train on a record, (S, N); None for all.
        pooled_sd: One standard deviation for all records, which few reference models call for.

    Returns:
        Higher for members, (N,).

    Raises:
        DataError: Shapes differ, a score is not finite, a record lacks reference models, or its
            scores under them do not vary.
    """
    observed_N, out_SN, mask_SN = _checked(observed_N, out_SN, mask_SN, least=1 if pooled_sd else 2)
    count_N = mask_SN.sum(axis=0)
    mean_N = np.where(mask_SN, out_SN, 0.0).sum(axis=0) / count_N
    square_N = np.where(mask_SN, (out_SN - mean_N) ** 2, 0.0).sum(axis=0)
    if pooled_sd:
        freedom = int((count_N - 1).sum())
        if freedom == 0:
            raise DataError("One reference model per record has no spread; give two or more.")
        variance_N = np.full(len(observed_N), square_N.sum() / freedom)
    else:
        variance_N = square_N / (count_N - 1)
    if not (variance_N > 0.0).all():
        raise DataError(
            f"{int((variance_N <= 0.0).sum())} records score the same under every reference model. Train the"
            " reference models on different records, or pool the standard deviation."
        )
    return np.asarray((observed_N - mean_N) / np.sqrt(variance_N))


def rmia_offline(
    observed_N: np.ndarray,
    out_SN: np.ndarray,
    *,
    observed_Z: np.ndarray,
    out_SZ: np.ndarray,
    mask_SN: np.ndarray | None = None,
    mask_SZ: np.ndarray | None = None,
    a: float = RMIA_A,
    gamma: float = RMIA_GAMMA,
) -> np.ndarray:
    """Offline RMIA (Zarifzadeh, Liu and Shokri 2024, arXiv 2312.03262).

    Share of population records ``z`` with ``(p(x|model) / p(x)) / (p(z|model) / p(z)) > gamma``, where
    ``p = ((1 + a) mean_out + 1 - a) / 2`` for ``x`` and ``z`` alike, so that a record that is not a member
    is exchangeable with the population.

    Args:
        observed_N: Probability of each record under the attacked model, (N,), in (0, 1].
        out_SN: Probability of each record under each reference model, (S, N), in [0, 1].
        observed_Z: The same of records of the population, which are in no training set, (Z,).
        out_SZ: The same of them under each reference model, (S, Z).
        mask_SN: Which reference models did *not* train on a record, (S, N); None for all.
        mask_SZ: The same for the population, (S, Z); None for all.
        a: How close members' probabilities in reference models are to 1 (0) or to those of others (1).
        gamma: By how much a record must dominate, at least 1.

    Returns:
        Higher for members, (N,), in [0, 1].

    Raises:
        DataError: Shapes differ, a value is not a probability, or a number is out of its range.
    """
    if not 0.0 <= a <= 1.0 or not gamma >= 1.0:
        raise DataError(f"a={a!r} must be in [0, 1] and gamma={gamma!r} be at least 1.")
    ratio_N = _ratio(observed_N, out_SN, mask_SN, a=a)
    ratio_Z = np.sort(_ratio(observed_Z, out_SZ, mask_SZ, a=a))
    return np.asarray(np.searchsorted(ratio_Z, ratio_N / gamma, side="left") / len(ratio_Z))


def _ratio(observed: np.ndarray, out: np.ndarray, mask: np.ndarray | None, *, a: float) -> np.ndarray:
    """``p(x|model) / p(x)`` of each record."""
    observed_N, out_SN, mask_SN = _checked(observed, out, mask, least=1)
    for values in (observed_N, out_SN[mask_SN]):
        if values.min() < 0.0 or values.max() > 1.0:
            raise DataError(
                f"RMIA compares probabilities; values from {values.min():g} to {values.max():g} are not."
                " Turn logits into probabilities first."
            )
    mean_N = np.where(mask_SN, out_SN, 0.0).sum(axis=0) / mask_SN.sum(axis=0)
    prior_N = ((1.0 + a) * mean_N + 1.0 - a) / 2.0
    if not (prior_N > 0.0).all():
        raise DataError("A record has probability 0 under every reference model; give a below 1.")
    return np.asarray(observed_N / prior_N)


def _checked(
    observed: np.ndarray, out: np.ndarray, mask: np.ndarray | None, *, least: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    observed_N, out_SN = np.asarray(observed, dtype=np.float64), np.asarray(out, dtype=np.float64)
    mask_SN = np.ones(out_SN.shape, dtype=bool) if mask is None else np.asarray(mask).astype(bool)
    if observed_N.ndim != 1 or not observed_N.size or out_SN.shape[1:] != observed_N.shape:
        raise DataError(
            f"Scores {observed_N.shape} and reference scores {out_SN.shape} must be (N,) and (S, N)."
        )
    if mask_SN.shape != out_SN.shape:
        raise DataError(f"The mask {mask_SN.shape} must have the reference scores' shape {out_SN.shape}.")
    if not (np.isfinite(observed_N).all() and np.isfinite(out_SN[mask_SN]).all()):
        raise DataError("A score is not a finite number.")
    if int(mask_SN.sum(axis=0).min(initial=len(out_SN))) < least:
        raise DataError(f"A record has fewer than {least} reference models that did not train on it.")
    return observed_N, out_SN, mask_SN


def curve(
    scores: Float[np.ndarray, " num"],
    member: Bool[np.ndarray, " num"],
    *,
    group: Int[np.ndarray, " num"],
) -> Curve:
    """Area with a grouped interval, rates at few false positives, and the ROC curve.

    Raises:
        DataError: As `edgecmd.audits.risk.roc.auc`.
    """
    low, high = grouped_interval(scores, member, group=group)
    x, y = roc_points(scores, member)
    tpr, num = [tpr_at_fpr(scores, member, fpr=fpr) for fpr in FPRS], int(np.sum(member))
    alone = len(np.unique(group)) == len(group)
    return Curve(
        auc=auc(scores, member),
        low=low,
        high=high,
        tpr=tuple(tpr),
        points=tuple(zip(x.tolist(), y.tolist(), strict=True)),
        tpr_between=tuple(clopper_pearson(round(one * num), num) for one in tpr) if alone else (),
    )


def grouped_interval(
    scores: Float[np.ndarray, " num"],
    member: Bool[np.ndarray, " num"],
    *,
    group: Int[np.ndarray, " num"],
) -> tuple[float, float]:
    """Interval of the area where pairs of one group depend on each other.

    DeLong's components summed by group (Obuchowski 1997, Biometrics 53:567): two drawings of one concept
    are not two independent witnesses. With every pair a group of its own it is DeLong's interval.

    Args:
        scores: Higher for members, (N,).
        member: Which pairs are members, (N,).
        group: Group of each pair, (N,).

    Returns:
        Lower and upper end, within [0, 1], which cover about as often as `CONFIDENCE` says.

    Raises:
        DataError: As `edgecmd.audits.risk.roc.auc`, or members or others come from fewer than two groups.
    """
    score_N, member_N = checked(scores, member)
    area, share_N = auc(score_N, member_N), placements(score_N, member_N)
    num = int(np.max(group)) + 1
    parts = []
    for kind in (member_N, ~member_N):
        count_G = np.bincount(group[kind], minlength=num)
        if np.count_nonzero(count_G) < 2:
            raise DataError("Members and others must each come from at least two groups.")
        sum_G = np.bincount(group[kind], weights=share_N[kind], minlength=num)
        parts.append(((sum_G - count_G * area) / int(kind.sum()), count_G > 0))
    both = parts[0][1] | parts[1][1]
    variance = sum(_spread(part, present) for part, present in parts)
    crossed = parts[0][1] & parts[1][1]
    if crossed.any():
        variance += 2.0 * float((parts[0][0] * parts[1][0]).sum()) * both.sum() / (both.sum() - 1)
    half = float(ndtri((1.0 + CONFIDENCE) / 2.0)) * math.sqrt(max(0.0, float(variance)))
    return max(0.0, area - half), min(1.0, area + half)


def _spread(part_G: np.ndarray, present_G: np.ndarray) -> float:
    count = int(present_G.sum())
    return float((part_G**2).sum()) * count / (count - 1)


def placements(score_N: np.ndarray, member_N: np.ndarray) -> Float[np.ndarray, " num"]:
    """Share of the other kind that each pair is placed rightly against: DeLong's components, (N,)."""
    found = np.empty(len(score_N))
    whole = rankdata(score_N)
    for kind, sign in ((member_N, 1.0), (~member_N, -1.0)):
        below = whole[kind] - rankdata(score_N[kind])
        share = below / (len(score_N) - int(kind.sum()))
        found[kind] = share if sign > 0 else 1.0 - share
    return found
