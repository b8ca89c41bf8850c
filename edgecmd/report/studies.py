"""Images of studies: a comparison of methods, and the sweep of error by distance, by pairs and by labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from edgecmd.report.drawing import INK, LINES, MARKERS, QUIET, WIDTH_INCHES, chart_style, to_png

Summary = Mapping[str, Mapping[str, Mapping[str, Any]]]
Rows = Sequence[Mapping[str, Any]]
FIRST_CHOICE = ("linear_10", "linear_5", "linear_30", "linear_1", "linear_all")


def shown_metrics(summary: Summary, *, first: str = "") -> list[str]:
    """Metrics worth a panel: few labels first, then retrieval and clusters, as far as they were measured.

    Args:
        summary: Metric by method.
        first: Metric of the first panel; empty for the first of `FIRST_CHOICE` that is there.
    """
    have = {name for line in summary.values() for name in line}
    few = [name for name in (first, *FIRST_CHOICE) if name in have][:1]
    tuned = [name.replace("linear", "finetune") for name in few if name.startswith("linear")]
    others = (*tuned, "recall@1", "class_recall@1", "nmi")
    return [*few, *(name for name in others if name in have and name not in few)] or sorted(have)[:1]


def comparison_png(
    summary: Summary, *, titles: Mapping[str, str], first: str = "", kinds: Mapping[str, str] | None = None
) -> bytes:
    """Mean and 95% interval of each method, the best on top of the first panel, as a PNG file.

    Args:
        summary: Metric by method: ``mean``, ``low``, ``high``; a dot alone where there are no ends.
        titles: What a panel is called.
        first: See `shown_metrics`.
        kinds: What sort of method each is, told apart by colour and marker; None: all alike.

    Guarantees:
        Equal arguments give equal bytes with the same matplotlib.
    """
    metrics = shown_metrics(summary, first=first)
    methods = sorted(summary, key=lambda name: _mean(summary, name, metrics[0]))
    with chart_style("compare"):
        size = (0.6 * WIDTH_INCHES * len(metrics) + 1.2, 0.9 + 0.27 * len(methods))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        sorts = list(dict.fromkeys((kinds or {}).values()))
        place = {name: sorts.index((kinds or {})[name]) if name in (kinds or {}) else 0 for name in methods}
        for axes, metric in zip(panels, metrics, strict=True):
            _paint(axes, summary, methods, metric=metric, look=place)
            axes.set_xlabel(titles.get(metric, metric))
        if sorts:
            keys = [_dot(index, label=name) for index, name in enumerate(sorts)]
            figure.legend(handles=keys, loc="outside upper left", ncols=len(sorts))
        return to_png(figure)


def _mean(summary: Summary, method: str, metric: str) -> float:
    row = summary[method].get(metric)
    return float(row["mean"]) if row else -1.0


def _dot(look: int, *, label: str) -> Line2D:
    return Line2D(
        [], [], linestyle="none", marker=MARKERS[look], markersize=5, color=LINES[look], label=label
    )


def _paint(
    axes: Axes, summary: Summary, methods: Sequence[str], *, metric: str, look: Mapping[str, int]
) -> None:
    for place, method in enumerate(methods):
        row = summary[method].get(metric)
        if row is None:
            axes.annotate(
                "not measured",
                (0.5, place),
                xycoords=("axes fraction", "data"),
                color=QUIET,
                ha="center",
                va="center",
                fontsize=7.5,
            )
            continue
        colour, marker = LINES[look[method]], MARKERS[look[method]]
        if row["low"] is not None and row["high"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.0)
        axes.plot(row["mean"], place, marker=marker, markersize=5, color=colour, markeredgecolor=INK)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(-0.6, len(methods) - 0.4)


def theory_png(table: Mapping[str, Any]) -> bytes:
    """Three panels of ``theory.json`` as a PNG file.

    Args:
        table: As `edgecmd.experiments.theory.summary.summarise` gives it.

    Guarantees:
        Equal arguments give equal bytes with the same matplotlib.
    """
    with chart_style("theory"):
        figure = Figure(figsize=(11.0, 3.7), layout="constrained")
        first, second, third = figure.subplots(1, 3)
        where = "relations to anchors" if table["form"] == "anchors" else "relations in the batch"
        _by_distance(first, table["by_gap"], table["correlation"], where=where)
        _by_size(second, table["by_pairs"], table["pairs_fit"], label="pairs M")
        _by_size(third, table["by_labels"], table["labels_fit"], label="labels m")
        return to_png(figure)


def _by_distance(axes: Axes, rows: Rows, correlation: Mapping[str, Any], *, where: str) -> None:
    for index, gap in enumerate(dict.fromkeys(row["gap"] for row in rows)):
        own = [row for row in rows if row["gap"] == gap]
        axes.plot(
            [row["distance"] for row in own],
            [row["error"] for row in own],
            color=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4.5,
            linewidth=0.9,
            label=gap,
        )
    whole = correlation["all"]
    title = "no order to be told"
    if whole is not None:
        title = f"Spearman {whole['value']:.2f} [{whole['low']:.2f}, {whole['high']:.2f}]"
    axes.set(
        xlabel=f"distance: total variation, {where}, held-out pairs",
        ylabel="target error, few labels",
        title=title,
    )
    axes.legend(fontsize=7.5)


def _by_size(axes: Axes, rows: Rows, fit: Mapping[str, Any] | None, *, label: str) -> None:
    size = np.asarray([row["size"] for row in rows], dtype=np.float64)
    error = np.asarray([row["error"] for row in rows], dtype=np.float64)
    axes.plot(size, error, color=LINES[0], marker="o", markersize=4.5, linewidth=0, label="measured")
    dense = np.geomspace(size.min(), size.max(), 60)
    title = "too few sizes for an exponent"
    if fit is not None:
        exponent = fit["exponent"]
        title = f"exponent -{exponent['value']:.2f} [-{exponent['high']:.2f}, -{exponent['low']:.2f}]"
        title = title if fit["determined"] else "exponent not determined"
        curve = fit["floor"] + fit["scale"] * dense ** -exponent["value"]
        axes.plot(dense, curve, color=LINES[0], linewidth=1.4, label="fit with floor")
    half = error.max() * (dense / size.min()) ** -0.5
    axes.plot(dense, half, color=QUIET, linestyle="--", linewidth=1.1, label="slope -1/2, no floor")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=min(error.min(), half.max()) * 0.8, top=error.max() * 1.15)
    # The style shows no mathematics, so powers of ten would be printed as their source.
    axes.set_xticks(size, [f"{one:g}" for one in size], rotation=45)
    axes.xaxis.minorticks_off()
    axes.yaxis.set_minor_formatter("{x:.2f}")
    axes.yaxis.set_major_formatter("{x:.2f}")
    axes.set(xlabel=label, ylabel="target error", title=title)
    axes.title.set_color(INK)
    axes.legend(fontsize=7.5)
