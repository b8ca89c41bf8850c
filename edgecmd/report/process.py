"""Sections on how the run went: rounds, clients, time, traffic, dropped replies, export."""

import math
from collections.abc import Mapping

from edgecmd.data.partition import PARTITIONS
from edgecmd.report.curves import loss_curve, validation_curve
from edgecmd.report.markup import Row, Section, figure, folded, missing, paragraph, side_by_side, table
from edgecmd.report.numbers import NOTHING, data_size, duration, plain, share
from edgecmd.report.read import RunFiles
from edgecmd.report.stack import partition_chart

MAX_REJECTED = 50


def training(run: RunFiles) -> Section:
    """Loss and validation retrieval by round."""
    anchor, title = "training", "Distillation by round"
    loss = loss_curve(run.rounds, chance=run.evaluation.get("chance_loss"))
    if loss is None and run.rounds:
        return _without_loss(run, anchor=anchor, title=title)
    if loss is None:
        sentence = missing("A finished round in events.jsonl", command="edgecmd simulate")
        return Section(anchor=anchor, title=title, body=sentence)
    caption = f"Loss `{run.setting('distill.loss', '?')}` by round; {_about_chance(run)}."
    left = figure(loss.html, caption=caption)
    validation = validation_curve(run.rounds)
    if validation is None:
        right = paragraph("No round was validated; `evaluate.every_rounds` sets how often.", kind="missing")
        return Section(anchor=anchor, title=title, body=side_by_side(left, right), drawings=(loss,))
    caption = "Retrieval on the validation split, the only number that settings may be chosen by."
    body = side_by_side(left, figure(validation.html, caption=caption))
    return Section(anchor=anchor, title=title, body=body, drawings=(loss, validation))


def _without_loss(run: RunFiles, *, anchor: str, title: str) -> Section:
    """Under privacy clients do not tell their loss; validation by the server is shown alone."""
    validation = validation_curve(run.rounds)
    text = paragraph("The clients release weights alone, so the loss is not known.", kind="missing")
    if validation is None:
        return Section(anchor=anchor, title=title, body=text)
    caption = "Retrieval on the validation split, the only number that settings may be chosen by."
    body = side_by_side(figure(validation.html, caption=caption), text)
    return Section(anchor=anchor, title=title, body=body, drawings=(validation,))


def _about_chance(run: RunFiles) -> str:
    if not run.evaluation:
        return "`edgecmd evaluate` adds its chance level"
    if run.evaluation.get("chance_loss") is None:
        return "it has no chance level"
    return "dashed: chance, the loss of a student that knows nothing"


def partition(run: RunFiles) -> Section:
    """Which client holds which classes."""
    anchor, title = "partition", "What the clients hold"
    drawing = partition_chart(run.partition)
    if drawing is None:
        return Section(anchor=anchor, title=title, body=missing("partition.json", command="edgecmd run"))
    caption = "Pairs by client and class. The simulation knows the classes; the clients do not hold them."
    beside = side_by_side(figure(drawing.html, caption=caption), _spread(run))
    body = beside + "\n" + folded("The numbers", _client_table(run))
    return Section(anchor=anchor, title=title, body=body, drawings=(drawing,))


def _client_table(run: RunFiles) -> str:
    lines = run.partition["table"]
    names = list(dict.fromkeys(name for line in lines for name in line["classes"]))
    rows: list[Row] = [
        (str(line["client"]), [str(line["pairs"]), *(str(line["classes"].get(name, 0)) for name in names)])
        for line in lines
    ]
    return table("Pairs by client and class", ["client", "pairs", *names], rows)


