"""Students: sizes, privacy of rows, folding, and weights that follow from the generator alone."""

import pytest
import torch

from edgecmd.core.errors import ConfigError
from edgecmd.models.students import STUDENTS, build_student, num_parameters
from edgecmd.models.trunks.convolutions import RELU_GAIN, ScaledReLU, StandardisedConv2d


def make(architecture: str, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return build_student(architecture, in_channels=1, embedding_dim=16, generator=generator)


def images(num: int, size: int = 32) -> torch.Tensor:
    return torch.rand(num, 1, size, size, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("architecture", STUDENTS)
def test_sizes_are_what_the_names_say(architecture: str) -> None:
    names = {"50k": 50_000, "200k": 200_000, "1m": 1_000_000, "4m": 4_200_000, "s": 721_000, "m": 2_385_000}
    generator = torch.Generator().manual_seed(0)
    student = build_student(architecture, in_channels=1, embedding_dim=128, generator=generator)
    assert num_parameters(student) == pytest.approx(names[architecture.split("-")[-1]], rel=0.2)


@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
def test_an_embedding_depends_on_its_own_image_alone(architecture: str) -> None:
    student, batch = make(architecture).train(), images(5)
    poisoned = batch.clone()
    poisoned[2] = float("nan")
    others = [0, 1, 3, 4]
    assert torch.equal(student(poisoned)[others], student(batch)[others])


@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
def test_no_buffers_and_no_in_place_activations(architecture: str) -> None:
    student = make(architecture)
    assert not list(student.buffers())
    assert not any(getattr(module, "inplace", False) for module in student.modules())


@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
def test_per_example_gradients_by_vmap_equal_batches_of_one(architecture: str) -> None:
    student, batch = make(architecture), images(3)
    parameters = dict(student.named_parameters())

    def loss(weights: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(student, weights, (image[None],)).square().sum()

    fast = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch)
    for row in range(3):
        student.zero_grad()
        student(batch[row : row + 1]).square().sum().backward()
        for name, parameter in student.named_parameters():
            torch.testing.assert_close(fast[name][row], parameter.grad, rtol=2e-4, atol=1e-4)


def test_standardised_weight_by_hand() -> None:
    convolution = StandardisedConv2d(1, 1, 1)
    assert convolution.standardised_weight().item() == 0.0
    two = StandardisedConv2d(2, 1, 1)
    with torch.no_grad():
        two.weight.copy_(torch.tensor([1.0, 5.0]).view(1, 2, 1, 1))
        two.gain.fill_(3.0)
    expected = torch.tensor([-3.0, 3.0]) / 2**0.5
    torch.testing.assert_close(two.standardised_weight().flatten(), expected)


def test_scaled_relu_keeps_unit_variance() -> None:
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    assert ScaledReLU()(x).var().item() == pytest.approx(1.0, abs=0.01)
    assert pytest.approx(1.7128586, abs=1e-7) == RELU_GAIN


def test_weights_follow_from_the_generator() -> None:
    torch.manual_seed(1)
    first = make("ws-50k", seed=3).state_dict()
    torch.manual_seed(2)
    second = make("ws-50k", seed=3).state_dict()
    other = make("ws-50k", seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_unknown_student_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"student.architecture='ws-200' is unknown.*Did you mean 'ws-200k'"
    ):
        make("ws-200")


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1.0, 1e6])
def test_standardised_weights_are_those_of_the_formula(spread: float) -> None:
    """Those of equal numbers too, where the small constant under the root is all that is divided by."""
    convolution = StandardisedConv2d(3, 4, 3).double()
    coins = torch.Generator().manual_seed(1)
    with torch.no_grad():
        convolution.weight.copy_(5 + spread * torch.randn(4, 3, 3, 3, generator=coins, dtype=torch.float64))
        convolution.gain.copy_(torch.randn(4, 1, 1, 1, generator=coins, dtype=torch.float64))
    v = convolution.weight.flatten(1)
    centred = v - v.mean(dim=1, keepdim=True)
    root = (27 * centred.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    expected = convolution.gain.flatten(1) * centred / root
    found = convolution.standardised_weight(scale=3.0).flatten(1)
    torch.testing.assert_close(found, 3 * expected, rtol=1e-7, atol=1e-12)


def test_a_folded_gain_changes_neither_maps_nor_gradients_nor_what_a_hook_sees() -> None:
    """A hook makes the student go layer by layer, which is the oracle."""
    student = make("ws-50k").double()
    image = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    folded = torch.autograd.grad(student(image).square().sum(), list(student.parameters()))
    seen: list[torch.Tensor] = []
    for layer in student.modules():
        if isinstance(layer, ScaledReLU):
            layer.register_forward_hook(lambda _, given, made: seen.append(made / given[0].clamp(min=1e-30)))
    plain = torch.autograd.grad(student(image).square().sum(), list(student.parameters()))
    torch.testing.assert_close(folded, plain, rtol=1e-9, atol=1e-9)
    assert len(seen) == 8
    assert all(one[one > 0].mean().item() == pytest.approx(RELU_GAIN) for one in seen)
