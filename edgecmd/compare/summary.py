"""Means, paired differences and the verdict of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgecmd.compare.methods import CENTRAL, LABEL_FREE, OTHERS, PAPER, REFERENCE, plain
from edgecmd.statistics import holm, mean_interval, paired_interval, paired_p

Line = Mapping[str, float]
Results = Mapping[str, Sequence[Line]]
CLAIM = 0.02
OURS = ("cmc", "cmc+cmd")


def summarise(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and 95% interval over the seeds, by method and metric."""
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for method, lines in results.items():
        metrics = lines[0]
        summary[method] = {name: asdict(mean_interval([line[name] for line in lines])) for name in metrics}
    return summary


def paired_with_reference(results: Results, *, reference: str = "") -> dict[str, dict[str, dict[str, Any]]]:
    """Difference of each method from a reference, paired by seed.

    Args:
        results: Metrics by method, one entry a seed.
        reference: Row that all are held against; empty for ``cmc``, and ``central:cmc`` for central ones.

    Returns:
        By method and metric: ``against``, the interval of the difference, ``p`` of the paired t test, and
        ``p_holm``, adjusted for the methods that are held against the same reference in that metric. Nothing
        where there is one seed, or no reference.
    """
    paired: dict[str, dict[str, dict[str, Any]]] = {}
    for method, lines in results.items():
        name = reference or (CENTRAL + REFERENCE if method.startswith(CENTRAL) else REFERENCE)
        if method == name or name not in results or len(lines) < 2:
            continue
        shared = [metric for metric in lines[0] if metric in results[name][0]]
        paired[method] = {metric: _difference(results, method, name, metric) for metric in shared}
    _adjust(paired)
    return paired


def _difference(results: Results, method: str, other: str, metric: str) -> dict[str, Any]:
    one, two = _column(results, method, metric), _column(results, other, metric)
    return {"against": other, **asdict(paired_interval(one, two)), "p": paired_p(one, two)}


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


def verdict(results: Results, metric: str) -> dict[str, Any]:
    """Whether cmc or cmc+cmd is the best label-free method, and by how much, on one metric.

    The paper claims 2 to 3 points over the best other label-free method. "Other" is what the paper compares
    with: a baseline of `edgecmd.compare.methods.OTHERS`, the one with the highest mean. That it was chosen by
    the same numbers favours it, if anything; the intervals are not widened for the choice.

    Args:
        results: Metrics by method, one entry a seed; central methods are not looked at beside federated ones.
        metric: Headline.

    Returns:
        ``metric``; ``best`` (label-free method with the highest mean) and its ``mean``; ``best_other``;
        ``ours``: by method the interval and p of the difference from ``best_other``, and its ``claim``, see
        `claim_of`. Without a baseline or with one seed ``ours`` is empty, without any label-free method
        ``best`` is None.
    """
    rows = {name: _column(results, name, metric) for name in results if metric in results[name][0]}
    central = all(name.startswith(CENTRAL) for name in rows if plain(name) in LABEL_FREE)
    known = {plain(name): name for name in rows if name.startswith(CENTRAL) == central}
    means = {one: sum(rows[name]) / len(rows[name]) for one, name in known.items()}
    free = [name for name in LABEL_FREE if name in means]
    others = [name for name in OTHERS if name in means]
    best = max(free, key=means.__getitem__, default=None)
    found: dict[str, Any] = {"metric": metric, "best": best, "best_other": None, "ours": {}}
    if best is not None:
        found["mean"] = means[best]
    if others:
        other = max(others, key=means.__getitem__)
        found["best_other"] = other
        for name in (one for one in PAPER if one in means and len(rows[known[one]]) > 1):
            entry = _difference(results, known[name], known[other], metric)
            found["ours"][name] = {**entry, "claim": claim_of(entry)}
    return found


def claim_of(difference: Mapping[str, Any]) -> str:
    """What a paired difference says about the claim of 2 to 3 points.

    Returns:
        ``holds`` (ahead, zero outside the interval, two points or more), ``smaller`` (ahead, zero outside,
        less than two points), ``behind`` (zero outside, on the other side) or ``not separated``.
    """
    if difference["high"] < 0:
        return "behind"
    if difference["low"] <= 0:
        return "not separated"
    return "holds" if difference["mean"] >= CLAIM else "smaller"
