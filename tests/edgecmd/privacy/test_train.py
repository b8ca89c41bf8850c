"""One private step: its noise is what the plan says, and its arithmetic is that of a hand calculation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from edgecmd.config.reader import load_config
from edgecmd.losses import loss_of
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step import private_step
from edgecmd.privacy.step.private_step import add_noise, distil_privately
from edgecmd.privacy.step.randomness import SystemSource, make_source, normal
from edgecmd.privacy.step.units import unit_loss
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData, Place
from tests.tiny_federation import plan_of as plan_by

FALSE_ALARM = 1e-6
DIM = 4
PLACE = Place(seed=0, round_index=1, client=0, first_step=50, total_steps=1000)
ANCHORS = torch.eye(DIM)


def plan_of(*settings: str) -> PrivacyPlan:
    base = ["privacy.mechanism=anchors", "privacy.noise_multiplier=3", "privacy.epsilon=1000"]
    plan = plan_by(load_config(None, [*base, *settings]))
    assert plan is not None
    return plan


class Linear(nn.Module):
    def __init__(self, num: int = 9) -> None:
        super().__init__()
        self.layer = nn.Linear(num, DIM, bias=False)
        nn.init.ones_(self.layer.weight)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image.flatten(1))


def pairs(num: int) -> LocalData:
    coins = torch.Generator().manual_seed(0)
    return LocalData(
        target=torch.randn(num, 1, 3, 3, generator=coins), teacher=torch.randn(num, DIM, generator=coins)
    )


def noise_fits(draws: np.ndarray, *, std: float) -> bool:
    """Chi-square test of the standard deviation, z-test of the mean, KS test of the shape."""
    num = len(draws)
    tail = stats.chi2.cdf((draws**2).sum() / std**2, num)
    mean = 2 * stats.norm.sf(abs(draws.mean()) * np.sqrt(num) / std)
    shape = stats.kstest(draws / std, "norm").pvalue
    return bool(min(tail, 1 - tail) > FALSE_ALARM and mean > FALSE_ALARM and shape > FALSE_ALARM)


def released(plan: PrivacyPlan, *, num: int = 10_000) -> np.ndarray:
    """Noise of one step on 10,000 coordinates, undone of the divisor."""
    value = add_noise({"w": torch.zeros(num, dtype=torch.float64)}, plan=plan, source=SystemSource())["w"]
    return value.numpy() * plan.normaliser


@pytest.mark.parametrize("mechanism", ["anchors", "groups"])
def test_ten_thousand_draws_of_a_step_s_noise(mechanism: str) -> None:
    """Groups have sensitivity 2 C, so their noise is twice as wide for the same multiplier."""
    plan = plan_of(f"privacy.mechanism={mechanism}", "privacy.clip=0.5")
    assert noise_fits(released(plan), std=3 * 0.5 * (2 if mechanism == "groups" else 1))


def test_the_test_of_the_noise_catches_half_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecmd.privacy.step.randomness import normal

    monkeypatch.setattr(private_step, "normal", lambda source, count: normal(source, count) / 2)
    assert not noise_fits(released(plan_of()), std=3.0)


def test_the_test_of_the_noise_catches_a_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecmd.privacy.step.randomness import normal

    monkeypatch.setattr(private_step, "normal", lambda source, count: normal(source, count) + 0.1)
    assert not noise_fits(released(plan_of()), std=3.0)


def one_round(plan: PrivacyPlan, data: LocalData, config: DistillConfig, student: nn.Module) -> None:
    optimizer = torch.optim.SGD(student.parameters(), lr=config.learning_rate)
    distil_privately(
        student,
        data,
        config,
        loss=unit_loss(loss_of(config), ANCHORS),
        plan=plan,
        place=PLACE,
        optimizer=optimizer,
        source=SystemSource(),
    )


CONFIG = DistillConfig(
    loss="cmc-anchored", augment=0.0, learning_rate=0.5, schedule="constant", optimizer="sgd"
)


def test_the_noise_of_a_whole_step_reaches_the_weights() -> None:
    """With no pairs a step is learning rate times noise over the divisor: std 0.5 * 3 / 64."""
    student = Linear(2500)
    before = student.layer.weight.detach().clone()
    one_round(plan_of("federation.local_steps=1"), pairs(0), CONFIG, student)
    moved = (student.layer.weight.detach() - before).flatten().numpy().astype(np.float64)
    assert len(moved) == 10_000
    assert noise_fits(moved, std=0.5 * 3 / 64)


def test_a_step_is_the_clipped_sum_over_the_divisor() -> None:
    """All pairs sampled, (nearly) no noise: weights move by rate * sum of clipped gradients / 64."""
    plan = replace(
        plan_of("privacy.sampling_rate=1", "federation.local_steps=1", "privacy.clip=0.3"),
        noise_multiplier=1e-12,
    )
    student, data = Linear(), pairs(7)
    expected = student.layer.weight.detach().clone().double()
    for image, teacher in zip(data.target, data.teacher):
        weight = student.layer.weight.detach().double().requires_grad_()
        s = weight @ image.flatten().double()
        s, t = s / s.norm(), teacher.double() / teacher.double().norm()
        top = torch.exp(s @ t / 0.1)
        (-torch.log(top / (top + torch.exp(ANCHORS.double() @ s / 0.1).sum()))).backward()
        factor = min(1.0, 0.3 * (1 - 1e-4) / float(weight.grad.norm()))
        expected -= 0.5 * factor * weight.grad / 64
    one_round(plan, data, CONFIG, student)
    torch.testing.assert_close(student.layer.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mechanism", ["anchors", "cosine", "groups"])
@pytest.mark.parametrize("num", [0, 1, 5])
def test_any_number_of_pairs_makes_the_same_number_of_steps(mechanism: str, num: int) -> None:
    plan, student, made = plan_of(f"privacy.mechanism={mechanism}"), Linear(), []
    config = replace(CONFIG, loss=plan.loss)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: made.append(1))
    distil_privately(
        student,
        pairs(num),
        config,
        loss=unit_loss(loss_of(config), ANCHORS),
        plan=plan,
        place=PLACE,
        optimizer=optimizer,
        source=SystemSource(),
    )
    assert len(made) == plan.steps_per_round == 5
    assert torch.isfinite(student.layer.weight).all()


def test_deterministic_steps_without_pairs_are_noise_over_the_divisor() -> None:
    """Each of two steps: weight -= rate * std * normal / divisor, with the normals of the seed."""
    plan = replace(plan_of("privacy.deterministic=true", "federation.local_steps=2"), normaliser=8.0)
    students = []
    for _ in range(2):
        student = Linear()
        distil_privately(
            student,
            pairs(0),
            CONFIG,
            loss=unit_loss(loss_of(CONFIG), ANCHORS),
            plan=plan,
            place=PLACE,
            optimizer=torch.optim.SGD(student.parameters(), lr=0.1),
            source=make_source(deterministic=True, seed=5, round_index=1, client=2),
        )
        students.append(student.layer.weight.detach())
    coins = make_source(deterministic=True, seed=5, round_index=1, client=2)
    noise = normal(coins, 36) + normal(coins, 36)
    expected = 1.0 - 0.5 * 3.0 * noise.reshape(DIM, 9) / 8.0
    np.testing.assert_allclose(students[0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(*students)
