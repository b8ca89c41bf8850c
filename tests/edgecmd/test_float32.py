"""What a student computes in float32 is what double gives but for rounding, whatever the processor.

The bounds are proven for sums in any order and for products that are fused or not (Higham 2002, Accuracy and
Stability of Numerical Algorithms, sections 3.1 and 4.2), so they hold for every kernel that computes in
float32. A kernel that rounds to bfloat16 in between is 65,536 times coarser and fails.

The proof goes layer by layer, each from the numbers that it was really given: bounds of a whole network
multiply to more than its output.
"""

import copy
import itertools

import golden_steps
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecmd import losses
from edgecmd.models.students import Student, build_student
from edgecmd.models.trunks.convolutions import RELU_GAIN, ScaledReLU, StandardisedConv2d

# Half a unit in the last place of a number near 1, and what is lost where numbers get too small.
UNIT, TINY = 2.0**-24, 1e-36


def gamma(terms: int) -> float:
    """Relative error of a sum of so many products, by the sum of their sizes."""
    return terms * UNIT / (1 - terms * UNIT)


def start() -> Student:
    coins = torch.Generator().manual_seed(0)
    student = build_student("ws-50k", in_channels=1, embedding_dim=golden_steps.DIM, generator=coins)
    student.load_state_dict(golden_steps.first_weights())
    return student


def seen_layers(student: Student, images: Tensor) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Each layer with the numbers that it was given and those that it made of them."""
    found: list[tuple[nn.Module, Tensor, Tensor]] = []
    kinds = (StandardisedConv2d, ScaledReLU, nn.Linear)
    for layer in student.modules():
        if isinstance(layer, kinds):
            layer.register_forward_hook(lambda one, given, made: found.append((one, given[0], made)))
    with torch.no_grad():
        student(images)
    return found


def exact_and_bound(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output in double for the input and the weight of float32, and how far float32 may be from it."""
    if isinstance(layer, ScaledReLU):
        exact = x.clamp(min=0) * RELU_GAIN
        return exact, exact * gamma(2)
    if isinstance(layer, StandardisedConv2d):
        weight, terms = layer.standardised_weight().double(), layer.weight[0].numel()
        kernel = {"stride": layer.stride, "padding": layer.padding}
        bias = layer.bias.double()
        sizes = functional.conv2d(x.abs(), weight.abs(), bias.abs(), **kernel)
        return functional.conv2d(x, weight, bias, **kernel), gamma(terms + 1) * sizes
    weight, bias = layer.weight.double(), layer.bias.double()
    sizes = x.abs() @ weight.abs().T + bias.abs()
    return x @ weight.T + bias, gamma(layer.in_features + 1) * sizes


@torch.no_grad()
def test_each_layer_rounds_no_more_than_float32_must() -> None:
    target, _ = golden_steps.pairs()
    layers = seen_layers(start(), target[: golden_steps.BATCH].float())
    assert len(layers) == 17
    for layer, given, made in layers:
        exact, bound = exact_and_bound(layer, given.double())
        assert made.dtype == torch.float32
        assert ((made - exact).abs() <= bound + TINY).all(), layer


@torch.no_grad()
def test_a_standardised_weight_rounds_no_more_than_float32_must() -> None:
    for layer in start().modules():
        if not isinstance(layer, StandardisedConv2d):
            continue
        exact = copy.deepcopy(layer).double()
        v, terms = exact.weight, layer.weight[0].numel()
        mean = v.mean(dim=(1, 2, 3), keepdim=True)
        spread = (v - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        # What `v - mean` is off; with it the spread (a mean of squares, so at most by the largest of them).
        off = gamma(terms + 1) * v.abs().mean(dim=(1, 2, 3), keepdim=True) + 2 * UNIT * (v - mean).abs()
        relative = off.amax(dim=(1, 2, 3), keepdim=True) / spread + gamma(terms + 8)
        bound = exact.gain.abs() / (spread * terms**0.5) * (off + (v - mean).abs() * 2 * relative)
        assert ((layer.standardised_weight() - exact.standardised_weight()).abs() <= bound).all()


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@torch.no_grad()
def test_the_loss_rounds_no_more_than_float32_must(temperature: float) -> None:
    target, teacher = golden_steps.pairs()
    student, teacher = start()(target[: golden_steps.BATCH].float()), teacher[: golden_steps.BATCH].float()
    found = losses.cmc(student, teacher, temperature=temperature)
    exact = losses.cmc(student.double(), teacher.double(), temperature=temperature)
    assert found.dtype == torch.float32
    # A similarity is at most 1: two norms, a product of D terms, a division. Of a log-softmax: the largest is
    # taken off, B exponentials (2 units each), their sum, a logarithm, and once more the difference.
    similarity = gamma(3 * golden_steps.DIM + 10) / temperature
    softmax = gamma(golden_steps.BATCH + 8) + 4 * UNIT * 2 / temperature
    bound = 2 * similarity + softmax + 4 * UNIT * exact.abs().max()
    assert (found - exact).abs().max() <= bound


def test_the_bounds_are_narrow_enough_to_find_bfloat16() -> None:
    """The same layers with numbers of 8 bits: every product of weights fails."""
    target, _ = golden_steps.pairs()
    student = start()
    layers = seen_layers(student, target[: golden_steps.BATCH].float())
    failed = []
    for layer, given, made in itertools.islice(layers, 0, None, 2):
        exact, bound = exact_and_bound(layer, given.double().bfloat16().double())
        failed.append(bool(((made - exact).abs() > bound + TINY).any()))
    assert all(failed)
    assert len(failed) == 9
