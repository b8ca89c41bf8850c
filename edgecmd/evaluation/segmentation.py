"""Segmentation with few masks: the tables of an evaluation.

Shapes: N images, H height, W width.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from edgecmd.core.errors import DataError
from edgecmd.core.progress import tracked
from edgecmd.core.seeding import numpy_generator
from edgecmd.core.statistics import SHARE, mean_interval
from edgecmd.data.labelled import Masks
from edgecmd.data.modalities.table import input_shape, modality_of, source_input
from edgecmd.data.pairs import PairedData
from edgecmd.evaluation.segmentation_score import (
    Scores,
    absent_classes,
    rare_classes,
    segmentation_scores,
    share_of_pixels,
)
from edgecmd.evaluation.segmenter import (
    FINETUNE_RATE,
    SCRATCH_RATES,
    Drawn,
    Segmenter,
    finetune,
    fit_probe,
    held_loss,
    hold_out,
    predict_masks,
)
from edgecmd.models.devices import device_of, place
from edgecmd.models.students import Student
from edgecmd.models.teacher.place_features import TeacherPlaces
from edgecmd.run import Run
from edgecmd.training.distill import Inputs, as_asked

Table = dict[str, object]
Fitted = Mapping[str, Segmenter]
Fit = Callable[[Drawn, int], Fitted]
See = Callable[[Run, PairedData], Inputs]


def _seen(run: Run, pairs: PairedData) -> Inputs:
    """Targets as the student sees them."""
    return run.task.inputs(pairs.target)


def masks_of(run: Run) -> tuple[Masks, Masks]:
    """Masks of the pool and of the test.

    Raises:
        DataError: The data set has none.
    """
    whole = run.task.data
    pool, test = whole.validation.labelled.masks, whole.test.labelled.masks
    if pool is None or test is None:
        raise DataError(
            f"data.name={run.task.name!r} has no masks, so segmentation cannot be measured. Sets with masks:"
            " emoji-scenes, rooms. Distilling the student needs no masks."
        )
    return pool, test


def has_masks(run: Run) -> bool:
    """Whether pool and test of the data set carry masks."""
    whole = run.task.data
    return whole.validation.labelled.masks is not None and whole.test.labelled.masks is not None


def draw_images(run: Run, *, percent: int, draw: int, see: See = _seen) -> Drawn:
    """The labelled images of one draw; it depends on (seed, percent, draw) alone, so all methods share it.

    Args:
        run: Settings of the run.
        percent: Of the pool; at least two images.
        draw: Index of the draw.
        see: What is looked at of the labelled pairs.

    Raises:
        DataError: The data set has no masks.
    """
    pool, _ = masks_of(run)
    whole, num = run.task.data, len(pool.values)
    count = min(num, max(2, round(num * percent / 100)))
    generator = numpy_generator(run.seed, f"masks-{percent}", client=draw)
    rows = np.sort(generator.permutation(num)[:count])
    target = see(run, whole.validation.pairs.take(rows))
    device, values = target.device, pool.take(rows).values

    def mask(part: np.ndarray) -> Tensor:
        return torch.from_numpy(part).long().to(device)

    return Drawn(
        target=target,
        mask=as_asked(values, mask, row=values.shape[1:], device=device),
        held=hold_out(count, generator=generator),
        num_classes=len(pool.names),
        modality=modality_of(whole.train.target).name,
    )


def segmenter_of(student: Student, drawn: Drawn, run: Run, *, draw: int) -> Segmenter:
    """Student fine-tuned on a draw: the head starts as the linear probe, then all layers are trained."""
    return finetune(_probe(student, drawn, run, draw=draw), drawn, run, rate=FINETUNE_RATE, draw=draw)


def masks_found(student: Student, run: Run, rows: Sequence[int]) -> np.ndarray:
    """Masks of the test at ``rows``, uint8, (R, H, W), by the student fine-tuned on all masks of the pool.

    Raises:
        DataError: The data set has no masks.
    """
    drawn = draw_images(run, percent=100, draw=0)
    model = segmenter_of(place(student, run.device), drawn, run, draw=0)
    every = (one for part in predict_masks(model, _seen(run, run.task.data.test.pairs)) for one in part)
    wanted = frozenset(rows)
    found = {row: one for row, one in enumerate(every) if row in wanted}
    return np.stack([found[row] for row in rows])


def _probe(student: Student | TeacherPlaces, drawn: Drawn, run: Run, *, draw: int) -> Segmenter:
    return fit_probe(student, drawn, generator=numpy_generator(run.seed, "probe-places", client=draw))


def student_table(student: Student, run: Run) -> Table:
    """Linear probe and fine-tuning of a dense student for each of ``evaluate.label_percent``.

    Args:
        student: Dense student; not changed.
        run: Settings of the run.

    Returns:
        Plain tables: ``probe`` and ``finetune`` by percent, and what is beside them in `_facts`.

    Raises:
        DataError: The data set has no masks.
    """
    own: Student = place(student, run.device)

    def fit(drawn: Drawn, draw: int) -> Fitted:
        probe = _probe(own, drawn, run, draw=draw)
        tuned = finetune(copy.deepcopy(probe), drawn, run, rate=FINETUNE_RATE, draw=draw)
        return {"probe": probe, "finetune": tuned}

    return _facts(run) | _rows(fit, run)


def scratch_table(run: Run) -> Table:
    """The same student trained on the same masks from its first weights, without distillation.

    Which of two learning rates is better changes with the data and with the number of masks, so both are
    tried, and the held-out images decide.

    Raises:
        DataError: The data set has no masks.
    """

    def fit(drawn: Drawn, draw: int) -> Fitted:
        tried = [_from_scratch(run, drawn, rate=rate, draw=draw) for rate in SCRATCH_RATES]
        return {"finetune": min(tried, key=lambda model: held_loss(model, drawn))}

    return _facts(run) | _rows(fit, run)


def ceiling_table(run: Run) -> Table:
    """The linear probe on the teacher's locations of the *source* images of the same examples.

    Raises:
        ConfigError: The teacher has no stages that could be looked at.
        DataError: The data set has no masks.
    """
    places = TeacherPlaces(
        run.task.teacher.network,
        view=run.task.view,
        reduction=run.task.reduction,
    )

    def fit(drawn: Drawn, draw: int) -> Fitted:
        return {"probe": _probe(places, drawn, run, draw=draw)}

    def seen(source: np.ndarray) -> Tensor:
        return source_input(source).to(run.device)

    def see(run: Run, pairs: PairedData) -> Inputs:
        return as_asked(pairs.source, seen, row=input_shape(pairs.source), device=run.device)

    return _facts(run) | _rows(fit, run, see=see)


def _from_scratch(run: Run, drawn: Drawn, *, rate: float, draw: int) -> Segmenter:
    model = Segmenter(run.new_student(), num_classes=drawn.num_classes)
    place(model, device_of(model.student))
    return finetune(model, drawn, run, rate=rate, draw=draw)


def _facts(run: Run) -> Table:
    """What every segmentation table says: sizes, classes, the floor of the pixel accuracy."""
    pool, test = masks_of(run)
    shares = share_of_pixels(test)
    return {
        "num_pool": len(pool.values),
        "num_test": len(test.values),
        "classes": list(test.names),
        "rare": list(rare_classes(pool)),
        "absent": list(absent_classes(test)),
        "majority": float(shares.max()),
    }


def _rows(fit: Fit, run: Run, *, see: See = _seen) -> Table:
    """Rows by method and percent."""
    found: dict[str, dict[str, Table]] = {}
    for percent in run.evaluate.label_percent:
        # All of the pool is one draw.
        num_draws = run.evaluate.segment_draws if percent < 100 else 1
        draws = tracked(range(num_draws), f"segmentation, {percent}% of the masks")
        scores = [_scores(fit, run, percent=percent, draw=draw, see=see) for draw in draws]
        for name in scores[0]:
            found.setdefault(name, {})[str(percent)] = _row(
                [one[name] for one in scores], num_items=len(masks_of(run)[1].values)
            )
    return dict(found)


def _scores(fit: Fit, run: Run, *, percent: int, draw: int, see: See) -> dict[str, Scores]:
    pool, test = masks_of(run)
    shown = see(run, run.task.data.test.pairs)
    models = fit(draw_images(run, percent=percent, draw=draw, see=see), draw)
    rare = rare_classes(pool)
    return {
        name: segmentation_scores(predict_masks(model, shown), test, rare=rare)
        for name, model in models.items()
    }


def _row(scores: list[Scores], *, num_items: int) -> Table:
    """Mean and interval over the draws of mIoU, and the other figures' means."""
    values = [one.miou for one in scores]
    return {
        "values": values,
        **asdict(mean_interval(values, bounds=SHARE, num_items=num_items)),
        "miou_common": float(np.mean([one.miou_common for one in scores])),
        "pixel_accuracy": float(np.mean([one.pixel_accuracy for one in scores])),
        "iou": {name: float(np.mean([one.iou[name] for one in scores])) for name in scores[0].iou},
    }


def headline(table: Mapping[str, object]) -> dict[str, float]:
    """Figures of a segmentation table for one line: mIoU after the probe and after fine-tuning."""
    line: dict[str, float] = {}
    for key, name in (("probe", "miou_probe"), ("finetune", "miou")):
        rows = table.get(key)
        if isinstance(rows, dict):
            line |= {f"{name}_{percent}": row["mean"] for percent, row in rows.items()}
    finetuned = table.get("finetune")
    if isinstance(finetuned, dict):
        line |= {f"pixels_{percent}": row["pixel_accuracy"] for percent, row in finetuned.items()}
    return line
