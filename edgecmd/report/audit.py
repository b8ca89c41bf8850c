"""The section on audits: what was claimed against what was measured, and what an attacker guesses."""

from collections.abc import Iterator, Mapping, Sequence

from edgecmd.core.statistics import finite
from edgecmd.core.text import counted
from edgecmd.report.charts import epsilon_chart, roc_chart
from edgecmd.report.numbers import NOTHING, Cell, Row, duration, plain
from edgecmd.report.read import RunFiles, Table

ATTACKS = {"lira": "offline LiRA", "rmia": "offline RMIA", "raw": "raw score"}
CONTROLS = {"control": "control: random weights", "start": "control: public warm start, no pair seen"}
RATES = ("0.001", "0.01")
VERDICTS = {
    "contradicted": "Contradicted: the claim does not hold. Do not rely on it, and do not release this.",
    "not contradicted": "Not contradicted. An audit can refute a guarantee and never proves it.",
    "risk indicator": "No guarantee was put to the test; what follows indicates risks.",
}


def audit(run: RunFiles) -> Table:
    """Verdict, claims against measurements, membership, inversion, and every finding in words."""
    every = run.audit.get("findings")
    findings = [one for one in every if isinstance(one, Mapping)] if isinstance(every, list) else []
    members = [one for one in findings if _attacks_of(one)]
    # Curves of the exported file where it was attacked, else of the first that was.
    shown = next(
        (one for one in members if "exported" in str(one.get("name"))), members[0] if members else {}
    )
    return {
        "findings": findings,
        "verdict": _verdict(str(run.audit.get("verdict")), findings),
        "epsilon": epsilon_chart(findings),
        "roc": roc_chart(
            {ATTACKS.get(name, name): one.get("roc") for name, one in _attacks_of(shown).items()}
        ),
        "attacked": str(shown.get("name")),
        "membership": [row for finding in members for row in _attack_rows(finding)],
        "rows": [_row(one) for one in findings],
        "words": [f"{one.get('name')} ({one.get('attacker')}): {one.get('text')}" for one in findings],
    }


def _verdict(said: str, findings: Sequence[Table]) -> str:
    """The verdict in words, with the number of audits and the most that they could have certified."""
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


def _attacks_of(finding: Table) -> dict[str, Table]:
    """Membership attacks of a finding by name; empty where it is none."""
    details = finding.get("details")
    attacks = details.get("attacks") if isinstance(details, Mapping) else None
    if not isinstance(attacks, Mapping):
        return {}
    return {name: one for name, one in attacks.items() if isinstance(one, Mapping)}


def _attack_rows(finding: Table) -> Iterator[Row]:
    """A row for each attack, then one for each control."""
    name = str(finding.get("name"))
    for attack, one in _attacks_of(finding).items():
        yield _attack_row(name, attack, one)
    for key, who in CONTROLS.items():
        control = finding["details"].get(key)
        if isinstance(control, Mapping) and isinstance(control.get("lira"), Mapping):
            yield _attack_row(who, "lira", control["lira"])


def _attack_row(who: str, attack: str, one: Table) -> Row:
    ends = [finite(one.get(end)) for end in ("low", "high")]
    note = "" if None in ends else f"{ends[0]:.3f} to {ends[1]:.3f}"
    value = finite(one.get("auc"))
    area = Cell(text=NOTHING if value is None else f"{value:.3f}", note=note)
    rates = [finite(one.get(f"tpr_at_{rate}")) for rate in RATES]
    shown = [NOTHING if rate is None else f"{rate:.1%}" for rate in rates]
    return who, [ATTACKS.get(attack, attack), area, *shown]


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
