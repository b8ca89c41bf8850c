"""How each baseline of `edgecmd.catalogue.baseline_rows` is made, and where it applies."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edgecmd.catalogue.baseline_rows import BASELINES
from edgecmd.catalogue.data_sets import imported
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.processes import mapped
from edgecmd.core.progress import tracked
from edgecmd.data.pairs import Targets
from edgecmd.run import Run
from edgecmd.settings import NOISED_SUM, PLAIN
from edgecmd.training.task import Task

if TYPE_CHECKING:
    from edgecmd.evaluation.evaluate import Embed, Table

Assessed = Callable[[], "Table"]


def baselines_of(config: RunConfig, run: Run) -> dict[str, RunConfig | Assessed]:
    """The baselines that apply to a run, in the order of the table.

    Args:
        config: Settings of the run.
        run: The run.

    Returns:
        By name: settings of a federation of its own, or what makes the evaluation.
    """
    found: dict[str, RunConfig | Assessed] = {}
    for name, row in BASELINES.items():
        if row.alone and (assessed := imported(row.alone)(config, run)):
            found[name] = assessed
        if row.federated and (other := imported(row.federated)(config)):
            found[name.format(loss=other.distill.loss, mechanism=other.privacy.mechanism)] = other
    return found


def untrained(config: RunConfig, run: Run) -> Assessed | None:
    """The student with random first weights."""
    return None if config.student.path or config.student.weights else partial(_first_weights, run)


def warm_start(config: RunConfig, run: Run) -> Assessed | None:
    """The student with the first weights of a file."""
    return partial(_first_weights, run) if config.student.path or config.student.weights else None


def _first_weights(run: Run) -> "Table":
    from edgecmd.evaluation.evaluate import assess, embedder

    first = run.new_student()
    return assess(embedder(first, run.task), run, student=first)


def teacher_as_it_is(config: RunConfig, run: Run) -> Assessed | None:
    """The teacher on the targets, where it can be shown them."""
    from edgecmd.evaluation.evaluate import assess

    seen = sees_pictures(config, run.task)
    return (lambda: assess(teacher_on_target(config, run.task), run)) if seen else None


def _other_loss(config: RunConfig, loss: str) -> RunConfig | None:
    """The same federation with another loss; without privacy, and where the student can learn by it."""
    from edgecmd.losses import LOSSES
    from edgecmd.models.students import is_dense

    is_fit = LOSSES[loss].dense or not is_dense(config.student.architecture)
    if config.privacy.mechanism != "none" or not is_fit:
        return None
    return replace(config, distill=replace(config.distill, loss=loss))


l2, simclr = (partial(_other_loss, loss=name) for name in ("l2", "simclr"))


def without_privacy(config: RunConfig) -> RunConfig | None:
    """The same loss without privacy: the limit that privacy is paid against."""
    aggregation = PLAIN if config.privacy.aggregation == NOISED_SUM else config.privacy.aggregation
    without = replace(config.privacy, mechanism="none", aggregation=aggregation)
    return None if config.privacy == without else replace(config, privacy=without)


def same_epsilon(config: RunConfig) -> RunConfig | None:
    """The mechanism without negatives, at the same epsilon."""
    from edgecmd.privacy.mechanisms import MECHANISMS

    row = MECHANISMS.get(config.privacy.mechanism)
    other = row.without_negatives if row else ""
    if not other:
        return None
    return replace(
        config,
        privacy=replace(config.privacy, mechanism=other, ledger_dir=""),
        distill=replace(config.distill, loss=MECHANISMS[other].default_loss),
    )


def scratch(_: RunConfig, run: Run) -> Assessed:
    """The student trained on the few labels alone, a dense one on the few masks; empty without them."""
    from edgecmd.evaluation import segmentation

    if run.task.places is not None and segmentation.has_masks(run):
        return lambda: {"segmentation": segmentation.scratch_table(run)}
    return partial(_scratch_table, run)


def sees_pictures(config: RunConfig, task: Task) -> bool:
    """Whether the teacher is here and takes images, as which any target can be shown to it."""
    if task.has_ready_features:
        return False
    return not config.data.reverse or (bool(config.teacher.path) and task.teacher.sees_colour)


def teacher_on_target(config: RunConfig, task: Task) -> "Embed":
    """The teacher applied to the target modality as it is: nothing is trained.

    Depth and sound are shown to it as images; grey becomes RGB, and the image is enlarged to the side
    that the teacher is used to.

    Raises:
        ConfigError: The run has ready features; or pairs are reversed, and the teacher takes no images.
    """
    import numpy as np
    import torch
    from PIL import Image

    from edgecmd.data.modalities.table import as_pictures
    from edgecmd.evaluation.metrics import unit_rows
    from edgecmd.models.teacher.place_features import pool_places

    # With ready features it says that the teacher is not here.
    teacher = task.teacher
    if not sees_pictures(config, task):
        raise ConfigError(
            "data.reverse=true: the teacher does not take images, so it cannot embed the student's inputs."
            " Leave the method 'teacher' out."
        )
    side = task.source_side

    def embed(target: Targets) -> np.ndarray:
        images = as_pictures(target)
        rgb = images if images.shape[3] == 3 else np.repeat(images[..., :1], 3, axis=3)
        if rgb.shape[1:3] != (side, side):
            large = [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in rgb]
            rgb = np.stack([np.asarray(one) for one in large])
        if task.places is not None:
            return unit_rows(pool_places(torch.from_numpy(np.asarray(task.place_features(rgb)))).numpy())
        return unit_rows(teacher.embed(rgb))

    return embed


def _scratch_table(run: Run) -> "Table":
    from edgecmd.evaluation.metrics import few_label_rows
    from edgecmd.evaluation.supervised import num_asked

    if "group" not in run.task.data.test.labelled.labels:
        return {}
    counts, num = run.evaluate.num_labels, run.evaluate.num_draws
    work = [(count, draw) for count in counts for draw in range(num if count else 1)]
    found, items = dict(zip(work, _scratch_accuracies(run, work))), num_asked(run, "group")
    rows = few_label_rows(lambda *one: found[one], counts, num_draws=num, num_items=items)
    return {"few_labels": {"group": {"linear": rows}}}


def _scratch_accuracies(run: Run, work: list[tuple[int, int]]) -> list[float]:
    """Accuracy for each (number of labels, draw), by as many processes as the federation may use."""
    jobs = run.federation.num_workers if run.remake else 1
    make = run.remake if jobs > 1 and run.remake else lambda: run
    found = mapped(_scratch_accuracy, [(make, *one) for one in work], jobs=jobs)
    return list(tracked(found, "training from scratch", num=len(work)))


def _scratch_accuracy(job: tuple[Callable[[], Run], int, int]) -> float:
    from edgecmd.evaluation.supervised import scratch_accuracy

    remake, num_labels, draw = job
    return scratch_accuracy(remake(), labelling="group", num_labels=num_labels, draw=draw)
