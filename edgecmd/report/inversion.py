"""The sheet of pictures of a gradient inversion: true drawings, and what updates tell of them.

Shapes: N drawings, C channels, H height, W width.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from edgecmd.report.drawing import GRID, INK, PNG_DPI, chart_style, to_png

Drawings = Float[np.ndarray, "_ channels height width"]
TILE_PX = 128
GAP_PX = 12
TITLE_PX = 56


def inversion_sheet(rows: Mapping[str, Drawings]) -> bytes:
    """A PNG file with a row of pictures under each title.

    Args:
        rows: Title and pictures with values in [0, 1], as many in each row.

    Guarantees:
        Equal arguments give equal bytes with the same matplotlib.
    """
    num = max(len(images) for images in rows.values())
    width = num * (TILE_PX + GAP_PX) + GAP_PX
    height = len(rows) * (TILE_PX + TITLE_PX + GAP_PX)
    canvas = np.ones((height, width, 3))
    tops = [index * (TILE_PX + TITLE_PX + GAP_PX) + TITLE_PX for index in range(len(rows))]
    for top, images in zip(tops, rows.values(), strict=True):
        for column, image in enumerate(images):
            left = GAP_PX + column * (TILE_PX + GAP_PX)
            canvas[top - 1 : top + TILE_PX + 1, left - 1 : left + TILE_PX + 1] = _rgb(GRID)
            canvas[top : top + TILE_PX, left : left + TILE_PX] = _tile(image)
    with chart_style("inversion"):
        figure = Figure(figsize=(width / PNG_DPI, height / PNG_DPI))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(canvas, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for top, title in zip(tops, rows, strict=True):
            axes.text(GAP_PX, top - TITLE_PX / 2, title, va="center", color=INK, fontsize=12)
        return to_png(figure)


def _tile(image: Float[np.ndarray, "channels height width"]) -> Float[np.ndarray, "side side 3"]:
    """One picture, enlarged without smoothing."""
    side = np.arange(TILE_PX)
    large = image[:, side * image.shape[1] // TILE_PX][:, :, side * image.shape[2] // TILE_PX]
    return np.asarray((large if len(large) == 3 else np.repeat(large[:1], 3, axis=0)).transpose(1, 2, 0))


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
