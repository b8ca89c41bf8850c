"""What a comparison measures beside `evaluate`: supervised training, tuned students, the ceiling.

Shapes: N examples, D embedding dimension.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from edgecmd.core.errors import ConfigError
from edgecmd.data.labelled import Labels
from edgecmd.data.stored.array_files import one_after_another
from edgecmd.evaluation import segmentation
from edgecmd.evaluation.evaluate import Table, by_num_labels
from edgecmd.evaluation.metrics import PROBES, clustering, few_label_rows, held_out_probe, unit_rows
from edgecmd.evaluation.supervised import (
    Fit,
    Part,
    Recipe,
    accuracy_of,
    fit_classifier,
    num_asked,
    scratch_accuracy,
)
from edgecmd.experiments.compare.methods import SUPERVISED, SUPERVISED_ALL, work_of
from edgecmd.experiments.compare.tuning import LABELLING, NUM_DRAWS, validation_draw
from edgecmd.run import Run
from edgecmd.training.distill import taken
from edgecmd.training.task import Task


def check_labels(task: Task, methods: Sequence[str]) -> None:
    """Refuse supervised methods on data without labels.

    Raises:
        ConfigError: The names of the methods to leave out.
    """
    asked = [name for name in methods if name in (SUPERVISED, SUPERVISED_ALL)]
    if asked and LABELLING not in task.data.test.labelled.labels:
        raise ConfigError(
            f"--methods has {', '.join(asked)}, but data.name={task.name!r} has no labels."
            " Leave them out, or add labels.csv with the columns id,label."
        )


def recipe_of(run: Run, method: str) -> Recipe:
    """The work of ``method`` at the run's learning rate."""
    work = work_of(run, method)
    return Recipe(num_steps=work.steps, batch_size=work.pairs_a_step, learning_rate=run.distill.learning_rate)


def supervised_table(run: Run, *, num_draws: int) -> Table:
    """``supervised``: test accuracy by number of labels, on the first ``num_draws`` that the probes see."""
    recipe = recipe_of(run, SUPERVISED)

    def accuracy(count: int, draw: int) -> float:
        return scratch_accuracy(run, labelling=LABELLING, num_labels=count, draw=draw, recipe=recipe)

    asked, items = run.evaluate.num_labels, num_asked(run, LABELLING)
    rows = few_label_rows(accuracy, asked, num_draws=num_draws, num_items=items, told="supervised")
    return {"few_labels": {LABELLING: {"linear": rows}}}


def supervised_all_table(run: Run) -> Table:
    """``supervised-all``: the labels of the pool and of all training targets, which no client could join."""
    whole, pool, own = run.task.data, _part(run, "validation")[1], _training(run)[1]
    targets = one_after_another([whole.validation.pairs.target, whole.train.target])
    both = _labelled((run.task.inputs(targets), np.concatenate([pool, own])))
    recipe = recipe_of(run, SUPERVISED_ALL)
    value = accuracy_of(_fit(run, recipe), both, _part(run, "test"))
    rows = few_label_rows(lambda *_: value, (0,), num_draws=1, num_items=num_asked(run, LABELLING))
    rows["all"]["num_labels"] = len(both[1])
    return {"few_labels": {LABELLING: {"linear": rows}}}


def supervised_validation(run: Run, method: str, *, num_labels: int) -> float:
    """Score within the validation split, of which `tuning.validation_score` is the twin.

    ``supervised`` learns from a draw of the validation split, ``supervised-all`` from the training targets.
    """
    whole, held = run.task.data, _part(run, "validation")
    recipe = recipe_of(run, method)
    if method == SUPERVISED_ALL:
        return accuracy_of(_fit(run, recipe), _labelled(_training(run)), held)
    scores = []
    for draw in range(min(2, NUM_DRAWS)):
        drawn, rest = validation_draw(whole, num_labels=num_labels, draw=draw, seed=run.seed)
        fit = _fit(run, recipe, draw=draw)
        scores.append(accuracy_of(fit, _take(held, drawn), _take(held, rest)))
    return float(np.mean(scores))


def ceiling_table(run: Run) -> Table:
    """``teacher-source``: the probe on the teacher's features of the source images of the same examples."""
    if run.task.places is not None:
        return {"segmentation": segmentation.ceiling_table(run)} if segmentation.has_masks(run) else {}
    whole = run.task.data
    pool, test = (unit_rows(run.task.held_out_features(part)) for part in ("validation", "test"))
    labels = whole.test.labelled.labels
    if LABELLING not in labels:
        return {}
    probe = held_out_probe(whole, pool, test, labelling=LABELLING)
    few = {name: by_num_labels(name, probe=probe, run=run) for name in PROBES}
    clusters = clustering(test, labels[LABELLING], seed=run.seed)
    return {"few_labels": {LABELLING: few}, "clusters": {LABELLING: clusters}}


def _part(run: Run, name: str) -> Part:
    """Inputs and classes of a held-out part."""
    held = getattr(run.task.data, name)
    return run.task.inputs(held.pairs.target), held.labelled.labels[LABELLING].values


def _training(run: Run) -> Part:
    """Inputs and classes of all training targets, the classes renumbered as the pool's are."""
    whole = run.task.data
    names = whole.validation.labelled.labels[LABELLING].names
    return run.task.inputs(whole.train.target), _renumbered(whole.train_labels, names)


def _renumbered(labels: Labels, names: tuple[str, ...]) -> np.ndarray:
    """Classes by their place in ``names``; classes that are not there are unlabelled."""
    place = {name: index for index, name in enumerate(names)}
    table = np.array([*(place.get(name, -1) for name in labels.names), -1])
    return np.asarray(table[labels.values])


def _labelled(part: Part) -> Part:
    return _take(part, np.flatnonzero(part[1] >= 0))


def _take(part: Part, rows: np.ndarray) -> Part:
    return taken(part[0], rows), part[1][rows]


def _fit(run: Run, recipe: Recipe, *, draw: int = 0) -> Fit:
    return partial(fit_classifier, run, draw=draw, recipe=recipe)
