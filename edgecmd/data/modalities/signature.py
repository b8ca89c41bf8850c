"""When two examples are near-equal: a signature of each, and how far two signatures may differ.

There is a rule for each modality, `Modality.looks`. So an image that was saved again as JPEG or resized is
found; a crop, a mirrored or a brightened one is not, nor is a frame that moved by a pixel of 64, or a
recording at another speed.

Shapes: N examples, F numbers of a signature.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from edgecmd.data.stored.array_files import Examples, all_rows
from edgecmd.data.stored.kept_rows import Work, of_each_row
from edgecmd.data.stored.store import Form

GRID = 16
CONTRAST_SHARE = 0.1
CHUNK, PIECE = 256, 16_384
# A teacher whose features of two pictures agree to this cosine cannot tell them apart: equal pictures differ
# by 1e-12 with the batch, copies that were saved again by 1e-5 and more.
SAME_FEATURE = 1.0 - 1e-6

Rows = Int[np.ndarray, " _"]
Close = Callable[[Rows, Rows], Bool[np.ndarray, " _"]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Signature:
    """Some numbers of each example, scaled so that near-equal ones differ by at most 1 in each.

    Attributes:
        values: (N, F).
        contrast: Norm of what makes an example differ from a blank one, in the same unit, (N,); near-equal
            examples differ by at most a tenth of it.
        close: A slower check of candidates that pass; None where there is none.
    """

    values: Float32[np.ndarray, "num size"]
    contrast: Float[np.ndarray, " num"]
    close: Close | None = None

    def is_near(self, first: Rows, second: Rows) -> Bool[np.ndarray, " _"]:
        """Which of the pairs of rows are near-equal; of each pair alone, so no other row decides."""
        pieces = range(0, len(first), PIECE)
        found = np.concatenate(
            [self._within(first[at : at + PIECE], second[at : at + PIECE]) for at in pieces]
            or [np.zeros(0, dtype=bool)]
        )
        if self.close is not None and found.any():
            found[found] = self.close(first[found], second[found])
        return np.asarray(found)

    def _within(self, first: Rows, second: Rows) -> Bool[np.ndarray, " _"]:
        apart = self.values[first] - self.values[second]
        limit = CONTRAST_SHARE * np.minimum(self.contrast[first], self.contrast[second])
        near = np.abs(apart).max(axis=1, initial=0.0) <= 1.0
        return np.asarray(near & (np.linalg.norm(apart, axis=1) <= limit))


def cells(values: np.ndarray, side: int) -> Float[np.ndarray, "num side side *channels"]:
    """Means over the cells of a ``side`` by ``side`` grid of maps (N, H, W, ...), by area; float64."""
    height, width = values.shape[1:3]
    rows, columns = _overlap(height, side), _overlap(width, side)
    return np.asarray(
        np.einsum("ah,nhw...,bw->nab...", rows, values.astype(np.float64), columns, optimize=True)
    )


def _overlap(length: int, num: int) -> Float[np.ndarray, "cells length"]:
    """Share of each of ``length`` pixels in each of ``num`` cells; rows sum to 1."""
    edges = np.arange(num + 1) * (length / num)
    start = np.arange(length)
    low = np.maximum(edges[:-1, None], start)
    high = np.minimum(edges[1:, None], start + 1)
    return np.asarray(np.maximum(0.0, high - low) * (num / length))


def looked_at(examples: Examples, rows: Rows, name: str, work: Work, *, like: np.dtype) -> np.ndarray:
    """Numbers of the examples at ``rows``, (R, F), see `edgecmd.data.stored.kept_rows.of_each_row`.

    Args:
        examples: Examples of one modality.
        rows: Which of them.
        name: Of the numbers and how they are computed.
        work: Numbers of some examples.
        like: Type of the numbers.
    """
    size = work(np.asarray(examples[:1])).shape[1:]
    return of_each_row(all_rows(examples).take(rows), name, work, form=Form(shape=size, dtype=like))


def centred_norm(*parts: np.ndarray) -> Float[np.ndarray, " num"]:
    """Norm of (N, cells, channels) without the mean over the cells, over all ``parts``."""
    squares = [np.square(one - one.mean(axis=1, keepdims=True)).sum(axis=(1, 2)) for one in parts]
    return np.asarray(np.sqrt(sum(squares)))
