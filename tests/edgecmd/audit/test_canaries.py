"""Canaries: fair coins, one coordinate each, sampled by the real coins, and pictures that pull apart."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgecmd.audits.one_run.canaries import (
    Coins,
    GradientCanaries,
    GradientProbe,
    gradient_canaries,
    input_canaries,
    plain_parameters,
    toss,
)
from edgecmd.core.errors import PrivacyError
from edgecmd.models.students import build_student
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.private_step import distil_privately
from edgecmd.privacy.step.randomness import SystemSource
from edgecmd.privacy.step.units import unit_loss
from edgecmd.training.distill import LocalData, Place
from edgecmd.training.task import Holding
from tests.edgecmd.audit.tiny_target import tiny_target

DIM = 16
STUDENT = build_student(
    "ws-50k", in_channels=1, embedding_dim=DIM, generator=torch.Generator().manual_seed(0)
)


def plan_of(*settings: str) -> PrivacyPlan:
    plan = tiny_target("privacy.mechanism=anchors", *settings).plan
    assert plan is not None
    return plan


def test_coins_are_fair_repeatable_and_independent_of_each_other() -> None:
    num = 20_000
    coins = toss(num, num_clients=7, seed=3, kind="gradient")
    others = [toss(num, num_clients=7, seed=4, kind="gradient"), toss(num, num_clients=7, seed=3, kind="x")]
    # Five standard deviations of a fair coin: once in a million.
    limit = 5 * math.sqrt(num) / 2
    assert abs(coins.included.sum() - num / 2) < limit
    for other in others:
        assert abs((coins.included == other.included).sum() - num / 2) < limit
    np.testing.assert_array_equal(coins.included, toss(num, num_clients=7, seed=3, kind="gradient").included)
    counts = np.bincount(coins.client)
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(coins.of(2), np.arange(2, num, 7))


def test_coordinates_are_of_a_layer_that_noise_reaches_without_a_map() -> None:
    plain = plain_parameters(STUDENT)
    assert "projector.weight" in plain
    assert "trunk.0.0.weight" not in plain
    assert "trunk.0.0.gain" not in plain
    assert "trunk.0.0.bias" in plain
    found = gradient_canaries(STUDENT, plan_of(), num=1000, num_clients=4, seed=0)
    assert found.parameter == "projector.weight"
    assert len(set(found.place.tolist())) == 1000
    assert found.place.max() < STUDENT.projector.weight.numel()
    with pytest.raises(PrivacyError, match="--canaries=2000"):
        gradient_canaries(STUDENT, plan_of(), num=2000, num_clients=4, seed=0)


@pytest.mark.parametrize(("mechanism", "size"), [("anchors", 1.0), ("groups", 2.0)])
def test_a_canary_moves_the_sum_by_the_stated_sensitivity(mechanism: str, size: float) -> None:
    plan = tiny_target(f"privacy.mechanism={mechanism}").plan
    assert plan is not None
    coins = Coins(client=np.array([0, 1, 0]), included=np.array([True, True, False]))
    canaries = GradientCanaries(
        coins=coins,
        parameter="w",
        place=np.array([4, 2, 0]),
        size=gradient_canaries(STUDENT, plan, num=20, num_clients=4, seed=0).size,
    )
    probe = GradientProbe(canaries, plan, client=0, scores=np.zeros(3))
    assert len(probe) == 1, "the absent one takes no part"
    total = {"w": torch.zeros(2, 3, dtype=torch.float64), "b": torch.zeros(2, dtype=torch.float64)}
    probe.add(total, np.array([0]))
    assert total["w"][1, 1] == pytest.approx(size * (1 - 1e-4), rel=1e-12)
    assert total["w"].norm() <= size
    assert total["b"].norm() == 0


def test_the_score_is_the_likelihood_ratio_of_the_claimed_step() -> None:
    plan = replace(
        plan_of(),
        noise_multiplier=2.0,
        sensitivity=1.0,
        sampling_rate=0.25,
        sampling="poisson",
        normaliser=8.0,
    )
    coins = Coins(client=np.zeros(2, dtype=int), included=np.array([False, False]))
    canaries = GradientCanaries(coins=coins, parameter="w", place=np.array([1, 0]), size=1.0)
    scores = np.zeros(2)
    probe = GradientProbe(canaries, plan, client=0, scores=scores)
    probe.see({"w": torch.tensor([0.5, -0.25], dtype=torch.float64)})

    def density(value: float, mean: float) -> float:
        return math.exp(-((value - mean) ** 2) / (2 * 2.0**2))

    for index, value in enumerate((-2.0, 4.0)):
        present = 0.75 * density(value, 0.0) + 0.25 * density(value, 1.0)
        assert scores[index] == pytest.approx(math.log(present / density(value, 0.0)))


def test_canaries_are_sampled_by_the_real_coins_and_seen_by_the_real_release() -> None:
    """An empty client, noise of a millionth: what is released is the sampled canaries."""
    target = tiny_target("privacy.mechanism=anchors")
    assert target.plan is not None
    plan = replace(target.plan, noise_multiplier=1e-6, sampling_rate=0.5)
    target = replace(target, plan=plan)
    student = target.run.new_student()
    canaries = gradient_canaries(student, plan, num=400, num_clients=1, seed=0)
    scores = np.zeros(400)
    probe = GradientProbe(canaries, plan, client=0, scores=scores)
    own, anchors = copy.deepcopy(student), target.run.anchors
    distil_privately(
        own,
        LocalData(target=torch.zeros(0, 1, 16, 16), teacher=anchors[:0]),
        replace(target.run.distill, learning_rate=1.0, schedule="constant"),
        loss=unit_loss(target.run.loss, anchors),
        plan=replace(plan, steps_per_round=1),
        # Past the warm-up.
        place=Place(seed=0, round_index=1, client=0, first_step=1, total_steps=2),
        optimizer=torch.optim.SGD(own.parameters(), lr=1.0),
        source=SystemSource(),
        probe=probe,
    )
    moved = {
        name: (value.detach() - own.get_parameter(name).detach()).double().numpy()
        for name, value in student.named_parameters()
    }
    seen = moved["projector.weight"].ravel()[canaries.place] * plan.normaliser
    present = seen > 0.5
    np.testing.assert_allclose(seen, np.where(present, 1 - 1e-4, 0.0), atol=1e-4)
    assert not present[~canaries.coins.included].any()
    num = int(canaries.coins.included.sum())
    assert abs(present.sum() - num / 2) < 5 * math.sqrt(num) / 2
    assert scores[present].min() > scores[~present].max()


def test_pictures_pull_across_the_hub_each_its_own_way() -> None:
    like = LocalData(target=torch.zeros(1, 1, 16, 16), teacher=torch.zeros(1, DIM))
    found = input_canaries(STUDENT, like, num=40, num_clients=2, seed=0)
    assert found.data.target.shape == (40, 1, 16, 16)
    first = found.data.teacher[found.coins.of(0)]
    np.testing.assert_allclose(first.norm(dim=1), 1.0, rtol=1e-5)
    # Twenty canaries of a client in sixteen dimensions: two sets, each orthogonal.
    for part in (first[:15], first[15:]):
        np.testing.assert_allclose(part @ part.T, np.eye(len(part)), atol=1e-5)
    with torch.no_grad():
        hub = functional.normalize(functional.normalize(STUDENT(found.data.target), dim=1).mean(dim=0), dim=0)
    np.testing.assert_allclose(first @ hub, np.zeros(20), atol=1e-5)
    own = Holding(data=like, anchors=torch.zeros(3, DIM))
    joined = found.joined(own, 1)
    present = found.coins.of(1)[found.coins.included[found.coins.of(1)]]
    assert len(joined.data) == 1 + len(present)
    torch.testing.assert_close(joined.data.target[1:], found.data.target[torch.from_numpy(present)])
