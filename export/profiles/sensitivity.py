"""Which layer do fewer bits hurt most? Found by leaving out one at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Quality(NamedTuple):
    """How good a file is, compared from the left: task metric, then mean cosine with the student."""

    metric: float
    mean_cosine: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Culprit:
    """The layer that hurts most.

    Attributes:
        layer: Its name.
        before: With every layer in few bits.
        after: With this one left in float32.
    """

    layer: str
    before: Quality
    after: Quality

    def __str__(self) -> str:
        """A sentence with both figures."""
        return (
            f"The layer that hurts most is {self.layer}: leaving only this layer in float32 takes the metric"
            f" from {self.before.metric:.4f} to {self.after.metric:.4f} and the mean cosine from"
            f" {self.before.mean_cosine:.5f} to {self.after.mean_cosine:.5f}."
        )


def find_culprit(layers: Sequence[str], *, quality: Callable[[Sequence[str]], Quality]) -> Culprit:
    """Leave out each layer alone and see which makes the file best.

    Args:
        layers: Layers to try, at least one; the first of equals is named.
        quality: Quality of the file with these layers in float32.
    """
    before = quality(())
    found = {layer: quality((layer,)) for layer in layers}
    best = max(layers, key=lambda layer: found[layer])
    return Culprit(layer=best, before=before, after=found[best])
