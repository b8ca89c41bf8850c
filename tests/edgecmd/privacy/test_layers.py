"""Products of factors against plain backward passes, for layers of every kind and units that go wrong."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from edgecmd.losses import loss_of
from edgecmd.models.devices import place
from edgecmd.models.students import build_student
from edgecmd.models.trunks.convolutions import RELU_GAIN, gains_in_weights
from edgecmd.models.trunks.strings import ByteTrunk
from edgecmd.privacy.step import vmap_engine
from edgecmd.privacy.step.gradients import ENGINES, clipped_sum, norm
from edgecmd.privacy.step.standardised_weights import plain_copy
from edgecmd.privacy.step.units import Units, unit_loss
from edgecmd.privacy.step.vmap_engine import (
    Room,
    clipped_chunk,
    gram_square,
    is_row_wise,
    row_traces,
    unit_traces,
    windows,
)
from edgecmd.settings import DistillConfig

CLIP = 0.6
LIMIT = CLIP * (1 - 1e-4)
DIM = 6
Pair = int | tuple[int, int]


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units_of(num: int, rows: int, *, side: int = 8) -> Units:
    return Units(
        images=made(1, num, rows, 1, side, side),
        teacher=made(2, num, rows, DIM),
        mask=torch.ones(num, rows, dtype=torch.bool),
    )


def strings_of(num: int, rows: int) -> Units:
    """Strings of 1 to 24 bytes, one of them empty, that have letters twice."""
    bytes_of = 97.0 + made(1, num, rows, 1, 1, 24).abs().mul(4).floor().clamp(max=25)
    length = torch.arange(num * rows).view(num, rows, 1, 1, 1) * 24 // (num * rows - 1)
    images = torch.where(torch.arange(24) < length, bytes_of, 0.0)
    return Units(images=images, teacher=made(2, num, rows, DIM), mask=torch.ones(num, rows, dtype=torch.bool))


def regression(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """A loss whose rows mean something together, and whose gradient is small or large by the unit."""
    return ((student - teacher).square().sum(dim=1) * mask).mean() * teacher[0, 0].abs()


def oracle(student: nn.Module, units: Units) -> dict[str, Tensor]:
    """One unit at a time, as text books have it."""
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in student.named_parameters()}
    for images, teacher, mask in zip(units.images, units.teacher, units.mask):
        student.zero_grad()
        regression(student(images), teacher, mask).backward()
        found = {name: value.grad for name, value in student.named_parameters() if value.grad is not None}
        length = float(torch.cat([value.flatten() for value in found.values()]).double().norm())
        for name, value in found.items():
            total[name] += value.double() * min(1.0, LIMIT / length)
    student.zero_grad()
    return total


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert list(found) == list(expected)
    return norm({name: found[name] - expected[name] for name in expected}) / norm(expected)


class Doubling(nn.Conv2d):
    """A convolution that uses its weight in a way of its own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class names it so
        return functional.conv2d(input, 2 * self.weight, self.bias, padding=1)


