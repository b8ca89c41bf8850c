"""The section on privacy: what is guaranteed, of which unit, against whom, and what is not."""

from matplotlib.axes import Axes

from edgecmd.core.text import counted
from edgecmd.report.drawing import INK, LINES, Drawing, draw
from edgecmd.report.markup import Cell, Row, Section, figure, folded, listing, paragraph, side_by_side, table
from edgecmd.report.numbers import NOTHING, plain
from edgecmd.report.read import RunFiles, Table

NONE = (
    "No differential privacy was used. Labels, images and teacher features stay with their client, but what a"
    " client's weights tell of its pairs is not bounded. `--set privacy.mechanism=anchors` bounds it."
)
OWNERS_ALONE = (
    "This page is its owner's alone. It shows test pictures, what each client holds, baselines and times, and"
    " no guarantee covers these. What may leave is the bundle in `export`; `privacy.json` lists every file."
)
FACTS = {
    "mechanism": "mechanism",
    "loss": "loss",
    "unit": "unit",
    "relation": "neighbouring relation",
    "delta": "delta",
    "budget": "budget (epsilon)",
    "sampler": "sampler",
    "sampling_rate": "sampling rate",
    "releases_per_round": "noised releases a round",
    "rounds": "rounds",
    "noise_multiplier": "noise multiplier",
    "clip": "clip C",
    "sensitivity": "sensitivity",
    "normaliser": "divisor of a sum",
    "accountant": "accountant",
    "counted": "counted",
}


def privacy(run: RunFiles) -> Section:
    """Guarantee, releases and limits of a run."""
    anchor, title = "privacy", "Privacy"
    told = run.privacy
    if not told:
        asked = run.setting("privacy.mechanism", "none") != "none"
        text = "The run has not ended; `privacy.json` is missing, and nothing is claimed." if asked else NONE
        return Section(anchor=anchor, title=title, body=paragraph(text))
    drawing = epsilon_curve(told)
    left = "<div>" + paragraph(claim(told)) + paragraph(str(told["statement"])) + "</div>"
    right = figure(drawing.html, caption="Epsilon of this run by round.") if drawing else ""
    body = [
        side_by_side(left, right) if right else left,
        side_by_side(_list("Released", told["released"]), _list("Not covered", told["not_covered"])),
        *_files(told),
        side_by_side(_facts(told), _clients(told)),
    ]
    return Section(
        anchor=anchor, title=title, body="\n".join(body), drawings=(drawing,) if drawing is not None else ()
    )


def is_asked(run: RunFiles) -> bool:
    """Whether the run has a privacy mechanism, finished or not."""
    return bool(run.privacy) or run.setting("privacy.mechanism", "none") != "none"


def _files(told: Table) -> list[str]:
    """Which files may leave and which may not, folded; nothing for a statement of an older edgecmd."""
    if "may_leave" not in told:
        return []
    blocks = [paragraph("Costs of their own, beside the guarantee:") + listing(told["own_costs"])]
    for title, key in (
        ("Files that may leave", "may_leave"),
        ("Files that are the owner's alone", "owner_only"),
    ):
        rows: list[Row] = [(f"`{one['file']}`", [one["holds"], one["why"]]) for one in told[key]]
        blocks.append(folded(title, table(title, ["file", "holds", "why"], rows, numeric=False)))
    return blocks


def claim(told: Table) -> str:
    """The guarantee in one sentence, or that there is none."""
    if not told.get("private"):
        return str(told.get("warning", "NOT PRIVATE."))
    if told.get("epsilon") is None:
        return "The noise was too small for a finite epsilon: nothing is bounded."
    return (
        f"What was released is differentially private for each {told['unit']} with epsilon"
        f" {float(told['epsilon']):.3g} and delta {float(told['delta']):g} (neighbours:"
        f" {told['relation']}), against {told['against']}."
    )


def short_claim(told: Table) -> str:
    """The guarantee in a few words."""
    if not told.get("private") or told.get("epsilon") is None:
        return "NOT PRIVATE"
    return f"epsilon {float(told['epsilon']):.2f}, each {told['unit']}"


def epsilon_curve(told: Table) -> Drawing | None:
    """Epsilon by round with the budget as a dashed line; None where there is none."""
    points = told.get("epsilon_by_round") or []
    if len(points) < 2:
        return None
    rounds, values = zip(*points, strict=True)

    def paint(axes: Axes) -> None:
        axes.plot(rounds, values, color=LINES[0], linewidth=2)
        axes.axhline(float(told["budget"]), color=INK, linestyle="--", linewidth=1.2)
        axes.annotate(
            "budget", (rounds[0], float(told["budget"])), xytext=(2, -12), textcoords="offset points"
        )
        axes.set(xlabel="round", ylabel="epsilon", ylim=(0, None))

    return draw("privacy", paint, alt=f"Epsilon rises to {values[-1]:.3g} of {told['budget']:g}.")


def _list(title: str, items: list[str]) -> str:
    return f"<div>{paragraph(title + ':')}{listing(items)}</div>"


def _facts(told: Table) -> str:
    anchors = told.get("anchors") or {}
    rows: list[Row] = [(name, [plain(told.get(key))]) for key, name in FACTS.items()]
    if anchors:
        text = f"{anchors.get('num')} {anchors.get('kind')}, sha256 {str(anchors.get('sha256'))[:16]}"
        rows.append(("public anchors", [text]))
    return table("What it rests on", ["what", "value"], rows, numeric=False)


def _clients(told: Table) -> str:
    spent: Table = told.get("epsilon_by_client") or {}
    known = [value for value in spent.values() if value is not None]
    largest = max(known, default=None)
    rows: list[Row] = [
        (
            name,
            [Cell(text=NOTHING if value is None else f"{value:.4g}", best=False, note=_mark(value, largest))],
        )
        for name, value in spent.items()
    ]
    numbers = table("Epsilon by client, from the ledgers", ["client", "epsilon"], rows)
    return numbers if len(rows) <= 12 else folded(f"Epsilon of {counted(len(rows), 'client')}", numbers)


def _mark(value: float | None, largest: float | None) -> str:
    return "the largest" if value is not None and value == largest else ""
