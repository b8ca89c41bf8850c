"""The retrieval gallery: drawings, their own pictures and the nearest ones found.

Shapes: Q queries, K nearest, H height, W width, C channels, T side of a tile.
"""

import base64
import struct
import zlib
from collections.abc import Mapping
from html import escape

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from edgecmd.report.drawing import FRAME, PNG_DPI, QUIET, Drawing, chart_style, to_png
from edgecmd.report.read import Gallery

OWN = {"truth": "own", "right": "own image"}
BY_CLASS = {"truth": "paired", "right": "image of its class"}
Image = UInt8[np.ndarray, "height width channels"]
TILE_PX = 128
BORDER_PX = 6
GAP_PX = 10
HEADING_PX = 44


def gallery_drawing(gallery: Gallery, *, by_class: bool = False) -> Drawing:
    """The gallery as a table of embedded pictures, and as one PNG file.

    Args:
        gallery: The pictures.
        by_class: Whether its ranks are those of the first image of the right class, not of the own one.
    """
    words = BY_CLASS if by_class else OWN
    return Drawing(name="retrieval", html=_grid_html(gallery, words), png=_grid_png(gallery, words))


def rank_in_words(rank: int) -> str:
    """Place of the own image, such as ``3rd``."""
    teen = rank % 100 in (11, 12, 13)
    return f"{rank}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(rank % 10, 'th')}"


def as_rgb(image: Image) -> UInt8[np.ndarray, "height width 3"]:
    """Colour images as they are; of others the first channel as grey."""
    return image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)


def png_file(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A PNG file of an RGB image, without metadata."""
    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, width * 3)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def picture(image: Image, *, alt: str, kind: str = "") -> str:
    """An embedded picture whose pixels stay sharp when it is enlarged."""
    data = base64.b64encode(png_file(as_rgb(image))).decode()
    name = f' class="{escape(kind)}"' if kind else ""
    height, width = image.shape[:2]
    size = f'width="{width}" height="{height}"'
    return f'<img{name} {size} alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _grid_html(gallery: Gallery, words: Mapping[str, str]) -> str:
    nearest = range(1, gallery.found.shape[1] + 1)
    heads = ["query", words["truth"], *(rank_in_words(place) for place in nearest)]
    head = "".join(f'<th scope="col">{title}</th>' for title in heads)
    rows = "\n".join(_row_html(gallery, index, words) for index in range(len(gallery.query)))
    return (
        '<table class="gallery"><caption class="unseen">Queries, their images, nearest images</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
    )


def _row_html(gallery: Gallery, index: int, words: Mapping[str, str]) -> str:
    number, rank = index + 1, int(gallery.rank[index])
    query = picture(gallery.query[index], alt=f"Query {number}")
    truth = picture(gallery.truth[index], alt=f"{words['truth'].capitalize()} image of query {number}")
    found = '<span class="unseen">' + words["right"] + " found </span>"
    cells = [
        f'<th scope="row">{query}<span>{found}{rank_in_words(rank)}</span></th>',
        f"<td>{truth}</td>",
    ]
    for place, image in enumerate(gallery.found[index], start=1):
        right = place == rank
        what = f"the {words['right']}" if right else "another image"
        alt = f"Found {rank_in_words(place)} for query {number}: {what}"
        cells.append(f"<td>{picture(image, alt=alt, kind='right' if right else '')}</td>")
    return "<tr>" + "".join(cells) + "</tr>"


def _grid_png(gallery: Gallery, words: Mapping[str, str]) -> bytes:
    num, nearest = gallery.found.shape[:2]
    cell = TILE_PX + 2 * BORDER_PX + GAP_PX
    columns = nearest + 2
    width, height = columns * cell + GAP_PX, num * cell + GAP_PX + HEADING_PX
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    for row in range(num):
        images = [gallery.query[row], gallery.truth[row], *gallery.found[row]]
        for column, image in enumerate(images):
            framed = column >= 2 and column - 1 == int(gallery.rank[row])
            top, left = HEADING_PX + GAP_PX + row * cell, GAP_PX + column * cell
            tile = _tile(as_rgb(image), framed=framed)
            canvas[top : top + len(tile), left : left + len(tile)] = tile
    titles = ["query", words["truth"], *(rank_in_words(place) for place in range(1, nearest + 1))]
    with chart_style("retrieval"):
        figure = Figure(figsize=(width / PNG_DPI, height / PNG_DPI))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(canvas, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for column, title in enumerate(titles):
            centre = GAP_PX + column * cell + cell / 2 - GAP_PX / 2
            axes.text(centre, HEADING_PX / 2 + 4, title, ha="center", va="center", color=QUIET, fontsize=9)
        return to_png(figure)


def _tile(image: UInt8[np.ndarray, "height width 3"], *, framed: bool) -> UInt8[np.ndarray, "side side 3"]:
    """An image enlarged without smoothing to a tile with a border, the border coloured where ``framed``."""
    side = np.arange(TILE_PX)
    enlarged = image[side * image.shape[0] // TILE_PX][:, side * image.shape[1] // TILE_PX]
    tile = np.full((TILE_PX + 2 * BORDER_PX, TILE_PX + 2 * BORDER_PX, 3), 255, dtype=np.uint8)
    if framed:
        tile[:] = FRAME
    tile[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = enlarged
    return tile
