"""SVG text and font glyphs to pixels. Needs the extra ``[build]``: resvg-py, Pillow, fontTools, brotli.

resvg draws the sets as their authors meant them; Skia draws 75 Noto images visibly wrong.

Shapes: S side of an image.
"""

import importlib
import importlib.metadata
import io
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from edgecmd.core.errors import DataError
from edgecmd.data.user_files.reading import reading

# Distribution -> module that it provides.
TOOLS = {"resvg-py": "resvg_py", "Pillow": "PIL.Image", "fonttools": "fontTools.ttLib", "Brotli": "brotli"}
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# A glyph is drawn this many times larger and averaged down; the margin keeps it off the border.
GLYPH_SCALE = 4
GLYPH_MARGIN = 1.06
SVG_SCALE = 4
# Of CSS; resvg-py refuses sizes in points without it.
SVG_DPI = 96.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GlyphFont:
    """A loaded outline font.

    Attributes:
        font: Pillow's font object.
        code_points: The characters it draws, sorted.
    """

    font: Any
    code_points: tuple[int, ...]


def tool(distribution: str) -> ModuleType:
    """Module of one of `TOOLS`.

    Raises:
        DataError: It is not installed.
    """
    try:
        return importlib.import_module(TOOLS[distribution])
    except ImportError as error:
        raise DataError(
            f'{distribution} is not installed; building needs it. Run: pip install "edgecmd[build]".'
        ) from error


def tool_versions() -> dict[str, str]:
    """Version of each of `TOOLS`.

    Raises:
        DataError: One is not installed.
    """
    for distribution in TOOLS:
        tool(distribution)
    return {distribution: importlib.metadata.version(distribution) for distribution in TOOLS}


def over_white(rgba: UInt8[np.ndarray, "height width 4"]) -> UInt8[np.ndarray, "height width 3"]:
    """Picture on white paper, rounded half up."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return (rgba[..., :3].astype(np.float32) * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)


def ink(rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
    """Darkness of a picture: 255 for black, 0 for white."""
    return (255 - rgb.astype(np.float32) @ LUMA + 0.5).clip(0, 255).astype(np.uint8)


def rasterise(svg: str, side: int) -> UInt8[np.ndarray, "S S 3"]:
    """Picture of an SVG document on white paper; one that is not square is stretched."""
    resvg, image = tool("resvg-py"), tool("Pillow")
    png = resvg.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
    picture = image.open(io.BytesIO(bytes(png))).convert("RGBA")
    if picture.size != (side, side):
        picture = picture.resize((side, side), image.Resampling.BOX)
    return over_white(np.asarray(picture))


def read_picture(path: Path, side: int) -> UInt8[np.ndarray, "S S 3"]:
    """Picture file (SVG, or what Pillow reads) fitted into a white square, its shape kept.

    Raises:
        DataError: It cannot be read, or a tool is missing.
    """
    image = tool("Pillow")
    with reading(path, what="a picture", way_out="Remove it."):
        if path.suffix.lower() == ".svg":
            resvg = tool("resvg-py")
            # Drawn larger and averaged down, because its height is not known beforehand.
            png = resvg.svg_to_bytes(
                svg_path=str(path), width=side * SVG_SCALE, dpi=SVG_DPI, skip_system_fonts=True
            )
            picture = image.open(io.BytesIO(bytes(png))).convert("RGBA")
        else:
            with image.open(path) as file:
                picture = file.convert("RGBA")
        picture.thumbnail((side, side), image.Resampling.LANCZOS)
    paper = image.new("RGBA", (side, side), (255, 255, 255, 0))
    paper.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return over_white(np.asarray(paper))


def load_font(woff2: bytes, side: int) -> GlyphFont:
    """Font for drawings of ``side`` pixels out of the bytes of a WOFF2 file."""
    tool("Brotli")
    font = tool("fonttools").TTFont(io.BytesIO(woff2))
    code_points = tuple(sorted(font.getBestCmap()))
    font.flavor = None
    plain = io.BytesIO()
    font.save(plain)
    plain.seek(0)
    tool("Pillow")
    truetype = importlib.import_module("PIL.ImageFont")
    loaded = truetype.truetype(plain, side * GLYPH_SCALE, layout_engine=truetype.Layout.BASIC)
    return GlyphFont(font=loaded, code_points=code_points)


def draw_glyph(font: GlyphFont, character: str, side: int) -> UInt8[np.ndarray, "S S"] | None:
    """Ink of one character, centred and fitted to the square; None where the font draws nothing."""
    image = tool("Pillow")
    draw = importlib.import_module("PIL.ImageDraw").Draw
    left, top, right, bottom = draw(image.new("L", (1, 1))).textbbox((0, 0), character, font=font.font)
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        return None
    square = int(max(width, height) * GLYPH_MARGIN) + 2
    canvas = image.new("L", (square, square), 0)
    corner = ((square - width) // 2 - left, (square - height) // 2 - top)
    draw(canvas).text(corner, character, font=font.font, fill=255)
    return np.asarray(canvas.resize((side, side), image.Resampling.BOX))
