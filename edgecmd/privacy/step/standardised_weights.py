"""The weights that act: where gradients are clipped for students whose convolutions standardise theirs.

A weight-standardised convolution applies ``w = s(v)`` for parameters ``v``. Gradients are clipped and
noised with respect to ``w``, on a copy of the student with plain convolutions, and the noised *sum*
is carried back to ``v`` by the transposed Jacobian of ``s`` at the present ``v``. That map is linear and
depends on nothing private, so it is post-processing: the guarantee is that of the sum. It costs one
multiplication a step instead of one for every unit.
"""

import copy
from collections.abc import Mapping
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from edgecmd.models.trunks.convolutions import StandardisedConv2d


class EffectiveStudent:
    """A student and its copy with plain convolutions.

    Args:
        student: Encoder; students without standardised convolutions are their own copy.

    Attributes:
        module: What gradients are taken of.
    """

    def __init__(self, student: nn.Module) -> None:
        self._student = student
        self._layers = {name: layer for name, layer in student.named_modules() if _is_standardised(layer)}
        self.module = plain_copy(student) if self._layers else student
        self._present: dict[str, Tensor] = {}

    def refresh(self) -> None:
        """Bring the copy up to the student's present parameters."""
        if not self._layers:
            return
        with torch.enable_grad():
            self._present = self._values()
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(self._present[name])

    def pull_back(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Carry a sum over the copy's parameters to the student's: ``J^T sums``, at the weights of `refresh`.

        Args:
            sums: For each parameter of `module`, its shape.

        Returns:
            For each parameter of the student, its shape, in the parameters' dtype.
        """
        parameters = dict(self._student.named_parameters())
        if not self._layers:
            return {name: sums[name].to(value.dtype) for name, value in parameters.items()}
        # The graph of `refresh` serves once, and fails where the student was changed since.
        values, self._present = self._present or self._values(), {}
        outputs = [values[name] for name in sums]
        cotangents = [value.to(values[name].dtype) for name, value in sums.items()]
        found = torch.autograd.grad(outputs, list(parameters.values()), cotangents)
        return dict(zip(parameters, found, strict=True))

    def _values(self) -> dict[str, Tensor]:
        """Parameters of the copy as functions of the student's."""
        values: dict[str, Tensor] = {}
        for name, parameter in self._student.named_parameters():
            layer, _, kind = name.rpartition(".")
            if layer in self._layers and kind == "gain":
                continue
            if layer in self._layers and kind == "weight":
                values[name] = self._layers[layer].standardised_weight()
            else:
                values[name] = parameter.view_as(parameter)
        return values


def _is_standardised(layer: nn.Module) -> TypeGuard[StandardisedConv2d]:
    """Whether it is trained and standardises its weight; one that is not trained may stay as it is."""
    return isinstance(layer, StandardisedConv2d) and "weight" in layer._parameters


def plain_copy(student: nn.Module) -> nn.Module:
    """Copy of ``student`` with plain convolutions in place of standardised ones that are trained."""
    return _plain(copy.deepcopy(student))


def _plain(module: nn.Module) -> nn.Module:
    if _is_standardised(module):
        # Its weights are copied; to draw first ones would cost a step's share of time and torch's own coins.
        plain: nn.Conv2d = skip_init(  # type: ignore[no-untyped-call]
            nn.Conv2d,
            module.in_channels,
            module.out_channels,
            cast(tuple[int, int], module.kernel_size),
            stride=cast(tuple[int, int], module.stride),
            padding=cast(tuple[int, int], module.padding),
            device=module.weight.device,
            dtype=module.weight.dtype,
        )
        # Laid out as it was (`edgecmd.models.devices.place`): other layouts take other, slower kernels.
        if module.weight.is_contiguous(memory_format=torch.channels_last):
            plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            plain.weight.copy_(module.standardised_weight())
            if plain.bias is not None and module.bias is not None:
                plain.bias.copy_(module.bias)
        return plain.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _plain(child))
    return module
