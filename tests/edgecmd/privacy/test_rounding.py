"""The sensitivity holds at 65,536 units, rounding included: every engine, place and size of chunk."""

import pytest
import torch
from torch import Tensor, nn

from edgecmd.losses import loss_of
from edgecmd.models.students import build_student
from edgecmd.privacy.step.gradients import (
    CALL_ROWS,
    GRAIN,
    MOST_UNITS,
    Sum,
    calls,
    clip_and_sum,
    clipped_sum,
    norm,
    weighted_sum,
)
from edgecmd.privacy.step.standardised_weights import plain_copy
from edgecmd.privacy.step.units import Units, padded, unit_loss
from edgecmd.settings import DistillConfig

WIDTH = 16
CLIP = 1.0


def pattern() -> tuple[Tensor, Tensor]:
    """Lengths of sixteen gradients and the direction of all, for which blocks of sixteen round unevenly.

    A block of sixteen float32 numbers in this order loses something else than in any order that is
    rotated by one, every time in the same direction: 65,536 rows made 1.0007 C of it, and 3 C in one chunk.
    """
    coins = torch.Generator().manual_seed(2)
    direction = torch.rand(WIDTH, generator=coins) + 0.5
    return torch.rand(16, generator=coins) * 0.99 + 1e-4, direction / direction.norm()


LENGTHS, DIRECTION = pattern()
ROWS = LENGTHS.repeat(MOST_UNITS // 16)[: MOST_UNITS - 1]
LOUD = torch.tensor([10.0])


def linear() -> nn.Module:
    """Its gradient for a row is the row itself, times the teacher's number."""
    return nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 1, bias=False))


