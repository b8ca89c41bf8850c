"""All of step 3 for one student: embeddings in, the tables of a report out.

Shapes: N examples, D embedding dimension.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from edgecmd.core.errors import DataError
from edgecmd.core.statistics import Measured, best_of
from edgecmd.data.experiment import HeldOut
from edgecmd.data.pairs import Targets
from edgecmd.evaluation import segmentation as tables
from edgecmd.evaluation.finetune import finetune_rows
from edgecmd.evaluation.metrics import (
    PROBES,
    Embedding,
    Probe,
    chance,
    class_recall,
    clustering,
    embed_target,
    few_label_rows,
    held_out_probe,
    linear_predict,
    majority_share,
    one_shot_across_styles,
    probe_accuracy,
    recall,
    right_things,
    same_class_share,
    things,
)
from edgecmd.models.students import Student, is_dense
from edgecmd.run import Run
from edgecmd.training.task import Task

Embed = Callable[[Targets], Embedding]
Table = dict[str, object]
FEW_LABELS = ("group", "subgroup")
CLASS_PAIRED = "class-paired"
# Mean squared distance of unit embeddings from their mean below which nothing but rounding tells them apart.
COLLAPSED = 1e-8


def embedder(student: nn.Module, task: Task) -> Embed:
    """Function that maps targets as they are stored to unit embeddings of ``student``."""

    def embed(target: Targets) -> Embedding:
        return embed_target(student, target, offset=task.target_offset, scale=task.target_scale)

    return embed


def num_things(task: Task, part: str) -> int:
    """How many things a part can be asked for: its pairs, or what they show where several show the same.

    With a gallery of its own it is asked for each of its targets.

    Args:
        task: Data and teacher.
        part: ``validation``, ``test`` or ``test_strict``.
    """
    held: HeldOut = getattr(task.data, part)
    return len(held) if held.gallery is not None else num_ranked(task, part)


def num_ranked(task: Task, part: str) -> int:
    """How many things retrieval of a part looks among."""
    held: HeldOut = getattr(task.data, part)
    return len(np.unique(things(task.gallery_features(part), shown=held.shown)))


def by_chance(task: Task, part: str) -> Table:
    """Of a part with a gallery: the things that it is looked for among, and recall in a random order of them.

    Returns:
        ``num_ranked`` and ``retrieval_chance``; nothing without a gallery, where chance is rank / things.
    """
    held: HeldOut = getattr(task.data, part)
    if held.right is None:
        return {}
    codes = things(task.gallery_features(part))
    num = int(codes.max()) + 1
    num_right = np.diff(right_things(held.right, codes).indptr)
    return {"num_ranked": num, "retrieval_chance": chance(num_right, num)}


def asked_ranks(found: Mapping[str, float], *, things: int) -> dict[str, float]:
    """Recall without the ranks that find everything: among five things R@5 is 1 whatever the student."""
    return {name: value for name, value in found.items() if int(name.partition("@")[2]) < things}


def fault_of(embedding: Embedding) -> str:
    """Why embeddings tell nothing apart, in words; empty where they do.

    Args:
        embedding: Of the test targets, (N, D); unit rows, but for those that are not numbers.
    """
    broken = int((~np.isfinite(embedding)).any(axis=1).sum())
    if broken:
        return f"{broken} of {len(embedding)} test embeddings are not finite"
    spread = float(np.square(embedding.astype(np.float64) - embedding.mean(axis=0)).sum(axis=1).mean())
    if len(embedding) > 1 and spread < COLLAPSED:
        return f"all {len(embedding)} test embeddings are the same"
    return ""


def finite(embedding: Embedding) -> Embedding:
    """Embeddings in which a row that is not a number is zero, which finds nothing."""
    broken = ~np.isfinite(embedding).all(axis=1)
    return np.where(broken[:, None], np.float32(0.0), embedding) if broken.any() else embedding


def retrieval(embed: Embed, task: Task, part: str) -> dict[str, float]:
    """Recall of a held-out part: of the own image, or of its class where pairs are matched by class."""
    held: HeldOut = getattr(task.data, part)
    found = finite(embed(held.pairs.target))
    if task.data.kind == CLASS_PAIRED:
        labels = held.labelled.labels["group"].values
        return class_recall(found, task.held_out_features(part), labels, shown=held.shown)
    ranks = recall(found, task.gallery_features(part), shown=held.shown, right=held.right)
    return asked_ranks(ranks, things=num_ranked(task, part))


def validate(student: nn.Module, task: Task) -> dict[str, float]:
    """Recall (see `retrieval`) on the validation split, the only number that settings may be chosen by."""
    return {
        f"val_{name}": value for name, value in retrieval(embedder(student, task), task, "validation").items()
    }


def assess(embed: Embed, run: Run, *, cross_modal: bool = True, student: nn.Module | None = None) -> Table:
    """Every metric of step 3.

    Few labels are drawn from the validation split and tested on the test split: the concepts of
    the labels, of the test and of the clients' pairs are all different. Where a set is split by
    something else (``Experiment.unseen``), that of the test is different from both; what the test still
    shares with training is told under ``shared``.

    Args:
        embed: Maps targets as they are stored to unit embeddings.
        run: Settings of the run.
        cross_modal: Whether the embeddings live in the teacher's space, so that retrieval has a meaning.
        student: The network behind ``embed``; with ``evaluate.finetune`` it is also fine-tuned.

    Returns:
        Plain tables for ``evaluation.json``.
    """
    task = run.task
    whole = task.data
    pool, test = finite(embed(whole.validation.pairs.target)), embed(whole.test.pairs.target)
    fault, test = fault_of(test), finite(test)
    labels = whole.test.labelled.labels
    table: Table = {"data": whole.name, "kind": whole.kind, "unseen": whole.unseen}
    table["num_test"], table["num_things"] = len(whole.test), num_things(task, "test")
    if whole.shared:
        table["shared"] = whole.shared
    if fault:
        table["fault"] = fault
    if cross_modal:
        table["retrieval"] = retrieval(embed, task, "test")
        table |= by_chance(task, "test")
        # Where no test target can look like a training target there is no stricter test.
        if whole.test_strict is not whole.test:
            table["retrieval_strict"] = retrieval(embed, task, "test_strict")
        table["retrieval_validation"] = retrieval(embed, task, "validation")
    if whole.kind == CLASS_PAIRED:
        table["class_chance"] = same_class_share(labels["group"].values)
    if "concept" in labels and "style" in labels:
        table["one_shot"] = one_shot_across_styles(test, labels["concept"].values, labels["style"].values)
    named = [name for name in FEW_LABELS if name in labels]
    table["clusters"] = {name: clustering(test, labels[name], seed=run.seed) for name in named}
    few = {name: _few_labels(held_out_probe(whole, pool, test, labelling=name), run) for name in named}
    if run.evaluate.finetune and student is not None and not is_dense(run.student.architecture):
        asked = run.evaluate
        for name in (one for one in named if few[one]):
            few[name]["finetune"] = finetune_rows(
                student, run, asked.num_labels, num_draws=asked.num_draws, labelling=name
            )
    table["few_labels"] = few
    if isinstance(student, Student) and is_dense(student.architecture):
        table["segmentation"] = segmentation(student, run)
    return table


def segmentation(student: Student, run: Run) -> Table:
    """Segmentation with few masks, or under ``missing`` why it cannot be measured."""
    try:
        return tables.student_table(student, run)
    except DataError as error:
        if tables.has_masks(run):
            raise
        return {"missing": str(error)}


def class_results(embed: Embed, run: Run) -> Table:
    """What the linear probe with all labels takes the test items of each class for.

    It is the probe of the row ``all`` of ``few_labels``, for the first labelling there.

    Args:
        embed: Maps targets as they are stored to unit embeddings.
        run: Settings of the run.

    Returns:
        ``labelling``; names of ``classes`` and number of ``labels`` of each; ``counts``, each the index of
        the true class, of the class that was found, and how often. Empty where no labelling can be asked.
    """
    whole = run.task.data
    pool, test = (finite(embed(one.pairs.target)) for one in (whole.validation, whole.test))
    labels = whole.test.labelled.labels
    for name in (one for one in FEW_LABELS if one in labels):
        probe = held_out_probe(whole, pool, test, labelling=name)
        if _can_be_asked(probe):
            found = linear_predict(probe.pool, probe.pool_labels, probe.test, 0)
            classes, num_labels = np.unique(probe.pool_labels, return_counts=True)
            cells = np.searchsorted(classes, np.stack([probe.test_labels, found], axis=1))
            kinds, times = np.unique(cells, axis=0, return_counts=True)
            return {
                "labelling": name,
                "classes": [labels[name].names[one] for one in classes],
                "labels": num_labels.tolist(),
                "counts": np.column_stack([kinds, times]).tolist(),
            }
    return {"labelling": "", "classes": [], "labels": [], "counts": []}


def _can_be_asked(probe: Probe) -> bool:
    return len(np.unique(probe.pool_labels)) > 1 and len(probe.test) > 0


def _few_labels(probe: Probe, run: Run) -> Table:
    if not _can_be_asked(probe):
        return {}
    methods = {name: by_num_labels(name, probe=probe, run=run) for name in PROBES}
    return {
        "majority": majority_share(probe.test_labels),
        "num_classes": len(np.unique(probe.pool_labels)),
        "num_pool": len(probe.pool),
        "num_test": len(probe.test),
        **methods,
    }


def by_num_labels(method: str, *, probe: Probe, run: Run) -> dict[str, Table]:
    """Accuracies of one probe, a key of `PROBES`, for each of ``evaluate.num_labels``."""
    settings = run.evaluate
    return few_label_rows(
        probe_accuracy(probe, method=method, num_neighbours=settings.num_neighbours, seed=run.seed),
        settings.num_labels,
        num_draws=settings.num_draws,
        num_items=len(probe.test),
        told=f"{method} probe",
    )


def headline(table: Mapping[str, Any]) -> dict[str, float]:
    """The few numbers of an assessment that a table or a progress line shows."""
    line: dict[str, float] = {**(table.get("retrieval") or {})}
    if table.get("one_shot"):
        line["one_shot"] = table["one_shot"]["one_shot"]
    segmented = table.get("segmentation")
    if segmented and "missing" not in segmented:
        # Places are what a dense student is for; the class of the whole picture stays in the full table.
        return line | tables.headline(segmented)
    few, clusters = ((table.get(name) or {}).get("group") or {} for name in ("few_labels", "clusters"))
    for probe in ("linear", "finetune"):
        line |= {f"{probe}_{k}": row["mean"] for k, row in (few.get(probe) or {}).items()}
    return line | ({"nmi": clusters["nmi"]} if clusters else {})


def measured(table: Mapping[str, Any]) -> dict[str, Measured]:
    """The figures of `headline` with what each rests on, for `best_by_column`."""
    found = {name: Measured(value=value, is_share=False) for name, value in headline(table).items()}
    num, shot = table.get("num_things", table.get("num_test")), table.get("one_shot") or {}
    found |= {
        name: Measured(value=value, num_items=num) for name, value in table.get("retrieval", {}).items()
    }
    if "one_shot" in found:
        found["one_shot"] = Measured(value=shot["one_shot"], num_items=int(shot["num_concepts"]))
    few = (table.get("few_labels") or {}).get("group") or {}
    dense = table.get("segmentation") or {}
    places = {"linear": (few, "linear"), "finetune": (few, "finetune")}
    places |= {"miou_probe": (dense, "probe"), "miou": (dense, "finetune")}
    for name, (part, key) in places.items():
        for k, row in (part.get(key) or {}).items():
            if f"{name}_{k}" in found:
                found[f"{name}_{k}"] = Measured(
                    value=row["mean"],
                    values=tuple(row["values"]),
                    num_items=part.get("num_test"),
                    is_share=part is few,
                )
    return found


def best_by_column(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Method that is better than all others by more than chance, by column of `headline`.

    Args:
        tables: Assessment by method. One whose embeddings are at fault (``fault``) is never best, and nothing
            is best by beating it.

    Returns:
        Only columns that have such a method; see `edgecmd.core.statistics.best_of`.
    """
    rows = {name: measured(table) for name, table in tables.items() if not table.get("fault")}
    columns = dict.fromkeys(column for line in rows.values() for column in line)
    found = {
        column: best_of({name: line[column] for name, line in rows.items() if column in line})
        for column in columns
    }
    return {column: name for column, name in found.items() if name is not None}
