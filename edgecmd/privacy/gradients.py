"""Clipped sums of the gradients of single units: four engines behind one signature, equal to 1e-6.

Shapes: U units, R rows of a unit, D embedding dimension, P parameters.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from edgecmd.errors import choose
from edgecmd.privacy.mechanisms import UnitLoss, Units

# Share of C that is left for rounding. The vmap engine rounds by less, whatever the gradients
# (`edgecmd.privacy.layers`); the others sum whole chunks in float32, which in practice loses less too.
MARGIN = 1e-4

Gradients = Mapping[str, Tensor]
Sum = dict[str, Tensor]
Engine = Callable[[nn.Module, Units, UnitLoss], Gradients]


def clip_factors(norm_U: Tensor, *, clip: float) -> Tensor:
    """Factor for each unit: ``min(1, C (1 - 1e-4) / norm)``, and 0 where the norm is not finite.

    A gradient with one non-finite entry has a non-finite norm, so its unit counts as zero. That is a
    function of the unit alone, and so the sensitivity stays what it was.
    """
    limit = clip * (1.0 - MARGIN)
    factor = (limit / norm_U.clamp(min=1e-30)).clamp(max=1.0)
    return torch.where(torch.isfinite(norm_U), factor, torch.zeros_like(factor))


def clip_and_sum(gradients: Gradients, *, clip: float) -> Sum:
    """Clip the gradient of each unit to L2 norm ``clip`` and sum.

    Args:
        gradients: For each parameter, (U, *shape).
        clip: ``C``.

    Returns:
        float64, for each parameter its shape.

    Guarantees:
        Adding one unit moves the result by at most ``C`` in L2 norm, whatever its gradient holds
        (NaN and infinity included).
    """
    flat = {name: value.reshape(len(value), -1) for name, value in gradients.items()}
    square_U = torch.stack([_square(value) for value in flat.values()]).sum(dim=0)
    factor_U = clip_factors(square_U.sqrt(), clip=clip)
    if not bool((factor_U > 0).all()):
        flat = {name: value[factor_U > 0] for name, value in flat.items()}
        factor_U = factor_U[factor_U > 0]
    return {
        name: (factor_U.to(value.dtype) @ value).double().reshape(gradients[name].shape[1:])
        for name, value in flat.items()
    }


def _square(value_UP: Tensor) -> Tensor:
    """Squared norm of each row in float64; in float32 a norm above 1.8e19 would overflow to infinity."""
    norm_U: Tensor = torch.linalg.vector_norm(value_UP, dim=1)
    return norm_U.double().square()


def vmap_gradients(student: nn.Module, units: Units, loss: UnitLoss) -> Gradients:
    """Gradients of all units of a chunk, whole; each unit is a function call of its own (`torch.func`).

    What `edgecmd.privacy.layers` computes without holding it all; for students small enough to look at.
    """
    parameters = {name: value.detach() for name, value in student.named_parameters()}

    def one(values: dict[str, Tensor], images: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return loss(functional_call(student, values, (images,)), teacher, mask)

    every = vmap(grad(one), in_dims=(None, 0, 0, 0), randomness="different")
    found: Gradients = every(parameters, units.images, units.teacher, units.mask)
    return found


def loop_gradients(student: nn.Module, units: Units, loss: UnitLoss) -> Gradients:
    """Gradients one unit at a time by plain backward passes, without the padding: slow and obvious."""
    names, parameters = zip(*student.named_parameters(), strict=True)
    rows = []
    for images, teacher, mask in zip(units.images, units.teacher, units.mask):
        value = loss(student(images[mask]), teacher[mask], mask[mask])
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)])
    return {name: torch.stack([row[index] for row in rows]) for index, name in enumerate(names)}


def _vmap(student: nn.Module, units: Units, loss: UnitLoss, *, clip: float) -> Sum:
    from edgecmd.privacy.layers import clipped_chunk

    return clipped_chunk(student, units, loss, clip=clip)


def _opacus(student: nn.Module, units: Units, loss: UnitLoss, *, clip: float) -> Sum:
    from edgecmd.privacy.opacus_engine import hooks_gradients

    return clip_and_sum(hooks_gradients(student, units, loss), clip=clip)


def _opacus_ghost(student: nn.Module, units: Units, loss: UnitLoss, *, clip: float) -> Sum:
    from edgecmd.privacy.opacus_engine import ghost_sum

    return ghost_sum(student, units, loss, clip=clip)


ENGINES: dict[str, Callable[..., Sum]] = {
    "vmap": _vmap,
    "loop": lambda student, units, loss, *, clip: clip_and_sum(
        loop_gradients(student, units, loss), clip=clip
    ),
    "opacus": _opacus,
    "opacus-ghost": _opacus_ghost,
}


def clipped_sum(
    student: nn.Module, chunks: Iterable[Units], loss: UnitLoss, *, clip: float, engine: str
) -> Sum:
    """Sum over all units of their clipped gradients.

    Args:
        student: Encoder; not changed.
        chunks: Units; none give zeros.
        loss: Loss of one unit.
        clip: ``C``, the largest L2 norm of a unit's contribution.
        engine: A key of `ENGINES`.

    Returns:
        float64, keyed like ``student.named_parameters()``.

    Guarantees:
        Adding or removing one *unit* moves the result by at most ``C``; a pair that changes one
        bucket moves it by at most ``2 C``.

    Raises:
        ConfigError: The engine is unknown.
    """
    make = choose("privacy.engine", engine, ENGINES)
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in student.named_parameters()}
    for units in chunks:
        for name, value in make(student, units, loss, clip=clip).items():
            total[name] += value
    return total


def norm(gradients: Gradients) -> float:
    """L2 norm over all parameters."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))
