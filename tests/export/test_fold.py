"""Folding: the same function from plain convolutions, and the argument is left alone."""

import pytest
import torch
from torch import nn

from edgecmd.models.trunks.convolutions import ScaledReLU, StandardisedConv2d
from export.graph.fold_standardised import fold, plain_convolution


@pytest.mark.parametrize("architecture", ["ws-50k", "ws-200k"])
def test_folded_student_embeds_the_same(make, architecture):
    student = make.student(architecture).eval()
    image = torch.randn((3, 1, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = student(image), fold(student)(image)
    unit = nn.functional.normalize
    assert (unit(expected, dim=1) - unit(found, dim=1)).abs().max() <= 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_folding_leaves_no_standardised_layer_and_does_not_touch_the_student(make):
    student = make.student("ws-50k")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    folded = fold(student)
    kinds = [type(layer) for layer in folded.modules()]
    assert kinds.count(nn.Conv2d) == 8
    assert not {StandardisedConv2d, ScaledReLU} & set(kinds)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert sum(isinstance(layer, StandardisedConv2d) for layer in student.modules()) == 8


def test_folding_copies_a_groupnorm_student_as_it_is(make):
    student = make.student("gn-50k")
    assert fold(student).state_dict().keys() == student.state_dict().keys()


def test_plain_weight_is_what_the_formula_gives():
    convolution = StandardisedConv2d(1, 1, 3)
    with torch.no_grad():
        # Mean 4, variance 60 / 9, fan-in 9: (v - 4) / sqrt(60) times the gain 2, times the factor 3.
        convolution.weight.copy_(torch.arange(9.0).view(1, 1, 3, 3))
        convolution.gain.fill_(2.0)
        convolution.bias.fill_(0.5)
    plain = plain_convolution(convolution, gain=3.0)
    expected = 6.0 * (torch.arange(9.0) - 4.0) / 60.0**0.5
    torch.testing.assert_close(plain.weight.flatten(), expected)
    assert plain.bias.item() == 1.5
    assert plain.padding == (1, 1)


def test_a_lone_standardised_convolution_folds_too():
    convolution = StandardisedConv2d(2, 4, 3, stride=2)
    image = torch.randn((1, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    folded = fold(convolution)
    assert type(folded) is nn.Conv2d
    torch.testing.assert_close(folded(image), convolution(image))
