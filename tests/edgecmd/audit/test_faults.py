"""The table of planted faults: what passes, and that a table with a miss is refused."""

import pytest
import torch

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.static.search import distance
from edgecmd.audits.static.sensitivity import makers_of
from edgecmd.core.errors import PrivacyError
from edgecmd.experiments.faults.loss_faults import own_anchors_query, small_subject
from edgecmd.experiments.faults.planted import COLUMNS, Fault, Outcome, outcomes, require_all


def finding(verdict: str) -> Finding:
    return Finding(
        level="check", name="n", attacker="code", verdict=verdict, text=f"It is {verdict}.", quantity="q"
    )


def fault(caught: str, sound: str) -> Fault:
    return Fault(name="a fault", level="check", catch=lambda: finding(caught), sound=lambda: finding(sound))


@pytest.mark.parametrize(
    ("caught", "sound", "passed"),
    [
        (CONTRADICTED, NOT_CONTRADICTED, True),
        (CONTRADICTED, INDICATOR, True),
        (NOT_CONTRADICTED, NOT_CONTRADICTED, False),
        (INDICATOR, NOT_CONTRADICTED, False),
        (CONTRADICTED, CONTRADICTED, False),
    ],
)
def test_a_fault_counts_as_caught_only_beside_a_sound_twin_that_passes(
    caught: str, sound: str, passed: bool
) -> None:
    found = list(outcomes([fault(caught, sound)]))
    assert found[0].passed is passed
    assert found[0].table()["passed"] is passed
    assert len(found[0].row()) == len(COLUMNS)
    if passed:
        require_all(found)
        return
    word = "contradicts the sound twin of" if caught == CONTRADICTED else "misses"
    with pytest.raises(PrivacyError, match=f"{word} 'a fault'"):
        require_all(found)


def test_a_fault_of_no_level_is_refused() -> None:
    with pytest.raises(PrivacyError, match="level='L9' is unknown"):
        Fault(name="x", level="L9", catch=lambda: finding(INDICATOR), sound=lambda: finding(INDICATOR))


def test_anchors_without_gradient_are_constants() -> None:
    """With and without gradient the own pairs see equal anchors; only the anchors' rows differ."""
    subject = small_subject()
    pair = makers_of(subject, num_pairs=4)["hub"](torch.Generator().manual_seed(0))
    samples = [(pair.data, pair.larger()), (pair.data, pair.smaller())]
    for with_gradient, limit in ((False, 1.0), (True, 40.0)):
        larger, smaller = own_anchors_query(subject, with_gradient=with_gradient)(samples)
        assert distance(larger, smaller) <= limit


def test_outcome_is_plain() -> None:
    one = Outcome(
        fault=fault(CONTRADICTED, INDICATOR), caught=finding(CONTRADICTED), sound=finding(INDICATOR)
    )
    assert set(one.table()) == {"fault", "level", "passed", "caught", "sound"}
