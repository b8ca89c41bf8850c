"""The sections of a report. Where a file is missing, a section says so and names the command."""

from collections.abc import Iterable, Mapping
from typing import Any

from edgecmd.report import scores
from edgecmd.report.curves import few_labels_curve, loss_curve, validation_curve
from edgecmd.report.drawing import Drawing
from edgecmd.report.markup import (
    Cell,
    Section,
    figure,
    folded,
    listing,
    missing,
    paragraph,
    side_by_side,
    table,
)
from edgecmd.report.numbers import data_size, duration, share
from edgecmd.report.pictures import gallery_drawing
from edgecmd.report.read import RunFiles, Table
from edgecmd.report.stack import partition_chart

Part = tuple[Section, list[Drawing]]
EVALUATE, RUN, EXPORT = "edgecmd evaluate --baselines RUN_FOLDER", "edgecmd run", "edgecmd export RUN_FOLDER"
METHODS = {
    "l2": "the same federation with the squared distance to the teacher's feature as loss",
    "simclr": "the same federation with SimCLR on the target alone, without a teacher; it has no retrieval",
    "teacher as it is": "the teacher applied to the target images, nothing trained",
    "untrained": "the student with its first, random weights",
    "scratch": "the student trained on the few labels alone, without distillation",
}
PROBES = {"linear": "linear probe", "knn": "nearest neighbours"}
MAX_REJECTED = 50


def results(run: RunFiles) -> Part:
    """The student against the baselines."""
    title = "Student against baselines"
    columns = scores.columns(run.evaluation)
    if not columns:
        return Section(anchor="results", title=title, body=missing("evaluation.json", command=EVALUATE)), []
    first = run.evaluation.get("student") or {}
    labelling = scores.main_labelling(run.evaluation)
    notes = [
        "`R@k`: share of test images whose own source image is among the k nearest."
        " `strict`: without targets that look like a training target.",
        "`one-shot`: one labelled example a concept in one style, tested on another style.",
    ]
    if labelling:
        notes.append(
            f"`probe k`: accuracy of a linear probe on `{labelling}`{_num_classes(run.evaluation, labelling)} with k labels a class,"
            " mean ± half of the 95% interval over draws of the labels."
        )
    known = [f"`{name}`: {METHODS[name]}." for name in scores.methods(run.evaluation) if name in METHODS]
    body = [
        paragraph(
            f"Data: {first.get('data', '?')} ({first.get('kind', '?')} pairs), {first.get('num_test', 0):,} test pairs."
        ),
        score_table("Results on unseen concepts; ★ marks the best of a column", columns, run.evaluation),
        listing(notes + known),
    ]
    return Section(anchor="results", title=title, body="\n".join(body)), []


def score_table(caption: str, columns: list[scores.Column], evaluation: Table) -> str:
    """Methods by metrics, the best of each column marked, chance in the last row."""
    rows: list[tuple[str, list[Cell | str]]] = [
        (name, [_cell(column, name) for column in columns])
        for name in scores.methods(evaluation)
        if any(name in column.scores for column in columns)
    ]
    chance: list[Cell | str] = ["–" if column.chance is None else share(column.chance) for column in columns]
    return table(caption, ["method", *(column.title for column in columns)], [*rows, ("chance", chance)])


def _cell(column: scores.Column, name: str) -> Cell | str:
    if name not in column.scores:
        return "–"
    score = column.scores[name]
    note = "" if score.half is None else f"± {share(score.half)}"
    return Cell(text=share(score.value), note=note, best=column.is_best(name))


def training(run: RunFiles) -> Part:
    """Loss and validation retrieval by round."""
    chance = run.evaluation.get("chance_loss")
    loss, validation = loss_curve(run.rounds, chance=chance), validation_curve(run.rounds)
    blocks, drawings = [], []
    if loss is None:
        blocks.append(missing("A finished round in events.jsonl", command="edgecmd simulate"))
    else:
        caption = f"Loss `{run.setting('distill.loss', '?')}` by round; {_about_chance(run)}."
        blocks.append(figure(loss.html, caption=caption))
        drawings.append(loss)
    if validation is not None:
        caption = "Retrieval on the validation split, the only number that settings may be chosen by."
        blocks.append(figure(validation.html, caption=caption))
        drawings.append(validation)
    elif loss is not None:
        blocks.append(
            paragraph("No round was validated; evaluate.every_rounds sets how often.", kind="missing")
        )
    return Section(anchor="training", title="Distillation by round", body=side_by_side(*blocks)), drawings


def _about_chance(run: RunFiles) -> str:
    if not run.evaluation:
        return "`edgecmd evaluate` adds its chance level"
    if run.evaluation.get("chance_loss") is None:
        return "it has no chance level"
    return "dashed: chance, the loss of a student that knows nothing"


