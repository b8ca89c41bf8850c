"""The section on audits: what was claimed against what was measured, and what an attacker guesses."""

import base64
from collections.abc import Iterator, Mapping
from html import escape

from edgecmd.core.text import counted
from edgecmd.report.audit_charts import epsilon_chart, finite, roc_chart
from edgecmd.report.drawing import Drawing
from edgecmd.report.markup import (
    Cell,
    Row,
    Section,
    figure,
    folded,
    listing,
    missing,
    paragraph,
    side_by_side,
    table,
)
from edgecmd.report.numbers import NOTHING, duration, plain
from edgecmd.report.read import RunFiles, Table

ATTACKS = {"lira": "offline LiRA", "rmia": "offline RMIA", "raw": "raw score"}
CONTROLS = {"control": "control: random weights", "start": "control: public warm start, no pair seen"}
RATES = {"0.001": "0.1%", "0.01": "1%"}
VERDICTS = {
    "contradicted": "Contradicted: the claim does not hold. Do not rely on it, and do not release this.",
    "not contradicted": "Not contradicted. An audit can refute a guarantee and never proves it.",
    "risk indicator": "No guarantee was put to the test; what follows indicates risks.",
}
ROC_CAPTION = (
    "Members found against false alarms, both on logarithmic axes, for {name}. An attack on the dotted line"
    " guesses. The left end counts most: there an attacker names few, and is seldom wrong."
)
PICTURES = (
    "Gradient inversion, {pairs} a step. The first row shows private drawings of this simulation: do not"
    " publish this page without thinking of them (`edgecmd audit risk --no-pictures` leaves them out)."
)


def audit(run: RunFiles) -> Section:
    """Verdict, claims against measurements, membership, inversion, and every finding in words."""
    anchor, title = "audit", "Audit"
    findings = list(_findings(run.audit))
    if not findings:
        return Section(anchor=anchor, title=title, body=missing("audit.json", command="edgecmd audit"))
    membership = [one for one in findings if attacks_of(one)]
    charts = [chart for chart in (epsilon_chart(findings), _roc(membership)) if chart is not None]
    body = [
        paragraph(verdict(run.audit, findings)),
        side_by_side(*(figure(drawing.html, caption=caption) for drawing, caption in charts)),
        _membership(membership),
        *_pictures(run.audit_pictures),
        _table(findings),
        folded("Findings in words", _in_words(findings)),
    ]
    return Section(
        anchor=anchor,
        title=title,
        body="\n".join(part for part in body if part),
        drawings=tuple(drawing for drawing, _ in charts),
    )


def _findings(told: Table) -> Iterator[Table]:
    every = told.get("findings")
    return (one for one in every if isinstance(one, Mapping)) if isinstance(every, list) else iter(())


def verdict(told: Table, findings: list[Table]) -> str:
    """The verdict in words, with the number of audits and the most that they could have certified."""
    said = str(told.get("verdict"))
    wrong = sum(str(one.get("verdict")) == "contradicted" for one in findings)
    verb = "contradicts" if wrong == 1 else "contradict"
    summary = f"{wrong} of {counted(len(findings), 'audit')} {verb}. " if wrong else ""
    ceilings = [
        value
        for one in findings
        if one.get("quantity") == "epsilon" and (value := finite(one.get("ceiling"))) is not None
    ]
    most = f" These could have certified at most epsilon = {max(ceilings):.3g}." if ceilings else ""
    return summary + VERDICTS.get(said, f"Verdict: {said}.") + most


def attacks_of(finding: Table) -> dict[str, Table]:
    """Membership attacks of a finding by name; empty where it is none."""
    details = finding.get("details")
    attacks = details.get("attacks") if isinstance(details, Mapping) else None
    if not isinstance(attacks, Mapping):
        return {}
    return {name: one for name, one in attacks.items() if isinstance(one, Mapping)}


def _roc(membership: list[Table]) -> tuple[Drawing, str] | None:
    """Curves of the exported file where it was attacked, else of the first that was."""
    if not membership:
        return None
    first = next((one for one in membership if "exported" in str(one.get("name"))), membership[0])
    curves = {ATTACKS.get(name, name): one.get("roc") for name, one in attacks_of(first).items()}
    drawing = roc_chart(curves)
    return None if drawing is None else (drawing, ROC_CAPTION.format(name=str(first.get("name"))))


def _membership(membership: list[Table]) -> str:
    if not membership:
        return ""
    rows: list[Row] = []
    for finding in membership:
        rows += [_attack_row(finding, name, one) for name, one in attacks_of(finding).items()]
        details = finding["details"]
        for key, who in CONTROLS.items():
            control = details.get(key)
            if isinstance(control, Mapping) and isinstance(control.get("lira"), Mapping):
                rows.append(_attack_row(finding, "lira", control["lira"], who=who))
    columns = ["attacked", "attack", "AUC", *(f"found at {told} false alarms" for told in RATES.values())]
    return table(
        "Membership inference; 0.5 is chance, and what a control has is no leak of the run", columns, rows
    )


def _attack_row(finding: Table, name: str, one: Table, *, who: str = "") -> Row:
    ends = [finite(one.get(end)) for end in ("low", "high")]
    note = "" if None in ends else f"{ends[0]:.3f} to {ends[1]:.3f}"
    value = finite(one.get("auc"))
    area = Cell(text=NOTHING if value is None else f"{value:.3f}", note=note)
    rates = [finite(one.get(f"tpr_at_{rate}")) for rate in RATES]
    shown = [NOTHING if rate is None else f"{rate:.1%}" for rate in rates]
    return who or str(finding.get("name")), [ATTACKS.get(name, name), area, *shown]


def _pictures(sheets: Mapping[int, bytes]) -> Iterator[str]:
    for pairs, data in sheets.items():
        what = "one pair" if pairs == 1 else counted(pairs, "pair")
        alt = f"True drawings and what a server recovers of them from the update of {what}, in rows."
        source = base64.b64encode(data).decode()
        image = f'<img class="sheet" alt="{escape(alt)}" src="data:image/png;base64,{source}">'
        yield figure(image, caption=PICTURES.format(pairs=what))


def _table(findings: list[Table]) -> str:
    columns = ["audit", "level", "attacker", "quantity", "claimed", "measured", "ceiling", "time", "verdict"]
    return table("All findings", columns, [_row(one) for one in findings])


def _row(one: Table) -> Row:
    seconds = finite(one.get("seconds"))
    return str(one.get("name")), [
        plain(one.get("level")),
        plain(one.get("attacker")),
        plain(one.get("quantity")),
        *(_number(one.get(key)) for key in ("claimed", "measured", "ceiling")),
        NOTHING if seconds is None else duration(seconds),
        plain(one.get("verdict")),
    ]


def _number(value: object) -> str:
    number = finite(value)
    return NOTHING if number is None else f"{number:.3g}"


def _in_words(findings: list[Table]) -> str:
    return listing([f"{one.get('name')} ({one.get('attacker')}): {one.get('text')}" for one in findings])
