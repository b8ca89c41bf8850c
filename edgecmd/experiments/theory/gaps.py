"""Degradations that widen the gap between the modalities, by level from 0 (nothing) to 1.

Each works on targets as they are stored, whatever comes after (`Modality.degradations`); what is missing in
a depth map stays missing. `mismatch` leaves the targets as they are and pairs some of them with a
stranger's source.

Shapes: N examples.
"""

import numpy as np
from jaxtyping import Int

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.row import Modality
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import Targets

MISMATCH = "mismatch"


def gap_names(modality: Modality) -> tuple[str, ...]:
    """Gaps that exist for a modality, `MISMATCH` last."""
    return (*modality.degradations_at_rate, *modality.degradations, MISMATCH)


def degrade(
    target: Targets, *, gap: str, level: float, generator: np.random.Generator, rate_hz: int = 0
) -> Targets:
    """Targets of the same kind and shape, degraded; `MISMATCH` and level 0 give them back as they are.

    Args:
        target: Of any modality.
        gap: One of `gap_names`.
        level: From 0 to 1.
        generator: Source of randomness.
        rate_hz: ``data.sampling_rate_hz``; only for what has a rate.

    Raises:
        ConfigError: There is no such gap for the modality, the level is outside 0..1, or one that needs a
            rate has none.
    """
    modality = modality_of(target)
    names = gap_names(modality)
    if gap not in names:
        raise ConfigError(f"--gaps has {gap!r}; for targets of kind {modality.name}: {', '.join(names)}.")
    if not 0.0 <= level <= 1.0:
        raise ConfigError(f"level={level} of gap {gap!r} is outside the allowed range [0, 1].")
    if level == 0.0 or gap == MISMATCH:
        return target
    if gap in modality.degradations_at_rate:
        if rate_hz <= 0:
            raise ConfigError(f"rate_hz={rate_hz}: the gap {gap!r} needs the {modality.nouns}' rate.")
        return modality.degradations_at_rate[gap](np.asarray(target), level, rate_hz=rate_hz)
    return modality.degradations[gap](np.asarray(target), level, generator)


def mismatched(num: int, *, share: float, generator: np.random.Generator) -> Int[np.ndarray, " num"]:
    """Row whose source each target is paired with: ``share`` of them in a circle, the rest their own.

    Args:
        num: Pairs.
        share: From 0 to 1; a single pair has no stranger and keeps its own.
        generator: Source of randomness.
    """
    rows = np.arange(num)
    moved = generator.permutation(num)[: round(share * num)]
    if len(moved) > 1:
        rows[moved] = np.roll(moved, 1)
    return rows
