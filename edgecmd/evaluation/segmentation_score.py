"""Mean intersection over union, and what it leaves out.

Shapes: N images, H height, W width, K classes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from edgecmd.core.errors import DataError
from edgecmd.data.labelled import IGNORED, Masks
from edgecmd.data.stored.array_files import chunks

# A class with a smaller share of the labelled pixels of the pool is called rare.
RARE_SHARE = 0.015
CHUNK, AT_ONCE = 64, 8

Predicted = UInt8[np.ndarray, "num height width"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How well masks were told; fields as `segmentation_scores` says.

    Attributes:
        miou: Mean IoU of all classes of the test.
        miou_common: The same without rare classes.
        pixel_accuracy: Share of right pixels.
    """

    miou: float
    miou_common: float
    pixel_accuracy: float
    iou: dict[str, float]


def share_of_pixels(masks: Masks) -> np.ndarray:
    """Share of the counted pixels that each class has, (K,)."""
    counts = np.zeros(len(masks.names), np.int64)
    for part in chunks(masks.values, CHUNK):
        counts += np.bincount(part[part != IGNORED], minlength=len(counts))
    return np.asarray(counts / max(1, counts.sum()))


def rare_classes(pool: Masks) -> tuple[str, ...]:
    """Classes with less than `RARE_SHARE` of the pool's pixels; the test is not looked at."""
    return tuple(name for name, share in zip(pool.names, share_of_pixels(pool)) if share < RARE_SHARE)


def absent_classes(test: Masks) -> tuple[str, ...]:
    """Classes without a pixel in the test: nothing can be said of them, and they are in no mean."""
    return tuple(name for name, share in zip(test.names, share_of_pixels(test)) if not share)


def segmentation_scores(predicted: Iterable[Predicted], test: Masks, *, rare: tuple[str, ...]) -> Scores:
    """Intersection over union of each class, by torchmetrics, and means over the classes of the test.

    Args:
        predicted: Class of each pixel, (N, H, W), some images at a time.
        test: The truth; pixels that are `IGNORED` do not count.
        rare: Classes that ``miou_common`` leaves out.

    Returns:
        Means and ``iou`` by name. Classes absent from the test are in none of them, also where predicted.

    Raises:
        DataError: The two have different shapes, or no pixel of the test counts.
    """
    absent = absent_classes(test)
    if len(absent) == len(test.names):
        raise DataError("No pixel of the test has a class; all are ignored. Give masks with classes.")
    iou, accuracy = _torchmetrics(predicted, test)
    told = {name: float(one) for name, one in zip(test.names, iou) if name not in absent}
    common = [one for name, one in told.items() if name not in rare]
    return Scores(
        miou=math.fsum(told.values()) / len(told),
        miou_common=math.fsum(common) / len(common) if common else math.nan,
        pixel_accuracy=accuracy,
        iou=told,
    )


def _torchmetrics(predicted: Iterable[Predicted], test: Masks) -> tuple[np.ndarray, float]:
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    num = len(test.names)
    jaccard = MulticlassJaccardIndex(num_classes=num, average="none", ignore_index=IGNORED)
    accuracy = MulticlassAccuracy(num_classes=num, average="micro", ignore_index=IGNORED)
    start = 0
    for part in predicted:
        values = test.values[start : start + len(part)]
        if part.shape != values.shape:
            raise DataError(f"Predicted masks have shape={part.shape}, the truth {values.shape}.")
        # torchmetrics takes a hundred bytes a pixel.
        for rows in torch.split(torch.stack([torch.from_numpy(part), torch.from_numpy(values)], 1), AT_ONCE):
            found, truth = rows.long().unbind(1)
            jaccard.update(found, truth)
            accuracy.update(found, truth)
        start += len(part)
    if start < len(test.values):
        raise DataError(f"There are {start} predicted masks for {len(test.values)} true ones.")
    return jaccard.compute().numpy(), float(accuracy.compute())
