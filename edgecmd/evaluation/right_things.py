"""Retrieval where several things are right for one question: ranks, and what chance finds.

Shapes: N questions, M images of a gallery, T things.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

RECALL_AT = (1, 5, 10)


def by_thing(
    similarity: Float[np.ndarray, "rows num"], codes: Int[np.ndarray, " num"]
) -> Float[np.ndarray, "rows things"]:
    """Similarity to the nearest of each thing's images; ``codes`` go from 0 without gaps."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return np.asarray(np.maximum.reduceat(similarity[:, order], starts, axis=1))


def rank_of_right(
    similarity: Float[np.ndarray, "num things"], right: Bool[np.ndarray, "num things"]
) -> Int[np.ndarray, " num"]:
    """Rank of the first right thing of each row, from 1; wrong ones that are as near come before it.

    Args:
        similarity: To each thing, (N, things).
        right: Which are right, at least one a row, (N, things).
    """
    mine = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
    return np.asarray(1 + ((similarity >= mine) & ~right).sum(axis=1))


def right_things(right: csr_array, codes: Int[np.ndarray, " images"]) -> csr_array:
    """Which things are right for each target, bool, (N, things): those of which an image is, by ``right``."""
    thing_of = csr_array((np.ones(len(codes), dtype=np.int64), (np.arange(len(codes)), codes)))
    return csr_array(right.astype(np.int64) @ thing_of).astype(bool)


def chance(
    num_right: Int[np.ndarray, " num"], num_things: int, *, ranks: Sequence[int] = RECALL_AT
) -> dict[str, float]:
    """What `recall` of a random order of the things is where several are right.

    Args:
        num_right: How many things are right for each target, (N,).
        num_things: T.
        ranks: As in `recall`.

    Returns:
        ``{"recall@1": share, ...}``: ``1 - C(T - r, k) / C(T, k)``, the mean over the targets.
    """
    from scipy.stats import hypergeom

    drawn = {at: hypergeom.pmf(0, num_things, num_right, min(at, num_things)) for at in ranks}
    return {f"recall@{at}": float(np.mean(1.0 - missed)) for at, missed in drawn.items()}
