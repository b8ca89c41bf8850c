"""Sections with results: the student against baselines, few labels, what it finds."""

from edgecmd.core.statistics import MIN_ITEMS, MIN_REPEATS, too_few
from edgecmd.report import scores
from edgecmd.report.curves import few_labels_curve
from edgecmd.report.markup import (
    Cell,
    Row,
    Section,
    figure,
    folded,
    listing,
    missing,
    paragraph,
    side_by_side,
    table,
)
from edgecmd.report.numbers import NOTHING, share
from edgecmd.report.pictures import gallery_drawing
from edgecmd.report.read import RunFiles, Table

EVALUATE = "edgecmd evaluate --baselines RUN_FOLDER"
METHODS = {
    "teacher as it is": "the teacher applied to the target as a picture, nothing trained",
    "untrained": "the student with its first, random weights",
    "scratch": "the student trained on the few labels alone, without distillation",
}
STAR = "★: better than every other method by more than chance"
COPIES = "Sources that are copies of one another are one thing to retrieve: {num} in all."
PROBES = {"linear": "linear probe", "knn": "nearest neighbours"}


def results(run: RunFiles) -> Section:
    """The student against the baselines."""
    title, columns = "Student against baselines", scores.columns(run.evaluation)
    if not columns:
        return Section(anchor="results", title=title, body=missing("evaluation.json", command=EVALUATE))
    first = run.evaluation.get("student") or {}
    source = f"{first.get('data', '?')} ({first.get('kind', '?')} pairs)"
    little = too_few(num_items=first.get("num_test"))
    body = [
        paragraph(f"Data: {source}, {first.get('num_test', 0):,} test pairs."),
        *(
            paragraph(f"{name} has collapsed: {why}, so its row says nothing and is ranked nowhere.")
            for name, why in scores.faults(run.evaluation).items()
        ),
        score_table(
            f"Results on unseen {scores.unseen_text(run.evaluation)}; {little or STAR}",
            columns,
            run.evaluation,
        ),
        *_teacher(run.evaluation),
        listing([*_metrics(run.evaluation), *_known_methods(run.evaluation)]),
    ]
    return Section(anchor="results", title=title, body="\n".join(body))


def _teacher(evaluation: Table) -> list[str]:
    """Which teacher it was, and what speaks against it; nothing where an older run does not say."""
    told = evaluation.get("teacher") or {}
    if not told.get("text"):
        return []
    warnings = [paragraph(f"Warning: {one}") for one in told.get("warnings", ())]
    return [paragraph(f"Teacher: {told['text']}."), *warnings]


def _copies(evaluation: Table) -> list[str]:
    """How many things there are to retrieve, where copies make them fewer than the pairs."""
    student = evaluation.get("student") or {}
    num = int(student.get("num_things", 0))
    return [COPIES.format(num=num)] if 0 < num < int(student.get("num_test", 0)) else []


def _metrics(evaluation: Table) -> list[str]:
    """What the columns mean."""
    notes = [
        "`R@k`: share of test images whose own source image is among the k nearest."
        " `strict`: without targets that look like a training target.",
        *([f"Not unseen: {scores.shared(evaluation)}."] if scores.shared(evaluation) else []),
        *_copies(evaluation),
        "`one-shot`: one labelled example a concept in one style, tested on another style.",
    ]
    if scores.is_class_paired(evaluation):
        notes = [
            "`class R@1`: share of test targets whose nearest source image is of their class. Which image of"
            " the class a target was paired with says nothing here, so retrieval of the own one is not asked."
        ]
    labelling = scores.main_labelling(evaluation)
    if labelling:
        notes.append(
            f"`probe k`: accuracy of a linear probe on `{labelling}`{_num_classes(evaluation, labelling)}"
            " with k labels a class, mean and 95% interval over draws of the labels (none with fewer than"
            f" {MIN_REPEATS} draws or {MIN_ITEMS} test items, nor where all draws agree)."
            " `tuned k`: the same with all layers trained on those labels."
        )
        notes.append("`NMI`: k-means clusters of the embeddings against those classes; no label is used.")
    notes.append(
        "`★`: better than every other method over test items (Newcombe's 95% interval of the difference) and,"
        " where labels were drawn several times, over the draws (paired t test). None with fewer than"
        f" {MIN_ITEMS} test items, and none for NMI and the strict test, of which one run tells no interval."
    )
    return notes


