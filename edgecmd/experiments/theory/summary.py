"""The points of a sweep put together: what ``theory.json`` holds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from edgecmd.core.seeding import numpy_generator
from edgecmd.experiments.theory.fit import EXPONENTS, MIN_POINTS, bound_terms, fit_power, rank_correlation
from edgecmd.experiments.theory.sweep import FEW, NO_GAP, SweepPlan

Points = Sequence[Mapping[str, Any]]
NUM_RESAMPLES = 1000
FLAT = 1e-9


def summarise(points: Points, plan: SweepPlan, *, seed: int) -> dict[str, Any]:
    """Correlation, exponents and terms of the bound of finished points.

    Args:
        points: Tables of `edgecmd.experiments.theory.sweep.measure_point`, every one of the sweep.
        plan: What they share.
        seed: Of the bootstrap.

    Returns:
        ``form`` (of the relations whose distance comes first: to anchors if there are any), ``by_gap``,
        ``by_pairs`` and ``by_labels`` (means over the seeds), ``correlation`` (over all points and for each
        gap, None where one of the two does not change), ``correlation_batch`` (the same for relations
        within the batch), ``pairs_fit`` and ``labels_fit`` (None
        for fewer than four sizes; not ``determined`` where the interval ends with the grid) and ``terms``.
    """
    whole = [one for one in points if one["point"]["num_pairs"] == plan.num_pairs]
    start = [one for one in whole if one["point"]["gap"] == NO_GAP]
    by_gap = _by_gap(whole, start, form=form_of(points))
    sizes = sorted({one["point"]["num_pairs"] for one in points})
    plain = [one for one in points if one["point"]["gap"] == NO_GAP]
    pairs = [(one["point"]["num_pairs"], _error(one)) for one in plain]
    labels = [(one["num_labels"][k], one["error"][k]) for one in start for k in one["error"]]
    coins, form = numpy_generator(seed, "theory-bootstrap"), form_of(points)
    terms = bound_terms(
        held_out=_mean(one["distances"][form]["held_out"]["variation"] for one in start),
        training=_mean(one["distances"][form]["training"]["variation"] for one in start),
        num_labels=round(_mean(one["num_labels"][str(FEW)] for one in start)),
        head_norm=_mean(one["head_norm"] for one in start),
        slope=_slope(by_gap),
    )
    return {
        "plan": asdict(plan),
        "form": form,
        "by_gap": by_gap,
        "by_pairs": [{"size": n, "error": _mean(e for m, e in pairs if m == n)} for n in sizes],
        "by_labels": [
            {"size": n, "error": _mean(e for m, e in labels if m == n)} for n in sorted(dict(labels))
        ],
        "correlation": _correlations(by_gap, generator=coins),
        "correlation_batch": _correlations(by_gap, name="distance_batch", generator=coins),
        "pairs_fit": _fit(pairs, generator=coins),
        "labels_fit": _fit(labels, generator=coins),
        "terms": [asdict(term) for term in terms],
    }


def form_of(points: Points) -> str:
    """``anchors`` where every point has the distance of relations to anchors, else ``batch``.

    Chosen before any test pair was looked at, see docs/theory.md.
    """
    return "anchors" if all("anchors" in one["distances"] for one in points) else "batch"


def _slope(by_gap: Points) -> float | None:
    """Error by distance, least squares; None where the distance does not change."""
    distance = np.asarray([row["distance"] for row in by_gap])
    if np.ptp(distance) < FLAT:
        return None
    return float(np.polyfit(distance, [row["error"] for row in by_gap], 1)[0])


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _error(point: Mapping[str, Any]) -> float:
    return float(point["error"][str(FEW)])


def _by_gap(whole: Points, start: Points, *, form: str) -> list[dict[str, Any]]:
    """Mean over the seeds at each level of each gap; every gap begins at the world without one."""
    rows = []
    for gap in dict.fromkeys(p["point"]["gap"] for p in whole if p["point"]["gap"] != NO_GAP):
        own = [*start, *(p for p in whole if p["point"]["gap"] == gap)]
        for level in sorted({p["point"]["level"] for p in own}):
            here = [p for p in own if p["point"]["level"] == level]
            rows.append(
                {
                    "gap": gap,
                    "level": level,
                    "distance": _mean(p["distances"][form]["held_out"]["variation"] for p in here),
                    "bound": _mean(p["distances"][form]["held_out"]["bound"] for p in here),
                    "distance_batch": _mean(p["distances"]["batch"]["held_out"]["variation"] for p in here),
                    "error": _mean(_error(p) for p in here),
                    "num_seeds": len(here),
                }
            )
    return rows


def _correlations(
    by_gap: Sequence[Mapping[str, Any]], *, name: str = "distance", generator: np.random.Generator
) -> dict[str, dict[str, float] | None]:
    """Of all points, the shared start counted once, and of each gap; None where there is no order."""
    first = next(iter(by_gap))["gap"]
    groups = {"all": [row for row in by_gap if row["level"] > 0 or row["gap"] == first]}
    groups |= {gap: [r for r in by_gap if r["gap"] == gap] for gap in dict.fromkeys(r["gap"] for r in by_gap)}
    return {gap: _correlation(rows, name=name, generator=generator) for gap, rows in groups.items()}


def _correlation(rows: Points, *, name: str, generator: np.random.Generator) -> dict[str, float] | None:
    distance, error = [row[name] for row in rows], [row["error"] for row in rows]
    if min(np.ptp(distance), np.ptp(error)) < FLAT:
        return None
    return asdict(rank_correlation(distance, error, num_resamples=NUM_RESAMPLES, generator=generator))


def _fit(pairs: Sequence[tuple[int, float]], *, generator: np.random.Generator) -> dict[str, Any] | None:
    if len({size for size, _ in pairs}) < MIN_POINTS:
        return None
    found = fit_power(
        [n for n, _ in pairs], [e for _, e in pairs], num_resamples=NUM_RESAMPLES // 5, generator=generator
    )
    one = found.exponent
    return {**asdict(found), "determined": bool(one.low > EXPONENTS[0] and one.high < EXPONENTS[-1])}
