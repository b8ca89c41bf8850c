"""The random source: its type, fresh draws in each process, enough bits, and no stretching out of sight."""

import numpy as np
import pytest
import torch

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED
from edgecmd.audits.step import random_source
from edgecmd.audits.step.checks import drive_rounds
from edgecmd.audits.step.random_source import (
    counted,
    fresh,
    processes,
    repeated_starts,
    source_finding,
    source_type,
    view_state,
)
from edgecmd.experiments.faults.step_faults import short_seed
from edgecmd.privacy.step import private_step, randomness, sampling, units
from edgecmd.privacy.step.randomness import DeterministicSource, Source, SystemSource
from tests.edgecmd.audit.tiny_target import tiny_target

ANCHORS = ("privacy.mechanism=anchors", "federation.local_steps=1")


def test_the_system_s_source_passes_and_another_type_is_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_target(*ANCHORS)
    assert target.plan is not None
    steps = drive_rounds(target)
    monkeypatch.setattr(random_source, "NUM_FRESH", 1000)
    spawned = random_source.spawned_words()
    sound = source_finding(steps, target.plan, spawned=spawned)
    assert sound.verdict == NOT_CONTRADICTED, sound.text
    assert sound.counts == {"checks": 6, "failed": 0, "fresh": 1000}
    seeds = iter(range(10**6))
    monkeypatch.setattr(randomness, "make_source", lambda **_: DeterministicSource(next(seeds)))
    found = source_finding(steps, target.plan, spawned=spawned)
    assert found.verdict == CONTRADICTED
    assert "it is a DeterministicSource, but the plan promises the system's source" in found.text


def test_a_source_of_a_run_that_is_not_private_claims_nothing() -> None:
    target = tiny_target(*ANCHORS, "privacy.deterministic=true")
    assert target.plan is not None
    assert source_finding(drive_rounds(target), target.plan).verdict == INDICATOR


class Lookalike(SystemSource):
    """Says that it is private."""


def test_a_subclass_is_another_type() -> None:
    assert not source_type(SystemSource()).fault
    assert "Lookalike" in source_type(Lookalike()).fault


@pytest.mark.usefixtures("unchecked_shapes")
def test_thirty_two_bits_are_found_by_their_birthdays() -> None:
    """400,000 draws of 2^32: 18.6 couples are expected, none has a probability of 8e-9."""
    with short_seed():
        assert not source_type(fresh()).fault, "the type does not tell"
        repeats = repeated_starts(random_source.NUM_FRESH)
        assert "another: it is seeded with about 3" in random_source.birthday(repeats).fault
        assert "two processes" in processes([b"other"]).fault, "a fork copies the seed"
    assert 2 <= repeats <= 60


def test_processes_of_their_own_draw_words_of_their_own() -> None:
    spawned = random_source.spawned_words()
    assert len({*spawned}) == 2
    assert not processes(spawned).fault
    assert "two processes" in processes([*spawned, spawned[0]]).fault


def test_noise_that_is_stretched_out_of_a_seed_in_the_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def stretched(source: Source, count: int) -> np.ndarray:
        seed = int(source.words(1)[0] % np.uint64(2**63))
        return torch.randn(count, generator=torch.Generator().manual_seed(seed)).double().numpy()

    monkeypatch.setattr(private_step, "normal", stretched)
    check = counted(drive_rounds(tiny_target(*ANCHORS)))
    assert "words for each coordinate" in check.fault


def test_coins_from_elsewhere_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    own = np.random.default_rng(0)
    monkeypatch.setattr(
        sampling, "poisson_rows", lambda num, rate, source: np.flatnonzero(own.random(num) < rate)
    )
    check = counted(drive_rounds(tiny_target(*ANCHORS)))
    assert "of its words" in check.fault


def test_views_from_a_short_seed_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not view_state().fault

    def seeded(source: Source) -> torch.Generator:
        return torch.Generator().manual_seed(int(source.words(1)[0] % np.uint64(2**32)))

    monkeypatch.setattr(units, "generator", seeded)
    assert "of 624 words" in view_state().fault


def test_words_that_are_not_the_system_s_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not random_source.system_calls(SystemSource()).fault
    clock = iter(range(10**9))

    def by_the_clock(_: SystemSource, count: int) -> np.ndarray:
        return np.random.default_rng(next(clock)).integers(0, 2**64, count, dtype=np.uint64)

    monkeypatch.setattr(SystemSource, "words", by_the_clock)
    assert "not those that the system's generator gave" in random_source.system_calls(SystemSource()).fault
