"""Sections with results: the student against baselines, few labels, what it finds."""

from collections import Counter
from collections.abc import Sequence

from edgecmd.catalogue.baseline_rows import BASELINES
from edgecmd.core.statistics import MIN_ITEMS, MIN_REPEATS, too_few, wilson
from edgecmd.report import scores
from edgecmd.report.charts import few_labels_curve
from edgecmd.report.numbers import NOTHING, Cell, Row, share
from edgecmd.report.pictures import gallery_drawing
from edgecmd.report.read import RunFiles, Table

STAR = "★: better than every other method by more than chance"
# A larger matrix cannot be read; the most frequent confusions can.
MOST_IN_MATRIX, MOST_CONFUSED = 24, 10
PROBES = {"linear": "linear probe", "knn": "nearest neighbours"}


def results(run: RunFiles) -> Table:
    """The student against the baselines."""
    evaluation, columns = run.evaluation, scores.columns(run.evaluation)
    if not columns:
        return {"rows": ()}
    student = evaluation.get("student") or {}
    num_test, num_things = int(student.get("num_test", 0)), int(student.get("num_things", 0))
    labelling = scores.main_labelling(evaluation)
    return {
        "rows": score_rows(columns, evaluation),
        "columns": ["method", *(column.title for column in columns)],
        "star": too_few(num_items=student.get("num_test")) or STAR,
        "data": f"{student.get('data', '?')} ({student.get('kind', '?')} pairs)",
        "num_test": num_test,
        # Copies are one thing to retrieve.
        "num_things": num_things if 0 < num_things < num_test else None,
        "faults": scores.faults(evaluation),
        "teacher": evaluation.get("teacher") or {},
        "unseen_text": scores.unseen_text(evaluation),
        "shared": scores.shared(evaluation),
        "is_class_paired": scores.is_class_paired(evaluation),
        "labelling": labelling,
        "num_classes": scores.few_label_fact(evaluation, labelling, "num_classes"),
        "few_draws": MIN_REPEATS,
        "few_items": MIN_ITEMS,
        "known": _known_methods(evaluation),
    }


def _known_methods(evaluation: Table) -> dict[str, str]:
    from edgecmd.losses import LOSSES

    losses = {
        name: f"the same federation with {one.text}" for name, one in LOSSES.items() if one.family == "others"
    }
    known = {**losses, **{name: row.text for name, row in BASELINES.items() if row.text}}
    return {name: known[name] for name in scores.methods(evaluation) if name in known}


def score_rows(columns: Sequence[scores.Column], evaluation: Table) -> list[Row]:
    """Methods by metrics, the best of each column marked, chance in the last row."""
    rows: list[Row] = [
        (name, [_cell(column, name) for column in columns])
        for name in scores.methods(evaluation)
        if any(name in column.scores for column in columns)
    ]
    chance = [NOTHING if column.chance is None else share(column.chance) for column in columns]
    return [*rows, ("chance", chance)]


def _cell(column: scores.Column, name: str) -> Cell | str:
    if name not in column.scores:
        return NOTHING
    score = column.scores[name]
    return Cell(text=share(score.value), note=score.interval, best=column.is_best(name))


def few_labels(run: RunFiles) -> Table:
    """Accuracy by number of labels, as a chart and as tables."""
    evaluation, labelling = run.evaluation, scores.main_labelling(run.evaluation)
    linear = scores.few_label_columns(evaluation, labelling, "linear")
    return {
        "drawing": few_labels_curve(evaluation, labelling),
        "labelling": labelling,
        "num_classes": scores.few_label_fact(evaluation, labelling, "num_classes"),
        # Which method is best with how many labels, beside the student.
        "winners": [(column.title, [_best(column), _cell(column, "student")]) for column in linear]
        if len(scores.methods(evaluation)) > 1
        else (),
        "tables": [
            (one, told, ["method", *(column.title for column in columns)], score_rows(columns, evaluation))
            for one in scores.labellings(evaluation)
            for probe, told in PROBES.items()
            if (columns := scores.few_label_columns(evaluation, one, probe))
        ],
    }


def _best(column: scores.Column) -> Cell:
    names = column.top()
    top = max((column.scores[name].value for name in names), default=0.0)
    return Cell(text=share(top), note=", ".join(names) or "nothing else was run")


def classes(run: RunFiles) -> Table:
    """Precision, recall and support of each class, and which classes are taken for each other."""
    names: Sequence[str] = run.classes.get("classes") or ()
    cells = {(int(true), int(found)): int(num) for true, found, num in run.classes.get("counts") or ()}
    counts, support, taken = Counter(cells), Counter[int](), Counter[int]()
    for (true, found), num in counts.items():
        support[true] += num
        taken[found] += num
    figures = [_of_class(counts[one, one], support[one], taken[one]) for one in range(len(names))]
    return {
        "names": names,
        "counts": counts,
        "support": support,
        "has_matrix": len(names) <= MOST_IN_MATRIX,
        "confused": [cell for cell, num in counts.most_common() if num and cell[0] != cell[1]][
            :MOST_CONFUSED
        ],
        "rows": [(name, [str(run.classes["labels"][one]), *figures[one]]) for one, name in enumerate(names)],
        "right": sum(counts[one, one] for one in support) / max(1, support.total()),
        "unseen_text": scores.unseen_text(run.evaluation),
    }


def _of_class(right: int, support: int, taken: int) -> list[Cell | str]:
    """Support, precision and recall of a class, the latter where there is something to divide by."""
    precision = share(right / taken) if taken else NOTHING
    if not support:
        return ["0", precision, NOTHING]
    low, high = wilson(right / support, num_items=support) or (None, None)
    recall = scores.Score(value=right / support, low=low, high=high)
    return [str(support), precision, Cell(text=share(recall.value), note=recall.interval)]


def retrieval(run: RunFiles) -> Table:
    """Queries with what the student found for them."""
    by_class = scores.is_class_paired(run.evaluation)
    return {
        "gallery": run.gallery,
        "drawing": None if run.gallery is None else gallery_drawing(run.gallery, by_class=by_class),
        "by_class": by_class,
        "unseen": scores.unseen(run.evaluation),
        "unseen_text": scores.unseen_text(run.evaluation),
    }
