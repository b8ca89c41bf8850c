"""The chart of ``edgecmd robustness``: what attackers and drop-outs do to each strategy."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from edgecmd.experiments.compare.markdown import title_of
from edgecmd.experiments.robustness.cases import Table
from edgecmd.report.drawing import DASHES, LINES, MARKERS, chart_style, to_png


def robustness_png(table: Table) -> bytes:
    """R@1 by attackers of each attack, the success of backdoors, and R@1 by drop-outs, as a PNG file.

    Args:
        table: As `edgecmd.experiments.robustness.attack_tables.tables_of` gives it.

    Guarantees:
        Equal arguments give equal bytes with the same matplotlib.
    """
    rows, retrieval = table["rows"], table["shown"][:1]
    attacks = {row["attack"]: row["backdoor"] for row in rows if row["attack"]}
    panels = [(name, metric, "attackers") for name in attacks for metric in retrieval]
    panels += [(name, "attack_success", "attackers") for name, backdoor in attacks.items() if backdoor]
    panels += [("", metric, "drop_out") for metric in retrieval if any(row["drop_out"] for row in rows)]
    looks = {name: place for place, name in enumerate(dict.fromkeys(row["strategy"] for row in rows))}
    with chart_style("robustness"):
        wide = max(1, min(4, -(-len(panels) // 2)))
        high = max(1, -(-len(panels) // wide))
        figure = Figure(figsize=(3.3 * wide, 2.9 * high + 0.4), layout="constrained")
        axes = figure.subplots(high, wide, squeeze=False).ravel()
        for one, (attack, metric, by) in zip(axes, panels, strict=False):
            own = [
                row
                for row in rows
                if row["attack"] in ("", attack) and (by == "drop_out" or not row["drop_out"])
            ]
            _by_share(one, own, metric=metric, by=by, looks=looks)
            one.set(title=attack or "drop-outs", ylim=(0, 1.05 * max(one.dataLim.y1, 0.01)))
        for one in axes[len(panels) :]:
            one.set_axis_off()
        keys = [Line2D([], [], label=name, **_look(place)) for name, place in looks.items()]
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
        return to_png(figure)


def _look(place: int) -> dict[str, Any]:
    own = place % len(LINES)
    return {"color": LINES[own], "linestyle": DASHES[own], "marker": MARKERS[own], "markersize": 4.5}


def _by_share(axes: Axes, rows: Sequence[Table], *, metric: str, by: str, looks: Mapping[str, int]) -> None:
    """A line of means for each strategy, with the intervals as bars."""
    for name, place in looks.items():
        points = [
            (row[by], row["metrics"][metric])
            for row in rows
            if row["strategy"] == name and metric in row["metrics"]
        ]
        points.sort(key=lambda point: point[0])
        if len(points) < 2:
            continue
        axes.plot([x for x, _ in points], [one["mean"] for _, one in points], linewidth=1.4, **_look(place))
        for x, one in points:
            if one["low"] is not None:
                axes.plot([x, x], [one["low"], one["high"]], color=_look(place)["color"], linewidth=0.9)
    axes.set(
        xticks=sorted({row[by] for row in rows}),
        xlabel="percent of clients that drop out" if by == "drop_out" else "attacking clients",
        ylabel=title_of(metric),
    )
