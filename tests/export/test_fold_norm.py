"""GroupNorm folded away: exact where it must be, close where it can only be close, and refused elsewhere."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ExportError
from edgecmd.models.students import Student, build_student
from edgecmd.privacy.step.purity import require_pure
from export.graph.fold_norm import affine_of, calibrate, fold_norm, folded_architecture, mean_cosine


def student(seed: int = 0) -> Student:
    coins = torch.Generator().manual_seed(seed)
    made = build_student("gn-50k", in_channels=1, embedding_dim=16, generator=coins)
    for name, parameter in made.named_parameters():
        if name.endswith((".1.weight", ".1.bias")):
            parameter.data.uniform_(0.5, 1.5, generator=coins)
    return made


def smooth(num: int, coins: torch.Generator) -> Tensor:
    small = torch.randn(num, 1, 4, 4, generator=coins)
    return functional.interpolate(small, size=(32, 32), mode="bilinear")


def sampler(seed: int = 1):
    coins = torch.Generator().manual_seed(seed)
    return lambda num: smooth(num, coins)


def test_on_a_single_input_the_first_layer_is_exact() -> None:
    norm = nn.GroupNorm(2, 4)
    norm.weight.data.uniform_(0.5, 2.0)
    norm.bias.data.uniform_(-1.0, 1.0)
    entered = 3.0 + 2.0 * torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    scale, shift = affine_of(norm, entered)
    wanted = functional.group_norm(entered, 2, norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(entered * scale[:, None, None] + shift[:, None, None], wanted)


def test_the_affine_map_is_the_mean_over_inputs_by_hand() -> None:
    norm = nn.GroupNorm(1, 1, eps=0.0)
    entered = torch.tensor([[[[0.0, 2.0]]], [[[4.0, 10.0]]]])
    # Means 1 and 7, variances 1 and 9: on average 4 and 5.
    scale, shift = affine_of(norm, entered)
    torch.testing.assert_close(scale, torch.tensor([5.0**-0.5]))
    torch.testing.assert_close(shift, torch.tensor([-4.0 * 5.0**-0.5]))


def test_one_input_calibrates_to_itself() -> None:
    reference, one = student(), sampler()(1)
    plain = calibrate(reference.eval(), one, architecture="plain-50k")
    torch.testing.assert_close(plain(one), reference(one), atol=1e-4, rtol=1e-3)


def test_recovery_comes_closer_and_leaves_no_normalisation() -> None:
    reference = student()
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    found = fold_norm(reference, "gn-50k", sampler=sampler(), num_calibration=64, num_steps=25)
    assert found.architecture == "plain-50k"
    assert found.cosine > found.cosine_before
    assert found.cosine == pytest.approx(
        mean_cosine(found.student, reference.eval(), sampler(9)(256)), abs=0.05
    )
    assert not any(isinstance(one, nn.GroupNorm) for one in found.student.modules())
    assert not any(one.training for one in found.student.modules())
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())
    require_pure(found.student, in_channels=1, image_size=32)


def test_equal_public_inputs_give_equal_weights() -> None:
    first, again = (
        fold_norm(student(), "gn-50k", sampler=sampler(), num_calibration=16, num_steps=2).student
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("architecture", ["ws-200k", "audio-50k", "nonsense"])
def test_students_without_group_norm_are_refused(architecture: str) -> None:
    with pytest.raises(ExportError, match="gn-50k, gn-200k, gn-1m"):
        folded_architecture(architecture)


def test_numbers_that_are_not_finite_are_refused() -> None:
    broken = student()
    broken.projector.weight.data.fill_(float("nan"))
    with pytest.raises(ExportError, match="not finite"):
        fold_norm(broken, "gn-50k", sampler=sampler(), num_calibration=4, num_steps=0)
