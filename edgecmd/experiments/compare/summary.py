"""Means, paired differences and the verdict of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgecmd.core.statistics import (
    DIFFERENCE,
    FREE,
    SHARE,
    Bounds,
    Measured,
    best_of,
    holm,
    mean_interval,
    paired_interval,
    paired_p,
)
from edgecmd.experiments.compare.methods import CENTRAL, LABEL_FREE, OTHERS, PAPER, REFERENCE, plain

Line = Mapping[str, float]
Results = Mapping[str, Sequence[Line]]
CLAIM = 0.02
OURS = ("cmc", "cmc+cmd")


SHARES = (
    "recall@",
    "class_recall@",
    "one_shot",
    "linear_",
    "finetune_",
    "miou_",
    "pixels_",
    "nmi",
    "attack_success",
)
# What is measured on the test examples that carry a label.
OF_LABELS = ("linear_", "finetune_", "nmi")


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """What the figures of a comparison rest on.

    Attributes:
        test: Test examples.
        labelled: Those of them that carry a label.
    """

    test: int
    labelled: int

    def of(self, metric: str) -> int:
        """Test items behind a metric."""
        return self.labelled if metric.startswith(OF_LABELS) else self.test


def bounds_of(metric: str) -> Bounds:
    """What a metric can be: shares are in [0, 1], others, such as megabytes, anywhere."""
    return SHARE if metric.startswith(SHARES) else FREE


def summarise(results: Results, *, items: Items | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and 95% interval over the seeds, by method and metric.

    Args:
        results: Metrics by method, one entry a seed.
        items: What they rest on; None where that is not known.

    Returns:
        ``mean``, ``low``, ``high`` and ``num``; no ends where there are too few seeds or items.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for method, lines in results.items():
        # A metric that one seed lacks, as a collapsed student does, is told of the others.
        names = dict.fromkeys(name for line in lines for name in line)
        summary[method] = {
            name: asdict(
                mean_interval(
                    [line[name] for line in lines if name in line],
                    bounds=bounds_of(name),
                    num_items=items.of(name) if items else None,
                )
            )
            for name in names
        }
    return summary


def best_by_metric(results: Results, *, items: Items | None = None) -> dict[str, str]:
    """Method that is better than each other one by the paired t test over seeds, by metric.

    Args:
        results: Metrics by method, one entry a seed.
        items: What they rest on; None where that is not known.

    Returns:
        Only metrics that have such a method (`edgecmd.core.statistics.best_of`).
    """
    found = {}
    for metric in dict.fromkeys(name for lines in results.values() for name in lines[0]):
        rows = {name: _column(results, name, metric) for name in results if _has(results[name], metric)}
        column = {
            name: Measured(
                value=sum(values) / len(values),
                values=tuple(values),
                num_items=items.of(metric) if items else None,
            )
            for name, values in rows.items()
        }
        best = best_of(column, items=False) if bounds_of(metric) == SHARE else None
        if best is not None:
            found[metric] = best
    return found


def _has(lines: Sequence[Line], metric: str) -> bool:
    return all(metric in line for line in lines)


def paired_with_reference(
    results: Results, *, reference: str = "", items: Items | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Difference of each method from a reference, paired by seed.

    Args:
        results: Metrics by method, one entry a seed.
        reference: Row that all are held against; empty for ``cmc``, and ``central:cmc`` for central ones.
        items: What they rest on; None where that is not known.

    Returns:
        By method and metric: ``against``, the interval of the difference (no ends and p = 1 where there are
        too few seeds or items), ``p`` of the paired t test, and ``p_holm``, adjusted for the methods that are
        held against the same reference in that metric. Nothing where there is one seed, or no reference.
    """
    paired: dict[str, dict[str, dict[str, Any]]] = {}
    for method, lines in results.items():
        name = reference or (CENTRAL + REFERENCE if method.startswith(CENTRAL) else REFERENCE)
        if method == name or name not in results or len(lines) < 2:
            continue
        shared = [one for one in lines[0] if _has(lines, one) and _has(results[name], one)]
        paired[method] = {metric: _difference(results, method, name, metric, items) for metric in shared}
    _adjust(paired)
    return paired


