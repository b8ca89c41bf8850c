"""Charts with lines: loss and retrieval by round, accuracy by number of labels."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from edgecmd.report import scores
from edgecmd.report.drawing import DASHES, INK, LINES, MARKERS, Drawing, draw
from edgecmd.report.numbers import share
from edgecmd.report.read import Table

VALIDATION = {"val_recall@1": "validation R@1", "val_class_recall@1": "validation class R@1"}
Points = Sequence[tuple[int, float]]


def points(rounds: Sequence[Table], key: str) -> list[tuple[int, float]]:
    """Round and value, for the rounds that have ``key``."""
    return [(int(event["round"]), float(event[key])) for event in rounds if event.get(key) is not None]


def loss_curve(rounds: Sequence[Table], *, chance: float | None) -> Drawing | None:
    """Mean loss of the clients by round, with the chance level as a dashed line; None without rounds."""
    losses = points(rounds, "loss")
    if not losses:
        return None

    def paint(axes: Axes) -> None:
        _by_round(axes, losses, label="mean loss of the clients")
        if chance is not None:
            axes.axhline(chance, color=INK, linestyle="--", linewidth=1.2)
            axes.annotate(
                f"chance {chance:.2f}",
                (1.0, chance),
                xycoords=("axes fraction", "data"),
                xytext=(0, -4),
                textcoords="offset points",
                horizontalalignment="right",
                verticalalignment="top",
            )

    level = "" if chance is None else f" The chance level is {chance:.3f}."
    return draw("loss", paint, alt=f"Loss by round: {_ends(losses)}.{level}")


def validation_curve(rounds: Sequence[Table]) -> Drawing | None:
    """Retrieval on the validation split, for the rounds that measured it; None where none did."""
    found = {label: points(rounds, key) for key, label in VALIDATION.items()}
    label, measured = max(found.items(), key=lambda one: len(one[1]))
    if not measured:
        return None

    def paint(axes: Axes) -> None:
        _by_round(axes, measured, label=label, marker="o")
        axes.set_ylim(bottom=0.0)

    return draw("validation", paint, alt=f"{label.capitalize()} by round: {_ends(measured)}.")


def _by_round(axes: Axes, values: Points, *, label: str, marker: str = "") -> None:
    first, last = values[0][0], values[-1][0]
    shown = marker or ("o" if len(values) == 1 else "")
    axes.plot(*zip(*values), color=LINES[0], linewidth=2.0, marker=shown, markersize=5)
    axes.set(xlabel="round", ylabel=label, xlim=(min(first - 1, 0), last * 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _ends(values: Points) -> str:
    (first, start), (last, end) = values[0], values[-1]
    return f"{start:.3f} after round {first}, {end:.3f} after round {last}"


def few_labels_curve(evaluation: Table, labelling: str) -> Drawing | None:
    """Accuracy of the linear probe by number of labels a class; None where it was not measured."""
    measured = scores.few_label_columns(evaluation, labelling, "linear")
    if not measured:
        return None
    places = label_places([c.title for c in measured], scores.labels_a_class(evaluation, labelling))
    names = [name for name in scores.methods(evaluation) if any(name in column.scores for column in measured)]
    floor = scores.majority(evaluation, labelling)

    def paint(axes: Axes) -> None:
        for index, name in enumerate(names):
            results = [(places[c.title], c.scores[name]) for c in measured if name in c.scores]
            _banded(axes, results, index=index, name=name)
        if floor is not None:
            axes.axhline(floor, color=INK, linestyle=(0, (2, 2)), linewidth=1.0, label="most frequent class")
        axes.set(xlabel="labels a class", ylabel=f"accuracy on unseen {scores.unseen(evaluation)}")
        axes.set_xticks(list(places.values()), list(places))
        legend_below(axes)

    ends = "; ".join(_in_words(measured, name) for name in names)
    rows = (len(names) + 2) // 2
    alt = f"Accuracy by number of labels a class, from fewest to most. {ends}."
    return draw("few_labels", paint, alt=alt, height_inches=3.1 + 0.2 * rows)


def label_places(titles: Sequence[str], whole: float | None) -> dict[str, float]:
    """Horizontal position of each number of labels: its logarithm.

    Args:
        titles: Numbers, and ``all``.
        whole: Mean number of labels a class behind ``all``, where it is known.
    """
    places = {title: float(np.log10(float(title))) for title in titles if title != "all"}
    if "all" in titles:
        beside = max(places.values(), default=0.0) + 0.25
        places["all"] = max(beside, float(np.log10(whole))) if whole else beside
    return places


def legend_below(axes: Axes) -> None:
    """A legend of two columns under the chart."""
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.46, -0.17), ncols=2, columnspacing=1.5, handlelength=2.9
    )


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
