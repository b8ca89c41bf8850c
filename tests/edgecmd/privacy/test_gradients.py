"""Every engine against a microbatch-of-one loop written here, and what happens to poisoned pairs."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import PrivacyError
from edgecmd.losses import loss_of
from edgecmd.models.students import build_student
from edgecmd.privacy.step.gradients import clip_and_sum, clip_factors, clipped_sum, norm
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.standardised_weights import EffectiveStudent, plain_copy
from edgecmd.privacy.step.units import StepSettings, Units, make_units, unit_loss
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData

NUM, DIM, SIDE = 11, 16, 16
CLIP = 0.7
RECORD_LOSSES = ("cmc-anchored", "cmd-anchored", "cmc+cmd-anchored", "cosine")
DOUBLE = torch.float64


def student_of(architecture: str) -> nn.Module:
    return build_student(
        architecture, in_channels=1, embedding_dim=DIM, generator=torch.Generator().manual_seed(0)
    ).double()


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def pairs() -> LocalData:
    return LocalData(target=made(1, NUM, 1, SIDE, SIDE), teacher=made(2, NUM, DIM))


ANCHORS = made(3, 20, DIM)


def oracle_loss(loss: str, z: Tensor, t: Tensor) -> Tensor:
    """Loss of a few rows that form one unit, straight from the formulas, with temperature 0.1."""
    s, t, u = (functional.normalize(one, dim=1) for one in (z, t, ANCHORS))
    if loss == "cosine":
        return (1 - (s * t).sum(1)).mean()
    if loss == "cmc-groups":
        scores = torch.exp(s @ t.T / 0.1)
        below = scores.sum(1) + torch.exp(s @ u.T / 0.1).sum(1)
        return -torch.log(scores.diagonal() / below).sum()
    value = torch.zeros((), dtype=DOUBLE)
    if "cmc" in loss:
        top = torch.exp((s * t).sum(1) / 0.1)
        value = value - torch.log(top / (top + torch.exp(s @ u.T / 0.1).sum(1))).mean()
    if "cmd" in loss:
        p, q = torch.softmax(t @ u.T / 0.1, 1), torch.softmax(s @ u.T / 0.1, 1)
        value = value - (p * torch.log(q)).sum(1).mean()
    return value


def oracle(student: nn.Module, chunks: list[Units], loss: str) -> dict[str, Tensor]:
    """One unit at a time: backward, norm, scale, add."""
    total = {name: torch.zeros_like(value) for name, value in student.named_parameters()}
    for units in chunks:
        for images, teacher, mask in zip(units.images, units.teacher, units.mask):
            student.zero_grad()
            oracle_loss(loss, student(images[mask]), teacher[mask]).backward()
            gradient = {name: value.grad for name, value in student.named_parameters()}
            length = torch.sqrt(sum((g**2).sum() for g in gradient.values()))
            for name, value in gradient.items():
                total[name] += value * min(1.0, CLIP * (1 - 1e-4) / float(length))
    student.zero_grad()
    return total


def chunks_of(
    loss: str, *, num_views: int = 1, chunk_size: int = 4, data: LocalData | None = None
) -> list[Units]:
    settings = StepSettings(
        mechanism="groups" if loss == "cmc-groups" else "anchors",
        num_views=num_views,
        num_groups=4,
        chunk_size=chunk_size,
    )
    source = DeterministicSource(5)
    return make_units(data or pairs(), np.arange(NUM), config=settings, augment=0.5, source=source)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return norm({name: one[name] - other[name] for name in other}) / norm(other)


@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
@pytest.mark.parametrize("engine", ["vmap", "loop", "opacus"])
@pytest.mark.parametrize(
    ("loss", "num_views"), [*((loss, 1) for loss in RECORD_LOSSES), ("cmc-anchored", 4), ("cmc-groups", 1)]
)
def test_an_engine_equals_microbatches_of_one(
    architecture: str, engine: str, loss: str, num_views: int
) -> None:
    student, chunks = student_of(architecture), chunks_of(loss, num_views=num_views)
    of_unit = unit_loss(loss_of(DistillConfig(loss=loss)), ANCHORS)
    found = clipped_sum(student, chunks, of_unit, clip=CLIP, engine=engine)
    assert distance(found, oracle(student, chunks, loss)) < 1e-6
    assert all(value.dtype == DOUBLE for value in found.values())


@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
@pytest.mark.parametrize("loss", RECORD_LOSSES)
def test_ghost_norms_equal_microbatches_of_one(architecture: str, loss: str) -> None:
    student, chunks = student_of(architecture), chunks_of(loss)
    of_unit = unit_loss(loss_of(DistillConfig(loss=loss)), ANCHORS)
    found = clipped_sum(student, chunks, of_unit, clip=CLIP, engine="opacus-ghost")
    assert distance(found, oracle(student, chunks, loss)) < 1e-6


@pytest.mark.parametrize("engine", ["vmap", "loop", "opacus", "opacus-ghost"])
@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
def test_the_memory_layout_does_not_matter(architecture: str, engine: str) -> None:
    """Opacus by itself reads channels-last inputs as if they were row-major."""
    student = student_of(architecture)
    of_unit = unit_loss(loss_of(DistillConfig(loss="cmc-anchored")), ANCHORS)
    expected = oracle(student, chunks_of("cmc-anchored"), "cmc-anchored")
    last = student_of(architecture).to(memory_format=torch.channels_last)
    data = pairs()
    turned = LocalData(target=data.target.to(memory_format=torch.channels_last), teacher=data.teacher)
    found = clipped_sum(last, chunks_of("cmc-anchored", data=turned), of_unit, clip=CLIP, engine=engine)
    assert distance(found, expected) < 1e-6


class Turned(nn.Module):
    """Its convolution gets a turned tensor, whose strides are not those of a row-major one."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.convolution = nn.Linear(SIDE, 6), nn.Conv2d(6, DIM, (3, 1), padding=(1, 0))

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.convolution(self.lift(image[:, 0]).transpose(1, 2)[..., None])
        return found.amax(dim=(2, 3))


