"""What ``edgecmd compare`` writes and prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecmd.cli.common import print_table, say
from edgecmd.config import RunConfig


def about(config: RunConfig, *, title: str, headline: str) -> dict[str, Any]:
    """What a table says about the data and the work behind it."""
    from edgecmd.compare.methods import REFERENCE, work_of
    from edgecmd.data.clients import experiment
    from edgecmd.models.students import num_parameters
    from edgecmd.runs import new_student

    whole, federation = experiment(config.data), config.federation
    work = work_of(config, REFERENCE)
    skew = f" {federation.alpha:g}" if federation.partition == "dirichlet" else ""
    # Clients of unequal size may hold less than a batch.
    most = "" if federation.partition == "iid" else "at most "
    return {
        "title": title or f"{federation.num_clients} clients, {federation.partition}{skew}",
        "headline": headline,
        "reference": REFERENCE,
        "data": whole.name,
        "kind": whole.kind,
        "unseen": whole.unseen,
        "shared": whole.shared,
        "num_test": len(whole.test),
        "student": f"`{config.student.architecture}`, {num_parameters(new_student(config)):,} parameters",
        "work": (
            f"{work.steps} optimiser steps ({federation.num_rounds} rounds of {federation.local_steps}),"
            f" {most}{work.pairs_a_step} pairs a step over all clients"
        ),
    }


def write_comparison(folder: Path, tables: Mapping[str, Any]) -> None:
    """Write ``compare.json``, ``compare.png`` and ``compare.md``."""
    from edgecmd.compare.markdown import title_of
    from edgecmd.compare.methods import kind_of
    from edgecmd.files import write_bytes_atomically, write_json, write_text_atomically
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
    from edgecmd.compare.markdown import verdict_lines

    facts = tables["about"]
    say(f"{facts['title']}; {facts['data']}, kind {facts['kind']}")
    show_summary(tables["summary"], num_seeds=facts["num_seeds"])
    show_paired(tables["paired"])
    for line in verdict_lines(tables["verdict"]):
        say(line.replace("**", ""))
    say(
        f"All numbers: {folder / 'compare.json'}; picture: {folder / 'compare.png'};"
        f" table: {folder / 'compare.md'}"
    )


def show_paired(paired: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print the differences from ``cmc``; a star where the 95% interval leaves zero out."""
    from edgecmd.compare.markdown import title_of

    if not paired:
        return
    columns = list(dict.fromkeys(name for line in paired.values() for name in line))
    rows = [[method, *(_difference(line.get(name)) for name in columns)] for method, line in paired.items()]
    print_table(
        "Difference from cmc with the same seed, 95% interval of the paired t test (* zero is outside)",
        ["method", *(title_of(name) for name in columns)],
        rows,
    )


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    apart = row["low"] > 0 or row["high"] < 0
    return f"{row['mean']:+.3f} ± {(row['high'] - row['low']) / 2:.3f}{'*' if apart else ' '}"


def show_summary(summary: Mapping[str, Mapping[str, Mapping[str, float]]], *, num_seeds: int) -> None:
    """Print mean ± half the interval of each method, the best of each column marked."""
    from edgecmd.compare.markdown import title_of

    columns = list(dict.fromkeys(name for line in summary.values() for name in line))
    best = {c: max(line[c]["mean"] for line in summary.values() if c in line) for c in columns}
    rows = []
    for method, line in summary.items():
        cells = [
            f"{line[c]['mean']:.3f} ± {(line[c]['high'] - line[c]['low']) / 2:.3f}"
            f"{'*' if line[c]['mean'] == best[c] else ' '}"
            if c in line
            else "-"
            for c in columns
        ]
        rows.append([method, *cells])
    titles = [title_of(c) for c in columns]
    print_table(f"{num_seeds} seeds, mean ± 95% half-interval (* best)", ["method", *titles], rows)
