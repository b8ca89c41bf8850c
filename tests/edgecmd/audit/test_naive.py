"""What Opacus releases, against gradients that are made one pair at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgecmd import losses
from edgecmd.audits.static.opacus_reference import MODES, naive_query
from edgecmd.core.errors import ConfigError
from edgecmd.experiments.faults.loss_faults import small_subject
from edgecmd.training.distill import LocalData

SUBJECT = small_subject()
CLIP = 0.3
ROWS = 5


def data() -> LocalData:
    coins = torch.Generator().manual_seed(1)
    teacher = functional.normalize(torch.randn(ROWS, SUBJECT.embedding_dim, generator=coins), dim=1)
    return LocalData(target=torch.rand(ROWS, 1, 16, 16, generator=coins), teacher=teacher)


def anchored(student: Tensor, teacher: Tensor) -> Tensor:
    return losses.cmc_anchored(student, teacher, SUBJECT.anchors, temperature=0.1)


def in_batch(student: Tensor, teacher: Tensor) -> Tensor:
    return losses.cmc(student, teacher, temperature=0.1)


def clipped_one_by_one(loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    """The sum over rows of the clipped gradient through that row's own embedding, others held fixed."""
    names, parameters = zip(*SUBJECT.student.named_parameters(), strict=True)
    one = data()
    total = {name: torch.zeros_like(value) for name, value in zip(names, parameters)}
    for row in range(ROWS):
        embedded = SUBJECT.student(one.target)
        others = torch.arange(ROWS) != row
        embedded = torch.where(others[:, None], embedded.detach(), embedded)
        found = torch.autograd.grad(loss(embedded, one.teacher).sum(), parameters)
        norm = torch.sqrt(sum((value.square().sum() for value in found), torch.zeros(())))
        for name, value in zip(names, found):
            total[name] += value * min(1.0, CLIP / float(norm))
    return total


@pytest.mark.parametrize(("mode", "loss"), [("hooks", anchored), ("hooks", in_batch), ("ghost", anchored)])
def test_the_sum_is_that_of_gradients_made_one_by_one(mode: str, loss: Callable) -> None:
    query = naive_query(SUBJECT.student, loss, clip=CLIP, mode=mode)
    (found,) = query([(data(), np.arange(ROWS))])
    for name, value in clipped_one_by_one(loss).items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_the_student_stays_as_it_was_in_any_layout(mode: str) -> None:
    row_major = naive_query(SUBJECT.student, anchored, clip=CLIP, mode=mode)([(data(), np.arange(3))])[0]
    other = small_subject().student.to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    found = naive_query(other, anchored, clip=CLIP, mode=mode)([(data(), np.arange(3))])[0]
    for name, value in row_major.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in other.parameters())


def test_no_pairs_give_zero_and_an_unused_parameter_too() -> None:
    query = naive_query(SUBJECT.student, anchored, clip=CLIP)
    (nothing,) = query([(data(), np.arange(0))])
    assert all(not value.any() for value in nothing.values())
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, SUBJECT.embedding_dim))
    student.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
    for mode in MODES:
        (found,) = naive_query(student, anchored, clip=CLIP, mode=mode)([(data(), np.arange(4))])
        assert not found["unused"].any()
        assert found["1.weight"].any()


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="mode='hook' is unknown.*Did you mean 'hooks'"):
        naive_query(SUBJECT.student, anchored, clip=CLIP, mode="hook")
