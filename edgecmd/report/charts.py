"""The charts of the page: rounds, few labels, epsilon, the partition, and an audit.

Shapes: C classes, N clients.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from edgecmd.core.statistics import finite
from edgecmd.report import scores
from edgecmd.report.drawing import (
    AREAS,
    DASHES,
    GRID,
    INK,
    LINES,
    MARKERS,
    QUIET,
    REST,
    Drawing,
    draw,
    legend_below,
)
from edgecmd.report.numbers import share
from edgecmd.report.read import Table

VALIDATION = {"val_recall@1": "validation R@1", "val_class_recall@1": "validation class R@1"}
MAX_BARS = 40
MAX_TICKS = 12
TICK_STEPS = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))
UNLABELLED = "(unlabelled)"
OTHER = "(other classes)"
LABEL_CHARS = 24
ROW_INCHES = 0.42
GUIDES = (0.001, 0.01)

Points = Sequence[tuple[int, float]]
Counts = Int[np.ndarray, "classes clients"]


def _points(rounds: Sequence[Table], key: str) -> list[tuple[int, float]]:
    """Round and value, for the rounds that have ``key``."""
    return [(int(event["round"]), float(event[key])) for event in rounds if event.get(key) is not None]


def loss_curve(runs: Mapping[str, Sequence[Table]], *, chance: float | None = None) -> Drawing | None:
    """Mean loss of the clients by round, with the chance level as a dashed line; None without a loss.

    Args:
        runs: Rounds by the name of their run; a run without a loss is left out.
        chance: Loss of a student that knows nothing, where it is known.
    """
    losses = {name: found for name, rounds in runs.items() if (found := _points(rounds, "loss"))}
    if not losses:
        return None

    def paint(axes: Axes) -> None:
        _by_round(axes, losses, label="mean loss of the clients")
        if chance is not None:
            _level(axes, chance, f"chance {chance:.2f}")
        if len(runs) > 1:
            legend_below(axes)

    level = "" if chance is None else f" The chance level is {chance:.3f}."
    ends = "; ".join(f"{name}: {_ends(one)}" if len(runs) > 1 else _ends(one) for name, one in losses.items())
    height = 3.1 + 0.2 * (len(runs) - 1)
    return draw("loss", paint, alt=f"Loss by round: {ends}.{level}", height_inches=height)


def validation_curve(rounds: Sequence[Table]) -> Drawing | None:
    """Retrieval on the validation split, for the rounds that measured it; None where none did."""
    found = {label: _points(rounds, key) for key, label in VALIDATION.items()}
    label, measured = max(found.items(), key=lambda one: len(one[1]))
    if not measured:
        return None

    def paint(axes: Axes) -> None:
        _by_round(axes, {"": measured}, label=label, marker="o")
        axes.set_ylim(bottom=0.0)

    return draw("validation", paint, alt=f"{label.capitalize()} by round: {_ends(measured)}.")


def _by_round(axes: Axes, lines: Mapping[str, Points], *, label: str, marker: str = "") -> None:
    for (name, values), colour, dash in zip(lines.items(), LINES, DASHES):
        shown = marker or ("o" if len(values) == 1 else "")
        look: dict[str, Any] = {"color": colour, "linestyle": dash, "marker": shown}
        axes.plot(*zip(*values), label=name, linewidth=2.0, markersize=5, **look)
    rounds = [one for values in lines.values() for one, _ in values]
    axes.set(xlabel="round", ylabel=label, xlim=(min(min(rounds) - 1, 0), max(rounds) * 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _level(axes: Axes, value: float, text: str) -> None:
    """A dashed line with its text below it, at the right."""
    axes.axhline(value, color=INK, linestyle="--", linewidth=1.2)
    axes.annotate(
        text,
        (1.0, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, -4),
        textcoords="offset points",
        horizontalalignment="right",
        verticalalignment="top",
    )


def _ends(values: Points) -> str:
    (first, start), (last, end) = values[0], values[-1]
    return f"{start:.3f} after round {first}, {end:.3f} after round {last}"


def epsilon_curve(told: Table) -> Drawing | None:
    """Epsilon by round with the budget as a dashed line; None where there is none."""
    points = [(int(index), float(spent)) for index, spent in told.get("epsilon_by_round") or ()]
    if len(points) < 2:
        return None

    def paint(axes: Axes) -> None:
        _by_round(axes, {"": points}, label="epsilon")
        _level(axes, float(told["budget"]), f"budget {told['budget']:g}")
        axes.set_ylim(bottom=0.0)

    return draw("privacy", paint, alt=f"Epsilon rises to {points[-1][1]:.3g} of {told['budget']:g}.")


def few_labels_curve(evaluation: Table, labelling: str) -> Drawing | None:
    """Accuracy of the linear probe by number of labels per class; None where it was not measured."""
    measured = scores.few_label_columns(evaluation, labelling, "linear")
    if not measured:
        return None
    places = label_places([c.title for c in measured], scores.labels_a_class(evaluation, labelling))
    names = [name for name in scores.methods(evaluation) if any(name in column.scores for column in measured)]
    floor = scores.few_label_fact(evaluation, labelling, "majority")

    def paint(axes: Axes) -> None:
        for index, name in enumerate(names):
            results = [(places[c.title], c.scores[name]) for c in measured if name in c.scores]
            _banded(axes, results, index=index, name=name)
        if floor is not None:
            axes.axhline(floor, color=INK, linestyle=(0, (2, 2)), linewidth=1.0, label="most frequent class")
        axes.set(xlabel="labels per class", ylabel=f"accuracy on unseen {scores.unseen(evaluation)}")
        axes.set_xticks(list(places.values()), list(places))
        legend_below(axes)

    ends = "; ".join(_in_words(measured, name) for name in names)
    rows = (len(names) + 2) // 2
    alt = f"Accuracy by number of labels per class, from fewest to most. {ends}."
    return draw("few_labels", paint, alt=alt, height_inches=3.1 + 0.2 * rows)


def label_places(titles: Sequence[str], whole: float | None) -> dict[str, float]:
    """Horizontal position of each number of labels: its logarithm.

    Args:
        titles: Numbers, and ``all``.
        whole: Mean number of labels per class behind ``all``, where it is known.
    """
    places = {title: float(np.log10(float(title))) for title in titles if title != "all"}
    if "all" in titles:
        beside = max(places.values(), default=0.0) + 0.25
        places["all"] = max(beside, float(np.log10(whole))) if whole else beside
    return places


def _banded(axes: Axes, results: Sequence[tuple[float, scores.Score]], *, index: int, name: str) -> None:
    place = [where for where, _ in results]
    mean = np.array([score.value for _, score in results])
    low = np.array([score.value if score.low is None else score.low for _, score in results])
    high = np.array([score.value if score.high is None else score.high for _, score in results])
    look = index % len(LINES)
    axes.fill_between(place, low, high, color=LINES[look], alpha=0.14, linewidth=0)
    axes.plot(
        place,
        mean,
        color=LINES[look],
        linestyle=DASHES[look],
        marker=MARKERS[look],
        markersize=5 if index == 0 else 4,
        linewidth=2.4 if index == 0 else 1.4,
        zorder=20 - look,
        label=name,
    )


def _in_words(measured: Sequence[scores.Column], name: str) -> str:
    values = [column.scores[name].value for column in measured if name in column.scores]
    return f"{name}: {share(values[0])} to {share(values[-1])}"


def partition_chart(partition: Table) -> Drawing | None:
    """Stacked bars, one a client; None where there are no clients."""
    table = partition.get("table") or []
    if not table:
        return None
    classes = shown_classes(table, partition.get("classes") or ())
    counts = class_counts(table, classes)
    sizes = counts.sum(axis=0)

    def paint(axes: Axes) -> None:
        _stack(axes, counts, classes)
        axes.set(xlabel="client", ylabel="pairs", xlim=(-0.5, len(table) - 0.5))
        axes.grid(axis="x", visible=False)
        step = next(one for one in TICK_STEPS if len(table) <= MAX_TICKS * one)
        axes.set_xticks(range(0, len(table), step), [str(row["client"]) for row in table[::step]])
        legend_below(axes)

    alt = f"Pairs of {len(table)} clients by class: {sizes.min()} to {sizes.max()} pairs per client."
    return draw("partition", paint, alt=alt, height_inches=3.0 + 0.2 * ((len(classes) + 1) // 2))


def shown_classes(table: Sequence[Table], order: Sequence[str]) -> list[str]:
    """Names of the areas, bottom first: the most frequent classes, then what has no colour of its own.

    Args:
        table: Lines of `edgecmd.data.partition.partition_table`.
        order: All classes in the order of the data; those of ``table`` that it lacks come last.
    """
    totals = Counter(dict.fromkeys(order, 0))
    for row in table:
        totals.update(row["classes"])
    unlabelled = [UNLABELLED] if totals.pop(UNLABELLED, 0) else []
    held = [name for name, total in totals.items() if total]
    if len(held) <= len(AREAS):
        return held + unlabelled
    frequent = set(sorted(held, key=lambda name: -totals[name])[: len(AREAS)])
    return [name for name in held if name in frequent] + [OTHER]


def class_counts(table: Sequence[Table], classes: Sequence[str]) -> Counts:
    """Pairs by area and client; a class without an area counts to the last one."""
    counts = np.zeros((len(classes), len(table)), dtype=np.int64)
    for client, row in enumerate(table):
        for name, count in row["classes"].items():
            counts[classes.index(name) if name in classes else -1, client] += count
    return counts


def colours(classes: Sequence[str]) -> list[str]:
    """Fill of each area; grey for what is no single class."""
    return [REST if name in (UNLABELLED, OTHER) else AREAS[index] for index, name in enumerate(classes)]


def _stack(axes: Axes, counts: Counts, classes: Sequence[str]) -> None:
    """Bars; with many clients one outline a class, which keeps the file small."""
    num = counts.shape[1]
    base = np.zeros(num)
    for row, name, colour in zip(counts, classes, colours(classes), strict=True):
        # A leading underscore would hide the name from the legend.
        label = f" {name}" if name.startswith("_") else name
        if num <= MAX_BARS:
            axes.bar(
                np.arange(num),
                row,
                bottom=base,
                width=0.84,
                color=colour,
                edgecolor="white",
                linewidth=0.6,
                label=label,
            )
        else:
            axes.stairs(
                base + row, np.arange(num + 1) - 0.5, baseline=base, fill=True, color=colour, label=label
            )
        base = base + row


def epsilon_chart(findings: Sequence[Table]) -> Drawing | None:
    """A row for each finding on epsilon; None where there is none."""
    rows = [
        (str(one.get("name")), finite(one.get("claimed")), measured, finite(one.get("ceiling")))
        for one in findings
        if one.get("quantity") == "epsilon" and (measured := finite(one.get("measured"))) is not None
    ]
    if not rows:
        return None

    def paint(axes: Axes) -> None:
        for place, (_, claimed, measured, ceiling) in enumerate(rows):
            _epsilon_row(axes, -place, claimed, measured, ceiling)
        labels = ["\n".join(textwrap.wrap(name, LABEL_CHARS)[:2]) for name, *_ in rows]
        axes.set_yticks([-place for place in range(len(rows))], labels)
        axes.set(xlabel="epsilon", xlim=(0, None), ylim=(-len(rows) + 0.4, 0.6))
        axes.grid(axis="y", visible=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.35 / len(rows) ** 0.5), ncols=3)

    told = "; ".join(
        f"{name}: claimed {_told(claimed)}, at least {_told(measured)}, could have certified {_told(ceiling)}"
        for name, claimed, measured, ceiling in rows
    )
    return draw("audit_epsilon", paint, alt=f"{told}.", height_inches=1.3 + ROW_INCHES * len(rows))


def _epsilon_row(
    axes: Axes, place: int, claimed: float | None, measured: float, ceiling: float | None
) -> None:
    """A bar to the ceiling, a line to what was measured, a tick at the claim; only the first is labelled."""
    ceilings, bounds, claims = ("ceiling", "lower bound", "claimed") if place == 0 else (None, None, None)
    colour = LINES[1] if claimed is not None and measured > claimed else LINES[0]
    if ceiling is not None:
        axes.barh(place, ceiling, height=0.5, color=GRID, label=ceilings)
    axes.plot([0, measured], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
    axes.plot(measured, place, marker="D", markersize=6, linestyle="", color=colour, label=bounds)
    if claimed is not None:
        axes.plot(
            claimed,
            place,
            marker="|",
            markersize=15,
            markeredgewidth=2.2,
            linestyle="",
            color=INK,
            label=claims,
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
