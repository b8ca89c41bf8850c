"""Membership scores against reference models that did not see the record.

Shapes: N records, Z records of the population, S reference (shadow) models.
"""

import numpy as np

from edgecmd.core.errors import DataError

RMIA_A = 0.3
RMIA_GAMMA = 2.0


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
            raise DataError("One reference model a record has no spread; give two or more.")
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
    ``p = ((1 + a) mean_out + 1 - a) / 2`` for ``x`` and ``z`` alike, so that a record that is no member
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
        raise DataError(f"a={a!r} must lie in [0, 1] and gamma={gamma!r} be at least 1.")
    ratio_N = _ratio(observed_N, out_SN, mask_SN, a=a)
    ratio_Z = np.sort(_ratio(observed_Z, out_SZ, mask_SZ, a=a))
    return np.asarray(np.searchsorted(ratio_Z, ratio_N / gamma, side="left") / len(ratio_Z))


def _ratio(observed: np.ndarray, out: np.ndarray, mask: np.ndarray | None, *, a: float) -> np.ndarray:
    """``p(x|model) / p(x)`` of each record."""
    observed_N, out_SN, mask_SN = _checked(observed, out, mask, least=1)
    for values in (observed_N, out_SN[mask_SN]):
        if values.min() < 0.0 or values.max() > 1.0:
            raise DataError(
                f"RMIA compares probabilities; values from {values.min():g} to {values.max():g} are none."
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
