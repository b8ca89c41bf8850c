"""Sections on the run itself: rounds, clients, time, replies, export, and what stands behind the numbers."""

import math
from collections.abc import Iterator, Mapping

from edgecmd.catalogue.data_sets import DATA_SETS
from edgecmd.core.text import size_of
from edgecmd.data.partition import PARTITIONS
from edgecmd.report import scores
from edgecmd.report.charts import loss_curve, partition_chart, validation_curve
from edgecmd.report.numbers import NOTHING, Row, duration, plain, share
from edgecmd.report.read import RunFiles, Table

MAX_REJECTED = 50


def training(run: RunFiles) -> Table:
    """Loss and validation retrieval by round; under privacy clients do not tell their loss."""
    chance = run.evaluation.get("chance_loss")
    return {
        "loss": loss_curve({run.name: run.rounds}, chance=chance),
        "validation": validation_curve(run.rounds),
        "chance": chance,
    }


def partition(run: RunFiles) -> Table:
    """Which client holds which classes."""
    drawing = partition_chart(run.partition)
    if drawing is None:
        return {"drawing": None}
    lines = run.partition["table"]
    names = list(dict.fromkeys(name for line in lines for name in line["classes"]))
    rows: list[Row] = [
        (str(line["client"]), [str(line["pairs"]), *(str(line["classes"].get(name, 0)) for name in names)])
        for line in lines
    ]
    return {
        "drawing": drawing,
        "spread": _spread(run),
        "columns": ["client", "pairs", *names],
        "rows": rows,
    }


def _spread(run: RunFiles) -> list[Row]:
    """How unequal the clients are."""
    lines = run.partition["table"]
    sizes = sorted(int(line["pairs"]) for line in lines)
    cut = run.setting("federation.partition", "?")
    row = PARTITIONS.get(str(cut))
    alpha = f", alpha {run.setting('federation.alpha', '?')}" if row and row.takes_alpha else ""
    shared = ", some at several clients" if row and row.resamples else ""
    rows: list[Row] = [
        ("partition", [f"{cut}{alpha}"]),
        ("clients", [str(len(lines))]),
        (f"pairs in all{shared}", [f"{sum(sizes):,}"]),
        ("fewest, median, most pairs", [f"{sizes[0]}, {sizes[len(sizes) // 2]}, {sizes[-1]}"]),
    ]
    shares = [float(line["largest_share"]) for line in lines if "largest_share" in line]
    if shares:
        rows.append(("largest share of one class", [f"{share(min(shares))} to {share(max(shares))}"]))
    if run.partition.get("skew") is not None:
        rows.append(("skew", [share(float(run.partition["skew"]))]))
    return rows


def costs(run: RunFiles) -> Table:
    """Time of the stages, bytes and seconds a round, and simulated seconds where there were any."""
    whole = math.fsum(run.stages.values())
    stages: list[Row] = [
        (name, [duration(one), share(one / whole) if whole else NOTHING]) for name, one in run.stages.items()
    ]
    rounds: list[Row] = []
    for key, write in (("bytes", size_of), ("seconds", duration), ("simulated_seconds", duration)):
        values = sorted(float(event[key]) for event in run.rounds if event.get(key) is not None)
        if values:
            rounds.append(
                (key.replace("_", " "), [write(values[len(values) // 2]), write(math.fsum(values))])
            )
    return {"stages": [*stages, ("all", [duration(whole), share(1.0)])], "rounds": rounds}


def dropped(run: RunFiles) -> Table:
    """Replies of clients that were not used, and why."""
    faults = [
        (str(event["round"]), _fault(one)) for event in run.rounds for one in event.get("rejected") or ()
    ]
    return {"faults": faults, "shown": faults[:MAX_REJECTED]}


def _fault(one: object) -> list[str]:
    if isinstance(one, Mapping):
        return [str(one.get("node", "?")), str(one.get("reason", "?"))]
    return ["?", str(one)]


def export(run: RunFiles) -> Table:
    """What goes to a device, and how far it is from the trained student."""
    files, parity = (run.export.get(key) or {} for key in ("files", "parity"))
    return {
        "files": [(name, [size_of(float(one["bytes"]))]) for name, one in files.items()],
        "parity": [(name, [plain(value)]) for name, value in parity.items()],
    }


def settings(run: RunFiles) -> Table:
    """Every setting but the folder that the run was written to."""
    return {"rows": [(key, [plain(value)]) for key, value in flat(run.settings) if key != "out"]}


def environment(run: RunFiles) -> Table:
    """Versions and machine."""
    return {"rows": [(key, [plain(value)]) for key, value in flat(run.environment)]}


def flat(nested: Table, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of nested tables, each key behind ``prefix``."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def limits(run: RunFiles) -> Table:
    """What the numbers do not say."""
    row = DATA_SETS.get(str(run.setting("data.name")))
    return {
        "of_data": row.limits if row else "",
        "is_class_paired": scores.is_class_paired(run.evaluation),
        "unseen": scores.unseen(run.evaluation),
        "shared": scores.shared(run.evaluation),
    }
