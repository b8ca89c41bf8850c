"""Targets that stand in their own sources, so that a student can match them without understanding.

Shapes: N pairs, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from edgecmd.data.pairs import PairedData, target_kind
from edgecmd.data.signatures import brightness, cells

# Ink is darker than half; it is in a source that is at most 32 levels lighter there, and 16 darker than it is
# on the whole.
INK, INK_STEP, INK_OUT, INK_SHARE, INK_PAIRS, INK_TOLD, INK_LOOKED = 128.0, 32.0, 16.0, 0.9, 0.8, 0.2, 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Contained:
    """How far the ink of the targets is dark in their sources too.

    Attributes:
        share: Share of the pairs in which at least `INK_SHARE` of the target's ink stands out in the source.
        shifted: The same where each target meets the source of another pair.
        num: Pairs that were looked at.
        tone: What the ink is in the sources: "dark" or "light".
    """

    share: float
    shifted: float
    num: int
    tone: str = "dark"

    @property
    def is_told(self) -> bool:
        """Whether a good part of the targets is in the sources, and that is no accident of dark sources."""
        return self.share >= INK_TOLD and self.shifted <= self.share / 4


def contained(pairs: PairedData) -> Contained | None:
    """Whether the targets are drawings that stand in their own sources, as OpenMoji's lines do.

    Args:
        pairs: All pairs; at most `INK_LOOKED` of them are looked at, evenly over their order.

    Returns:
        The shares, or None where targets are no ink on paper of the sources' size. Ink is dark on light or
        light on dark, in target and source each; of these the first that is told, else the first.
    """
    if any(target_kind(one) != "image" for one in (pairs.source, pairs.target)) or len(pairs) < 2:
        return None
    rows = np.unique(np.linspace(0, len(pairs) - 1, INK_LOOKED).astype(int))
    target, source = brightness(pairs.target[rows]), brightness(pairs.source[rows])
    side = min(target.shape[1], source.shape[1])
    if target.shape[1:] != source.shape[1:]:
        target, source = cells(target, side), cells(source, side)
    sources = {"dark": source, "light": 255.0 - source}
    every = [
        _contained(drawn, seen, tone=tone)
        for drawn, tones in ((target, ("dark", "light")), (255.0 - target, ("light", "dark")))
        for tone, seen in ((one, sources[one]) for one in tones)
    ]
    found = [one for one in every if one is not None]
    return next((one for one in found if one.is_told), found[0] if found else None)


def _contained(
    target: Float[np.ndarray, "num height width"], source: Float[np.ndarray, "num height width"], *, tone: str
) -> Contained | None:
    """The same of dark ink on light paper; None where the targets are not that."""
    ink = target < INK
    drawn = ink.any(axis=(1, 2)) & (np.median(target, axis=(1, 2)) > 255 - INK / 2)
    if drawn.mean() < INK_PAIRS:
        return None
    ink, target, source = ink[drawn], target[drawn], source[drawn]
    other = np.roll(source, len(source) // 2, axis=0)
    return Contained(
        share=_share(ink, target, source),
        shifted=_share(ink, target, other),
        num=int(drawn.sum()),
        tone=tone,
    )


def _share(ink: Bool[np.ndarray, "num height width"], target: np.ndarray, seen: np.ndarray) -> float:
    # In a source that is dark all over, no ink stands out.
    around = seen.mean(axis=(1, 2), keepdims=True)
    dark = ink & (seen <= np.minimum(target + INK_STEP, around - INK_OUT))
    return float((dark.sum(axis=(1, 2)) >= INK_SHARE * ink.sum(axis=(1, 2))).mean())


def contained_lines(pairs: PairedData) -> list[str]:
    """A warning where the targets are drawings that stand in their own sources; else nothing."""
    found = contained(pairs)
    if found is None or not found.is_told:
        return []
    return [
        f"Targets are contained in their sources: the ink of {found.share:.0%} of {found.num} targets"
        f" is as {found.tone} in their own source (in another pair's, of {found.shifted:.0%}). A student can"
        f" match the {found.tone} parts alone, so retrieval says little of what it understands."
    ]
