"""Means with their uncertainty."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Mean of repeated measurements with a two-sided 95% t interval.

    Attributes:
        mean: Arithmetic mean.
        low: Lower end; equal to the mean where there is one measurement.
        high: Upper end.
        num: Number of measurements.
    """

    mean: float
    low: float
    high: float
    num: int

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {(self.high - self.low) / 2:.3f}"


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean and t interval of independent measurements.

    Args:
        values: At least one number.
        confidence: Coverage of the interval.
    """
    sample = np.asarray(values, dtype=np.float64)
    mean, num = float(sample.mean()), len(sample)
    if num < 2:
        return Interval(mean=mean, low=mean, high=mean, num=num)
    half = float(student_t.ppf((1 + confidence) / 2, num - 1)) * float(sample.std(ddof=1)) / math.sqrt(num)
    return Interval(mean=mean, low=mean - half, high=mean + half, num=num)


def paired_interval(
    values: Sequence[float], reference: Sequence[float], *, confidence: float = 0.95
) -> Interval:
    """Mean difference of paired measurements with its t interval: the paired t test as an interval.

    Zero outside the interval is a significant difference at one minus ``confidence``.

    Args:
        values: One measurement a seed.
        reference: Those of what is compared with, in the same order of seeds.
        confidence: Coverage of the interval.

    Raises:
        ValueError: The two differ in length.
    """
    differences = [one - other for one, other in zip(values, reference, strict=True)]
    return mean_interval(differences, confidence=confidence)


def paired_p(values: Sequence[float], reference: Sequence[float]) -> float:
    """Two-sided p value of the paired t test, the twin of `paired_interval`.

    Args:
        values: One measurement a seed, at least two.
        reference: Those of what is compared with, in the same order of seeds.

    Returns:
        The p value; 1 where all differences are 0, 0 where they are equal and not 0.

    Raises:
        ValueError: The two differ in length.
    """
    sample = np.asarray([one - other for one, other in zip(values, reference, strict=True)])
    spread = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    # Equal differences: rounding alone must not decide.
    if spread <= 1e-12 * max(1.0, float(np.abs(sample).max())):
        return 1.0 if abs(float(sample.mean())) < 1e-12 else 0.0
    return float(2.0 * student_t.sf(abs(float(sample.mean())) / spread, len(sample) - 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values adjusted for being looked at together (Holm 1979).

    Args:
        p_values: P value by name.

    Returns:
        ``max_{j <= i} min(1, (n - j) p_(j))`` for the i-th smallest, counted from 0, by name: below 0.05
        for any of them with probability at most 0.05 where no difference is real.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for index, name in enumerate(sorted(p_values, key=lambda one: p_values[one])):
        largest = max(largest, min(1.0, (len(p_values) - index) * p_values[name]))
        adjusted[name] = largest
    return adjusted
