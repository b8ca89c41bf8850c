"""Views: another picture changes the rows of its own pair, and a blend with the neighbour is caught."""

import pytest

from edgecmd.audits.audited_student import subjects
from edgecmd.audits.finding import CONTRADICTED, NOT_CONTRADICTED
from edgecmd.audits.static.views import views_finding
from edgecmd.experiments.faults.step_faults import mixed_views
from tests.edgecmd.audit.tiny_target import tiny_target


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        (("privacy.mechanism=anchors",), 1),
        (("privacy.mechanism=anchors", "privacy.num_views=3", "privacy.chunk_size=6"), 3),
        (("privacy.mechanism=groups", "privacy.num_groups=2"), 1),
    ],
)
def test_a_picture_changes_its_own_rows_and_no_others(settings: tuple[str, ...], own: int) -> None:
    target = tiny_target(*settings)
    assert target.plan is not None
    subject = subjects(target)[0]
    sound = views_finding(subject, target.plan, target.run)
    assert (sound.verdict, sound.measured, sound.claimed) == (NOT_CONTRADICTED, own, own), sound.text
    with mixed_views():
        mixed = views_finding(subject, target.plan, target.run)
    assert (mixed.verdict, mixed.measured) == (CONTRADICTED, 2 * own)