class Odd(nn.Module):
    """Layers that are products of factors beside layers that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.wide = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.reflecting = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.flat = nn.Conv2d(4, 4, (1, 3), padding=(0, 1))
        self.own = Doubling(4, 4, 3)
        self.twice = nn.Conv2d(4, 4, 1)
        self.patches = nn.Linear(4, 4)
        self.norm = nn.GroupNorm(2, 4)
        self.deep = nn.Conv2d(4, 40, 4, bias=False)
        self.tied = nn.Linear(40, 40, bias=False)
        self.tie = nn.Linear(40, 40)
        self.tie.weight = self.tied.weight
        self.last = nn.Linear(40, DIM)
        self.unused = nn.Linear(3, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.reflecting(self.wide(self.grouped(torch.tanh(self.stem(image)))))
        x = self.twice(torch.tanh(self.twice(self.own(self.flat(x)))))
        x = self.patches(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
        x = torch.tanh(self.deep(self.norm(x))).flatten(1)
        return self.last(self.tie(torch.tanh(self.tied(x))))


def student_of(architecture: str) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return plain_copy(build_student(architecture, in_channels=1, embedding_dim=DIM, generator=generator))


def odd() -> Odd:
    student = Odd().double()
    with torch.no_grad():
        for index, parameter in enumerate(student.parameters()):
            parameter.copy_(made(10 + index, *parameter.shape) * 0.5)
    return student


SHAPES = [(1, 1, 0), (3, 1, 1), (3, 2, 1), (4, 3, 2), ((1, 5), (1, 2), (0, 2)), ((2, 3), (3, 1), (1, 0))]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "stride", "pad"), SHAPES)
def test_windows_times_weight_is_the_convolution(channels: int, size: Pair, stride: Pair, pad: Pair) -> None:
    layer = nn.Conv2d(channels, 5, size, stride=stride, padding=pad, bias=False).double()
    image = made(0, 2, channels, 9, 7)
    flat = layer.weight.permute(0, 2, 3, 1).flatten(1)
    expected = layer(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(windows(image, layer) @ flat.T, expected)
    # Memory that held another image, and a larger one, gives the same.
    room = Room()
    for other in (made(1, 2, channels, 9, 7), made(1, 3, channels, 9, 7)):
        windows(other, layer, room)
    assert torch.equal(windows(image, layer, room), windows(image, layer))


def test_which_layers_are_products() -> None:
    traces, rest = unit_traces(odd(), units_of(2, 1), regression)
    assert {trace.name for trace in traces} == {"stem", "flat", "patches", "deep", "last"}
    assert {trace.name for trace in traces if trace.is_compact} == {"deep", "last"}
    left = {"grouped", "wide", "reflecting", "own", "twice", "tied", "unused"}
    assert {name.split(".")[0] for name in rest if name.endswith(".weight")} == left | {"norm"}


@pytest.mark.parametrize(("num", "rows"), [(1, 1), (vmap_engine.BLOCK + 3, 1), (5, 3)])
def test_a_student_of_odd_layers_equals_microbatches_of_one(num: int, rows: int) -> None:
    student, units = odd(), units_of(num, rows)
    # Gram norms are overstated by 1e-12 of the factors' norms, which are longer than their product.
    assert distance(clipped_chunk(student, units, regression, clip=CLIP), oracle(student, units)) < 1e-11


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
def test_float32_loses_no_more_than_float32_must(architecture: str, rows: int) -> None:
    student = student_of(architecture)
    units = units_of(9, rows, side=32)
    single = Units(images=units.images.float(), teacher=units.teacher.float(), mask=units.mask)
    found = clipped_chunk(student, single, regression, clip=CLIP)
    assert all(value.dtype == torch.float64 for value in found.values())
    assert distance(found, oracle(student.double(), units)) < 1e-5


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1.0, 1e3, 1e12])
def test_the_contribution_of_each_unit_is_at_most_the_clip(scale: float) -> None:
    """In float32, measured with nothing from the code under test; small gradients are not clipped."""
    student, units = odd().float(), units_of(6, 1)
    for row in range(6):
        one = Units(
            images=units.images[[row]].float(), teacher=units.teacher[[row]].float(), mask=units.mask[[row]]
        )
        found = clipped_chunk(student, one, lambda z, t, m: regression(z, t, m) * scale, clip=CLIP)
        length = float(torch.cat([value.flatten() for value in found.values()]).norm())
        assert length <= CLIP
        assert length == pytest.approx(LIMIT, rel=2e-5) if scale > 1 else length < LIMIT * 1.00002


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf"), 1e38])
@pytest.mark.parametrize("row", [0, vmap_engine.BLOCK, vmap_engine.BLOCK + 2])
def test_a_unit_that_is_not_finite_counts_as_zero(poison: float, row: int) -> None:
    student, units = odd().float(), units_of(vmap_engine.BLOCK + 3, 1)
    units = Units(images=units.images.float(), teacher=units.teacher.float(), mask=units.mask)
    units.teacher[row, 0, 2] = poison
    others = [index for index in range(len(units)) if index != row]
    kept = Units(images=units.images[others], teacher=units.teacher[others], mask=units.mask[others])
    found = clipped_chunk(student, units, regression, clip=CLIP)
    assert distance(found, oracle(student, kept)) < 1e-3


# "logits" clips no units; what poison does to it is in test_logits.
@pytest.mark.parametrize("engine", [one for one in ENGINES if one != "logits"])
@pytest.mark.parametrize("poison", [float("nan"), 1e30])
@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
def test_poison_in_float32_neither_destroys_a_sum_nor_shows_in_it(
    architecture: str, poison: float, engine: str
) -> None:
    student = student_of(architecture)
    units = units_of(5, 1, side=32)
    units = Units(images=units.images.float(), teacher=units.teacher.float(), mask=units.mask)
    units.images[3] = poison
    others = [0, 1, 2, 4]
    kept = Units(images=units.images[others], teacher=units.teacher[others], mask=units.mask[others])
    of_unit = unit_loss(loss_of(DistillConfig(loss="cmc-anchored")), made(3, 9, DIM).float())
    found = clipped_sum(student, [units], of_unit, clip=CLIP, engine=engine)
    expected = clipped_sum(student, [kept], of_unit, clip=CLIP, engine="loop")
    assert norm(expected) > 0
    assert distance(found, expected) < 1e-4


def test_a_chunk_of_poisoned_units_gives_zeros() -> None:
    units = units_of(3, 1)
    units.images.fill_(float("nan"))
    found = clipped_chunk(odd(), units, regression, clip=CLIP)
    assert norm(found) == 0.0


def test_gram_norms_are_those_of_the_products() -> None:
    left, right = made(0, 7, 20, 3), made(1, 7, 3, 30)
    torch.testing.assert_close(gram_square(left, right), (left @ right).square().sum(dim=(1, 2)))


def test_a_product_that_nearly_vanishes_is_never_measured_too_short() -> None:
    """Two positions that cancel to one part in 10^9: the Gram sum alone would lose all of it."""
    output, entered = made(0, 200, 20, 1), made(1, 200, 1, 30)
    left = torch.cat([output, -output * (1 + 1e-9)], dim=2)
    right = torch.cat([entered, entered], dim=1)
    true = (left @ right).square().sum(dim=(1, 2))
    assert bool((gram_square(left, right) >= true).all())


def test_a_student_that_fails_is_left_without_hooks() -> None:
    class Failing(Odd):
        def forward(self, image: Tensor) -> Tensor:
            if image.isnan().any():
                raise RuntimeError("no such image")
            return super().forward(image)

    student = Failing().double()
    with pytest.raises(RuntimeError):
        clipped_chunk(student, units_of(2, 1), regression, clip=CLIP)
    assert not any(module._forward_hooks for module in student.modules())


class Mixing(nn.Conv2d):
    """A convolution that takes the mean over its batch away."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class names it so
        made = super().forward(input)
        return made - made.mean(dim=0, keepdim=True)


