"""Masks: a class for each pixel, and what is refused."""

import numpy as np
import pytest

from edgecmd.core.errors import DataError
from edgecmd.data.labelled import IGNORED, LabelledTarget, Masks

DEPTH = np.full((3, 4, 6, 1), 1500, np.uint16)


def test_masks_follow_the_examples_that_are_taken():
    values = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 6), np.uint8)
    part = LabelledTarget(
        target=DEPTH, labels={}, masks=Masks(values=values, names=("wall", "floor", "bed"))
    ).take(np.array([2, 0]))
    assert part.masks is not None
    assert part.masks.values[:, 0, 0].tolist() == [2, 0]
    assert part.masks.names == ("wall", "floor", "bed")


def test_ignored_pixels_need_no_name():
    Masks(values=np.full((1, 2, 2), IGNORED, np.uint8), names=("wall",))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((3, 4, 6), np.int64), "dtype=int64"),
        (np.zeros((3, 4, 6, 1), np.uint8), "shape=\\(3, 4, 6, 1\\)"),
        (np.full((3, 4, 6), 2, np.uint8), "class 2; allowed is 0 to 1"),
    ],
)
def test_masks_that_cannot_be_are_refused_by_name(values, said):
    with pytest.raises(DataError, match=said):
        Masks(values=values, names=("wall", "floor"))


def test_masks_of_another_size_than_the_targets_are_refused():
    masks = Masks(values=np.zeros((3, 4, 4), np.uint8), names=("wall",))
    with pytest.raises(DataError, match=r"\(3, 4, 4\) do not fit targets of shape \(3, 4, 6, 1\)"):
        LabelledTarget(target=DEPTH, labels={}, masks=masks)
