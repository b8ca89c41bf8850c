"""Changes of a student's weights as vectors for a secure sum, and back."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]
# Loss beyond which a client's counts as so much: a number beside the weights, for the progress of a run.
LARGEST_LOSS = 64.0
NUM_BESIDE = 2


def update_of(before: Arrays, after: Arrays, *, fixed: Collection[str]) -> np.ndarray:
    """The change of all weights but the ``fixed`` ones, in the order of their names, float64."""
    changes = [
        after[name].astype(np.float64).ravel() - before[name].ravel()
        for name in sorted(before)
        if name not in fixed
    ]
    return np.concatenate(changes)


def num_changed(arrays: Arrays, *, fixed: Collection[str]) -> int:
    """Length of `update_of`."""
    return sum(value.size for name, value in arrays.items() if name not in fixed)


def moved(before: Arrays, change: np.ndarray, *, fixed: Collection[str]) -> dict[str, np.ndarray]:
    """Weights after a change by such a vector, float64; the ``fixed`` ones as they are."""
    found, start = dict(before), 0
    for name in sorted(before):
        if name not in fixed:
            part = change[start : start + before[name].size]
            found[name] = before[name] + part.reshape(before[name].shape)
            start += before[name].size
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """What a sum of changes without privacy says.

    Attributes:
        change: Mean change, weighted by pairs.
        num_examples: Pairs behind it.
        loss: Mean loss, weighted by pairs.
    """

    change: np.ndarray
    num_examples: int
    loss: float


def weighted(change: np.ndarray, *, num: int, loss: float, max_pairs: int, max_update: float) -> np.ndarray:
    """A client's change times its share of ``max_pairs``, and that share and its loss beside it.

    Args:
        change: Of the weights.
        num: The client's pairs.
        loss: Its mean loss.
        max_pairs: Pairs beyond which a client counts as so many.
        max_update: Norm to which a larger change is scaled down.

    Returns:
        A vector of norm at most ``2 max_update``.
    """
    length = float(np.linalg.norm(change))
    factor = min(1.0, max_update / length) if length > 0.0 else 1.0
    share = min(num, max_pairs) / max_pairs
    bounded = min(max(loss, -LARGEST_LOSS), LARGEST_LOSS) / LARGEST_LOSS
    return np.concatenate([change * (factor * share), [share * max_update, share * bounded * max_update]])


def counted(total: np.ndarray, *, max_pairs: int, max_update: float) -> Counted:
    """Read a sum of `weighted` vectors."""
    share, loss = total[-NUM_BESIDE:]
    weight = max(share, np.finfo(np.float64).tiny)
    return Counted(
        change=total[:-NUM_BESIDE] * (max_update / weight),
        num_examples=round(share / max_update * max_pairs),
        loss=float(loss / weight * LARGEST_LOSS),
    )
