"""Charts of an audit: claimed against measured epsilon, and ROC curves on logarithmic axes."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from edgecmd.report.curves import legend_below
from edgecmd.report.drawing import DASHES, GRID, INK, LINES, QUIET, Drawing, draw
from edgecmd.report.read import Table

LABEL_CHARS = 24
ROW_INCHES = 0.42
GUIDES = (0.001, 0.01)
EPSILON_CAPTION = (
    "Claimed epsilon, the lower bound that was certified, and the most that the audit could have certified."
    " A lower bound to the right of the claim contradicts it; a short grey bar is a weak audit."
)


def finite(value: object) -> float | None:
    """A finite number; None for whatever else a file may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def epsilon_chart(findings: Sequence[Table]) -> tuple[Drawing, str] | None:
    """A row for each finding on epsilon, with its caption; None where there is none."""
    rows = [
        (str(one.get("name")), finite(one.get("claimed")), measured, finite(one.get("ceiling")))
        for one in findings
        if one.get("quantity") == "epsilon" and (measured := finite(one.get("measured"))) is not None
    ]
    if not rows:
        return None

    def paint(axes: Axes) -> None:
        for place, (_, claimed, measured, ceiling) in enumerate(rows):
            _epsilon_row(axes, -place, claimed, measured, ceiling, first=place == 0)
        labels = ["\n".join(textwrap.wrap(name, LABEL_CHARS)[:2]) for name, *_ in rows]
        axes.set_yticks([-place for place in range(len(rows))], labels)
        axes.set(xlabel="epsilon", xlim=(0, None), ylim=(-len(rows) + 0.4, 0.6))
        axes.grid(axis="y", visible=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.35 / len(rows) ** 0.5), ncols=3)

    told = "; ".join(
        f"{name}: claimed {_told(claimed)}, at least {_told(measured)}, could have certified {_told(ceiling)}"
        for name, claimed, measured, ceiling in rows
    )
    height = 1.3 + ROW_INCHES * len(rows)
    return draw("audit_epsilon", paint, alt=f"{told}.", height_inches=height), EPSILON_CAPTION


def _epsilon_row(
    axes: Axes,
    place: int,
    claimed: float | None,
    measured: float,
    ceiling: float | None,
    *,
    first: bool,
) -> None:
    def label(text: str) -> str | None:
        return text if first else None

    if ceiling is not None:
        axes.barh(place, ceiling, height=0.5, color=GRID, label=label("ceiling"))
    wrong = claimed is not None and measured > claimed
    axes.plot(
        [0, measured],
        [place, place],
        color=LINES[1] if wrong else LINES[0],
        linewidth=3,
        solid_capstyle="butt",
    )
    axes.plot(
        measured,
        place,
        marker="D",
        markersize=6,
        linestyle="",
        color=LINES[1] if wrong else LINES[0],
        label=label("lower bound"),
    )
    if claimed is not None:
        axes.plot(
            claimed,
            place,
            marker="|",
            markersize=15,
            markeredgewidth=2.2,
            linestyle="",
            color=INK,
            label=label("claimed"),
        )


def _told(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3g}"


def roc_chart(curves: Mapping[str, object]) -> Drawing | None:
    """ROC curves on logarithmic axes with the diagonal of chance; None where no curve can be read.

    Args:
        curves: Name, and pairs of false and true positive rates.
    """
    read = {name: points for name, one in curves.items() if (points := roc_points(one)) is not None}
    if not read:
        return None
    positive = [x for points in read.values() for x, _ in points if x > 0]
    floor = max(1e-5, min([*positive, 1e-3]) / 2)

    def paint(axes: Axes) -> None:
        for index, (name, points) in enumerate(read.items()):
            x, y = np.maximum(np.array(points), floor).T
            axes.step(
                x,
                y,
                where="post",
                color=LINES[index % len(LINES)],
                linestyle=DASHES[index % len(DASHES)],
                linewidth=2.2 if index == 0 else 1.5,
                label=name,
                zorder=9 - index,
            )
        axes.plot([floor, 1], [floor, 1], color=INK, linestyle=(0, (2, 2)), linewidth=1, label="chance")
        for rate in GUIDES:
            axes.axvline(rate, color=QUIET, linewidth=0.8, zorder=1)
        axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
            axis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="false alarms among others", ylabel="members found")
        legend_below(axes)

    told = "; ".join(f"{name}: {_at_one_percent(points):.1%} of members" for name, points in read.items())
    return draw("audit_roc", paint, alt=f"Found at 1% false alarms: {told}.", height_inches=3.9)


def roc_points(value: object) -> list[tuple[float, float]] | None:
    """Points of a curve out of a file; None where they are no such thing."""
    if not isinstance(value, list) or len(value) < 2:
        return None
    points = []
    for one in value:
        if not isinstance(one, list) or len(one) != 2:
            return None
        x, y = finite(one[0]), finite(one[1])
        if x is None or y is None or not (0 <= x <= 1 and 0 <= y <= 1):
            return None
        points.append((x, y))
    return points


def _at_one_percent(points: list[tuple[float, float]]) -> float:
    return max((y for x, y in points if x <= 0.01), default=0.0)
