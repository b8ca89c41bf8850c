"""A comparison as Markdown, ready for a page of results."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgecmd.core.statistics import MIN_ITEMS, MIN_REPEATS, interval_text, too_few
from edgecmd.core.text import printable
from edgecmd.experiments.compare.methods import MEANING, plain
from edgecmd.experiments.compare.summary import OURS

# Metrics that are in compare.json and would only widen the table.
LEFT_OUT = ("recall@5", "recall@10")
SIGNIFICANT = 0.05
CLAIMS = {
    "holds": "two points or more ahead, as the paper claims",
    "smaller": "ahead, by less than the paper's 2 to 3 points",
    "behind": "behind: the claim does not hold",
    "not separated": "not told apart: the claim is not seen",
}

Tables = Mapping[str, Any]


def title_of(column: str) -> str:
    """Header of a metric."""
    for start, title in (
        ("class_recall@", "class-R@"),
        ("recall@", "R@"),
        ("linear_", "probe k="),
        ("finetune_", "tuned k="),
        ("miou_probe_", "mIoU probe %"),
        ("miou_", "mIoU %"),
        ("pixels_", "pixels %"),
    ):
        if column.startswith(start):
            return title + column.removeprefix(start)
    return "NMI" if column == "nmi" else column.replace("_", "-")


def columns_of(summary: Tables) -> list[str]:
    """Metrics of the table, in the order in which the methods bring them."""
    names = dict.fromkeys(name for line in summary.values() for name in line)
    return [name for name in names if name not in LEFT_OUT]


def comparison_markdown(tables: Tables) -> str:
    """The table, the verdict and what both are based on.

    Args:
        tables: ``summary``, ``paired``, ``verdict`` and ``about`` of a comparison, as in ``compare.json``.

    Guarantees:
        The kind of the pairs is above the numbers.
    """
    about, summary = tables["about"], tables["summary"]
    columns = columns_of(summary)
    chosen = [("rate", about["rates"]), ("T", about.get("temperatures", {}))]
    chosen = [(title, numbers) for title, numbers in chosen if numbers]
    head = ["method", *(title_of(name) for name in columns), "p against " + about["reference"]]
    head += [title for title, _ in chosen]
    rows = []
    for method, values in summary.items():
        paired = tables["paired"].get(method, {})
        cells = [_cell(values.get(name), paired.get(name)) for name in columns]
        tail = [_p(paired.get(about["headline"])), *(_rate(numbers.get(method)) for _, numbers in chosen)]
        rows.append([method, *cells, *tail])
    lines = table_lines(head, rows)
    text = [f"### {about['title']}", "", *_facts(about), "", *lines, "", *_legend(about, summary), ""]
    return "\n".join([*text, *verdict_lines(tables["verdict"]), ""])


def table_lines(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown, line by line."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def _cell(row: Mapping[str, Any] | None, paired: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    star = "*" if paired is not None and paired["p_holm"] < SIGNIFICANT else ""
    return interval_text(row) + star


def _p(paired: Mapping[str, Any] | None) -> str:
    if paired is None or paired["low"] is None:
        return "-"
    return "< 0.001" if paired["p"] < 0.001 else f"{paired['p']:.3f}"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:g}"


def _facts(about: Mapping[str, Any]) -> list[str]:
    facts = [
        f"Data: `{printable(str(about['data']))}`, kind *{about['kind']}*; test: {about['num_test']} examples"
        f" of unseen {about['unseen']}. Seeds: {about['num_seeds']}. Student: {about['student']}.",
        f"Work of each method: {about['work']}.",
        *([f"Teacher: {about['teacher']}."] if about.get("teacher") else []),
        *(f"Warning: {one}" for one in about.get("warnings", ())),
    ]
    facts += [f"{text}." for text in little(about)]
    if about.get("shared"):
        facts.append(f"Not unseen: {about['shared']}.")
    if about["kind"] == "class-paired":
        facts.append("The class of every pair went into making it: unlabelled pairs would give less.")
    return facts


def little(about: Mapping[str, Any]) -> list[str]:
    """What a comparison has too little of, in words: test items, labels, seeds; empty where nothing."""
    told = [
        too_few(num_items=about["num_test"]),
        too_few(num_items=about.get("num_labelled"), what="test pairs with labels"),
        too_few(num_repeats=about["num_seeds"]),
    ]
    if about.get("num_labelled") == 0 or about["num_test"] == about.get("num_labelled"):
        told[1] = ""
    return [text for text in told if text]


def _legend(about: Mapping[str, Any], summary: Tables) -> list[str]:
    headline = title_of(about["headline"])
    legend = [
        "Mean ± half of the 95% t interval over seeds, or in brackets where it was cut to what is possible;"
        f" none with fewer than {MIN_REPEATS} seeds or {MIN_ITEMS} test items, nor where all seeds agree."
        f" Star: differs from {about['reference']} in the paired t test over seeds with Holm-adjusted"
        " p < 0.05 (adjusted over"
        f" the methods of a column). p: of {headline}, not adjusted.",
    ]
    if about["rates"]:
        grid = ", ".join(f"{rate:g}" for rate in about["grid"])
        tried = ", ".join(f"{one:g}" for one in about.get("temperature_grid", ()))
        legend.append(
            f"rate: peak learning rate, chosen of {grid}"
            + (f" together with T, the temperature of the loss, of {tried}" if tried else "")
            + " for every method alike on the validation split with"
            f" seed 0 ({headline} within the split)."
        )
        if tried:
            num = len(about["grid"]) * len(about["temperature_grid"])
            legend.append(f"Each method made {num} trials; one without a temperature tried {num} rates.")
    seen = dict.fromkeys(plain(name) for name in summary)
    legend += [f"{name}: {MEANING[name]}." for name in seen if name in MEANING]
    return [*legend, f"CPU time: {about['cpu_seconds'] / 60:.0f} minutes, all jobs together."]


def summary_rows(summary: Tables, *, best: Mapping[str, str]) -> list[list[str]]:
    """Titles, then a row a method: its means with their intervals, a star where it is better than all others.

    Args:
        summary: Of a comparison.
        best: Best method by metric.
    """
    columns = list(dict.fromkeys(name for line in summary.values() for name in line))
    rows = [["method", *(title_of(c) for c in columns)]]
    for method, line in summary.items():
        cells = [
            f"{interval_text(line[c])}{'*' if best.get(c) == method else ' '}" if c in line else "-"
            for c in columns
        ]
        rows.append([method, *cells])
    return rows


def paired_rows(paired: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[list[str]]:
    """Titles, then a row a method: its differences from ``cmc``, a star where zero is outside."""
    columns = list(dict.fromkeys(name for line in paired.values() for name in line))
    rows = [[method, *(_difference(line.get(name)) for name in columns)] for method, line in paired.items()]
    return [["method", *(title_of(name) for name in columns)], *rows]


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    apart = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
    return f"{interval_text(row, sign=True)}{'*' if apart else ' '}"


def verdict_lines(verdict: Mapping[str, Any]) -> list[str]:
    """The verdict in words; empty where nothing can be said."""
    if verdict["best"] is None:
        return []
    title = title_of(verdict["metric"])
    apart = "Best label-free method" if verdict.get("is_apart") else "Highest mean of a label-free method"
    beside = "" if verdict.get("is_apart") else "; not told apart from every other"
    lines = [f"{apart} at {title}: **{verdict['best']}**, {verdict['mean']:.3f}{beside}."]
    for name in OURS:
        row = verdict["ours"].get(name)
        if row is None or row["low"] is None:
            continue
        p = "< 0.001" if row["p"] < 0.001 else f"= {row['p']:.3f}"
        lines.append(
            f"{name} minus {verdict['best_other']}, the best other label-free method: {row['mean']:+.3f}"
            f" ({row['low']:+.3f} to {row['high']:+.3f}, p {p}): {CLAIMS[row['claim']]}."
        )
    return lines
