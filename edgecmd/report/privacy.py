"""The section on privacy: what is guaranteed, of which unit, against whom, and what is not."""

from edgecmd.report.charts import epsilon_curve
from edgecmd.report.numbers import NOTHING, Cell, Row, plain
from edgecmd.report.read import RunFiles, Table

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
FILES = {"Files that may leave": "may_leave", "Files for the owner only": "owner_only"}


def privacy(run: RunFiles) -> Table:
    """Guarantee, releases and limits of a run."""
    told = run.privacy
    if not told:
        return {"told": {}, "is_asked": is_asked(run)}
    return {
        "told": told,
        "claim": claim(told),
        "drawing": epsilon_curve(told),
        "files": {
            title: [(f"`{one['file']}`", [one["holds"], one["why"]]) for one in told[key]]
            for title, key in FILES.items()
            if "may_leave" in told
        },
        "facts": _facts(told),
        "clients": _clients(told),
    }


def is_asked(run: RunFiles) -> bool:
    """Whether the run has a privacy mechanism, finished or not."""
    return bool(run.privacy) or run.setting("privacy.mechanism", "none") != "none"


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


def _facts(told: Table) -> list[Row]:
    """What the guarantee rests on."""
    anchors = told.get("anchors") or {}
    rows: list[Row] = [(name, [plain(told.get(key))]) for key, name in FACTS.items()]
    if anchors:
        text = f"{anchors.get('num')} {anchors.get('kind')}, sha256 {str(anchors.get('sha256'))[:16]}"
        rows.append(("public anchors", [text]))
    return rows


def _clients(told: Table) -> list[Row]:
    """Epsilon of each client, the largest marked."""
    spent: Table = told.get("epsilon_by_client") or {}
    largest = max((value for value in spent.values() if value is not None), default=None)
    notes = {largest: "the largest"}
    cells = {
        key: Cell(text=f"{one:.4g}", note=notes.get(one, "")) for key, one in spent.items() if one is not None
    }
    return [(name, [cells.get(name, NOTHING)]) for name in spent]