def _known_methods(evaluation: Table) -> list[str]:
    from edgecmd.losses import LOSSES

    losses = {
        name: f"the same federation with {one.text}" for name, one in LOSSES.items() if one.family == "others"
    }
    known = {**losses, **METHODS}
    return [f"`{name}`: {known[name]}." for name in scores.methods(evaluation) if name in known]


def score_table(caption: str, columns: list[scores.Column], evaluation: Table) -> str:
    """Methods by metrics, the best of each column marked, chance in the last row."""
    rows: list[Row] = [
        (name, [_cell(column, name) for column in columns])
        for name in scores.methods(evaluation)
        if any(name in column.scores for column in columns)
    ]
    chance = [NOTHING if column.chance is None else share(column.chance) for column in columns]
    return table(caption, ["method", *(column.title for column in columns)], [*rows, ("chance", chance)])


def _cell(column: scores.Column, name: str) -> Cell | str:
    if name not in column.scores:
        return NOTHING
    score = column.scores[name]
    return Cell(text=share(score.value), note=score.interval, best=column.is_best(name))


def few_labels(run: RunFiles) -> Section:
    """Accuracy by number of labels, as a chart and as tables."""
    anchor, title = "labels", "Accuracy by number of labels"
    if not run.evaluation:
        return Section(anchor=anchor, title=title, body=missing("evaluation.json", command=EVALUATE))
    labelling = scores.main_labelling(run.evaluation)
    drawing = few_labels_curve(run.evaluation, labelling)
    if drawing is None:
        sentence = paragraph("The data have no labels that a probe could use.", kind="missing")
        return Section(anchor=anchor, title=title, body=sentence)
    caption = (
        f"Linear probe on `{labelling}`{_num_classes(run.evaluation, labelling)}. Bands are 95% intervals"
        " over draws of the labels; `all` stands at the mean number of labels a class."
    )
    beside = side_by_side(figure(drawing.html, caption=caption), _winners(run.evaluation, labelling))
    body = beside + "\n" + folded("All numbers, with nearest neighbours", _all_tables(run.evaluation))
    return Section(anchor=anchor, title=title, body=body, drawings=(drawing,))


def _num_classes(evaluation: Table, labelling: str) -> str:
    num = scores.few_label_fact(evaluation, labelling, "num_classes")
    return "" if num is None else f" ({num:.0f} classes)"


def _winners(evaluation: Table, labelling: str) -> str:
    """Which method is best with how many labels, beside the student."""
    if len(scores.methods(evaluation)) < 2:
        return ""
    rows: list[Row] = [
        (column.title, [_best(column), _cell(column, "student")])
        for column in scores.few_label_columns(evaluation, labelling, "linear")
    ]
    return table("Highest linear probe by labels a class", ["labels", "highest", "student"], rows)


def _best(column: scores.Column) -> Cell:
    names = column.top()
    top = max((column.scores[name].value for name in names), default=0.0)
    return Cell(text=share(top), note=", ".join(names) or "nothing else was run")


def _all_tables(evaluation: Table) -> str:
    tables = [
        score_table(f"Accuracy on {one}, {PROBES[probe]}, by labels a class", columns, evaluation)
        for one in scores.labellings(evaluation)
        for probe in PROBES
        if (columns := scores.few_label_columns(evaluation, one, probe))
    ]
    return "\n".join(tables)


def retrieval(run: RunFiles) -> Section:
    """Queries with what the student found for them."""
    anchor, title = "retrieval", "What the student finds"
    if run.gallery is None:
        return Section(anchor=anchor, title=title, body=missing("retrieval.npz", command="edgecmd run"))
    by_class = scores.is_class_paired(run.evaluation)
    drawing, ranks = gallery_drawing(run.gallery, by_class=by_class), run.gallery.rank
    rows = f"a test image (unseen {scores.unseen_text(run.evaluation)}), the source image that it belongs to"
    right = "The own one"
    if by_class:
        rows = f"a test target (unseen {scores.unseen(run.evaluation)}), the source image it was paired with"
        right = "The first one of its class"
    text = (
        f"Each row: {rows}, and the nearest source images. {right} has a green frame, and its place stands"
        f" below the query. Here it comes first for {int((ranks == 1).sum())} of {len(ranks)}."
        " The rows were drawn by the seed, without looking at the result."
    )
    return Section(anchor=anchor, title=title, body=paragraph(text) + drawing.html, drawings=(drawing,))
