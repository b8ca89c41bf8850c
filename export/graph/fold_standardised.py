"""Weight standardisation folded into plain convolutions before anything is exported.

The exporter's own optimiser folds only weights below a size limit (8,192 numbers), so larger layers would be
standardised again at every inference. Folding here also frees the result from that optimiser.
"""

import copy
from typing import TypeGuard, cast

import torch
from torch import nn

from edgecmd.models.trunks.convolutions import RELU_GAIN, ScaledReLU, StandardisedConv2d


def fold(student: nn.Module) -> nn.Module:
    """Copy of ``student`` that computes the same with plain convolutions; the argument is not changed.

    A convolution followed by `ScaledReLU` takes up its gain as well: ``g * relu(w x + b)`` is
    ``relu(g w x + g b)`` for ``g > 0``, so no multiplication is left beside the convolution.

    Args:
        student: Any module; what is not weight-standardised is copied as it is.
    """
    return _folded(copy.deepcopy(student))


def _folded(module: nn.Module) -> nn.Module:
    """``module`` itself or what replaces it."""
    if isinstance(module, StandardisedConv2d):
        return plain_convolution(module)
    if _is_scaled_pair(module):
        return nn.Sequential(
            plain_convolution(cast(StandardisedConv2d, module[0]), gain=RELU_GAIN), nn.ReLU()
        )
    for name, child in module.named_children():
        setattr(module, name, _folded(child))
    return module


def _is_scaled_pair(module: nn.Module) -> TypeGuard[nn.Sequential]:
    return (
        isinstance(module, nn.Sequential)
        and len(module) == 2
        and isinstance(module[0], StandardisedConv2d)
        and isinstance(module[1], ScaledReLU)
    )


@torch.no_grad()
def plain_convolution(convolution: StandardisedConv2d, *, gain: float = 1.0) -> nn.Conv2d:
    """Plain convolution with the standardised weight.

    Args:
        convolution: Weight-standardised; not changed.
        gain: Factor on weight and bias.
    """
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        cast(tuple[int, int], convolution.kernel_size),
        stride=cast(tuple[int, int], convolution.stride),
        padding=cast(tuple[int, int], convolution.padding),
        bias=convolution.bias is not None,
    )
    plain.weight.copy_(convolution.standardised_weight() * gain)
    if plain.bias is not None and convolution.bias is not None:
        plain.bias.copy_(convolution.bias * gain)
    return plain.train(convolution.training)
