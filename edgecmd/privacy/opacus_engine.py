"""The same clipped sums by the hooks of Opacus, as a cross-check and for what `torch.func` cannot take.

Opacus gives the gradient of each *row*; a unit's gradient is the sum over its rows.

The hooks are put on a copy in row-major (NCHW) memory layout. Opacus 1.6 reads a convolution's input by
strides that it assumes to be row-major; in the channels-last layout it gives wrong gradients, zeros
among them, without a word. Ghost norms are then too small, and nothing is bounded.

Shapes: U units, R rows of a unit.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from edgecmd.errors import PrivacyError
from edgecmd.privacy.mechanisms import UnitLoss, Units


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop the warning that images need no gradient; it is meant so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield


def _hooked(student: nn.Module) -> nn.Module:
    """``student`` with hooks that keep per-row gradients."""
    from opacus.grad_sample import GradSampleModule

    hooked: nn.Module = GradSampleModule(student, batch_first=True, loss_reduction="sum", strict=False)
    return hooked


def cotangents(student: Tensor, units: Units, loss: UnitLoss) -> Tensor:
    """Gradient of each unit's loss at the student's output, (U, R, D)."""
    each = vmap(grad(lambda z, t, m: loss(z, t, m)))
    found: Tensor = each(student, units.teacher, units.mask)
    return found


def hooks_gradients(student: nn.Module, units: Units, loss: UnitLoss) -> dict[str, Tensor]:
    """Gradients of each unit by the hooks of Opacus.

    Returns:
        For each parameter, (U, *shape).

    Raises:
        PrivacyError: The student's parameters would be counted twice.
    """
    num, rows = units.mask.shape
    own = plain_layout(student)
    hooked = _hooked(own)
    with _quiet():
        output = hooked(row_major(units.images.flatten(0, 1)))
        at_output = cotangents(output.detach().view(num, rows, -1), units, loss)
        output.backward(at_output.flatten(0, 1))
    return {
        name: _per_row(parameter).reshape(num, rows, *parameter.shape).sum(dim=1)
        for name, parameter in own.named_parameters()
    }


def _per_row(parameter: nn.Parameter) -> Tensor:
    found: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
    return found


def ghost_sum(student: nn.Module, units: Units, loss: UnitLoss, *, clip: float) -> dict[str, Tensor]:
    """Clipped sum by ghost norms: one pass for the norm of each row, one for the weighted sum.

    Only where a unit is a single row; norms of sums of rows cannot be had from norms of rows.

    Raises:
        PrivacyError: A unit has more than one row.
    """
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    from edgecmd.privacy.gradients import clip_factors

    rows = units.mask.shape[1]
    if rows != 1:
        raise PrivacyError(
            f"privacy.engine='opacus-ghost' knows the norm of single rows, and a unit has {rows}:"
            " set privacy.num_views=1, leave privacy.mechanism='groups', or use privacy.engine='vmap'."
        )
    own = plain_layout(student)
    hooked = GradSampleModuleFastGradientClipping(
        own, batch_first=True, loss_reduction="sum", strict=False, max_grad_norm=clip
    )
    with _quiet():
        output = hooked(row_major(units.images[:, 0]))
        at_output = cotangents(output.detach()[:, None], units, loss)
        output.backward(at_output[:, 0])
        factor = clip_factors(hooked.get_norm_sample().double(), clip=clip)
    kept = factor > 0
    # Rows with a gradient that is not finite are left out of the second pass: 0 times NaN would be NaN.
    again = student(units.images[kept, 0])
    weighted = (factor[kept].to(again.dtype)[:, None] * at_output[kept, 0].detach() * again).sum()
    names, parameters = zip(*student.named_parameters(), strict=True)
    found = torch.autograd.grad(weighted, parameters)
    return {name: value.double() for name, value in zip(names, found)}


def plain_layout(student: nn.Module) -> nn.Module:
    """Copy of ``student`` in row-major (NCHW) layout; hooks and per-row gradients go with it."""
    own = copy.deepcopy(student)
    for parameter in own.parameters():
        parameter.data = row_major(parameter.data)
        parameter.grad = None
    return own


def row_major(value: Tensor) -> Tensor:
    """Copy in row-major strides; with a single channel ``contiguous`` would keep channels-last ones."""
    return torch.empty(value.shape, dtype=value.dtype, device=value.device).copy_(value)
