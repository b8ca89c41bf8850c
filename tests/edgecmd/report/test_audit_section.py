"""The section on audits: what it shows, and that a damaged or hostile audit harms nothing."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgecmd.audits.audit_file import write_findings
from edgecmd.audits.finding import Finding
from edgecmd.audits.risk.membership import Curve
from edgecmd.core.files import read_json, write_bytes_atomically, write_json
from edgecmd.core.statistics import finite
from edgecmd.report import refresh_report, write_report
from edgecmd.report.charts import roc_points
from edgecmd.report.pictures import inversion_sheet
from tests.edgecmd.report.test_page import Page, harmless, html_of, section

pytestmark = pytest.mark.usefixtures("blank")
PNG = b"\x89PNG\r\n\x1a\n"


def finding(**changes: object) -> Finding:
    given: dict = {
        "level": "one-run",
        "name": "canaries",
        "attacker": "steps",
        "verdict": "not contradicted",
        "text": "Not contradicted: at least 1.2 of the claimed 8.",
        "quantity": "epsilon",
        "claimed": 8.0,
        "measured": 1.2,
        "ceiling": 3.4,
        "confidence": 0.95,
        "seconds": 61.0,
    }
    return Finding(**{**given, **changes})


def membership(name: str = "membership, exported file") -> Finding:
    x = np.geomspace(0.001, 1, 50)
    curve = Curve(
        auc=0.7612, low=0.741, high=0.781, tpr=(0.0123, 0.1456), points=tuple(zip(x, np.sqrt(x), strict=True))
    )
    control = Curve(auc=0.5012, low=0.47, high=0.53, tpr=(0.001, 0.01))
    details = {
        "attacks": {"lira": curve.table(), "raw": curve.table()},
        "control": {"lira": control.table()},
    }
    return finding(
        level="risk",
        name=name,
        attacker="device",
        verdict="risk indicator",
        text="Members are told from others.",
        quantity="AUC",
        claimed=None,
        measured=0.7612,
        ceiling=None,
        details=details,
    )


def audited(folder: Path, *findings: Finding) -> str:
    write_findings(folder / "audit.json", findings, about={"target": {}, "claim": {}})
    return html_of(folder)


def test_without_an_audit_the_command_is_named(source: str) -> None:
    assert "audit.json is missing; edgecmd audit makes it." in section(source, "audit")


def test_claims_stand_against_measurements(finished: Path) -> None:
    source = audited(finished, finding(), membership())
    text = section(source, "audit")
    assert "Not contradicted. An audit can refute a guarantee and never proves it." in text
    assert "at most epsilon = 3.4." in text
    assert "canaries one-run steps epsilon 8 1.2 3.4 61.0 s not contradicted" in text
    labels = [one["aria-label"] for one in Page(source).all("svg")]
    assert "canaries: claimed 8, at least 1.2, could have certified 3.4." in labels
    assert (finished / "figures" / "audit_epsilon.png").exists()


def test_membership_has_a_curve_a_control_and_rates(finished: Path) -> None:
    source = audited(finished, membership(), membership("membership, student"))
    text = section(source, "audit")
    assert "No guarantee was put to the test" in text
    assert "membership, exported file offline LiRA 0.761 0.741 to 0.781 1.2% 14.6%" in text
    assert "control: random weights offline LiRA 0.501 0.470 to 0.530 0.1% 1.0%" in text
    labels = [one["aria-label"] for one in Page(source).all("svg")]
    assert any(label.startswith("Found at 1% false alarms: offline LiRA: 9.") for label in labels)
    assert "for membership, exported file" in text


def test_a_contradiction_comes_first(finished: Path) -> None:
    wrong = finding(verdict="contradicted", measured=11.0, ceiling=12.0, text="Contradicted: at least 11.")
    text = section(audited(finished, wrong, membership()), "audit")
    assert "1 of 2 audits contradicts. Contradicted: the claim does not hold." in text


def test_pictures_of_an_inversion_are_inside_the_page_with_a_warning(finished: Path) -> None:
    noise = np.random.default_rng(0).uniform(size=(2, 3, 1, 8, 8))
    sheet = inversion_sheet({"true": noise[0], "found": noise[1]})
    assert sheet == inversion_sheet({"true": noise[0], "found": noise[1]})
    write_bytes_atomically(finished / "audit" / "inversion-1.png", sheet)
    write_bytes_atomically(finished / "audit" / "inversion-4.png", sheet)
    write_bytes_atomically(finished / "audit" / "inversion-x.png", sheet)
    write_bytes_atomically(finished / "audit" / "inversion-9.png", b"<script>no picture</script>")
    source = audited(finished, membership())
    sheets = [one for one in Page(source).all("img") if one.get("class") == "sheet"]
    assert len(sheets) == 2
    assert "one pair" in str(sheets[0]["alt"])
    assert "4 pairs" in str(sheets[1]["alt"])
    assert "private drawings" in section(source, "audit")


def test_a_sheet_shows_colours_as_they_are() -> None:
    red = np.zeros((1, 3, 8, 8))
    red[0, 0] = 1.0
    assert inversion_sheet({"a": red}).startswith(PNG)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"findings": None},
        {"findings": [None, 3, "x", []]},
        {"findings": [{}]},
        {"findings": [{"quantity": "epsilon", "measured": "1e9", "claimed": [], "ceiling": True}]},
        {"findings": [{"details": {"attacks": {"lira": None, "x": {"roc": [[0, 1], [5, 5]], "auc": "a"}}}}]},
        {"findings": [{"details": {"attacks": {"lira": {"roc": [[0, 1]]}}, "control": 3}}], "verdict": 7},
        {"findings": [{"details": {"attacks": []}}, {"quantity": "epsilon", "measured": 0.0}]},
    ],
)
def test_a_strange_audit_still_gives_a_page(finished: Path, value: dict) -> None:
    # The charts of other sections take most of the time of a page.
    for name in ("evaluation.json", "partition.json", "events.jsonl", "retrieval.npz"):
        (finished / name).unlink()
    write_json(finished / "audit.json", value)
    assert Page(html_of(finished)).open == []


def test_texts_of_an_audit_are_escaped(finished: Path) -> None:
    evil = "<script>alert('x')</script>\" onload=\"x {{ run.name }} {% raw %}"
    audited(finished, finding(), membership())
    told = read_json(finished / "audit.json")
    for one in told["findings"]:
        one |= dict.fromkeys(("name", "level", "attacker", "verdict", "text"), evil)
        for attack in list(one["details"].get("attacks", {})):
            one["details"]["attacks"][evil + attack] = one["details"]["attacks"].pop(attack)
    told["verdict"] = evil
    (finished / "audit.json").write_text(json.dumps(told))
    source = html_of(finished)
    assert source.count("<script") == 1
    page = Page(source)
    assert page.open == []
    assert harmless(page)
    assert page.text.count("{{ run.name }} {% raw %}") == 20


def test_numbers_and_curves_out_of_a_file() -> None:
    assert [finite(one) for one in (1, 0.5, math.inf, math.nan, True, "1", None)] == [1.0, 0.5, *[None] * 5]
    assert roc_points([[0, 0], [1, 1]]) == [(0.0, 0.0), (1.0, 1.0)]
    for wrong in (None, [], [[0, 0]], [[0, 0], [1, 2]], [[0, 0], [1]], [[0, 0], "x"]):
        assert roc_points(wrong) is None


def test_a_report_is_written_again_only_where_there_was_one(finished: Path) -> None:
    assert refresh_report(finished) is None
    write_report(finished)
    write_findings(finished / "audit.json", [finding()], about={})
    path = refresh_report(finished)
    assert path is not None
    assert "canaries" in path.read_text()
