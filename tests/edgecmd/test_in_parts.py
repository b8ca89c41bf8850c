"""A batch in parts: the gradient of the whole, and never more rows at once."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgecmd import losses
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import torch_generator
from edgecmd.losses.baselines import nt_xent
from edgecmd.models.students import build_student
from edgecmd.settings import PrivacyConfig
from edgecmd.training.in_parts import through


def student_of(architecture: str) -> nn.Module:
    generator = torch_generator(0, "student")
    return build_student(architecture, in_channels=1, embedding_dim=8, generator=generator).double().train()


def simclr(seen: Tensor, _: Tensor) -> Tensor:
    return nt_xent(*seen.chunk(2), temperature=0.2)


def cmc(seen: Tensor, teacher: Tensor) -> Tensor:
    return losses.cmc(seen, teacher, temperature=0.1)


@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
@pytest.mark.parametrize("loss", [cmc, simclr])
def test_the_gradient_is_that_of_the_whole_batch(
    architecture: str, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Negatives come from all parts: a gradient of parts by themselves would be another."""
    draws = torch.Generator().manual_seed(0)
    image = torch.randn(10, 1, 16, 16, generator=draws, dtype=torch.float64)
    teacher = torch.randn(10, 8, generator=draws, dtype=torch.float64)
    found = []
    for rows in (0, 3):
        student = student_of(architecture)
        seen = through(student, image, precision="float32", rows_at_once=rows)
        loss(seen, teacher).mean().backward()
        found.append([parameter.grad for parameter in student.parameters()])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_a_part_is_seen_once_forwards_and_once_backwards() -> None:
    sizes: list[int] = []
    student = student_of("ws-50k")
    student.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    image = torch.randn(7, 1, 16, 16, dtype=torch.float64)
    seen = through(student, image, precision="float32", rows_at_once=3)
    assert sizes == [3, 3, 1]
    seen.sum().backward()
    assert sorted(sizes) == [1, 1, 3, 3, 3, 3]


def test_what_averages_over_a_batch_is_refused() -> None:
    image = torch.randn(4, 1, 8, 8)
    student = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    with pytest.raises(ConfigError, match=r"Set student\.batch_norm to freeze, fold or group"):
        through(student, image, precision="float32", rows_at_once=2)
    assert through(student, image, precision="float32", rows_at_once=4).shape[0] == 4
    # Statistics that stay as they are say the same of any part.
    student[1].eval()
    assert through(student, image, precision="float32", rows_at_once=2).shape[0] == 4


def test_a_private_step_has_blocks_of_its_own(tiny: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"Set distill\.rows_at_once=0"):
        replace(
            tiny,
            privacy=PrivacyConfig(mechanism="anchors"),
            distill=replace(tiny.distill, rows_at_once=2, loss="auto"),
        )