def strings() -> list[Units]:
    text = torch.from_numpy(np.random.default_rng(0).integers(1, 255, (NUM, 1, 1, 1, 12))).double()
    text[3, ..., 5:] = 0
    mask = torch.ones(NUM, 1, dtype=torch.bool)
    return [Units(images=text, teacher=made(2, NUM, 1, DIM), mask=mask)]


@pytest.mark.parametrize("engine", ["vmap", "opacus", "opacus-ghost"])
@pytest.mark.parametrize("what", ["turned", "strings"])
def test_what_a_convolution_reads_is_measured_in_any_layout(engine: str, what: str) -> None:
    torch.manual_seed(0)
    student = Turned().double() if what == "turned" else plain_copy(student_of("text-50k"))
    chunks = chunks_of("cmc-anchored") if what == "turned" else strings()
    of_unit = unit_loss(loss_of(DistillConfig(loss="cmc-anchored")), ANCHORS)
    found = clipped_sum(student, chunks, of_unit, clip=CLIP, engine=engine)
    assert distance(found, oracle(student, chunks, "cmc-anchored")) < 1e-6


def test_ghost_norms_refuse_units_of_several_rows() -> None:
    with pytest.raises(PrivacyError, match="single rows"):
        clipped_sum(
            student_of("gn-50k"),
            chunks_of("cmc-anchored", num_views=2),
            unit_loss(loss_of(DistillConfig(loss="cmc-anchored")), ANCHORS),
            clip=CLIP,
            engine="opacus-ghost",
        )


@pytest.mark.parametrize("engine", ["vmap", "loop", "opacus", "opacus-ghost"])
def test_an_engine_leaves_the_student_as_it_was(engine: str) -> None:
    student = student_of("gn-50k")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    of_unit = unit_loss(loss_of(DistillConfig(loss="cosine")), ANCHORS)
    clipped_sum(student, chunks_of("cosine"), of_unit, clip=CLIP, engine=engine)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    for parameter in student.parameters():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")
    assert not any(module._forward_hooks or module._backward_hooks for module in student.modules())


