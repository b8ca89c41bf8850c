"""The auditor in the step: his sums are right, and whatever the step does beside its release is seen."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgecmd.audits.audited_student import subjects
from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED
from edgecmd.audits.static.reference_sum import plain_sum
from edgecmd.audits.static.sensitivity import Effort, private_question, search
from edgecmd.audits.step.checks import drive_rounds, release_finding
from edgecmd.audits.step.driven_rounds import carried_back
from edgecmd.audits.step.noise import step_noise
from edgecmd.audits.target import cut_chunks
from edgecmd.experiments.faults.step_faults import (
    mean_clipped_last,
    noise_by_step,
    noise_times,
    noise_without_pairs,
    told,
    views_as_records,
)
from edgecmd.losses import loss_of
from edgecmd.models.students import build_student
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step import private_step
from edgecmd.privacy.step.gradients import Sum, clipped_sum
from edgecmd.privacy.step.private_step import add_noise
from edgecmd.privacy.step.randomness import DeterministicSource, Source, normal
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.privacy.step.units import StepSettings, Units, make_units, unit_loss
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData
from tests.edgecmd.audit.tiny_target import audit_noise, tiny_target

ANCHORS = "privacy.mechanism=anchors"
FIVE = "federation.local_steps=5"
DIM = 8


def pairs(num: int) -> LocalData:
    coins = torch.Generator().manual_seed(0)
    return LocalData(
        target=torch.rand(num, 1, 16, 16, generator=coins), teacher=torch.randn(num, DIM, generator=coins)
    )


@pytest.mark.parametrize(("mechanism", "loss"), [("anchors", "cmc-anchored"), ("groups", "cmc-groups")])
def test_the_auditor_s_sum_is_that_of_the_engines(mechanism: str, loss: str) -> None:
    student = build_student("gn-50k", in_channels=1, embedding_dim=DIM, generator=torch.Generator())
    lossy = unit_loss(loss_of(DistillConfig(loss=loss)), torch.eye(DIM))
    data = pairs(7)
    data.target[3] = float("nan")
    settings = StepSettings(mechanism=mechanism, num_views=2, num_groups=3)
    chunks = make_units(data, np.arange(7), config=settings, augment=1.0, source=DeterministicSource(0))
    own = plain_sum(student, chunks, lossy, clip=0.5)
    for engine in ("vmap", "loop"):
        other = clipped_sum(student, chunks, lossy, clip=0.5, engine=engine)
        for name, value in own.items():
            torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-6)


def test_a_release_is_carried_back_through_standardised_weights() -> None:
    """The transposed Jacobian, one row at a time."""
    student = build_student("ws-50k", in_channels=1, embedding_dim=DIM, generator=torch.Generator())
    effective = EffectiveStudent(student)
    coins = torch.Generator().manual_seed(1)
    released = {
        name: torch.randn(value.shape, generator=coins).double()
        for name, value in effective.module.named_parameters()
    }
    wanted, found = carried_back(student, released), effective.pull_back(released)
    assert set(wanted) == set(found) == set(dict(student.named_parameters()))
    layer, name = student.trunk[0][0], "trunk.0.0"
    for part in ("weight", "gain"):
        acting = partial(_acting, layer, part)
        jacobian = torch.autograd.functional.jacobian(acting, getattr(layer, part).detach())
        by_hand = torch.tensordot(released[f"{name}.weight"].float(), jacobian, dims=4)
        torch.testing.assert_close(wanted[f"{name}.{part}"], by_hand, rtol=1e-4, atol=1e-5)


def _acting(layer: torch.nn.Module, part: str, value: Tensor) -> Tensor:
    """The weight that acts, as a function of one parameter of its layer."""
    return torch.func.functional_call(_Standardised(layer), {f"layer.{part}": value}, ())


class _Standardised(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        return self.layer.standardised_weight()


@pytest.mark.parametrize(
    "settings",
    [
        (ANCHORS, "privacy.num_views=2", "distill.proximal_mu=0.5"),
        ("privacy.mechanism=groups", "privacy.sampling=none", "student.architecture=gn-50k"),
    ],
)
def test_every_step_of_several_rounds_is_seen_on_clients_of_all_sizes(settings: tuple[str, ...]) -> None:
    target = tiny_target(*settings, FIVE)
    assert target.plan is not None
    steps = drive_rounds(target)
    assert [(one.noise.call, one.noise.index) for one in steps] == [
        (call, index) for call in range(1, 6) for index in range(1, 6)
    ]
    rows = [one.noise.rows for one in steps]
    assert min(rows) == 0
    assert max(rows) >= 4
    assert max(one.sum_gap for one in steps) < 1e-4
    assert max(one.gradient_gap for one in steps) < 1e-5
    found = release_finding(steps, target.plan)
    assert found.verdict == NOT_CONTRADICTED, found.text
    assert found.counts["units"] > 20


def _late(step: int) -> float:
    return 0.1 if step >= 4 else 1.0


def _every_second(step: int) -> float:
    return 1.0 if step % 2 else 0.7


Plant = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("plant", "least", "where"),
    [
        (noise_without_pairs, 0.1, "large samples"),
        (partial(noise_by_step, _late), 0.1, "step 4"),
        (partial(noise_by_step, _every_second), 0.7, "step 2"),
        (partial(noise_times, 0.5), 0.5, "all"),
    ],
    ids=["unless-empty", "late", "every-second", "half"],
)
def test_noise_that_is_too_small_at_some_steps_is_caught(plant: Plant, least: float, where: str) -> None:
    target = tiny_target(ANCHORS, FIVE)
    with plant():
        found = audit_noise(target)
    assert found.verdict == CONTRADICTED
    assert found.measured == pytest.approx(least, rel=0.03)
    assert found.details["std_by_part"][where] == pytest.approx(least, rel=0.01)


def test_a_wrong_clip_of_one_layer_is_caught_by_the_auditor_s_own_sum() -> None:
    target = tiny_target(ANCHORS)
    assert target.plan is not None
    with mean_clipped_last():
        found = release_finding(drive_rounds(target), target.plan)
    assert found.verdict == CONTRADICTED
    assert "the clipped sum is off by" in found.text
    assert found.measured is not None
    assert found.measured > 0.5


def _second_unclipped(student: torch.nn.Module, chunks: Sequence[Units], *args: Any, **options: Any) -> Sum:
    total = clipped_sum(student, list(chunks)[:1], *args, **options)
    for name, value in clipped_sum(student, list(chunks)[1:], *args, **options | {"clip": 1e6}).items():
        total[name] += value
    return total


def _last_twice(student: torch.nn.Module, chunks: Sequence[Units], *args: Any, **options: Any) -> Sum:
    """The last pair of each chunk but the last is added again."""
    total = clipped_sum(student, chunks, *args, **options)
    again = [
        Units(images=one.images[-1:], teacher=one.teacher[-1:], mask=one.mask[-1:]) for one in chunks[:-1]
    ]
    for name, value in clipped_sum(student, again, *args, **options).items():
        total[name] += value
    return total


@pytest.mark.parametrize("wrong", [_second_unclipped, _last_twice])
def test_what_later_chunks_do_wrong_is_caught(
    wrong: Callable[..., Sum], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_step, "clipped_sum", wrong)
    target = tiny_target(ANCHORS, "privacy.num_views=2")
    assert target.plan is not None
    found = release_finding(drive_rounds(target), target.plan)
    assert found.verdict == CONTRADICTED
    assert "the clipped sum is off by" in found.text
    subject = subjects(target)[-1]
    question = private_question(subject, cut_chunks(target.plan, 7), target.run, num_pairs=8)
    assert search(question, Effort(num_tries=12)).verdict == CONTRADICTED


def test_noise_that_shrinks_with_the_number_of_chunks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"chunks": 1}

    def counting(student: torch.nn.Module, chunks: Sequence[Units], *args: Any, **options: Any) -> Sum:
        held["chunks"] = max(1, len(chunks))
        return clipped_sum(student, chunks, *args, **options)

    monkeypatch.setattr(private_step, "clipped_sum", counting)
    monkeypatch.setattr(private_step, "normal", lambda source, count: normal(source, count) / held["chunks"])
    found = audit_noise(tiny_target(ANCHORS))
    assert found.verdict == CONTRADICTED
    assert "too small" in found.text


def test_a_sum_that_is_released_twice_is_caught_in_the_release() -> None:
    target = tiny_target(ANCHORS, "privacy.noise_multiplier=0.6", "privacy.epsilon=1000")

    def doubled(total: Sum, *, plan: PrivacyPlan, source: Source) -> Sum:
        return add_noise({name: 2.0 * value for name, value in total.items()}, plan=plan, source=source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_step, "add_noise", doubled)
        found = audit_noise(target)
    assert found.verdict == CONTRADICTED
    assert "added to a sum other than the clipped one" in found.text


class Halving(EffectiveStudent):
    """Hands half of the release on."""

    def pull_back(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: 0.5 * value for name, value in super().pull_back(sums).items()}


def test_an_optimiser_that_gets_other_than_the_release_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_step, "EffectiveStudent", Halving)
    target = tiny_target(ANCHORS)
    assert target.plan is not None
    found = release_finding(drive_rounds(target), target.plan)
    assert found.verdict == CONTRADICTED
    assert "the optimiser receives something other than the release, by 0.5 of it" in found.text


def test_weights_that_move_beside_the_release_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(student: torch.nn.Module, *args: object, **options: object) -> Sum:
        with torch.no_grad():
            next(iter(student.parameters())).add_(1.0)
        return clipped_sum(student, *args, **options)

    monkeypatch.setattr(private_step, "clipped_sum", careless)
    target = tiny_target(ANCHORS, "student.architecture=gn-50k")
    assert target.plan is not None
    found = release_finding(drive_rounds(target), target.plan)
    assert found.verdict == CONTRADICTED
    assert "weights move by something other than the release" in found.text


def test_views_clipped_as_records_are_no_fault_of_the_sum_but_of_its_sensitivity() -> None:
    """The units are what the step formed, so its sum is right; the search is what catches them."""
    target = tiny_target(ANCHORS, "privacy.num_views=4")
    assert target.plan is not None
    with views_as_records():
        found = release_finding(drive_rounds(target), target.plan)
    assert found.verdict == NOT_CONTRADICTED


def test_a_release_without_privacy_claims_nothing() -> None:
    target = tiny_target(ANCHORS, "privacy.deterministic=true", "federation.local_steps=1")
    assert target.plan is not None
    found = release_finding(drive_rounds(target), target.plan)
    assert found.verdict == INDICATOR
    assert told([found], "gap in C") is found


def test_what_is_kept_of_a_step_is_its_sums() -> None:
    draws = {"w": np.array([[1.0, -2.0], [3.0, 0.0]]), "b": np.array([0.5])}
    kept = step_noise(draws, call=2, index=3, rows=4, along=1.5)
    assert (kept.sizes, kept.squares, kept.total) == ({"w": 4, "b": 1}, {"w": 14.0, "b": 0.25}, 2.5)
    np.testing.assert_array_equal(kept.sketch, [1.0, -2.0, 3.0, 0.0, 0.5])
    assert [(one.name, one.kind, one.value) for one in kept.own] == [("call 2 step 3", "sum", 1.5)]
