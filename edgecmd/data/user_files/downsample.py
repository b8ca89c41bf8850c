"""Averaging down what must not be mixed: depth with what is missing, one class with another.

A picture of H x W pixels is cut into S x S cells; each pixel falls into exactly one, row ``i`` of cells
holding the rows from ``i H // S`` up to ``(i + 1) H // S``.

Shapes: H height, W width, S side of the result, P most pixels of a cell.
"""

import numpy as np
from jaxtyping import Bool, Integer, UInt16

Grid = Integer[np.ndarray, "side side"]


def cells(
    picture: Integer[np.ndarray, "height width"], *, side: int
) -> tuple[Integer[np.ndarray, "side side pixels"], Bool[np.ndarray, "side side pixels"]]:
    """Pixels of each cell, and which entries are pixels: cells of fewer than P pixels are filled up.

    Args:
        picture: Height and width at least ``side``.
        side: S.
    """
    rows, row_inside = _members(picture.shape[0], side)
    columns, column_inside = _members(picture.shape[1], side)
    taken = picture[rows[:, None, :, None], columns[None, :, None, :]]
    inside = row_inside[:, None, :, None] & column_inside[None, :, None, :]
    return taken.reshape(side, side, -1), np.broadcast_to(inside, taken.shape).reshape(side, side, -1)


def _members(length: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Places along one axis that each of ``side`` cells holds, (S, most), and which of them it does hold."""
    edges = np.arange(side + 1) * length // side
    most = int(np.diff(edges).max())
    places = edges[:-1, None] + np.arange(most)
    return np.minimum(places, length - 1), places < edges[1:, None]


def median_of_measured(
    depth_HW: UInt16[np.ndarray, "height width"], *, side: int
) -> UInt16[np.ndarray, "side side"]:
    """Lower median of what was measured in each cell; 0, missing, where less than half of a cell was.

    Args:
        depth_HW: 0 where nothing was measured.
        side: S, at most height and width.

    Guarantees:
        Every number of the result but 0 is one of the cell's own: no missing value enters a distance, and
        no distance lies between foreground and background, where there is nothing.
    """
    if depth_HW.shape == (side, side):
        return depth_HW
    taken, inside = cells(depth_HW, side=side)
    # Missing and filled-up entries are 0 and come first, so the measured ones are the last of each cell.
    ordered = np.sort(np.where(inside, taken, 0), axis=2)
    num_measured = (ordered > 0).sum(axis=2)
    place = ordered.shape[2] - num_measured + (num_measured - 1) // 2
    median = np.take_along_axis(ordered, np.minimum(place, ordered.shape[2] - 1)[..., None], axis=2)[..., 0]
    return np.where(2 * num_measured < inside.sum(axis=2), 0, median).astype(np.uint16)


def majority(mask_HW: Integer[np.ndarray, "height width"], *, side: int, ignored: int) -> Grid:
    """Most frequent class of each cell; ``ignored`` where less than half of a cell has a class.

    Args:
        mask_HW: Class of each pixel, or ``ignored``.
        side: S, at most height and width.
        ignored: Number that stands for no class.

    Returns:
        Of the type of ``mask_HW``; of two classes that are equally frequent the smaller number.
    """
    if mask_HW.shape == (side, side):
        return mask_HW
    taken, inside = cells(mask_HW, side=side)
    classes = np.setdiff1d(np.unique(mask_HW), [ignored])
    best = np.full((side, side), ignored, dtype=mask_HW.dtype)
    most = np.zeros((side, side), dtype=np.int64)
    known = np.zeros_like(most)
    for one in classes:
        count = ((taken == one) & inside).sum(axis=2)
        best = np.where(count > most, one, best)
        most, known = np.maximum(most, count), known + count
    return np.where(2 * known < inside.sum(axis=2), ignored, best).astype(mask_HW.dtype)
