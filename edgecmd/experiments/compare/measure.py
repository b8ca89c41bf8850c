"""What a comparison measures beside `evaluate`: supervised training, tuned students, the ceiling.

Shapes: N examples, D embedding dimension.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.data.labelled import Labels
from edgecmd.data.problem import experiment, run_of, target_input, task_of
from edgecmd.evaluation import segmentation
from edgecmd.evaluation.evaluate import Table, by_num_labels
from edgecmd.evaluation.finetune import finetune_accuracy
from edgecmd.evaluation.metrics import PROBES, clustering, make_probe, unit_rows
from edgecmd.evaluation.supervised import Recipe, accuracy_row, drawn_rows, fit_classifier, predict_classes
from edgecmd.experiments.compare.methods import SUPERVISED, SUPERVISED_ALL, work_of
from edgecmd.experiments.compare.tuning import LABELLING, NUM_DRAWS, validation_draw
from edgecmd.models.students import is_dense

Part = tuple[Tensor, np.ndarray]


def check_labels(config: RunConfig, methods: Sequence[str]) -> None:
    """Refuse supervised methods on data without labels.

    Raises:
        ConfigError: The names of the methods to leave out.
    """
    asked = [name for name in methods if name in (SUPERVISED, SUPERVISED_ALL)]
    if asked and LABELLING not in experiment(config.data).test.labelled.labels:
        raise ConfigError(
            f"--methods has {', '.join(asked)}, but data.name={config.data.name!r} has no labels."
            " Leave them out, or add labels.csv with the columns id,label."
        )


def recipe_of(config: RunConfig, method: str) -> Recipe:
    """The work of ``method`` at the run's learning rate."""
    work = work_of(config, method)
    return Recipe(
        num_steps=work.steps, batch_size=work.pairs_a_step, learning_rate=config.distill.learning_rate
    )


def supervised_table(config: RunConfig, *, num_draws: int) -> Table:
    """``supervised``: test accuracy by number of labels, on the first ``num_draws`` that the probes see."""
    rows = {}
    recipe = recipe_of(config, SUPERVISED)
    pool, test = _part(config, "validation"), _part(config, "test")
    held = experiment(config.data).validation
    labels = held.labelled.labels[LABELLING]
    for count in config.evaluate.num_labels:
        values = []
        for draw in range(num_draws if count else 1):
            drawn, _ = drawn_rows(labels, num_labels=count, draw=draw, seed=config.seed, twins=held.twins)
            values.append(_accuracy(config, _take(pool, drawn), test, draw=draw, recipe=recipe))
        rows[str(count or "all")] = accuracy_row(values, run_of(config), labelling=LABELLING)
    return {"few_labels": {LABELLING: {"linear": rows}}}


def supervised_all_table(config: RunConfig) -> Table:
    """``supervised-all``: the labels of the pool and of all training targets, which no client could join."""
    pool, own = _labelled(_part(config, "validation")), _labelled(_training(config))
    both = (torch.cat([pool[0], own[0]]), np.concatenate([pool[1], own[1]]))
    recipe = recipe_of(config, SUPERVISED_ALL)
    value = _accuracy(config, both, _part(config, "test"), draw=0, recipe=recipe)
    row = {**accuracy_row([value], run_of(config), labelling=LABELLING), "num_labels": len(both[1])}
    return {"few_labels": {LABELLING: {"linear": {"all": row}}}}


def supervised_validation(config: RunConfig, method: str, *, num_labels: int) -> float:
    """Score within the validation split, of which `tuning.validation_score` is the twin.

    ``supervised`` learns from a draw of the validation split, ``supervised-all`` from the training targets.
    """
    whole, held = experiment(config.data), _part(config, "validation")
    recipe = recipe_of(config, method)
    if method == SUPERVISED_ALL:
        return _accuracy(config, _labelled(_training(config)), held, draw=0, recipe=recipe)
    scores = []
    for draw in range(min(2, NUM_DRAWS)):
        drawn, rest = validation_draw(whole, num_labels=num_labels, draw=draw, seed=config.seed)
        scores.append(_accuracy(config, _take(held, drawn), _take(held, rest), draw=draw, recipe=recipe))
    return float(np.mean(scores))


def finetuned(
    student: nn.Module, config: RunConfig, counts: Sequence[int], *, num_draws: int
) -> dict[str, dict[str, object]]:
    """Accuracy after fine-tuning all layers, by number of labels, as the probes' tables have it.

    Args:
        student: Encoder; not changed.
        config: Settings of the run.
        counts: Numbers of labels a class; 0 for all.
        num_draws: Draws of the labels, the first of those that the probe sees.
    """
    table: dict[str, dict[str, object]] = {}
    for count in counts:
        values = [
            finetune_accuracy(student, run_of(config), labelling=LABELLING, num_labels=count, draw=draw)
            for draw in range(num_draws if count else 1)
        ]
        table[str(count or "all")] = accuracy_row(values, run_of(config), labelling=LABELLING)
    return table


def ceiling_table(config: RunConfig) -> Table:
    """``teacher-source``: the probe on the teacher's features of the source pictures of the same examples."""
    if is_dense(config.student.architecture):
        return (
            {"segmentation": segmentation.ceiling_table(run_of(config))}
            if segmentation.has_masks(run_of(config))
            else {}
        )
    whole = experiment(config.data)
    pool, test = (unit_rows(task_of(config).held_out_features(part)) for part in ("validation", "test"))
    labels = whole.test.labelled.labels
    if LABELLING not in labels:
        return {}
    probe = make_probe(
        pool,
        whole.validation.labelled.labels[LABELLING],
        test,
        labels[LABELLING],
        twins=whole.validation.twins,
    )
    few = {name: by_num_labels(name, probe=probe, run=run_of(config)) for name in PROBES}
    clusters = clustering(test, labels[LABELLING], seed=config.seed)
    return {"few_labels": {LABELLING: few}, "clusters": {LABELLING: clusters}}


def _part(config: RunConfig, name: str) -> Part:
    """Inputs and classes of a held-out part."""
    held = getattr(experiment(config.data), name)
    return target_input(config, held.pairs), held.labelled.labels[LABELLING].values


def _training(config: RunConfig) -> Part:
    """Inputs and classes of all training targets, the classes renumbered as the pool's are."""
    whole = experiment(config.data)
    names = whole.validation.labelled.labels[LABELLING].names
    return target_input(config, whole.train), _renumbered(whole.train_labels, names)


def _renumbered(labels: Labels, names: tuple[str, ...]) -> np.ndarray:
    """Classes by their place in ``names``; classes that are not there are unlabelled."""
    place = {name: index for index, name in enumerate(names)}
    table = np.array([*(place.get(name, -1) for name in labels.names), -1])
    return np.asarray(table[labels.values])


def _labelled(part: Part) -> Part:
    return _take(part, np.flatnonzero(part[1] >= 0))


def _take(part: Part, rows: np.ndarray) -> Part:
    return part[0][torch.from_numpy(rows)], part[1][rows]


def _accuracy(config: RunConfig, pool: Part, test: Part, *, draw: int, recipe: Recipe) -> float:
    """Train on ``pool``, and the share of ``test`` that is right, of the classes that ``pool`` has."""
    classes = np.unique(pool[1])
    labels = np.searchsorted(classes, pool[1])
    model = fit_classifier(run_of(config), pool[0], labels, draw=draw, recipe=recipe)
    inputs, wanted = _take(test, np.flatnonzero(np.isin(test[1], classes)))
    return float((classes[predict_classes(model, inputs)] == wanted).mean())