def mixing_by_subclass(student: nn.Module) -> None:
    student.trunk[0][0].__class__ = Mixing


def mixing_by_hook(student: nn.Module) -> None:
    student.trunk[1][1].register_forward_hook(lambda _, given, made: made - made.mean(dim=0, keepdim=True))


def mixing_by_own_forward(student: nn.Module) -> None:
    layer = student.projector
    layer.forward = lambda x: functional.linear(x - x.mean(dim=0, keepdim=True), layer.weight, layer.bias)


def mixing_by_module(student: nn.Module) -> None:
    student.front = nn.BatchNorm2d(1, affine=False, track_running_stats=False)


PLANTED = (mixing_by_subclass, mixing_by_hook, mixing_by_own_forward, mixing_by_module)


@pytest.mark.parametrize("plant", PLANTED)
def test_a_student_that_might_mix_rows_never_takes_the_plain_pass(plant: Callable[[nn.Module], None]) -> None:
    """Its units stay calls of their own: one more moves the sum by the clip, whatever the student does."""
    student, units, loss = student_of("ws-50k").double(), units_of(4, 1, side=16), regression
    assert is_row_wise(student)
    plant(student)
    assert not is_row_wise(student)
    loud = Units(images=units.images.clone(), teacher=units.teacher, mask=units.mask)
    loud.images[3] *= 1e3

    def total(of: Units, num: int, way: Callable[..., object] = clipped_chunk) -> dict[str, Tensor]:
        some = Units(images=of.images[:num], teacher=of.teacher[:num], mask=of.mask[:num])
        with patch.object(vmap_engine, "is_row_wise", lambda _: way is not clipped_chunk):
            return clipped_chunk(student, some, loss, clip=1e-3)

    def moved(way: Callable[..., object]) -> float:
        one, other = total(loud, 4, way), total(loud, 3, way)
        return norm({name: one[name] - other[name] for name in one})

    assert moved(clipped_chunk) <= 1e-3
    # The planted fault is one: had it been let through, a pair would have moved more than its clip.
    assert moved(vmap_engine.row_traces) > 1.5e-3


@pytest.mark.parametrize("change", ["shared module", "shared weight", "parameter of a bare module"])
def test_what_the_plain_pass_does_not_know_it_leaves_alone(change: str) -> None:
    student = student_of("ws-50k")
    if change == "shared module":
        student.trunk[5].first = student.trunk[5].second
    elif change == "shared weight":
        student.trunk[5].first[0].weight = student.trunk[5].second[0].weight
    else:
        student.trunk[0][1].register_parameter("extra", nn.Parameter(torch.ones(1)))
    assert not is_row_wise(student)
    assert not is_row_wise(odd())


