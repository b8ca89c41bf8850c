"""The results of a run as a table for a person, and what has to be said beside it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgecmd.core.statistics import MIN_ITEMS, too_few
from edgecmd.core.text import unseen_text
from edgecmd.evaluation.evaluate import CLASS_PAIRED, best_by_column, headline
from edgecmd.experiments.compare.markdown import title_of

if TYPE_CHECKING:
    from edgecmd.evaluation.evaluate import Table


def heading_of(tables: "Mapping[str, Table]") -> str:
    """What the figures are of, and whether that is too little."""
    told: Mapping[str, Any] = tables["student"]
    little = too_few(num_items=told["num_test"])
    heading = f"Unseen {unseen_text(told['unseen'], told.get('shared', ''))}, {told['kind']} pairs"
    return f"{heading}; {little}" if little else heading


def result_rows(tables: "Mapping[str, Table]") -> list[list[str]]:
    """Titles, then a row a method: the student against the others, a star where one is better than all.

    Args:
        tables: Evaluation by method, ``student`` among them.
    """
    lines = {name: headline(table) for name, table in tables.items()}
    columns = list(dict.fromkeys(column for line in lines.values() for column in line))
    best = best_by_column(tables)
    rows = [["method", *(title_of(column) for column in columns)]]
    for name, line in lines.items():
        cells = [
            "-" if column not in line else f"{line[column]:.3f}{'*' if best.get(column) == name else ' '}"
            for column in columns
        ]
        rows.append([name, *cells])
    return rows


def result_notes(tables: "Mapping[str, Table]") -> list[str]:
    """Sentences below the table: collapsed rows, what a star means, what each column is."""
    told: Mapping[str, Any] = tables["student"]
    notes = [
        f"{name} has collapsed: {table['fault']}, so its row is meaningless and is not ranked."
        for name, table in tables.items()
        if table.get("fault")
    ]
    if len(tables) > 1 or best_by_column(tables):
        notes.append(
            "* better than every other method by more than chance: over test items (Newcombe's 95%"
            " interval) and, where labels were drawn several times, over the draws (paired t). None below"
            f" {MIN_ITEMS} test items, and none for NMI, for which one run gives no interval."
        )
    if told.get("num_things", told["num_test"]) < told["num_test"]:
        notes.append(
            f"Copies of a source count as one thing to retrieve: {told['num_things']} in {told['num_test']}"
            " pairs."
        )
    notes.append(
        f"R@k: {_asked(told)}, not reported if k covers all of them; probe k, tuned k: linear probe and"
        " fine-tuning on groups with k labels per class; NMI: k-means clusters against the groups, without a"
        " label."
    )
    notes += segmentation_notes(told)
    if told["kind"] == CLASS_PAIRED:
        notes.append(
            "class-R@1: the nearest image has the right class. The pairs were matched by class, so there is"
            " no single right image, and the classes went into making the pairs."
        )
    return notes


def _asked(told: "Mapping[str, Any]") -> str:
    """What is retrieved, and by chance where several things are right."""
    if "retrieval_chance" not in told:
        return "retrieval of the example's own source"
    by_chance = ", ".join(f"{share:.4f}" for share in told["retrieval_chance"].values())
    return f"any right one of {told['num_ranked']} sources is among the nearest k (by chance {by_chance})"


def segmentation_notes(table: Mapping[str, Any]) -> list[str]:
    """What the segmentation columns mean, or why there are none."""
    told = table.get("segmentation")
    if not isinstance(told, dict):
        return []
    if "missing" in told:
        return [told["missing"]]
    text = (
        "mIoU k%: mean IoU over the classes of the test after fine-tuning on k percent of"
        f" {told['num_pool']} labelled images; probe: frozen student. pixels: share of correct pixels;"
        f" predicting the most common class everywhere gives {told['majority']:.3f}."
    )
    if told["rare"]:
        common = ", ".join(f"{k}% {row['miou_common']:.3f}" for k, row in told["finetune"].items())
        text += f" Without the rare classes {', '.join(told['rare'])}: student at {common}."
    if told["absent"]:
        text += f" Absent from the test and in no mean: {', '.join(told['absent'])}."
    return [text]
