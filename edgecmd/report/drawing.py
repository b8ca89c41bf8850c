"""Style of the charts, and a matplotlib figure as inline SVG and as PNG with the same bytes every time."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.cells import cell_len, set_cell_size

INK, QUIET, GRID = "#1f2328", "#57606a", "#d8dee4"
# Told apart by people who see no red, no green or no blue, and by dash and marker as well.
LINES = ("#0b5fa5", "#c2410c", "#04724d", "#9d3a8c", "#6b5900", "#555b63", "#7a2e2e", "#2f6f8f")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Okabe and Ito, for areas.
AREAS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#4d4d4d")
REST = "#c4c9cf"
# Border of the image that was looked for, RGB.
FRAME = (0, 137, 94)
WIDTH_INCHES = 4.5
PNG_DPI = 200
# A name that is longer is cut in a legend: it would leave no room for the chart.
LEGEND_CHARS = 48
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """One finished picture.

    Attributes:
        name: Name of the PNG file, without ending.
        png: The picture as a PNG file.
        svg: The same as an element of the page; None where the page is made of single pictures.
    """

    name: str
    png: bytes
    svg: Markup | None = None


def draw(name: str, paint: Callable[[Axes], None], *, alt: str, height_inches: float = 3.1) -> Drawing:
    """Paint one chart.

    Args:
        name: File name of the PNG; also keeps the ids of several charts on one page apart.
        paint: Draws into the axes.
        alt: What the chart shows, in words.
        height_inches: Height; the width is `WIDTH_INCHES`.

    Guarantees:
        Equal arguments give equal bytes with the same matplotlib.
    """
    with chart_style(name):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        axes: Axes = figure.add_subplot()
        paint(axes)
        svg = _inline_svg(_saved(figure, "svg"), name, alt)
        # The PNG file is laid out as the page is: to do that again takes as long as to paint it.
        figure.set_layout_engine("none")
        return Drawing(name=name, svg=svg, png=to_png(figure))


def legend_below(axes: Axes) -> None:
    """A legend under the chart: two columns where the longest names fit beside each other, else one."""
    lines, names = axes.get_legend_handles_labels()
    shown = [
        name if cell_len(name) <= LEGEND_CHARS else f"{set_cell_size(name, LEGEND_CHARS - 1).rstrip()}…"
        for name in names
    ]
    widest = sum(sorted(map(cell_len, shown))[-2:])
    axes.legend(
        lines,
        shown,
        loc="upper center",
        bbox_to_anchor=(0.46, -0.17),
        ncols=2 if widest <= LEGEND_CHARS + 4 else 1,
        columnspacing=1.5,
        handlelength=2.9,
    )


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file without a date or a version in it."""
    return _saved(figure, "png")


@contextmanager
def chart_style(name: str) -> Iterator[None]:
    """Settings of matplotlib within which a picture of that name is made."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A class name may be written in letters that the font lacks; the SVG shows them all the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    nothing = (
        {"Software": None} if kind == "png" else {"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    figure.savefig(
        buffer, format=kind, dpi=PNG_DPI if kind == "png" else 72, facecolor="white", metadata=nothing
    )
    return buffer.getvalue()


def _inline_svg(data: bytes, name: str, alt: str) -> Markup:
    """SVG for use inside HTML: no prolog, no namespaces, ids of its own, scales with the page."""
    text = data.decode()
    text = text[text.index("<svg") :]
    # matplotlib's own style sheet would hold for the whole page; the page has its rules for .chart.
    text = re.sub(
        r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL
    )
    text = re.sub(r'(<g|<clipPath|<path|<pattern)( [^<>]*?)?\bid="', rf'\1\2id="{name}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    text = re.sub(r'(?<= )(?:d|x|y|transform)="[^"]*"', lambda found: _rounded(found.group()), text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    # matplotlib escapes the texts in its own file.
    head = Markup('<svg class="chart" role="img" aria-label="{}" {}>').format(alt, Markup(box.group()))
    return head + Markup(text[text.index(">") + 1 :].strip())


def _rounded(coordinates: str) -> str:
    """Coordinates to a hundredth of a point, which is finer than any screen."""
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found.group()):.2f}", coordinates)