class MixingTrunk(ByteTrunk):
    """Takes the mean over the batch away."""

    def forward(self, text_B11L: Tensor) -> Tensor:
        found = super().forward(text_B11L)
        return found - found.mean(dim=0, keepdim=True)


ODD_TABLES = ({"max_norm": 1.0}, {"padding_idx": 0}, {"scale_grad_by_freq": True}, {"sparse": True})


def test_a_student_of_strings_takes_the_plain_pass_as_it_is_and_no_other() -> None:
    """A table that rewrites itself, leaves a row out or weighs rows by how often they occur is another."""
    student = student_of("text-50k")
    assert is_row_wise(student)
    for keywords in ODD_TABLES:
        own, student.trunk.embedding = student.trunk.embedding, nn.Embedding(256, 16, **keywords)
        assert not is_row_wise(student), keywords
        student.trunk.embedding = own
    assert is_row_wise(student)
    handle = student.trunk.embedding.register_forward_hook(lambda _, given, made: made - made.mean(dim=0))
    assert not is_row_wise(student)
    handle.remove()
    student.trunk.__class__ = MixingTrunk
    assert not is_row_wise(student)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k", "text-50k"])
def test_the_plain_pass_gives_what_units_of_their_own_give(architecture: str, rows: int) -> None:
    student = place(student_of(architecture).double(), torch.device("cpu"))
    units = strings_of(8, rows) if architecture.startswith("text") else units_of(8, rows, side=32)
    assert is_row_wise(student)
    apart, rest = unit_traces(student, units, regression)
    plain, small = row_traces(student, units, regression)
    assert [one.name for one in plain] == [one.name for one in apart]
    for one, other in zip(plain, apart, strict=True):
        torch.testing.assert_close(one.entered, other.entered, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.gain * one.gradient, other.gradient, rtol=1e-9, atol=1e-12)
    # The constant of a ReLU is in the convolution before it, and nowhere else.
    ours = not architecture.startswith("gn")
    assert [one.gain for one in plain] == [
        RELU_GAIN if ours and one.name != "projector" else 1.0 for one in plain
    ]
    assert {one.gain for one in apart} == {1.0}
    assert set(small) == set(rest)
    for name, value in rest.items():
        torch.testing.assert_close(small[name], value, rtol=1e-9, atol=1e-12)
    assert not any(module._forward_hooks for module in student.modules())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_gains_are_left_out_while_they_stand_in_the_weights_and_put_back_after_a_failure() -> None:
    student = student_of("ws-50k")
    image = units_of(2, 1, side=16).images[:, 0].float()
    before = student(image)

    def scaled() -> Tensor:
        with gains_in_weights(student) as gains:
            assert set(gains.values()) == {RELU_GAIN}
            weights = {
                name: value * gains.get(name.rpartition(".")[0], 1.0)
                for name, value in student.named_parameters()
            }
            found: Tensor = functional_call(student, weights, (image,))
            assert not torch.allclose(student(image), before, rtol=1e-3, atol=0.0)
            raise KeyError(found)

    with pytest.raises(KeyError) as told:
        scaled()
    torch.testing.assert_close(told.value.args[0], before)
    assert torch.equal(student(image), before)


def test_a_scale_of_zero_still_has_a_gradient() -> None:
    student, units = student_of("ws-50k").double(), units_of(9, 1, side=16)
    with torch.no_grad():
        student.trunk[3].scale.zero_()
    found = clipped_chunk(student, units, regression, clip=CLIP)
    assert float(found["trunk.3.scale"].abs()) > 0
    assert distance(found, oracle(student, units)) < 1e-12


def test_a_gradient_of_a_unit_does_not_change_with_the_units_beside_it() -> None:
    """To the bit, from eight units on: what the budget of rounding builds on (`gradients`)."""
    student, every = place(student_of("ws-50k"), torch.device("cpu")), units_of(24, 1, side=32)

    def first(num: int) -> list[Tensor]:
        some = Units(
            images=every.images[:num].float(), teacher=every.teacher[:num].float(), mask=every.mask[:num]
        )
        traces, rest = row_traces(student, some, regression)
        return [*(one.gradient[:8] for one in traces), *(value[:8] for value in rest.values())]

    eight = first(8)
    for num in (16, 24):
        for one, other in zip(first(num), eight, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=4.7e-7 * float(other.norm()))