def _difference(
    results: Results, method: str, other: str, metric: str, items: Items | None
) -> dict[str, Any]:
    one, two = _column(results, method, metric), _column(results, other, metric)
    bounds = DIFFERENCE if bounds_of(metric) == SHARE else FREE
    found = paired_interval(one, two, bounds=bounds, num_items=items.of(metric) if items else None)
    p = paired_p(one, two) if found.low is not None else 1.0
    return {"against": other, **asdict(found), "p": p}


def _column(results: Results, method: str, metric: str) -> list[float]:
    return [line[metric] for line in results[method]]


def _adjust(paired: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Add ``p_holm`` to each entry, over the methods with the same reference and metric."""
    families: dict[tuple[str, str], dict[str, float]] = {}
    for method, row in paired.items():
        for metric, entry in row.items():
            families.setdefault((entry["against"], metric), {})[method] = entry["p"]
    for (_, metric), values in families.items():
        for method, adjusted in holm(values).items():
            paired[method][metric]["p_holm"] = adjusted


def verdict(results: Results, metric: str, *, items: Items | None = None) -> dict[str, Any]:
    """Whether cmc or cmc+cmd is the best label-free method, and by how much, on one metric.

    The paper claims 2 to 3 points over the best other label-free method. "Other" is what the paper compares
    with: a baseline of `methods.OTHERS`, the one with the highest mean. That it was chosen by
    the same numbers favours it, if anything; the intervals are not widened for the choice.

    Args:
        results: Metrics by method, one entry a seed; central methods are not looked at beside federated ones.
        metric: Headline.
        items: What they rest on; None where that is not known.

    Returns:
        ``metric``; ``best`` (label-free method with the highest mean) and its ``mean``; ``is_apart``: whether
        it is better than every other label-free one by more than chance; ``best_other``;
        ``ours``: by method the interval and p of the difference from ``best_other``, and its ``claim``, see
        `claim_of`. Without a baseline or with one seed ``ours`` is empty, without any label-free method
        ``best`` is None.
    """
    rows = {name: _column(results, name, metric) for name in results if _has(results[name], metric)}
    central = all(name.startswith(CENTRAL) for name in rows if plain(name) in LABEL_FREE)
    known = {plain(name): name for name in rows if name.startswith(CENTRAL) == central}
    means = {one: sum(rows[name]) / len(rows[name]) for one, name in known.items()}
    free = [name for name in LABEL_FREE if name in means]
    others = [name for name in OTHERS if name in means]
    best = max(free, key=means.__getitem__, default=None)
    found: dict[str, Any] = {"metric": metric, "best": best, "best_other": None, "ours": {}}
    if best is not None:
        found["mean"] = means[best]
        rivals = {name: results[known[name]] for name in free}
        found["is_apart"] = best_by_metric(rivals, items=items).get(metric) == best
    if others:
        other = max(others, key=means.__getitem__)
        found["best_other"] = other
        for name in (one for one in PAPER if one in means and len(rows[known[one]]) > 1):
            entry = _difference(results, known[name], known[other], metric, items)
            found["ours"][name] = {**entry, "claim": claim_of(entry)}
    return found


def claim_of(difference: Mapping[str, Any]) -> str:
    """What a paired difference says about the claim of 2 to 3 points.

    Returns:
        ``holds`` (ahead, zero outside the interval, two points or more), ``smaller`` (ahead, zero outside,
        less than two points), ``behind`` (zero outside, on the other side) or ``not separated``, also where
        there is no interval.
    """
    if difference["high"] is not None and difference["high"] < 0:
        return "behind"
    if difference["low"] is None or difference["low"] <= 0:
        return "not separated"
    return "holds" if difference["mean"] >= CLAIM else "smaller"
