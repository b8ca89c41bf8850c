"""Products of factors against plain backward passes, for layers of every kind and units that go wrong."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.losses import loss_of
from edgecmd.models.students import build_student
from edgecmd.privacy.step import vmap_engine
from edgecmd.privacy.step.gradients import ENGINES, clipped_sum, norm
from edgecmd.privacy.step.standardised_weights import plain_copy
from edgecmd.privacy.step.units import Units, unit_loss
from edgecmd.privacy.step.vmap_engine import clipped_chunk, gram_square, unit_traces, windows
from edgecmd.settings import DistillConfig

CLIP = 0.6
LIMIT = CLIP * (1 - 1e-4)
DIM = 6


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units_of(num: int, rows: int, *, side: int = 8) -> Units:
    return Units(
        images=made(1, num, rows, 1, side, side),
        teacher=made(2, num, rows, DIM),
        mask=torch.ones(num, rows, dtype=torch.bool),
    )


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


@pytest.mark.parametrize(("size", "stride", "pad"), [(1, 1, 0), (3, 1, 1), (3, 2, 1), (4, 3, 2)])
def test_windows_times_weight_is_the_convolution(size: int, stride: int, pad: int) -> None:
    layer = nn.Conv2d(3, 5, size, stride=stride, padding=pad, bias=False).double()
    image = made(0, 2, 3, 9, 7)
    flat = layer.weight.permute(0, 2, 3, 1).flatten(1)
    expected = layer(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(windows(image, layer) @ flat.T, expected)


def test_which_layers_are_products() -> None:
    traces, rest = unit_traces(odd(), units_of(2, 1), regression)
    assert {trace.name for trace in traces} == {"stem", "patches", "deep", "last"}
    assert {trace.name for trace in traces if trace.is_compact} == {"deep"}
    left = {"grouped", "wide", "reflecting", "flat", "own", "twice", "tied", "unused"}
    assert {name.split(".")[0] for name in rest if name.endswith(".weight")} == left | {"norm"}


@pytest.mark.parametrize(("num", "rows"), [(1, 1), (vmap_engine.BLOCK + 3, 1), (5, 3)])
def test_a_student_of_odd_layers_equals_microbatches_of_one(num: int, rows: int) -> None:
    student, units = odd(), units_of(num, rows)
    assert distance(clipped_chunk(student, units, regression, clip=CLIP), oracle(student, units)) < 1e-12


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
