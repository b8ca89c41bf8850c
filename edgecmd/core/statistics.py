"""Means with their uncertainty, and whether one of several is best.

Two questions are kept apart. *Repetitions* (seeds, draws of labels) say how much a result moves when training
or labelling is repeated on the same test items: Student's t, cut to what the quantity can be, which loses no
coverage because the truth is there too. *Items* say how much it would move on other test items: Wilson's
interval of a share, and Newcombe's of the difference of two. Below `MIN_REPEATS` repetitions or `MIN_ITEMS`
items there is no interval and no best method, nor where repetitions do not differ at all: a width of 0
would claim what three equal numbers cannot show.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_REPEATS = 3
MIN_ITEMS = 20
CONFIDENCE = 0.95
SHARE, DIFFERENCE, FREE = (0.0, 1.0), (-1.0, 1.0), (-math.inf, math.inf)
Bounds = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Mean of repeated measurements with a two-sided 95% interval, where one can be told.

    Attributes:
        mean: Arithmetic mean.
        low: Lower end; None where there are too few measurements or items, or all measurements are equal.
        high: Upper end; None as ``low``.
        num: Number of measurements.
    """

    mean: float
    low: float | None
    high: float | None
    num: int

    def __str__(self) -> str:
        return interval_text({"mean": self.mean, "low": self.low, "high": self.high})