def few_labels(run: RunFiles) -> Part:
    """Accuracy by number of labels, as a chart and as tables."""
    title = "Accuracy by number of labels"
    if not run.evaluation:
        return Section(anchor="labels", title=title, body=missing("evaluation.json", command=EVALUATE)), []
    labelling = scores.main_labelling(run.evaluation)
    drawing = few_labels_curve(run.evaluation, labelling)
    if drawing is None:
        sentence = paragraph("The data have no labels that a probe could use.", kind="missing")
        return Section(anchor="labels", title=title, body=sentence), []
    caption = (
        f"Linear probe on `{labelling}`{_num_classes(run.evaluation, labelling)}. Bands are 95% intervals over draws of the labels; `all` stands at"
        " the mean number of labels a class."
    )
    tables = [
        score_table(
            f"Accuracy on {one}, {PROBES.get(probe, probe)}, by labels a class", columns, run.evaluation
        )
        for one in scores.labellings(run.evaluation)
        for probe in PROBES
        if (columns := scores.few_label_columns(run.evaluation, one, probe))
    ]
    beside = side_by_side(figure(drawing.html, caption=caption), _winners(run.evaluation, labelling))
    body = beside + "\n" + folded("All numbers, with nearest neighbours", "\n".join(tables))
    return Section(anchor="labels", title=title, body=body), [drawing]


def _num_classes(evaluation: Table, labelling: str) -> str:
    num = scores.few_label_fact(evaluation, labelling, "num_classes")
    return "" if num is None else f" ({num:.0f} classes)"


def _winners(evaluation: Table, labelling: str) -> str:
    """Which method is best with how many labels, beside the student."""
    columns = scores.few_label_columns(evaluation, labelling, "linear")
    if len(scores.methods(evaluation)) < 2:
        return ""
    rows = [(column.title, [_best(column), _cell(column, "student")]) for column in columns]
    return table("Best linear probe by labels a class", ["labels", "best", "student"], rows)


def _best(column: scores.Column) -> Cell:
    names = column.winners()
    note = ", ".join(names) if names else "nothing else was run"
    return Cell(text=share(max(score.value for score in column.scores.values())), note=note)


def retrieval(run: RunFiles) -> Part:
    """Queries with what the student found for them."""
    title = "What the student finds"
    if run.gallery is None:
        return Section(anchor="retrieval", title=title, body=missing("retrieval.npz", command=RUN)), []
    drawing, ranks = gallery_drawing(run.gallery), run.gallery.rank
    first = int((ranks == 1).sum())
    text = (
        f"Each row: a test image of an unseen concept, the source image it belongs to, and the nearest source images."
        f" The own one has a green frame, and its place stands below the query. Here it comes first for {first} of {len(ranks)}."
        " The rows were drawn by the seed, without looking at the result."
    )
    return Section(anchor="retrieval", title=title, body=paragraph(text) + drawing.html), [drawing]


def partition(run: RunFiles) -> Part:
    """Which client holds which classes."""
    title = "What the clients hold"
    drawing = partition_chart(run.partition)
    if drawing is None:
        return Section(anchor="partition", title=title, body=missing("partition.json", command=RUN)), []
    lines = run.partition["table"]
    names = list(dict.fromkeys(name for line in lines for name in line["classes"]))
    caption = (
        "Pairs by client and class. Classes are known here because the data set is; clients do not hold them."
    )
    rows = [
        (str(line["client"]), [str(line["pairs"]), *(str(line["classes"].get(name, 0)) for name in names)])
        for line in lines
    ]
    numbers = table("Pairs by client and class", ["client", "pairs", *names], rows)
    beside = side_by_side(figure(drawing.html, caption=caption), _spread(run))
    return Section(anchor="partition", title=title, body=beside + "\n" + folded("The numbers", numbers)), [
        drawing
    ]


def _spread(run: RunFiles) -> str:
    """How unequal the clients are."""
    lines = run.partition["table"]
    sizes = sorted(int(line["pairs"]) for line in lines)
    cut = run.setting("federation.partition", "?")
    alpha = f", alpha {run.setting('federation.alpha')}" if cut == "dirichlet" else ""
    rows = [
        ("partition", [f"{cut}{alpha}"]),
        ("clients", [str(len(lines))]),
        ("pairs in all", [f"{sum(sizes):,}"]),
        ("fewest, median, most pairs", [f"{sizes[0]}, {sizes[len(sizes) // 2]}, {sizes[-1]}"]),
    ]
    shares = [float(line["largest_share"]) for line in lines if "largest_share" in line]
    if shares:
        rows.append(("largest share of one class", [f"{share(min(shares))} to {share(max(shares))}"]))
    skew = run.partition.get("skew")
    if skew is not None:
        rows.append(("skew", [share(skew)]))
    note = paragraph(
        "Skew is 0 where every client has the same mix of classes, and nears 1 where each has classes of its own."
    )
    return f"<div>{table('Spread over the clients', ['figure', 'value'], rows)}{note if skew is not None else ''}</div>"


