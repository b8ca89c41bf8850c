"""Clipped gradients of large tables: against one backward pass a unit, and against one unit more."""

from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from edgecmd.models.trunks.strings import NgramTrunk, TextStudent
from edgecmd.privacy.step import gradients, vmap_engine
from edgecmd.privacy.step.gradients import clipped_sum
from edgecmd.privacy.step.table_gradients import MOST_LAID_OUT, Looked
from edgecmd.privacy.step.units import Units
from edgecmd.privacy.step.vmap_engine import clipped_chunk, is_row_wise
from tests.edgecmd.privacy.test_layers import CLIP, distance, norm, oracle, regression, strings_of

ROWS = MOST_LAID_OUT + 1


def student(num_rows: int = ROWS) -> TextStudent:
    torch.manual_seed(0)
    trunk = partial(NgramTrunk, num_rows=num_rows, width=5)
    return TextStudent(trunk=trunk, in_channels=1, embedding_dim=6).double()


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("num_rows", [97, ROWS])
def test_sums_are_those_of_one_unit_after_another(num_rows: int, rows: int) -> None:
    made, units = student(num_rows), strings_of(8, rows)
    assert is_row_wise(made)
    assert distance(clipped_chunk(made, units, regression, clip=CLIP), oracle(made, units)) < 1e-12
    with patch.object(vmap_engine, "is_row_wise", lambda _: False):
        assert distance(clipped_chunk(made, units, regression, clip=CLIP), oracle(made, units)) < 1e-12


def test_calls_of_the_student_add_up_to_one_unit_after_another() -> None:
    """More rows than go through the student at once: sums of the table are added up sparse."""
    made, units = student(), strings_of(8, 3)
    with patch.object(gradients, "CALL_ROWS", 9):
        found = clipped_sum(made, [units], regression, clip=CLIP, engine="vmap")
    assert distance(found, oracle(made, units)) < 1e-12
    assert not found["trunk.table.weight"].is_sparse


def test_a_row_that_a_unit_meets_often_counts_with_its_sum() -> None:
    """By hand: places of one row add up before their norm is taken, those of two rows do not."""
    gradient = torch.tensor([[[3.0], [4.0]], [[3.0], [4.0]]])
    looked = Looked(name="t", num_rows=9, entered=torch.tensor([[2, 2], [2, 8]]), gradient=gradient)
    sums = looked.sums(2)
    assert sums.squares().tolist() == [49.0, 25.0]
    total = sums.weighted(torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert total.to_dense().flatten().tolist() == [0, 0, 7.0 + 1.5, 0, 0, 0, 0, 0, 2.0]


def test_padding_is_no_work_but_what_is_not_finite_stays() -> None:
    gradient = torch.tensor([[[0.0], [float("nan")], [0.0]], [[0.0], [0.0], [2.0]]])
    looked = Looked(name="t", num_rows=9, entered=torch.tensor([[1, 2, 3], [4, 5, 6]]), gradient=gradient)
    sums = looked.sums(2)
    assert sums.rows.tolist() == [2, 6]
    assert sums.squares().isnan().tolist() == [True, False]
    assert float(sums.weighted(torch.tensor([0.0, 1.0], dtype=torch.float64)).to_dense().sum()) == 2.0


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), 1e200])
def test_one_more_unit_moves_the_sum_by_its_clip_whatever_it_holds(wild: float) -> None:
    made, units = student(), strings_of(6, 2)
    units.teacher[5] *= wild

    def of(num: int) -> dict[str, Tensor]:
        some = Units(images=units.images[:num], teacher=units.teacher[:num], mask=units.mask[:num])
        return clipped_chunk(made, some, regression, clip=CLIP)

    less, more = of(5), of(6)
    assert norm({name: more[name] - less[name] for name in less}) <= CLIP
    assert all(bool(one.isfinite().all()) for one in more.values())
    assert norm(less) > 0.0


def test_padding_counts_for_nothing_and_units_do_not_touch_each_other() -> None:
    made, units = student(), strings_of(6, 2)
    less = Units(images=units.images[:4], teacher=units.teacher[:4], mask=units.mask[:4])
    found = clipped_chunk(made, units, regression, clip=CLIP, num_real=4)
    assert distance(found, clipped_chunk(made, less, regression, clip=CLIP)) < 1e-12
