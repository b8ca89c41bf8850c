"""Held-out targets that look like a training target.

Splits that are disjoint by concept still share shapes: clock faces, hearts, keycaps.

Shapes: N images, S side, C channels, P pixels after averaging down.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from edgecmd.data.pairs import Images, Targets, target_kind

THRESHOLD = 0.9
SIDE = 32
CHUNK = 1024


def looks_known(test: Targets, train: Targets) -> Bool[np.ndarray, " num"]:
    """Which of ``test`` are no news after ``train``: pictures by `near_duplicates`, others where equal.

    A correlation of samples says nothing about recordings: one that is moved by a millisecond has none.
    Nor does it about depth: whatever room a camera looks into, it is farther away above than below.
    """
    if target_kind(test) == "image":
        return near_duplicates(test, train)
    known = {one.tobytes() for one in train}
    return np.array([one.tobytes() in known for one in test], dtype=bool)


def near_duplicates(
    test: Images,
    train: UInt8[np.ndarray, "others height width channels"],
    *,
    threshold: float = THRESHOLD,
) -> Bool[np.ndarray, " num"]:
    """Which of ``test`` have a Pearson correlation above ``threshold`` to one of ``train``.

    Args:
        test: uint8, (N, S, S, C), S a multiple of 16.
        train: uint8, (M, S, S, C).
        threshold: Correlation, from -1 to 1.

    Guarantees:
        Images are compared after averaging down to 32 pixels (16 where 32 does not divide S).
        An image of one single value correlates with nothing.
    """
    if not len(train):
        return np.zeros(len(test), dtype=bool)
    known = _standardised(train)
    found = np.zeros(len(test), dtype=bool)
    for start in range(0, len(test), CHUNK):
        correlation = _standardised(test[start : start + CHUNK]) @ known.T
        found[start : start + CHUNK] = correlation.max(axis=1) > threshold
    return found


def _standardised(images: Images) -> Float[np.ndarray, "num pixels"]:
    """Rows of zero mean and unit length: their dot products are Pearson correlations."""
    num, side, _, channels = images.shape
    small = SIDE if side % SIDE == 0 else SIDE // 2
    block = side // small
    blocks = images.reshape(num, small, block, small, block, channels)
    rows = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(num, small * small * channels)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return np.asarray(rows)
