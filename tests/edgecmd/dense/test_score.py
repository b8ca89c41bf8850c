"""mIoU against a calculation by hand; ignored pixels, absent and rare classes."""

import numpy as np
import pytest

from edgecmd.core.errors import DataError
from edgecmd.data.labelled import IGNORED, Masks
from edgecmd.evaluation.segmentation_score import (
    absent_classes,
    rare_classes,
    segmentation_scores,
    share_of_pixels,
)

NAMES = ("wall", "bed", "lamp", "cat")


def masks(rows: list[list[int]]) -> Masks:
    return Masks(values=np.array([rows], dtype=np.uint8), names=NAMES)


def test_by_hand() -> None:
    truth = masks([[0, 0, 0, 0], [1, 1, 1, IGNORED], [2, 2, IGNORED, IGNORED]])
    predicted = np.array([[[0, 0, 0, 1], [1, 1, 0, 3], [1, 2, 2, 0]]], dtype=np.uint8)
    found = segmentation_scores([predicted], truth, rare=("lamp",))
    # Wall: 3 right, one taken for bed. Bed: 2 right, one taken for wall. Lamp: 1 right, one taken for bed.
    assert found.iou == pytest.approx({"wall": 3 / 5, "bed": 2 / 5, "lamp": 1 / 2})
    assert found.miou == pytest.approx((3 / 5 + 2 / 5 + 1 / 2) / 3)
    assert found.miou_common == pytest.approx((3 / 5 + 2 / 5) / 2)
    assert found.pixel_accuracy == pytest.approx(6 / 9)


def test_a_class_absent_from_the_test_is_in_no_mean_even_when_predicted() -> None:
    truth, predicted = masks([[0, 0, 1, 1]]), np.array([[[0, 0, 1, 3]]], dtype=np.uint8)
    found = segmentation_scores([predicted], truth, rare=())
    assert absent_classes(truth) == ("lamp", "cat")
    assert found.iou == pytest.approx({"wall": 1.0, "bed": 0.5})
    assert found.miou == pytest.approx(0.75)


def test_perfect_and_all_wrong() -> None:
    truth = masks([[0, 1, 2, 3]])
    assert segmentation_scores([truth.values], truth, rare=()).miou == 1.0
    turned = np.array([[[1, 2, 3, 0]]], dtype=np.uint8)
    assert segmentation_scores([turned], truth, rare=()).miou == 0.0


def test_more_images_than_a_chunk_are_one_confusion_matrix() -> None:
    generator = np.random.default_rng(0)
    truth = Masks(values=generator.integers(0, 3, (70, 4, 4), dtype=np.uint8), names=NAMES)
    predicted = generator.integers(0, 4, (70, 4, 4), dtype=np.uint8)
    found = segmentation_scores([predicted[:64], predicted[64:]], truth, rare=())
    for index, name in enumerate(NAMES[:3]):
        both = ((predicted == index) & (truth.values == index)).sum()
        either = ((predicted == index) | (truth.values == index)).sum()
        assert found.iou[name] == pytest.approx(both / either, rel=1e-5)


def test_rare_is_a_share_of_the_counted_pixels() -> None:
    values = np.zeros((1, 10, 20), dtype=np.uint8)
    values[0, 0, :2], values[0, 1, :4] = 1, 2
    pool = Masks(values=values, names=NAMES)
    assert share_of_pixels(pool).tolist() == pytest.approx([0.97, 0.01, 0.02, 0.0])
    assert rare_classes(pool) == ("bed", "cat")
    values[0, 2:] = IGNORED
    assert rare_classes(Masks(values=values, names=NAMES)) == ("cat",)


def test_another_shape_and_an_empty_truth_are_refused() -> None:
    with pytest.raises(DataError, match="shape"):
        segmentation_scores([np.zeros((1, 2, 2), dtype=np.uint8)], masks([[0, 1]]), rare=())
    two = Masks(values=np.zeros((2, 1, 2), np.uint8), names=NAMES)
    with pytest.raises(DataError, match="1 predicted masks for 2 true ones"):
        segmentation_scores([two.values[:1]], two, rare=())
    with pytest.raises(DataError, match="ignored"):
        segmentation_scores([np.zeros((1, 1, 2), dtype=np.uint8)], masks([[IGNORED, IGNORED]]), rare=())
