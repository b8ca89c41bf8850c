"""The sweep as a picture: error by distance, by number of pairs and by number of labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgecmd.report.drawing import INK, LINES, MARKERS, QUIET, chart_style, to_png

Rows = Sequence[Mapping[str, Any]]


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
