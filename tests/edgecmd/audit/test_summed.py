"""Audits of secure sums: sound ones pass, planted faults do not, and what cannot be audited says so."""

import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.static.sensitivity import Effort
from edgecmd.audits.step import random_source
from edgecmd.audits.step.checks import StepEffort
from edgecmd.audits.target import Target
from edgecmd.core.errors import PrivacyError
from edgecmd.experiments.audit_ladder import audit_level, sums
from edgecmd.experiments.faults.step_faults import scaled_pair, shares_times, unbounded
from edgecmd.privacy.secure_sum import integers
from edgecmd.privacy.secure_sum.terms import Terms
from edgecmd.privacy.step import private_step
from edgecmd.privacy.step.randomness import DeterministicSource, Source
from tests.edgecmd.audit.tiny_target import tiny_target

SUM = "privacy.aggregation=secure-sum"
GIVEN = ("privacy.noise_multiplier=2", "privacy.epsilon=1000")
PAIR = (SUM, "privacy.mechanism=anchors", "federation.local_steps=1", "privacy.sampling_rate=1", *GIVEN)
ONCE = (
    *(SUM, "privacy.mechanism=statistics", "federation.local_steps=1", "privacy.sampling_rate=1"),
    *("federation.num_rounds=1", "distill.augment=0", *GIVEN),
)
CLIENT = (SUM, "privacy.mechanism=client", *GIVEN)
KNOWN = StepEffort(spawned=(b"one", b"other"))
FEW = Effort(num_tries=12, num_pairs=4)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_source, "NUM_FRESH", 1000)


def found(target: Target, level: str, effort: object, quantity: str) -> Finding:
    findings = audit_level(target, level, effort)
    return next(one for one in findings if one.quantity == quantity)


@pytest.mark.parametrize("settings", [PAIR, CLIENT, ONCE])
def test_a_sound_sum_is_not_contradicted(settings: tuple[str, ...]) -> None:
    """Of 110,000 draws the deviation of their deviation is 0.002."""
    target = tiny_target(*settings)
    for one in audit_level(target, "step", KNOWN):
        assert one.verdict == NOT_CONTRADICTED, one.text
        if one.quantity == "noise":
            assert one.measured == pytest.approx(1.0, abs=0.015)
            assert (one.counts["sums"], one.counts["clients"]) == (2, 4)
    assert not list(target.run.folder.rglob("*.jsonl")), "an audit must count in no ledger of the run"
    for one in audit_level(target, "check", FEW):
        assert one.verdict in (NOT_CONTRADICTED, INDICATOR), one.text


def test_what_is_stated_is_the_noise_of_the_fewest_honest_clients() -> None:
    """Of three that must be in the sum one colludes: four shares of a half each bring twice as much."""
    settings = (*PAIR, "privacy.min_survivors=3", "privacy.num_colluding=1")
    target = tiny_target(*settings)
    plan = target.plan
    assert plan is not None
    one = found(target, "step", KNOWN, "noise")
    assert (one.verdict, one.counts["honest"]) == (NOT_CONTRADICTED, 2)
    still = replace(target.run, distill=replace(target.run.distill, augment=0.0))
    (released,) = sums(still, target.run.new_student(), 1)
    # Four clients bring at most 60 clipped gradients, next to nothing beside 55,000 draws of deviation 2.87.
    assert float(np.std(released.total)) == pytest.approx(2 * (1 + 1 / 64) * math.sqrt(2), rel=0.02)


@pytest.mark.parametrize(
    ("plant", "settings", "level", "quantity", "measured"),
    [
        (partial(shares_times, 0.5), PAIR, "step", "noise", 0.5),
        (partial(shares_times, 0.0), PAIR, "step", "noise", 0.0),
        (partial(shares_times, 0.5), CLIENT, "step", "noise", 0.5),
        (partial(shares_times, 0.5), ONCE, "step", "noise", 0.5),
        # Neighbours differ in which pair is the last, so a search may find more and less than 2.5.
        (scaled_pair, PAIR, "check", "sensitivity", None),
        (scaled_pair, PAIR, "step", "gap in C", 1.5),
        (scaled_pair, ONCE, "step", "gap in C", 1.5),
        # A client may weigh as much as 256 pairs, or as one client; the vectors are 3 times as long.
        (unbounded, PAIR, "check", "norm", 3 * 256),
        (unbounded, CLIENT, "check", "norm", 3),
    ],
)
def test_a_planted_fault_is_contradicted(
    plant: Callable[[], AbstractContextManager[None]],
    settings: tuple[str, ...],
    level: str,
    quantity: str,
    measured: float | None,
) -> None:
    target = tiny_target(*settings)
    effort = KNOWN if level == "step" else FEW
    with plant():
        wrong = found(target, level, effort, quantity)
    assert wrong.verdict == CONTRADICTED, wrong.text
    assert measured is None or wrong.measured == pytest.approx(measured, rel=0.06, abs=0.02)


def test_noise_that_is_small_for_clients_with_pairs_is_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds are real ones, on the clients' own pairs."""
    share, noised = integers.noise_share, integers.noised

    def careless(vector: np.ndarray, terms: Terms, source: Source) -> np.ndarray:
        if not vector.any():
            return noised(vector, terms, source)
        return integers.encoded(vector, terms) + share(terms, source) // 10

    monkeypatch.setattr("clients.sum_party.noised", careless)
    assert found(tiny_target(*PAIR), "step", KNOWN, "noise").verdict == CONTRADICTED


def test_noise_of_one_seed_is_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.private.make_source", lambda **_: DeterministicSource(0))
    wrong = found(tiny_target(*PAIR), "step", KNOWN, "noise")
    assert wrong.verdict == CONTRADICTED
    assert "repeated between call 1 step 1 and call 2 step 1" in wrong.text


def test_a_pair_that_is_left_out_is_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    make = private_step.make_units

    def fewer(data: object, rows: np.ndarray, **options: object) -> object:
        return make(data, rows[1:], **options)  # type: ignore[arg-type]

    monkeypatch.setattr(private_step, "make_units", fewer)
    wrong = found(tiny_target(*PAIR), "step", KNOWN, "gap in C")
    assert wrong.verdict == CONTRADICTED
    assert wrong.measured == pytest.approx(1.0, abs=0.02)


def test_a_projection_is_told_and_claims_nothing() -> None:
    target = tiny_target(*PAIR, "privacy.projected_pairs=4")
    one = found(target, "step", KNOWN, "noise")
    assert one.verdict == INDICATOR
    assert one.measured == pytest.approx(1.0, abs=0.015)
    assert "NOT PRIVATE" in one.text


@pytest.mark.parametrize("settings", [PAIR, CLIENT, (SUM,)])
def test_levels_that_watch_each_client_say_why_they_do_not_apply(settings: tuple[str, ...]) -> None:
    target = tiny_target(*settings)
    (one,) = audit_level(target, "one-run")
    assert one.verdict == INDICATOR
    assert re.search("shows nobody a client by itself.*edgecmd audit step", one.text)
    with pytest.raises(PrivacyError, match="shows nobody a client by itself"):
        audit_level(target, "many-runs")
