"""From an image to a square of few pixels: which part of it, and averaging of what must not be mixed.

An image of H x W pixels is cut into R x C cells; each pixel falls into exactly one, row ``i`` of cells
holding the rows from ``i H // R`` up to ``(i + 1) H // R``.

Shapes: H height, W width, S side of the result, R and C its rows and columns that show the image, P most
pixels of a cell.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt16

from edgecmd.settings import CROP, PAD

Grid = Integer[np.ndarray, "_ _"]
Shrink = Callable[[Grid, int, int], Grid]


def middle(length: int, part: int) -> slice:
    """The middle ``part`` of ``length`` positions; an odd remainder comes after it."""
    start = (length - part) // 2
    return slice(start, start + part)


def shown(size: tuple[int, int], *, side: int, fit: str) -> tuple[int, int]:
    """How many of the ``side`` x ``side`` pixels of the result show the image.

    Args:
        size: Width and height of the image, or height and width.
        side: S.
        fit: ``data.fit``.

    Returns:
        In the order of ``size``; less than S where ``pad`` leaves a border: the nearest whole number that
        keeps the aspect, of two the larger, at least 1.
    """
    if fit != PAD:
        return side, side
    longest = max(size)
    first, second = (max(1, (2 * side * one + longest) // (2 * longest)) for one in size)
    return first, second


def bordered(
    small: Shaped[np.ndarray, "_ _ *channels"], *, side: int, empty: int
) -> Shaped[np.ndarray, "side side *channels"]:
    """``small`` in the middle of a square that is ``empty`` elsewhere."""
    if small.shape[:2] == (side, side):
        return small
    square = np.full((side, side, *small.shape[2:]), empty, small.dtype)
    square[middle(side, small.shape[0]), middle(side, small.shape[1])] = small
    return square


def _in_square(picture: Grid, shrink: Shrink, *, side: int, fit: str, empty: int) -> Grid:
    """What ``shrink`` makes of the part that is kept, in a square."""
    if fit == CROP:
        short = min(picture.shape)
        picture = picture[middle(picture.shape[0], short), middle(picture.shape[1], short)]
    rows, columns = shown(picture.shape, side=side, fit=fit)
    small = picture if picture.shape == (rows, columns) else shrink(picture, rows, columns)
    return bordered(small, side=side, empty=empty)


def cells(
    picture: Integer[np.ndarray, "height width"], rows: int, columns: int
) -> tuple[Integer[np.ndarray, "rows columns pixels"], Bool[np.ndarray, "rows columns pixels"]]:
    """Pixels of each cell, and which entries are pixels: cells of fewer than P pixels are filled up.

    Args:
        picture: Height at least ``rows``, width at least ``columns``.
        rows: R.
        columns: C.
    """
    down, down_inside = _members(picture.shape[0], rows)
    across, across_inside = _members(picture.shape[1], columns)
    taken = picture[down[:, None, :, None], across[None, :, None, :]]
    inside = down_inside[:, None, :, None] & across_inside[None, :, None, :]
    flat = taken.reshape(rows, columns, -1)
    return flat, np.broadcast_to(inside, taken.shape).reshape(flat.shape)


def _members(length: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Places along one axis that each of ``num`` cells holds, (num, most), and which of them it does hold."""
    edges = np.arange(num + 1) * length // num
    most = int(np.diff(edges).max())
    places = edges[:-1, None] + np.arange(most)
    return np.minimum(places, length - 1), places < edges[1:, None]


def median_of_measured(
    depth_HW: UInt16[np.ndarray, "height width"], *, side: int, fit: str
) -> UInt16[np.ndarray, "side side"]:
    """Lower median of what was measured in each cell; 0, missing, where less than half of a cell was.

    Args:
        depth_HW: 0 where nothing was measured.
        side: S, at most height and width; with ``pad`` at most the larger of them.
        fit: ``data.fit``; a border is missing.

    Guarantees:
        Every number of the result but 0 is one of the cell's own: no missing value enters a distance, and
        no distance lies between foreground and background, where there is nothing.
    """
    return _in_square(depth_HW, _median, side=side, fit=fit, empty=0)


def _median(depth_HW: Grid, rows: int, columns: int) -> Grid:
    taken, inside = cells(depth_HW, rows, columns)
    # Missing and filled-up entries are 0 and come first, so the measured ones are the last of each cell.
    ordered = np.sort(np.where(inside, taken, 0), axis=2)
    num_measured = (ordered > 0).sum(axis=2)
    place = ordered.shape[2] - num_measured + (num_measured - 1) // 2
    median = np.take_along_axis(ordered, np.minimum(place, ordered.shape[2] - 1)[..., None], axis=2)[..., 0]
    return np.where(2 * num_measured < inside.sum(axis=2), 0, median).astype(np.uint16)


def majority(mask_HW: Integer[np.ndarray, "height width"], *, side: int, fit: str, ignored: int) -> Grid:
    """Most frequent class of each cell; ``ignored`` where less than half of a cell has a class.

    Args:
        mask_HW: Class of each pixel, or ``ignored``.
        side: S, at most height and width; with ``pad`` at most the larger of them.
        fit: ``data.fit``; a border is ignored.
        ignored: Number that stands for no class.

    Returns:
        Of the type of ``mask_HW``; of two classes that are equally frequent the smaller number.
    """

    def most_frequent(part: Grid, rows: int, columns: int) -> Grid:
        taken, inside = cells(part, rows, columns)
        best = np.full((rows, columns), ignored, dtype=part.dtype)
        most = np.zeros((rows, columns), dtype=np.int64)
        known = np.zeros_like(most)
        for one in np.setdiff1d(np.unique(part), [ignored]):
            count = ((taken == one) & inside).sum(axis=2)
            best = np.where(count > most, one, best)
            most, known = np.maximum(most, count), known + count
        return np.where(2 * known < inside.sum(axis=2), ignored, best).astype(part.dtype)

    return _in_square(mask_HW, most_frequent, side=side, fit=fit, empty=ignored)
