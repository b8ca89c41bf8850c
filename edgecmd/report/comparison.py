"""A comparison as a picture: a dot and its interval for each method, a panel a metric."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from edgecmd.report.drawing import INK, LINES, MARKERS, QUIET, WIDTH_INCHES, chart_style, to_png

Summary = Mapping[str, Mapping[str, Mapping[str, Any]]]
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