@pytest.mark.parametrize("engine", ["vmap", "loop", "opacus", "opacus-ghost"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e308])
def test_a_poisoned_pair_counts_as_zero(engine: str, poison: float) -> None:
    """The sum is that of the other pairs: neither destroyed nor telling."""
    data = pairs()
    data.target[3] = poison
    whole = chunks_of("cmc-anchored", data=data)
    student, of_unit = student_of("gn-50k"), unit_loss(loss_of(DistillConfig(loss="cmc-anchored")), ANCHORS)
    found = clipped_sum(student, whole, of_unit, clip=CLIP, engine=engine)
    kept = [
        Units(images=u.images[ok], teacher=u.teacher[ok], mask=u.mask[ok])
        for u in whole
        for ok in [torch.isfinite(u.images).flatten(1).all(1) & (u.images.abs().flatten(1).amax(1) < 1e300)]
    ]
    assert sum(map(len, kept)) == NUM - 1
    assert distance(found, oracle(student, kept, "cmc-anchored")) < 1e-6


@pytest.mark.parametrize("engine", ["vmap", "loop", "opacus"])
def test_a_poisoned_pair_takes_its_bucket_and_no_other(engine: str) -> None:
    data = pairs()
    data.target[3] = float("nan")
    whole = chunks_of("cmc-groups", data=data, chunk_size=64)
    student, of_unit = student_of("gn-50k"), unit_loss(loss_of(DistillConfig(loss="cmc-groups")), ANCHORS)
    found = clipped_sum(student, whole, of_unit, clip=CLIP, engine=engine)
    kept = [
        Units(images=u.images[ok], teacher=u.teacher[ok], mask=u.mask[ok])
        for u in whole
        for ok in [torch.isfinite(u.images).flatten(1).all(1)]
    ]
    assert 0 < sum(map(len, kept)) < sum(map(len, whole))
    assert distance(found, oracle(student, kept, "cmc-groups")) < 1e-6


def test_each_contribution_is_at_most_the_clip() -> None:
    lengths = torch.tensor([0.0, 1e-40, 0.5, CLIP, 3.0, 1e30, float("inf"), float("nan")], dtype=DOUBLE)
    factors = clip_factors(lengths, clip=CLIP)
    assert float((factors * lengths)[:6].max()) <= CLIP
    # 0.7 (1 - 1e-4) / 3 = 0.23331
    np.testing.assert_allclose(factors[4], 0.23331, rtol=1e-4)
    assert factors[2] == 1.0
    assert factors[6:].tolist() == [0.0, 0.0]


def test_float32_sums_stay_within_the_clip() -> None:
    """The margin of 1e-4 covers the rounding of a float32 sum over a large chunk of equal gradients."""
    gradient = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0)).repeat(512, 1)
    total = clip_and_sum({"w": gradient}, clip=CLIP)["w"]
    fewer = clip_and_sum({"w": gradient[:-1]}, clip=CLIP)["w"]
    assert float((total - fewer).norm()) <= CLIP


def test_no_units_give_zeros() -> None:
    student = student_of("gn-50k")
    found = clipped_sum(
        student, [], unit_loss(loss_of(DistillConfig(loss="cosine")), ANCHORS), clip=1.0, engine="vmap"
    )
    assert set(found) == {name for name, _ in student.named_parameters()}
    assert norm(found) == 0.0


def test_effective_weights_give_the_same_student_and_the_chain_rule() -> None:
    """Without a clip that bites, the pulled-back sum is the ordinary gradient of the ordinary student."""
    student, data = student_of("ws-50k"), pairs()
    effective = EffectiveStudent(student)
    torch.testing.assert_close(effective.module(data.target), student(data.target))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01)
    effective.refresh()
    torch.testing.assert_close(effective.module(data.target), student(data.target))
    of_unit = unit_loss(loss_of(DistillConfig(loss="cmc-anchored")), ANCHORS)
    settings = StepSettings(mechanism="anchors")
    chunks = make_units(data, np.arange(NUM), config=settings, augment=0.0, source=DeterministicSource(0))
    total = clipped_sum(effective.module, chunks, of_unit, clip=1e6, engine="vmap")
    found = effective.pull_back(total)
    oracle_loss("cmc-anchored", student(data.target), data.teacher).mul(NUM).backward()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-9)


def test_a_student_without_standardised_weights_is_its_own_effective_student() -> None:
    student = student_of("gn-50k")
    effective = EffectiveStudent(student)
    assert effective.module is student
    assert all(
        not isinstance(layer, nn.Conv2d) or type(layer) is nn.Conv2d
        for layer in plain_copy(student_of("ws-50k")).modules()
    )
