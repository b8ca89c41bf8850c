"""What the runs of ``edgecmd robustness`` come to: means with their intervals, as values and as tables."""

from collections.abc import Sequence
from dataclasses import asdict

from edgecmd.config.reader import flatten
from edgecmd.core.statistics import interval_text
from edgecmd.experiments.compare.markdown import table_lines, title_of
from edgecmd.experiments.compare.summary import summarise
from edgecmd.experiments.robustness.cases import Asked, Job, Table
from edgecmd.report.studies import FIRST_CHOICE

SUCCESS = "attack_success"
HEADS = {
    "strategy": "strategy",
    "attackers": "attackers",
    "drop_out": "percent that drop out",
    "screened": "screened out",
    "ended": "ended early",
}
SHOWN = ("recall@1", "class_recall@1", *FIRST_CHOICE)


def tables_of(asked: Asked, work: Sequence[Job], found: Sequence[Table]) -> Table:
    """What the figures of all cases come to.

    Args:
        asked: What was measured.
        work: The jobs.
        found: Their results, in the same order.
    """
    from clients.byzantine import read_attack

    cases = {case.name: case for case in asked.cases}
    lines: dict[str, list[Table]] = {name: [] for name in cases}
    for job, one in zip(work, found, strict=True):
        lines[job.case.name].append(one)
    summary = summarise({name: [one["metrics"] for one in own] for name, own in lines.items()})
    rows = [
        {
            **asdict(case),
            "backdoor": bool(case.attack) and read_attack(case.attack).backdoor,
            "ended": sum(bool(one["ended"]) for one in lines[name]),
            "screened": sum(sum(one["dropped"]["attackers"].values()) for one in lines[name]),
            "metrics": summary[name],
        }
        for name, case in cases.items()
    ]
    have = [name for name in SHOWN if any(name in line for line in summary.values())]
    few = [name for name in have if name in FIRST_CHOICE][:1]
    return {
        "num_clients": asked.config.federation.num_clients,
        "num_seeds": asked.num_seeds,
        "settings": dict(flatten(asked.config)),
        "shown": [name for name in have if name not in FIRST_CHOICE] + few,
        "rows": rows,
    }


def markdown(table: Table) -> str:
    """The tables of `shown_tables` as Markdown."""
    parts = [
        [f"## {title}", "", *table_lines(columns, rows), ""] for title, columns, rows in shown_tables(table)
    ]
    return "\n".join(line for part in parts for line in part)


def shown_tables(table: Table) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of each table for people: one for each attack, one for drop-outs.

    Args:
        table: As `tables_of` gives it.
    """
    rows, shown, found = table["rows"], table["shown"], []
    order = list(dict.fromkeys(row["strategy"] for row in rows))
    for attack in dict.fromkeys(row["attack"] for row in rows if row["attack"]):
        own = [row for row in rows if row["attack"] == attack or not (row["attack"] or row["drop_out"])]
        own.sort(key=lambda row: (order.index(row["strategy"]), row["attackers"]))
        metrics = [*shown, SUCCESS] if own[-1]["backdoor"] else shown
        found.append((attack, *_cells(own, ("strategy", "attackers"), metrics, ("screened", "ended"))))
    for name in {row["strategy"]: None for row in rows if row["drop_out"]}:
        own = [row for row in rows if row["strategy"] == name and not row["attack"]]
        found.append((f"Drop-outs, {name}", *_cells(own, ("drop_out",), shown, ("ended",))))
    return found


def _cells(
    rows: Sequence[Table], first: Sequence[str], metrics: Sequence[str], last: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: fields of a case, means with their intervals, counts."""
    columns = [*(HEADS[name] for name in first), *map(title_of, metrics), *(HEADS[name] for name in last)]
    cells = []
    for row in rows:
        told = [interval_text(row["metrics"][one]) if one in row["metrics"] else "-" for one in metrics]
        cells.append([*(str(row[name]) for name in first), *told, *(str(row[name]) for name in last)])
    return columns, cells