def costs(run: RunFiles) -> Part:
    """Time of the stages, bytes and seconds a round."""
    if not run.stages and not run.rounds:
        sentence = missing("events.jsonl", command="edgecmd simulate")
        return Section(anchor="costs", title="Time and traffic", body=sentence), []
    blocks = []
    if run.stages:
        whole = sum(run.stages.values())
        rows = [
            (name, [duration(one), share(one / whole) if whole else "–"]) for name, one in run.stages.items()
        ]
        blocks.append(
            table("Time by stage", ["stage", "time", "share"], [*rows, ("all", [duration(whole), "1.000"])])
        )
    else:
        blocks.append(paragraph("No stage is finished yet.", kind="missing"))
    if run.rounds:
        blocks.append(table("By round", ["of one round", "median", "all rounds"], _by_round(run)))
    return Section(anchor="costs", title="Time and traffic", body=side_by_side(*blocks)), []


def _by_round(run: RunFiles) -> list[tuple[str, list[str]]]:
    formats = {"bytes": ("bytes, both ways", data_size), "seconds": ("time", duration)}
    rows = []
    for key, (name, write) in formats.items():
        values = sorted(float(event[key]) for event in run.rounds if event.get(key) is not None)
        if values:
            rows.append((name, [write(values[len(values) // 2]), write(sum(values))]))
    return rows


def dropped(run: RunFiles) -> Part:
    """Replies of clients that were not used, and why."""
    faults = [(event["round"], one) for event in run.rounds for one in event.get("rejected") or ()]
    if not faults:
        text = "No reply of a client was dropped." if run.rounds else "No round is finished yet."
        return Section(anchor="dropped", title="Dropped replies", body=paragraph(text)), []
    rows = [(str(index), list(_fault(one))) for index, one in faults[:MAX_REJECTED]]
    rest = len(faults) - len(rows)
    more = paragraph(f"{rest} more are in events.jsonl.") if rest else ""
    caption = f"Replies that were left out of the averages: {len(faults)}"
    body = table(caption, ["round", "node", "reason"], rows, numeric=False) + more
    return Section(anchor="dropped", title="Dropped replies", body=body), []


def _fault(one: object) -> tuple[str, str]:
    if isinstance(one, Mapping):
        return str(one.get("node", "?")), str(one.get("reason", "?"))
    return "?", str(one)


def export(run: RunFiles) -> Part:
    """What goes to a device, and how far it is from the trained student."""
    title = "Exported bundle"
    if not run.export:
        return Section(anchor="export", title=title, body=missing("export/report.json", command=EXPORT)), []
    files = [(name, [data_size(one["bytes"])]) for name, one in (run.export.get("files") or {}).items()]
    facts = [(name, [_plain(value)]) for name, value in (run.export.get("parity") or {}).items()]
    blocks = [
        table("Files", ["file", "size"], files),
        table("ONNX Runtime against torch", ["figure", "value"], facts),
    ]
    return Section(anchor="export", title=title, body=side_by_side(*blocks)), []


def settings(run: RunFiles) -> Part:
    """Every setting but where the run was written, folded."""
    title = "Settings"
    if not run.settings:
        return Section(anchor="settings", title=title, body=missing("config.toml", command=RUN)), []
    rows = [(key, [_plain(value)]) for key, value in _flat(run.settings) if key != "out"]
    body = folded(f"{len(rows)} settings", table("config.toml", ["setting", "value"], rows, numeric=False))
    return Section(anchor="settings", title=title, body=body), []


def environment(run: RunFiles) -> Part:
    """Versions and machine."""
    title = "Environment"
    if not run.environment:
        return Section(anchor="environment", title=title, body=missing("environment.json", command=RUN)), []
    rows = [(key, [_plain(value)]) for key, value in _flat(run.environment)]
    body = table("environment.json", ["what", "value"], rows, numeric=False)
    return Section(anchor="environment", title=title, body=body), []


def limits(run: RunFiles) -> Part:
    """What the numbers do not say."""
    items = [
        "The labels that the probes use are held by whoever deploys the student. The clients' pairs have none,"
        " and the concepts of pairs, labels and test are all different.",
        "No differential privacy was used. Pairs stay with their client, but the weights that a client sends"
        " can tell something about them, and nothing here bounds how much.",
        "This is one run with one seed. Intervals are over draws of labels only; `edgecmd compare` repeats a run"
        " with several seeds.",
        "The baselines that train in a federation use the settings of this run with another loss; they were not"
        " tuned by themselves.",
        "Times are those of the machine that ran this, with clients simulated on it; they are not the times of a device.",
    ]
    if run.setting("data.name") == "emoji":
        items.insert(
            0,
            "The pairs are icons: colour pictures of emoji and line drawings of the same emoji, both made by the"
            " artists of one house. They are neither photographs nor free-hand sketches, and numbers on them"
            " do not say how well the method does there.",
        )
    return Section(anchor="limits", title="Limits", body=listing(items)), []


def _flat(table_: Table, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted key and value of nested tables."""
    for key, value in table_.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(one) for one in value)
    return "–" if value is None or value == "" else str(value)


SECTIONS = (
    results,
    training,
    few_labels,
    retrieval,
    partition,
    costs,
    dropped,
    export,
    settings,
    environment,
    limits,
)
