"""Sound private steps are not contradicted: two hundred audits of many plans, none by chance."""

import itertools

import pytest

from edgecmd.audits.finding import CONTRADICTED
from edgecmd.audits.step.checks import StepEffort, audit_steps
from edgecmd.audits.step.random_source import spawned_words
from tests.edgecmd.audit.tiny_target import tiny_target

NUM_AUDITS, NUM_DRAWS = 200, 200
MECHANISMS = {
    "anchors": ("privacy.mechanism=anchors",),
    "relations": ("privacy.mechanism=anchors", "distill.loss=cmd-anchored", "privacy.num_views=2"),
    "views": ("privacy.mechanism=anchors", "privacy.num_views=4", "privacy.chunk_size=8"),
    "cosine": ("privacy.mechanism=cosine", "distill.proximal_mu=0.1"),
    "groups": ("privacy.mechanism=groups", "privacy.num_groups=3"),
    "opacus": ("privacy.mechanism=anchors", "privacy.engine=opacus", "student.architecture=gn-50k"),
}
SAMPLINGS = {
    "poisson": (),
    "rare": ("privacy.sampling_rate=0.05",),
    "none": ("privacy.sampling=none",),
    "all": ("privacy.sampling_rate=1",),
}
STUDENTS = {"ws": (), "gn": ("student.architecture=gn-50k",)}


@pytest.mark.slow
def test_no_false_alarm_in_two_hundred_sound_audits() -> None:
    plans = itertools.product(MECHANISMS.items(), SAMPLINGS.items(), STUDENTS.items())
    wrong, verdicts, spawned = [], 0, spawned_words()
    for number, ((name, settings), (sampling, more), (student, last)) in enumerate(
        itertools.islice(itertools.cycle(list(plans)), NUM_AUDITS)
    ):
        target = tiny_target(*settings, *more, *last, f"seed={number}", "federation.local_steps=3")
        found = audit_steps(target, StepEffort(num_draws=NUM_DRAWS, seed=number, spawned=spawned))
        verdicts += len(found)
        wrong += [
            f"{name}, {sampling}, {student}: {one.text}" for one in found if one.verdict == CONTRADICTED
        ]
    assert wrong == []
    assert verdicts == 5 * NUM_AUDITS