def finite(value: object) -> float | None:
    """A finite number; None for whatever else a file may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def mean_interval(
    values: Sequence[float], *, bounds: Bounds = FREE, num_items: int | None = None
) -> Interval:
    """Mean and t interval, at `CONFIDENCE`, of independent measurements.

    Args:
        values: At least one number.
        bounds: What the quantity can be, such as `SHARE`.
        num_items: Test items that each measurement is a mean of; None where it is none.

    Guarantees:
        The interval is within ``bounds``. It covers a mean within ``bounds`` exactly as often as the
        interval that is not cut, but where there is none.
    """
    sample = np.asarray(values, dtype=np.float64)
    mean, num = float(sample.mean()), len(sample)
    nothing = Interval(mean=mean, low=None, high=None, num=num)
    if num < MIN_REPEATS or (num_items is not None and num_items < MIN_ITEMS):
        return nothing
    spread = float(sample.std(ddof=1))
    # Equal numbers have a spread of rounding.
    if not math.isfinite(mean) or spread <= 1e-12 * max(1.0, float(np.abs(sample).max())):
        return nothing
    # Not above: half a second for each process, and most compute no interval.
    from scipy.stats import t as student_t

    half = float(student_t.ppf((1 + CONFIDENCE) / 2, num - 1)) * spread / math.sqrt(num)
    return Interval(mean=mean, low=max(bounds[0], mean - half), high=min(bounds[1], mean + half), num=num)


def paired_interval(
    values: Sequence[float],
    reference: Sequence[float],
    *,
    bounds: Bounds = FREE,
    num_items: int | None = None,
) -> Interval:
    """Mean difference of paired measurements with its t interval: the paired t test as an interval.

    Zero outside the interval is a significant difference at one minus `CONFIDENCE`.

    Args:
        values: One measurement a seed.
        reference: Those of what is compared with, in the same order of seeds.
        bounds: What a difference can be, such as `DIFFERENCE`.
        num_items: Test items, see `mean_interval`.

    Raises:
        ValueError: The two differ in length.
    """
    differences = [one - other for one, other in zip(values, reference, strict=True)]
    return mean_interval(differences, bounds=bounds, num_items=num_items)


def interval_text(row: Mapping[str, Any], *, sign: bool = False) -> str:
    """A mean with its interval: ``0.250 ± 0.007``, or ``0.950 [0.870, 1.000]`` where a bound cut it.

    Args:
        row: ``mean``, and ``low`` and ``high`` where there is an interval.
        sign: Whether a positive mean has a plus, as differences do.
    """
    mean, low, high = row["mean"], row.get("low"), row.get("high")
    told = f"{mean:+.3f}" if sign else f"{mean:.3f}"
    if low is None or high is None:
        return told
    if abs((high - mean) - (mean - low)) < 1e-6:
        return f"{told} ± {(high - low) / 2:.3f}"
    return f"{told} [{low:+.3f}, {high:+.3f}]" if sign else f"{told} [{low:.3f}, {high:.3f}]"


def wilson(share: float, *, num_items: int) -> tuple[float, float] | None:
    """Wilson's 95% interval of a share of items, within 0 and 1.

    Args:
        share: Between 0 and 1; what is not a whole number of items is rounded to one.
        num_items: Items.

    Returns:
        Lower and upper end; None for fewer than `MIN_ITEMS`, or where the share is not a number.
    """
    if num_items < MIN_ITEMS or not math.isfinite(share):
        return None
    from scipy.stats import binomtest

    found = binomtest(round(share * num_items), num_items).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def newcombe(one: float, other: float, *, num_items: int) -> tuple[float, float] | None:
    """95% interval of the difference of two shares of the same number of items.

    The hybrid score interval (Newcombe 1998, Statistics in Medicine 17:873, method 10), made of two Wilson
    intervals. It takes the items as independent; two methods mostly get the same ones right, which makes it
    the more careful.

    Args:
        one: A share.
        other: The share that is taken away from it.
        num_items: Items behind each.

    Returns:
        Lower and upper end; None as for `wilson`.
    """
    first, second = (wilson(share, num_items=num_items) for share in (one, other))
    if first is None or second is None:
        return None
    low = one - other - math.hypot(one - first[0], second[1] - other)
    return low, one - other + math.hypot(first[1] - one, other - second[0])


def items_apart(one: float, other: float, *, num_items: int) -> bool:
    """Whether two shares of the same number of items differ: zero lies outside of `newcombe`."""
    found = newcombe(max(one, other), min(one, other), num_items=num_items)
    return found is not None and bool(found[0] > 0)


def repeats_apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two rows of paired repetitions differ: zero is outside the interval of the paired t test."""
    if len(one) != len(other):
        return False
    found = paired_interval(one, other)
    return found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One method's figure in one column of a table.

    Attributes:
        value: The figure; larger is better.
        values: Its repetitions, paired with those of the other methods; one number or none without.
        num_items: Test items; None where the figure is not a mean over items.
        is_share: Whether it is a share of right items, so that items alone can tell two apart.
    """

    value: float
    values: tuple[float, ...] = ()
    num_items: int | None = None
    is_share: bool = True

    def beats(self, other: "Measured", *, items: bool) -> bool:
        """Whether it is better by more than chance, over repetitions and, where asked, over items."""
        told = [one for one in (self.num_items, other.num_items) if one is not None]
        if not self.value > other.value or min(told, default=MIN_ITEMS) < MIN_ITEMS:
            return False
        tests = []
        if len(self.values) > 1 or len(other.values) > 1:
            tests.append(repeats_apart(self.values, other.values))
        if items and self.is_share and told:
            tests.append(items_apart(self.value, other.value, num_items=min(told)))
        return bool(tests) and all(tests)


def best_of(column: Mapping[str, Measured], *, items: bool = True) -> str | None:
    """The method that is better than every other one by more than chance, or None.

    It must win each comparison at 95%, so having several rivals makes the claim harder and not easier; no
    adjustment is needed.

    Args:
        column: Figure by method; such as may not be best are left out by the caller.
        items: Whether shares of one run must be apart over items too, not over repetitions alone.
    """
    if len(column) < 2:
        return None
    top = max(column, key=lambda name: column[name].value if math.isfinite(column[name].value) else -math.inf)
    others = [one for name, one in column.items() if name != top]
    return top if all(column[top].beats(one, items=items) for one in others) else None


def too_few(*, num_items: int | None = None, num_repeats: int | None = None, what: str = "test pairs") -> str:
    """Why a table ranks nothing, such as ``4 test pairs: too few to rank methods``; empty where it may."""
    if num_items is not None and num_items < MIN_ITEMS:
        return f"{num_items} {what}: too few to rank methods"
    if num_repeats is not None and num_repeats < MIN_REPEATS:
        return f"{num_repeats} seed{'' if num_repeats == 1 else 's'}: too few for intervals"
    return ""


def paired_p(values: Sequence[float], reference: Sequence[float]) -> float:
    """Two-sided p value of the paired t test, the twin of `paired_interval`.

    Args:
        values: One measurement a seed.
        reference: Those of what is compared with, in the same order of seeds.

    Returns:
        The p value; 1 where `paired_interval` has none: fewer than `MIN_REPEATS` differences, or equal ones.

    Raises:
        ValueError: The two differ in length.
    """
    sample = np.asarray([one - other for one, other in zip(values, reference, strict=True)])
    if mean_interval(sample.tolist()).low is None:
        return 1.0
    from scipy.stats import t as student_t

    spread = float(sample.std(ddof=1)) / math.sqrt(len(sample))
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
