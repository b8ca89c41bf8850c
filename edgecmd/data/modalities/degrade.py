"""Degradations that several modalities share, by level from 0 (nothing) to 1.

Shapes: N examples, H height, W width, C channels.
"""

import numpy as np

from edgecmd.data.modalities.row import Stored

PATCHES = 8


def patches(num: int, size: int, *, level: float, generator: np.random.Generator) -> np.ndarray:
    """Cells of a grid that are taken away, (N, size): for each example its own, ``level`` of them."""
    order = generator.random((num, size)).argsort(axis=1).argsort(axis=1)
    return np.asarray(order < round(level * size))


def erased(target: Stored, level: float, generator: np.random.Generator, *, empty: int) -> Stored:
    """Squares of an eight by eight grid set to ``empty``, a share of ``level`` of them."""
    cells = patches(len(target), PATCHES * PATCHES, level=level, generator=generator)
    height, width = target.shape[1:3]
    row = np.arange(height) * PATCHES // height
    column = np.arange(width) * PATCHES // width
    gone = cells.reshape(-1, PATCHES, PATCHES)[:, row][:, :, column]
    return np.where(gone[..., None], np.asarray(empty, dtype=target.dtype), target)


def resample(target: Stored, level: float, _: np.random.Generator) -> Stored:
    """Fewer pixels a side, ``side * (2 / side) ** level``, each shown as a square; nothing mixes."""
    side = target.shape[1]
    fewer = max(2, round(side * (2.0 / side) ** level))
    take = ((np.arange(side) * fewer // side + 0.5) * side / fewer).astype(int)
    return target[:, take][:, :, take]
