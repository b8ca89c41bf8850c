"""The chart of the partition: pairs of each client, stacked by class.

Shapes: C classes, N clients.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes

from edgecmd.report.curves import legend_below
from edgecmd.report.drawing import AREAS, REST, Drawing, draw
from edgecmd.report.read import Table

MAX_BARS = 40
MAX_TICKS = 12
TICK_STEPS = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))
UNLABELLED = "(unlabelled)"
OTHER = "(other classes)"

Counts = Int[np.ndarray, "classes clients"]


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

    alt = f"Pairs of {len(table)} clients by class: {sizes.min()} to {sizes.max()} pairs a client."
    return draw("partition", paint, alt=alt, height_inches=3.0 + 0.2 * ((len(classes) + 1) // 2))


def shown_classes(table: Sequence[Table], order: Sequence[str]) -> list[str]:
    """Names of the areas, bottom first: the most frequent classes, then what has no colour of its own.

    Args:
        table: Lines of `edgecmd.data.partition.partition_table`.
        order: All classes in the order of the data; those of ``table`` that it lacks come last.
    """
    totals: dict[str, int] = dict.fromkeys(order, 0)
    for row in table:
        for name, count in row["classes"].items():
            totals[name] = totals.get(name, 0) + count
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
