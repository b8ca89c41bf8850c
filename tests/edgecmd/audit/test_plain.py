"""The auditor's sum: what a last bit flips is explained, and what the code does wrong is not."""

import pytest
import torch
from torch import Tensor, nn

from edgecmd.audits.static.reference_sum import SUM_TOLERANCE, nearest_sum, plain_sum
from edgecmd.audits.static.search import distance
from edgecmd.privacy.step.units import Units

WIDTH, UNITS = 64, 3


def added(student: Tensor, _teacher: Tensor, _mask: Tensor) -> Tensor:
    return student.sum()


def on_a_kink() -> tuple[nn.Module, Units]:
    """A ReLU whose input is zero but for rounding, on whose side float32 and float64 disagree."""
    for seed in range(200):
        coins = torch.Generator().manual_seed(seed)
        module = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 2), nn.ReLU())
        images = torch.randn(UNITS, 1, WIDTH, 1, 1, generator=coins)
        with torch.no_grad():
            module[1].weight.copy_(torch.randn(2, WIDTH, generator=coins))
            row = images[1, 0, :, 0, 0].double()
            module[1].bias.copy_(torch.tensor([-(row @ module[1].weight[0].double()), 30.0]))
        chunk = Units(
            images=images, teacher=torch.zeros(UNITS, 1, 2), mask=torch.ones(UNITS, 1, dtype=torch.bool)
        )
        single = plain_sum(module, [chunk], added, clip=1.0)
        if distance(single, in_float64(module, chunk)) > 0.01:
            return module, chunk
    raise AssertionError("float32 and float64 agree on the side of each kink")


def in_float64(module: nn.Module, chunk: Units) -> dict[str, Tensor]:
    import copy

    wide = Units(images=chunk.images.double(), teacher=chunk.teacher.double(), mask=chunk.mask)
    return plain_sum(copy.deepcopy(module).double(), [wide], added, clip=1.0)


def test_a_flip_on_a_kink_is_explained_by_another_rounding() -> None:
    module, chunk = on_a_kink()
    found = in_float64(module, chunk)
    own = nearest_sum(module, [chunk], added, clip=1.0, found=found)
    assert distance(found, own) < SUM_TOLERANCE


@pytest.mark.parametrize("times", [(0, 1, 1), (1, 2, 1), (1, 1, 1.5)], ids=["left-out", "twice", "unclipped"])
def test_a_wrong_sum_stays_wrong_beside_a_kink(times: tuple[float, ...]) -> None:
    """Each unit's gradient has norm C here, so a wrong share of one is off by that share of C."""
    module, chunk = on_a_kink()
    alone = [
        plain_sum(
            module,
            [
                Units(
                    images=chunk.images[i : i + 1],
                    teacher=chunk.teacher[i : i + 1],
                    mask=chunk.mask[i : i + 1],
                )
            ],
            added,
            clip=1.0,
        )
        for i in range(UNITS)
    ]
    found = {name: sum(share * one[name] for share, one in zip(times, alone)) for name in alone[0]}
    own = nearest_sum(module, [chunk], added, clip=1.0, found=found)
    assert distance(found, own) > 0.2