def _spread(run: RunFiles) -> str:
    """How unequal the clients are."""
    lines = run.partition["table"]
    sizes = sorted(int(line["pairs"]) for line in lines)
    cut = run.setting("federation.partition", "?")
    row = PARTITIONS.get(str(cut))
    alpha = f", alpha {run.setting('federation.alpha', '?')}" if row and row.takes_alpha else ""
    rows: list[Row] = [
        ("partition", [f"{cut}{alpha}"]),
        ("clients", [str(len(lines))]),
        ("pairs in all", [f"{sum(sizes):,}"]),
        ("fewest, median, most pairs", [f"{sizes[0]}, {sizes[len(sizes) // 2]}, {sizes[-1]}"]),
    ]
    shares = [float(line["largest_share"]) for line in lines if "largest_share" in line]
    if shares:
        rows.append(("largest share of one class", [f"{share(min(shares))} to {share(max(shares))}"]))
    if run.partition.get("skew") is not None:
        rows.append(("skew", [share(float(run.partition["skew"]))]))
    note = (
        "Skew is the mean total variation from the overall mix of classes: 0 where every client has the same"
        " mix, near 1 where each has classes of its own."
    )
    return f"<div>{table('Spread over the clients', ['figure', 'value'], rows)}{paragraph(note)}</div>"


def costs(run: RunFiles) -> Section:
    """Time of the stages, bytes and seconds a round."""
    anchor, title = "costs", "Time and traffic"
    if not run.stages and not run.rounds:
        sentence = missing("events.jsonl", command="edgecmd simulate")
        return Section(anchor=anchor, title=title, body=sentence)
    blocks = [_stage_table(run) if run.stages else paragraph("No stage is finished yet.", kind="missing")]
    rounds = _by_round(run)
    if rounds:
        blocks.append(table("By round; bytes go both ways", ["of a round", "median", "all rounds"], rounds))
    return Section(anchor=anchor, title=title, body=side_by_side(*blocks))


def _stage_table(run: RunFiles) -> str:
    whole = math.fsum(run.stages.values())
    rows: list[Row] = [
        (name, [duration(one), share(one / whole) if whole else NOTHING]) for name, one in run.stages.items()
    ]
    return table("Time by stage", ["stage", "time", "share"], [*rows, ("all", [duration(whole), share(1.0)])])


def _by_round(run: RunFiles) -> list[Row]:
    rows: list[Row] = []
    for key, write in (("bytes", data_size), ("seconds", duration)):
        values = sorted(float(event[key]) for event in run.rounds if event.get(key) is not None)
        if values:
            rows.append((key, [write(values[len(values) // 2]), write(math.fsum(values))]))
    return rows


def dropped(run: RunFiles) -> Section:
    """Replies of clients that were not used, and why."""
    anchor, title = "dropped", "Dropped replies"
    faults = [(event["round"], one) for event in run.rounds for one in event.get("rejected") or ()]
    if not faults:
        text = "No reply of a client was dropped." if run.rounds else "No round is finished yet."
        return Section(anchor=anchor, title=title, body=paragraph(text))
    rows: list[Row] = [(str(index), _fault(one)) for index, one in faults[:MAX_REJECTED]]
    rest = len(faults) - len(rows)
    more = paragraph(f"{rest} more are in events.jsonl.") if rest else ""
    caption = f"Replies that were left out of the averages: {len(faults)}"
    body = table(caption, ["round", "node", "reason"], rows, numeric=False) + more
    return Section(anchor=anchor, title=title, body=body)


def _fault(one: object) -> list[str]:
    if isinstance(one, Mapping):
        return [str(one.get("node", "?")), str(one.get("reason", "?"))]
    return ["?", str(one)]


def export(run: RunFiles) -> Section:
    """What goes to a device, and how far it is from the trained student."""
    anchor, title = "export", "Exported bundle"
    if not run.export:
        sentence = missing("export/report.json", command="edgecmd export RUN_FOLDER")
        return Section(anchor=anchor, title=title, body=sentence)
    files: list[Row] = [
        (name, [data_size(float(one["bytes"]))]) for name, one in (run.export.get("files") or {}).items()
    ]
    parity: list[Row] = [(name, [plain(value)]) for name, value in (run.export.get("parity") or {}).items()]
    body = side_by_side(
        table("Files", ["file", "size"], files),
        table("ONNX Runtime against torch", ["figure", "value"], parity),
    )
    return Section(anchor=anchor, title=title, body=body)
