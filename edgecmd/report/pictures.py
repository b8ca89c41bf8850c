"""Sheets of pictures: the retrieval gallery, and what a gradient inversion recovers.

Shapes: Q queries, K nearest, N drawings, H height, W width, C channels.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image

from edgecmd.core.text import printable
from edgecmd.report.drawing import FRAME, GRID, INK, PNG_DPI, QUIET, Drawing, chart_style, to_png
from edgecmd.report.read import Gallery

Pixels = UInt8[np.ndarray, "height width channels"]
Drawings = Float[np.ndarray, "_ channels height width"]
Canvas = np.ndarray[Any, np.dtype[Any]]
TILE_PX = 128
BORDER_PX = 6


def rank_in_words(rank: int) -> str:
    """Place of the own image, such as ``3rd``."""
    teen = rank % 100 in (11, 12, 13)
    return f"{rank}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(rank % 10, 'th')}"


def as_rgb(image: Pixels) -> UInt8[np.ndarray, "height width 3"]:
    """Colour images as they are; of others the first channel as grey."""
    return image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)


def png_file(image: Pixels) -> bytes:
    """A PNG file of an image, without metadata; a larger one is shrunk to what a page shows of it."""
    buffer, shown = io.BytesIO(), Image.fromarray(as_rgb(image))
    shown.thumbnail((TILE_PX, TILE_PX))
    shown.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def seen(text: str) -> str:
    """A user's string as a page may show it: joiners, which many scripts need, stay as they are."""
    return printable(text, keep="\u200c\u200d")


def gallery_drawing(gallery: Gallery, *, by_class: bool = False) -> Drawing:
    """The gallery as one PNG file; the image that was looked for has a frame.

    Args:
        gallery: The pictures.
        by_class: Whether its ranks are those of the first image of the right class, not of the own one.
    """
    gap, heading = 10, 44
    num, nearest = gallery.found.shape[:2]
    cell = TILE_PX + 2 * BORDER_PX + gap
    height, width = num * cell + gap + heading, (nearest + 2) * cell + gap
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    for row in range(num):
        images = [gallery.query[row], gallery.truth[row], *gallery.found[row]]
        for column, image in enumerate(images):
            top, left = heading + gap + row * cell, gap + column * cell
            if column >= 2 and column - 1 == int(gallery.rank[row]):
                canvas[top : top + cell - gap, left : left + cell - gap] = FRAME
            top, left = top + BORDER_PX, left + BORDER_PX
            canvas[top : top + TILE_PX, left : left + TILE_PX] = _enlarged(as_rgb(image))
    words = ["query", "paired" if by_class else "own", *map(rank_in_words, range(1, nearest + 1))]
    titles = [(gap / 2 + (column + 0.5) * cell, heading / 2 + 4, word) for column, word in enumerate(words)]
    png = _sheet("retrieval", canvas, titles, ha="center", color=QUIET, fontsize=9)
    return Drawing(name="retrieval", png=png)


def inversion_sheet(rows: Mapping[str, Drawings]) -> bytes:
    """True drawings, and what updates tell of them: a PNG file with a row of pictures under each title.

    Args:
        rows: Title and pictures with values in [0, 1], as many in each row.

    Guarantees:
        Equal arguments give equal bytes with the same matplotlib.
    """
    gap, heading = 12, 56
    step = TILE_PX + heading + gap
    canvas = np.ones((len(rows) * step, max(map(len, rows.values())) * (TILE_PX + gap) + gap, 3))
    for row, images in enumerate(rows.values()):
        for column, image in enumerate(images):
            top, left = row * step + heading, gap + column * (TILE_PX + gap)
            canvas[top - 1 : top + TILE_PX + 1, left - 1 : left + TILE_PX + 1] = _rgb(GRID)
            colours = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)
            canvas[top : top + TILE_PX, left : left + TILE_PX] = _enlarged(colours.transpose(1, 2, 0))
    titles = [(float(gap), row * step + heading / 2, title) for row, title in enumerate(rows)]
    return _sheet("inversion", canvas, titles, color=INK, fontsize=12)


def _enlarged(image: Canvas) -> Canvas:
    """An image (H, W, 3) without smoothing at the size of a tile."""
    side = np.arange(TILE_PX)
    return np.asarray(image[side * image.shape[0] // TILE_PX][:, side * image.shape[1] // TILE_PX])


def _sheet(name: str, canvas: Canvas, titles: Sequence[tuple[float, float, str]], **look: Any) -> bytes:  # noqa: ANN401 - of matplotlib
    """A PNG file of a canvas, pixel for pixel, with titles at their places."""
    height, width = canvas.shape[:2]
    with chart_style(name):
        figure = Figure(figsize=(width / PNG_DPI, height / PNG_DPI))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(canvas, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for x, y, title in titles:
            axes.text(x, y, title, va="center", **look)
        return to_png(figure)


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
