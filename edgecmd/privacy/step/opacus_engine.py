"""The same clipped sums by the hooks of Opacus, as a cross-check and for what `torch.func` cannot take.

Opacus gives the gradient of each *row*; a unit's gradient is the sum over its rows.

The hooks are put on a copy in row-major (NCHW) memory layout, whose convolutions get their inputs in that
layout too, whatever comes before them. Opacus 1.6 reads a convolution's input by strides that it assumes to
be row-major; in another layout, as a transposed tensor has it, it gives wrong gradients, zeros among them,
without a word. Ghost norms are then too small, and nothing is bounded.

Shapes: U units, R rows of a unit.
"""

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from edgecmd.core.errors import PrivacyError
from edgecmd.privacy.step.units import UnitLoss, Units

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


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


def ghost_sum(
    student: nn.Module, units: Units, loss: UnitLoss, *, clip: float, num_real: int | None = None
) -> dict[str, Tensor]:
    """Clipped sum by ghost norms: one pass for the norm of each row, one for the weighted sum.

    Only where a unit is a single row; norms of sums of rows cannot be had from norms of rows. Both passes
    are float64: in float32 what is measured and what is summed would round apart.

    Args:
        student: Encoder; not changed.
        units: Of one row each.
        loss: Loss of one unit.
        clip: ``C``.
        num_real: Units after these are padding and count as zero; None for none.

    Raises:
        PrivacyError: A unit has more than one row.
    """
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    from edgecmd.privacy.step.gradients import clip_factors

    rows = units.mask.shape[1]
    if rows != 1:
        raise PrivacyError(
            f"privacy.engine='opacus-ghost' knows only the norm of single rows, but a unit has {rows}: set"
            " privacy.num_views=1, a privacy.mechanism other than 'groups', or privacy.engine='vmap'."
        )
    single = units.images.dtype
    own = plain_layout(student).double()
    real = Units(images=units.images[:num_real], teacher=units.teacher[:num_real], mask=units.mask[:num_real])
    hooked = GradSampleModuleFastGradientClipping(
        own, batch_first=True, loss_reduction="sum", strict=False, max_grad_norm=clip
    )
    with _quiet():
        images = row_major(real.images[:, 0].double())
        output = hooked(images)
        # The loss holds anchors of the units' own type; its gradient is the same number in both passes.
        at_output = cotangents(output.detach()[:, None].to(single), real, loss).double()
        output.backward(at_output[:, 0])
        norm = hooked.get_norm_sample().double()
    # What overflows in the units' own type counts as zero, as in the other engines.
    largest = real.images.abs().flatten(1).amax(dim=1).double()
    bound = torch.finfo(single).max
    norm = norm.where((norm < bound) & (largest.square() < bound), math.inf)
    factor = clip_factors(norm, clip=clip)
    kept = factor > 0
    # Rows with a gradient that is not finite are left out of the second pass: 0 times NaN would be NaN.
    bare = plain_layout(student).double()
    again = bare(images[kept])
    weighted = (factor[kept][:, None] * at_output[kept, 0].detach() * again).sum()
    found = torch.autograd.grad(weighted, list(bare.parameters()))
    return {name: value for (name, _), value in zip(student.named_parameters(), found, strict=True)}


def plain_layout(student: nn.Module) -> nn.Module:
    """Copy of ``student`` in row-major (NCHW) layout, its convolutions' inputs as well; hooks go with it."""
    own = copy.deepcopy(student)
    for parameter in own.parameters():
        parameter.data = row_major(parameter.data)
        parameter.grad = None
    for module in own.modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_pre_hook(_with_row_major)
    return own


def _with_row_major(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Not `row_major`: Opacus also calls layers that it does not know under vmap, where nothing is in place.
    return tuple(one.clone(memory_format=torch.contiguous_format) for one in args)


def row_major(value: Tensor) -> Tensor:
    """Copy in row-major strides; with a single channel ``contiguous`` would keep channels-last ones."""
    return torch.empty(value.shape, dtype=value.dtype, device=value.device).copy_(value)
