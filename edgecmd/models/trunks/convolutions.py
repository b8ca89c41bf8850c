"""Layers that the students of the table are built of.

Shapes: B batch, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

# E[relu(x)^2] - E[relu(x)]^2 = (1 - 1/pi) / 2 for x ~ N(0, 1): this gain keeps the variance at 1.
RELU_GAIN = math.sqrt(2.0 / (1.0 - 1.0 / math.pi))
RESIDUAL_SCALE = 0.5
GROUP_SIZE = 8


class StandardisedConv2d(nn.Conv2d):
    """Convolution whose weight is standardised per output channel and scaled to keep variance.

    ``w = gain * (v - mean(v)) / (std(v) * sqrt(fan_in))``: a function of the parameters alone, so
    the exporter folds it to a plain convolution (scaled weight standardisation, arXiv 2101.08692).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], *, stride: int = 1
    ) -> None:
        sides = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        padding = (sides[0] // 2, sides[1] // 2)
        super().__init__(in_channels, out_channels, sides, stride=stride, padding=padding)
        self.gain = nn.Parameter(torch.ones(out_channels, 1, 1, 1))

    def standardised_weight(self, *, scale: float = 1.0) -> Float[Tensor, "out into height width"]:
        """``scale`` times the weight that the convolution applies."""
        fan_in = self.weight[0].numel()
        # Channels last, as weights lie in memory. A layer norm is the standardisation as one kernel.
        last = self.weight.permute(0, 2, 3, 1)
        standard = functional.layer_norm(last, last.shape[1:], eps=1e-8 / fan_in)
        return (standard * (self.gain * (scale / math.sqrt(fan_in)))).permute(0, 3, 1, 2)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class names it so
        """Convolve ``input`` (B, C, H, W) with the standardised weight."""
        return self.scaled(input, 1.0)

    def scaled(self, image: Tensor, scale: float) -> Tensor:
        """``scale`` times what the convolution makes of ``image``, with the factor in weight and bias."""
        weight = self.standardised_weight(scale=scale)
        bias = self.bias if self.bias is None or scale == 1.0 else self.bias * scale
        return functional.conv2d(image, weight, bias, stride=self.stride, padding=self.padding)


class ScaledReLU(nn.Module):
    """ReLU times a constant that keeps the variance of a unit Gaussian input.

    Attributes:
        gain: The constant; 1 while the layer before has it in its weight (`gains_in_weights`).
    """

    gain: float = RELU_GAIN

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise."""
        found = functional.relu(x)
        return found if self.gain == 1.0 else found * self.gain


class Activated(nn.Sequential):
    """A standardised convolution and a `ScaledReLU`, whose gain is folded into weight and bias.

    ``g * relu(w x + b)`` is ``relu(g w x + g b)`` for ``g > 0``, so no multiplication is left on the maps.
    Where a layer was replaced, or is looked at through a hook, one layer is called after the other.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the shape that the convolution gives."""
        convolution, activation = self[0], self[1]
        watched = convolution._forward_hooks or activation._forward_hooks
        if type(convolution) is StandardisedConv2d and type(activation) is ScaledReLU and not watched:
            return functional.relu(convolution.scaled(x, RELU_GAIN))
        found: Tensor = activation(convolution(x))
        return found


@contextmanager
def gains_in_weights(student: nn.Module) -> Iterator[dict[str, float]]:
    """Leave out the gains after plain convolutions of `Activated`, for whoever multiplies their parameters.

    Yields:
        What weight and bias of each such convolution are to be multiplied by, by the layer's name.
    """
    found = {
        f"{name}.0": cast(ScaledReLU, one[1])
        for name, one in student.named_modules()
        if type(one) is Activated and [type(layer) for layer in one] == [nn.Conv2d, ScaledReLU]
    }
    gains = {name: activation.gain for name, activation in found.items()}
    for activation in found.values():
        activation.gain = 1.0
    try:
        yield gains
    finally:
        for name, activation in found.items():
            activation.gain = gains[name]


def _ws_conv(into: int, out: int, *, stride: int = 1, size: int | tuple[int, int] = 3) -> nn.Module:
    return Activated(StandardisedConv2d(into, out, size, stride=stride), ScaledReLU())


def _gn_conv(into: int, out: int, *, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False)
    groups = max(1, out // GROUP_SIZE) if out % GROUP_SIZE == 0 else 1
    return nn.Sequential(convolution, nn.GroupNorm(groups, out), nn.ReLU())


def _plain_conv(into: int, out: int, *, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride=stride, padding=1), nn.ReLU())


FAMILIES: dict[str, Callable[..., nn.Module]] = {"ws": _ws_conv, "gn": _gn_conv, "plain": _plain_conv}


class Residual(nn.Module):
    """Two convolutions beside the identity: ``x + scale * f(x)``, ``scale`` learnt."""

    def __init__(self, conv: Callable[..., nn.Module], width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = conv(width, width)
        self.scale = nn.Parameter(torch.tensor(RESIDUAL_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        inner: Tensor = self.second(self.first(x))
        return x + self.scale * inner


class Pointwise(nn.Conv2d):
    """The same linear map at every place: a 1x1 convolution with the names of `torch.nn.Linear`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, 1)
        self.in_features, self.out_features = in_features, out_features


class Pyramid(nn.Module):
    """Maps of several sizes as one of the finest size (Lin et al. 2017, arXiv 1612.03144).

    From the coarsest on, each is brought to one width, added to what came before, enlarged, and convolved.

    Args:
        widths: Channels of the maps, from fine to coarse, each half as large as the one before.
        width: Channels of the result.
    """

    def __init__(self, widths: Sequence[int], *, width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(Pointwise(into, width) for into in widths)
        self.mix = nn.ModuleList(_plain_conv(width, width) for _ in widths)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "batch width height width_in_places"]:
        """Map (B, C, H, W) of each size, from fine to coarse."""
        found: Tensor | None = None
        for lateral, mix, one in reversed(list(zip(self.lateral, self.mix, maps, strict=True))):
            own = lateral(one)
            found = mix(functional.relu(own if found is None else own + _twice(found)))
        assert found is not None
        return found


def _twice(map_BCHW: Tensor) -> Tensor:
    """A map at twice its size; each number repeated. A scale, so that no device has to compute a size."""
    return functional.interpolate(map_BCHW, scale_factor=2.0, mode="nearest")
