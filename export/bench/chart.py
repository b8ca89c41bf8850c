"""The chart of `measure`: how long one input takes in each engine, and how large its file is."""

from matplotlib.axes import Axes

from edgecmd.report.drawing import AREAS, INK, QUIET, draw
from export.bench.measure import Result, Row
from export.profiles.table import PROFILES

ROW_INCHES = 0.3
# Colour and hatch by kind, so that no kind is told by colour alone.
KINDS = {
    "torch": ("PyTorch", AREAS[5], ""),
    "profile": ("ONNX Runtime, profiles of a bundle", AREAS[0], ""),
    "other": ("ONNX Runtime, other files", AREAS[1], "///"),
    "openvino": ("OpenVINO", AREAS[2], "..."),
}
TORCH_ROWS = ("torch", "folded", "compile")
TORCH_NAMES = {"torch": "torch, eager", "folded": "torch, folded", "compile": "torch.compile"}


def kind_of(name: str) -> str:
    """Kind of an engine by its name, a key of `KINDS`."""
    if name in TORCH_ROWS:
        return "torch"
    if name.startswith("openvino"):
        return "openvino"
    return "profile" if name in PROFILES else "other"


def latency_picture(result: Result) -> bytes:
    """PNG file: bars of the least latency, slowest on top, with a line to the median.

    Args:
        result: What was measured.
    """
    rows = sorted(result.rows, key=lambda row: -row.latency.min_ms)

    widest = 1.1 * max(row.latency.min_ms for row in rows)

    def paint(axes: Axes) -> None:
        for place, row in enumerate(reversed(rows)):
            _bar(axes, place, row, widest=widest)
        names = [TORCH_NAMES.get(row.name, row.name) for row in reversed(rows)]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(0, 1.55 * max(row.latency.min_ms for row in rows))
        clock = "CPU time" if result.num_threads == 1 else "time"
        axes.set_xlabel(f"{clock} of one input, ms (least; line to median)")
        axes.grid(visible=False, axis="y")
        _legend(axes, [kind_of(row.name) for row in rows])

    alt = "; ".join(f"{row.name} {row.latency.min_ms:.2f} ms" for row in rows)
    return draw("latency", paint, alt=alt, height_inches=1.4 + ROW_INCHES * len(rows)).png


def _bar(axes: Axes, place: int, row: Row, *, widest: float) -> None:
    _, colour, hatch = KINDS[kind_of(row.name)]
    axes.barh(place, row.latency.min_ms, height=0.66, color=colour, hatch=hatch, edgecolor="white")
    right = min(row.latency.p50_ms, widest)
    axes.plot([row.latency.min_ms, right], [place, place], color=INK, linewidth=1.2)
    text = f"  {row.latency.min_ms:.2f} ms, {row.num_bytes / 1000:.0f} kB"
    axes.text(right, place, text, va="center", fontsize=8, color=QUIET)


def _legend(axes: Axes, kinds: list[str]) -> None:
    for kind in dict.fromkeys(kinds):
        label, colour, hatch = KINDS[kind]
        axes.barh(0, 0, color=colour, hatch=hatch, edgecolor="white", label=label)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.45 / (0.2 + ROW_INCHES * len(kinds))), ncols=1)
