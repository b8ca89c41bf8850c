"""What the findings say: a control that fails, and a warm start that explains what was found."""

from dataclasses import replace

import pytest

from edgecmd.audits.risk.findings import Membership, membership_finding
from edgecmd.audits.risk.membership import Curve
from edgecmd.audits.risk.shadows import ShadowRecipe


def curve(auc: float) -> Curve:
    return Curve(auc=auc, low=auc - 0.02, high=auc + 0.02, tpr=(0.01, 0.1), points=((0.0, 0.0), (1.0, 1.0)))


def three(auc: float) -> dict[str, Curve]:
    return dict.fromkeys(("lira", "rmia", "raw"), curve(auc))


FOUND = Membership(
    box="student",
    protocol="concepts",
    curves=three(0.76),
    control=three(0.51),
    start={},
    num_members=20,
    num_others=10,
    seconds=1.0,
)


def text_of(found: Membership) -> str:
    return membership_finding(found, ShadowRecipe()).text


def test_a_leak_is_told_with_its_limits() -> None:
    finding = membership_finding(FOUND, ShadowRecipe())
    assert finding.measured == 0.76
    assert finding.verdict == "risk indicator"
    assert "better than by chance: AUC 0.760 [0.740, 0.780]" in finding.text
    assert "1.0% at 0.1% and 10.0% at 1.0% false alarms" in finding.text
    assert "differ in their concepts" in finding.text
    assert "warm start" not in finding.text
    assert finding.details["control_at_chance"]


def test_a_control_off_chance_is_shouted() -> None:
    found = replace(FOUND, control=three(0.55))
    assert "THE CONTROL FAILS" in text_of(found)
    assert not membership_finding(found, ShadowRecipe()).details["control_at_chance"]


@pytest.mark.parametrize(("start", "words"), [(0.75, "not clearly more"), (0.54, "only what exceeds it")])
def test_what_the_warm_start_has_already_is_no_leak(start: float, words: str) -> None:
    assert words in text_of(replace(FOUND, start=three(start)))


def test_nothing_found_is_told_so() -> None:
    assert "not told from others" in text_of(replace(FOUND, curves=three(0.505)))
    assert "exchangeable" in text_of(replace(FOUND, protocol="pairs"))
