"""When two examples are near-equal: numbers of each, and how far those of two may differ.

There is a rule for each modality:

- pictures, where no cell of a 16 by 16 grid differs by more than `LEVELS` of 255 in brightness, none of a
  4 by 4 grid by more than `COLOUR_LEVELS` in a colour, and the whole by no more than a tenth of its contrast;
- depth maps, where no cell differs by more than 1% of its distance, or by 5% of its missing share;
- recordings, where the waves, as they are or turned to their loudest sample, have a correlation above
  `SAME_WAVE`: a copy at another level, with a little noise, or with more silence before it and less behind.

So a picture that was saved again as JPEG or resized is found; a crop, a mirrored or a brightened one is not,
nor is a frame that moved by a pixel of 64, or a recording at another speed.

Shapes: N examples, F numbers of a signature, T samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from edgecmd.core.seeding import numpy_generator

GRID, COARSE = 16, 4
# Of 255. JPEG of quality 30 at 256 pixels moves a cell by at most 3.4; one pixel in 64 by 64 moves it by 16.
LEVELS, COLOUR_LEVELS = 8.0, 16.0
CONTRAST_SHARE = 0.1
DEPTH_PERCENT, MISSING_SHARE = 1.0, 0.05
SAME_WAVE, WAVE_SUMS, WAVE_REACH = 0.95, 64, 1.6
# Single precision moves a correlation by some 1e-6; closer than this to the limit, doubles decide.
WAVE_DOUBT = 1e-4
CHUNK, PIECE = 256, 16_384
# Samples of a block of recordings that is held in memory at a time.
WAVE_BLOCK = 4_194_304
BRIGHTNESS = np.array([299, 587, 114], dtype=np.int64)

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


def _in_chunks(rows: Rows, work: Callable[[Rows], np.ndarray]) -> np.ndarray:
    return np.concatenate([work(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)])


def _centred_norm(*parts: np.ndarray) -> Float[np.ndarray, " num"]:
    """Norm of (N, cells, channels) without the mean over the cells, over all ``parts``."""
    squares = [np.square(one - one.mean(axis=1, keepdims=True)).sum(axis=(1, 2)) for one in parts]
    return np.asarray(np.sqrt(sum(squares)))


def brightness(images: np.ndarray) -> Float[np.ndarray, "num height width"]:
    """Brightness of grey or RGB pictures from 0 to 255."""
    if images.shape[3] != 3:
        return images[..., 0].astype(np.float64)
    return np.asarray(images.astype(np.int64) @ BRIGHTNESS / 1000.0)


def _of_pictures(images: np.ndarray, rows: Rows) -> Signature:
    def numbers(part: Rows) -> np.ndarray:
        chunk = images[part]
        grey = cells(brightness(chunk), GRID).reshape(len(part), -1, 1) / LEVELS
        colour = cells(chunk, COARSE).reshape(len(part), COARSE**2, -1) / COLOUR_LEVELS
        contrast = _centred_norm(grey, colour)[:, None]
        return np.concatenate([contrast, grey[..., 0], colour.reshape(len(part), -1)], axis=1).astype(
            np.float32
        )

    found = _in_chunks(rows, numbers)
    return Signature(values=found[:, 1:], contrast=found[:, 0])


def _of_depth(maps: np.ndarray, rows: Rows) -> Signature:
    def numbers(part: Rows) -> np.ndarray:
        chunk = maps[part][..., 0]
        share = cells(chunk > 0, GRID).reshape(len(part), -1, 1)
        mean = cells(chunk, GRID).reshape(len(part), -1, 1) / np.maximum(share, 1e-9)
        far = np.where(share >= 0.5, 100.0 * np.log(np.maximum(mean, 1.0)), 0.0) / DEPTH_PERCENT
        missing = share / MISSING_SHARE
        contrast = _centred_norm(far, missing)[:, None]
        return np.concatenate([contrast, far[..., 0], missing[..., 0]], axis=1).astype(np.float32)

    found = _in_chunks(rows, numbers)
    return Signature(values=found[:, 1:], contrast=found[:, 0])


def _of_waves(waves: np.ndarray, rows: Rows, *, turned: bool) -> Signature:
    # Signs that look at all samples: the sums of waves that correlate by 0.95 differ by 0.3 (one standard
    # deviation), those of others by 1.4 in each of the 64.
    signs = 2.0 * numpy_generator(0, "duplicates").integers(0, 2, (waves.shape[1], WAVE_SUMS)) - 1.0

    def numbers(part: Rows) -> np.ndarray:
        centred = _centred(waves[part])
        shift = np.abs(centred).argmax(axis=1) if turned else np.zeros(len(part), dtype=np.int64)
        norm = np.linalg.norm(centred, axis=1)
        lined = _turned(centred / np.maximum(norm, 1e-9)[:, None], shift)
        heard = np.where(norm > 0, np.inf, 0.0)
        return np.column_stack([shift, norm, heard, lined @ signs / WAVE_REACH])

    found = _in_chunks(rows, numbers)
    lined = _Lined(waves=waves, rows=rows, shift=found[:, 0].astype(np.int64), norm=found[:, 1])
    return Signature(values=found[:, 3:].astype(np.float32), contrast=found[:, 2], close=lined.is_same)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Lined:
    """Recordings without what is constant in them, of unit length, each turned by its ``shift``."""

    waves: np.ndarray
    rows: Rows
    shift: Rows
    norm: Float[np.ndarray, " num"]

    def is_same(self, first: Rows, second: Rows) -> Bool[np.ndarray, " _"]:
        """Which pairs correlate; many at a time, as products of blocks of recordings."""
        step = max(1, min(2 * CHUNK, WAVE_BLOCK // self.waves.shape[1]))
        (ours, at), (theirs, to) = (np.unique(one, return_inverse=True) for one in (first, second))
        found = np.zeros(len(first))
        for start in range(0, len(ours), step):
            left = self._block(ours[start : start + step])
            for other in range(0, len(theirs), step):
                here = np.flatnonzero((at // step == start // step) & (to // step == other // step))
                if len(here):
                    product = left @ self._block(theirs[other : other + step]).T
                    found[here] = product[at[here] - start, to[here] - other]
        # What a product of blocks rounds to depends on the block; who is a copy must not.
        doubt = np.flatnonzero(np.abs(found - SAME_WAVE) <= WAVE_DOUBT)
        few = max(1, min(CHUNK, WAVE_BLOCK // self.waves.shape[1]))
        for start in range(0, len(doubt), few):
            part = doubt[start : start + few]
            found[part] = (self._exact(first[part]) * self._exact(second[part])).sum(axis=1)
        return np.asarray(found > SAME_WAVE)

    def _block(self, part: Rows) -> Float32[np.ndarray, "part samples"]:
        whole = self.waves[self.rows[part]].astype(np.float32)
        whole -= whole.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        whole *= (1.0 / np.maximum(self.norm[part], 1e-9)).astype(np.float32)[:, None]
        return _turned(whole, self.shift[part])

    def _exact(self, part: Rows) -> Float[np.ndarray, "part samples"]:
        unit = _centred(self.waves[self.rows[part]]) / np.maximum(self.norm[part], 1e-9)[:, None]
        return _turned(unit, self.shift[part])


def _centred(waves: np.ndarray) -> Float[np.ndarray, "num samples"]:
    exact = waves.astype(np.float64)
    return np.asarray(exact - exact.mean(axis=1, keepdims=True))


def _turned(waves: np.ndarray, shift: Rows) -> np.ndarray:
    """Recordings from their sample ``shift`` on, and what is before it last."""
    if not shift.any():
        return waves
    turned = np.empty_like(waves)
    for row, at in enumerate(shift.tolist()):
        turned[row, : waves.shape[1] - at] = waves[row, at:]
        turned[row, waves.shape[1] - at :] = waves[row, :at]
    return turned


# Examples are near-equal where one of the looks says so.
LOOKS: dict[str, tuple[Callable[[np.ndarray, Rows], Signature], ...]] = {
    "image": (_of_pictures,),
    "depth": (_of_depth,),
    "wave": (
        lambda waves, rows: _of_waves(waves, rows, turned=True),
        lambda waves, rows: _of_waves(waves, rows, turned=False),
    ),
}
