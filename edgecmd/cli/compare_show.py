"""What ``edgecmd compare`` writes and prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecmd.cli.common import print_table, say
from edgecmd.config.schema import RunConfig
from edgecmd.core.text import counted

if TYPE_CHECKING:
    from edgecmd.experiments.compare.summary import Items


def about(config: RunConfig, *, title: str, headline: str) -> dict[str, Any]:
    """What a table says about the data and the work behind it."""
    from edgecmd.data.partition import partition_of
    from edgecmd.data.problem import experiment
    from edgecmd.evaluation.metrics import known
    from edgecmd.experiments.compare.methods import REFERENCE, work_of
    from edgecmd.experiments.teacher_facts import teacher_text, teacher_warnings
    from edgecmd.models.students import num_parameters
    from edgecmd.training.run_folder import new_student

    whole, federation = experiment(config.data), config.federation
    labels = whole.test.labelled.labels
    work = work_of(config, REFERENCE)
    cut = partition_of(federation.partition)
    skew = f" {federation.alpha:g}" if cut.takes_alpha else ""
    # Clients of unequal size may hold less than a batch.
    most = "" if cut.equal else "at most "
    return {
        "title": title or f"{counted(federation.num_clients, 'client')}, {federation.partition}{skew}",
        "headline": headline,
        "reference": REFERENCE,
        "data": whole.name,
        "kind": whole.kind,
        "unseen": whole.unseen,
        "shared": whole.shared,
        "num_test": len(whole.test),
        "num_labelled": int(known(labels["group"]).sum()) if "group" in labels else 0,
        "teacher": teacher_text(config),
        "warnings": teacher_warnings(config),
        "student": f"`{config.student.architecture}`, {num_parameters(new_student(config)):,} parameters",
        "work": (
            f"{counted(work.steps, 'optimiser step')} ({counted(federation.num_rounds, 'round')} of"
            f" {federation.local_steps}),"
            f" {most}{counted(work.pairs_a_step, 'pair')} a step over all clients"
        ),
    }


def items_of(facts: Mapping[str, Any]) -> "Items":
    """What the figures of a comparison rest on, out of its facts."""
    from edgecmd.experiments.compare.summary import Items

    return Items(test=facts["num_test"], labelled=facts["num_labelled"])


def write_comparison(folder: Path, tables: Mapping[str, Any]) -> None:
    """Write ``compare.json``, ``compare.png`` and ``compare.md``."""
    from edgecmd.core.files import write_bytes_atomically, write_json, write_text_atomically
    from edgecmd.experiments.compare.markdown import title_of
    from edgecmd.experiments.compare.methods import kind_of
    from edgecmd.report.comparison import comparison_png

    summary = tables["summary"]
    titles = {name: title_of(name) for line in summary.values() for name in line}
    write_json(folder / "compare.json", {name: tables[name] for name in tables if name != "markdown"})
    kinds = {name: kind_of(name) for name in summary} if tables["verdict"]["best"] else None
    picture = comparison_png(summary, titles=titles, first=tables["about"]["headline"], kinds=kinds)
    write_bytes_atomically(folder / "compare.png", picture)
    write_text_atomically(folder / "compare.md", tables["markdown"])


def show(tables: Mapping[str, Any], folder: Path) -> None:
    """Print the means, the differences from ``cmc``, the verdict, and where the files are."""
    from edgecmd.experiments.compare.markdown import verdict_lines

    facts = tables["about"]
    say(f"{facts['title']}; {facts['data']}, kind {facts['kind']}")
    show_summary(tables["summary"], facts, best=tables["best"])
    show_paired(tables["paired"])
    for line in verdict_lines(tables["verdict"]):
        say(line.replace("**", ""))
    say(
        f"All numbers: {folder / 'compare.json'}; picture: {folder / 'compare.png'};"
        f" table: {folder / 'compare.md'}"
    )


def show_paired(paired: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print the differences from ``cmc``; a star where the 95% interval leaves zero out."""
    from edgecmd.experiments.compare.markdown import title_of

    if not paired:
        return
    columns = list(dict.fromkeys(name for line in paired.values() for name in line))
    rows = [[method, *(_difference(line.get(name)) for name in columns)] for method, line in paired.items()]
    print_table(
        "Difference from cmc with the same seed, 95% interval of the paired t test (* zero is outside; alone:"
        " too few seeds or test items)",
        ["method", *(title_of(name) for name in columns)],
        rows,
    )


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    from edgecmd.core.statistics import interval_text

    apart = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
    return f"{interval_text(row, sign=True)}{'*' if apart else ' '}"


def show_summary(
    summary: Mapping[str, Mapping[str, Mapping[str, Any]]],
    facts: Mapping[str, Any],
    *,
    best: Mapping[str, str],
) -> None:
    """Print the mean of each method with its interval, and a star where one is better than all others."""
    from edgecmd.core.statistics import MIN_ITEMS, MIN_REPEATS, interval_text
    from edgecmd.experiments.compare.markdown import little, title_of

    columns = list(dict.fromkeys(name for line in summary.values() for name in line))
    rows = []
    for method, line in summary.items():
        cells = [
            f"{interval_text(line[c])}{'*' if best.get(c) == method else ' '}" if c in line else "-"
            for c in columns
        ]
        rows.append([method, *cells])
    titles = [title_of(c) for c in columns]
    told = "; ".join([f"{counted(facts['num_seeds'], 'seed')}, mean and 95% interval", *little(facts)])
    print_table(told, ["method", *titles], rows)
    say(
        "* better than every other method of the column by the paired t test over seeds. A mean stands alone"
        f" with fewer than {MIN_REPEATS} seeds or {MIN_ITEMS} test items, and where all seeds agree."
    )