def product(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return (student * teacher).sum()


def chunks_of(length: Tensor, size: int) -> list[Units]:
    images = (length[:, None] * DIRECTION).view(-1, 1, 1, 1, WIDTH)
    ones = torch.ones(len(length), 1, 1)
    every = Units(images=images, teacher=ones, mask=ones[:, :, 0] > 0)
    return [part(every, slice(first, first + size)) for first in range(0, len(length), size)]


def part(units: Units, rows: slice) -> Units:
    return Units(images=units.images[rows], teacher=units.teacher[rows], mask=units.mask[rows])


def inserted(place: int) -> Tensor:
    return torch.cat([ROWS[:place], LOUD, ROWS[place:]])


def moved(one: Sum, other: Sum) -> float:
    return norm({name: one[name] - other[name] for name in other})


PLACES = (0, MOST_UNITS // 2 + 3, MOST_UNITS - 1)


def check_places(engine: str, size: int, places: tuple[int, ...]) -> None:
    student = linear()

    def total(length: Tensor) -> Sum:
        return clipped_sum(student, chunks_of(length, size), product, clip=CLIP, engine=engine)

    fewer = total(ROWS)
    changes = [moved(total(inserted(place)), fewer) for place in places]
    assert max(changes) <= CLIP
    assert min(changes) > 0.999 * CLIP, "a gradient of ten times the clip moves the sum by all of it"


@pytest.mark.parametrize("engine", ["vmap", "opacus", "opacus-ghost"])
def test_one_more_of_65536_units_moves_the_sum_by_the_clip_at_most(engine: str) -> None:
    check_places(engine, MOST_UNITS, PLACES[:1])


@pytest.mark.slow
@pytest.mark.parametrize("size", [MOST_UNITS, 4_099, 100])
@pytest.mark.parametrize("engine", ["vmap", "loop", "opacus", "opacus-ghost"])
def test_in_every_place_and_size_of_chunk(engine: str, size: int) -> None:
    check_places(engine, size, PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_sums_of_65536_gradients_of_the_plain_engines_stay_within_the_clip(place: int) -> None:
    """What ``loop`` and ``opacus`` end in, all units at once."""
    fewer, more = (
        clip_and_sum({"w": length[:, None] * DIRECTION}, clip=CLIP) for length in (ROWS, inserted(place))
    )
    assert 0.999 * CLIP < moved(more, fewer) <= CLIP


@pytest.mark.parametrize("place", [0, 4_099, (1 << 13) - 1])
def test_products_that_are_never_formed_stay_within_the_clip(place: int) -> None:
    """A layer of 24 x 24 weights, wide enough that its gradients stay factors."""
    wide, coins = 24, torch.Generator().manual_seed(3)
    student = nn.Sequential(nn.Flatten(), nn.Linear(wide, wide, bias=False))
    direction, teacher = (torch.rand(wide, generator=coins) + 0.5 for _ in range(2))
    direction, teacher = direction / direction.norm(), teacher / teacher.norm()

    def total(length: Tensor) -> Sum:
        images = (length[:, None] * direction).view(-1, 1, 1, 1, wide)
        mask = torch.ones(len(length), 1, dtype=torch.bool)
        units = Units(images=images, teacher=teacher.expand(len(length), 1, -1), mask=mask)
        return clipped_sum(student, [units], product, clip=CLIP, engine="vmap")

    some = slice(-(1 << 13), None)
    fewer = total(ROWS[some])
    more = total(torch.cat([ROWS[some][:place], LOUD, ROWS[some][place:]]))
    assert 0.999 * CLIP < moved(more, fewer) <= CLIP


ANCHORS = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("engine", ["vmap", "opacus", "opacus-ghost"])
def test_one_unit_more_makes_the_kernels_of_the_others_round_by_less_than_the_margin(engine: str) -> None:
    """Equal pairs, so that whatever a kernel rounds otherwise for another number of rows adds up."""
    generator = torch.Generator().manual_seed(0)
    student = plain_copy(build_student("ws-50k", in_channels=1, embedding_dim=8, generator=generator))
    loss = unit_loss(loss_of(DistillConfig(loss="cmc-anchored")), ANCHORS)
    image, teacher = torch.randn(1, 1, 16, 16, generator=generator), torch.randn(8, generator=generator)

    def total(num: int) -> Sum:
        units = Units(
            images=image.expand(num, 1, 1, 16, 16),
            teacher=teacher.expand(num, 1, 8),
            mask=torch.ones(num, 1, dtype=torch.bool),
        )
        return clipped_sum(student, [units] if num else [], loss, clip=0.01, engine=engine)

    for num in (0, 1, 2, 4, 5, 7, GRAIN, 15, 63, CALL_ROWS - 1, CALL_ROWS):
        assert 0.999 * 0.01 < moved(total(num + 1), total(num)) <= 0.01


def test_a_call_has_eight_rows_or_more_of_one_length_and_never_too_many() -> None:
    single = torch.arange(300.0).view(300, 1, 1, 1, 1)
    units = Units(images=single, teacher=single[:, :, :, 0, 0], mask=torch.ones(300, 1, dtype=torch.bool))
    pieces = list(calls(units))
    assert [(len(piece), real) for piece, real in pieces] == [(128, 128), (128, 128), (48, 44)]
    kept = torch.cat([piece.images[:real] for piece, real in pieces])
    assert torch.equal(kept, single), "each unit once, in its order"
    filling = pieces[2][0].images[44:].flatten()
    assert filling.tolist() == [256.0] * 4, "copies of the call's own first unit"


@pytest.mark.parametrize(("rows", "expected"), [(2, 4), (3, 3), (4, 2), (5, 2), (8, 1), (13, 1), (200, 1)])
def test_units_of_several_rows_fill_calls_by_their_rows(rows: int, expected: int) -> None:
    """Fewest units that have eight rows together, and one unit of eight rows or more by itself."""
    images = torch.zeros(1, rows, 1, 1, 1)
    units = Units(images=images, teacher=images[:, :, :, 0, 0], mask=torch.ones(1, rows, dtype=torch.bool))
    assert [(len(piece), real) for piece, real in calls(units)] == [(expected, 1)]


def test_a_bucket_is_computed_without_the_padding_that_others_brought() -> None:
    """The shape in which a bucket goes through the student is a function of that bucket alone."""

    def bucket(rows: int) -> Units:
        images = torch.randn(1, rows, 1, 2, 2)
        return Units(images=images, teacher=images[:, :, 0, 0], mask=torch.ones(1, rows, dtype=torch.bool))

    own = bucket(8)
    for company in ([], [bucket(9)], [bucket(8)], [bucket(3), bucket(20)]):
        found = [piece for piece, _ in calls(padded([own, *company])) if piece.mask.shape[1] == 8]
        assert torch.equal(found[0].images[0], own.images[0])
        assert all(bool(piece.mask.all()) for piece in found)


def test_weighted_sums_are_those_of_exact_fractions() -> None:
    """Whole numbers up to 2^20 times powers of two: float64 holds every partial sum, float32 does not."""
    values = torch.arange(1, 4097, dtype=torch.float32)[:, None] * 257.0
    factors = torch.full((4096,), 0.25)
    # 257 / 4 x 4096 x 4097 / 2.
    assert weighted_sum(factors, values).tolist() == [257 * 1024 * 4097 / 2]
