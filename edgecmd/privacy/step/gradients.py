"""Clipped sums of per-unit gradients: four engines behind one signature, equal to 1e-6.

**Rounding.** A gradient is measured, multiplied by its factor ``min(1, C (1 - 1e-4) / norm)`` and
added up. `MARGIN` = 1e-4 pays for all that this loses, at `MOST_UNITS` = 65,536 units and any chunk
size. ``u = 2^-53``, and a sum of ``k`` units has norm ``k C`` at most.

- *What is measured and what is summed are the same numbers.* A norm is off by 2e-6 of itself at most:
  float32 squares are added up over 512 numbers in at least 8 lanes, ``(64 + 3) 2^-24 / 2``, and then in
  float64. Factor and product are float64: ``3 u``. One contribution is at most ``C (1 - 9.7e-5)``.
- *Sums are float64.* The ``k``-th addition loses at most ``u k C``, so a sum of ``n`` units is off by
  ``u n^2 C / 2`` = 2.4e-7 C, wherever blocks begin, and two sums over neighbours by 5e-7 C. (In float32
  that was 1e-3 C: a unit at the front shifts every later one into another block.)
- *The gradient of a unit is a function of the unit alone.* A kernel may round otherwise for another
  number of rows, and then one more unit would touch all others. So `calls` gives each call of the
  student `GRAIN` = 8 rows or more, all of one unit's own length, `CALL_ROWS` = 128 at most:
  one unit more or less changes the shape of the last call of its length and of no other. Of the kernels
  that were looked at, those for AVX-512 and for SSE give equal bits from 8 rows on, in every place of a
  call, so nothing moves. Those for AVX2 move each unit of that one call, by 4.7e-7 of its gradient at
  most. 9.6e-5 C are left for its at most 128 units: 7.5e-7 C for each, all in one direction.

What this does not cover: weights chosen so that a gradient is little more than its own rounding, on a
processor of the last kind. ``loop`` computes each unit by itself and depends on nothing of the kind.
``opacus-ghost`` measures a product and sums another: both in float64, where they differ by 1e-12 unless
the product nearly vanishes beside its factors.

Shapes: U units, R rows of a unit, D embedding dimension, P parameters.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from edgecmd.core.errors import choose
from edgecmd.data.on_device import sent
from edgecmd.privacy.step.units import UnitLoss, Units

# Share of C that is left for rounding; the budget stands above.
MARGIN = 1e-4
MOST_UNITS = 65_536
# Rows that go through the student at once, at most and at least.
CALL_ROWS = 128
GRAIN = 8
# Gradients that are held in float64 at a time: they stay in a core's cache.
SLAB = 1 << 16
# Squares are added up in float32 over this many numbers, then in float64.
STRETCH = 512

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


def clip_and_sum(gradients: Gradients, *, clip: float, num_real: int | None = None) -> Sum:
    """Clip the gradient of each unit to L2 norm ``clip`` and sum.

    Args:
        gradients: For each parameter, (U, *shape).
        clip: ``C``.
        num_real: Units after these are padding and count as zero; None for none.

    Returns:
        float64, for each parameter its shape.

    Guarantees:
        Adding one unit moves the result by at most ``C`` in L2 norm, whatever its gradient holds
        (NaN and infinity included), rounding included up to 65,536 units.
    """
    flat = {name: value[:num_real].reshape(len(value[:num_real]), -1) for name, value in gradients.items()}
    square_U = torch.stack([square_norms(value) for value in flat.values()]).sum(dim=0)
    factor_U, *rows = counting(clip_factors(square_U.sqrt(), clip=clip), *flat.values())
    return {
        name: weighted_sum(factor_U, value).reshape(gradients[name].shape[1:])
        for name, value in zip(flat, rows, strict=True)
    }


def counting(factor_U: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Factors and values of the units whose factor is not 0: what is not finite must not be multiplied by it.

    On the CPU the others are left out. On a GPU, where to know their number is to wait, they are zeros.
    """
    kept = factor_U > 0
    if not factor_U.is_cpu:
        return factor_U, *(value.masked_fill(_rows_of(~kept, value), 0.0) for value in values)
    return (factor_U, *values) if bool(kept.all()) else (factor_U[kept], *(value[kept] for value in values))


def _rows_of(which_U: Tensor, value: Tensor) -> Tensor:
    return which_U.view(-1, *[1] * (value.ndim - 1))


def square_norms(value_UP: Tensor) -> Tensor:
    """Squared norm of each row in float64; infinite where float32 cannot hold a stretch of it."""
    num, width = value_UP.shape
    whole = width // STRETCH
    stretches = value_UP[:, : whole * STRETCH].reshape(num, whole, STRETCH)
    norms = torch.linalg.vector_norm(stretches, dim=2).double()
    rest: Tensor = torch.linalg.vector_norm(value_UP[:, whole * STRETCH :], dim=1).double()
    square: Tensor = norms.square().sum(dim=1) + rest.square()
    return square


def weighted_sum(factor_U: Tensor, value_UP: Tensor) -> Tensor:
    """Sum over the rows of factor times row, in float64; only a slab of the rows is ever held in it."""
    num, width = value_UP.shape
    total = torch.zeros(width, dtype=torch.float64, device=value_UP.device)
    step = max(1, SLAB // max(1, num))
    factor_U = factor_U.double()
    for first in range(0, width, step):
        total[first : first + step] = factor_U @ value_UP[:, first : first + step].double()
    return total


def calls(units: Units) -> Iterator[tuple[Units, int]]:
    """A chunk in pieces that go through the student at once.

    Units of equal length come together, without the padding of the longest and in their order. Copies of
    a piece's first unit fill it up to a multiple of as many units as have 8 rows; the top of the module
    says why.

    Yields:
        A piece without padding rows, its mask beside its images, and how many of its units are real.
    """
    device, length_U = units.images.device, units.mask.sum(dim=1)
    for rows in torch.unique(length_U).tolist():
        if not rows:
            continue
        members = (length_U == rows).nonzero()[:, 0]
        for part in members.split(max(1, CALL_ROWS // rows)):
            filled = sent(torch.cat([part, part[:1].expand(-len(part) % _grain(rows))]), device)
            yield (
                Units(
                    images=units.images[filled, :rows],
                    teacher=units.teacher[filled, :rows],
                    mask=torch.ones(len(filled), rows, dtype=torch.bool, device=device),
                ),
                len(part),
            )


def _grain(rows: int) -> int:
    """Fewest units of ``rows`` rows that have 8 rows together."""
    return -(-GRAIN // rows)


def loop_gradients(student: nn.Module, units: Units, loss: UnitLoss) -> Gradients:
    """Gradients one unit at a time by plain backward passes, without the padding: slow and obvious."""
    names, parameters = zip(*student.named_parameters(), strict=True)
    rows = []
    for images, teacher, mask in zip(units.images, units.teacher, units.mask):
        value = loss(student(images[mask]), teacher[mask], mask[mask])
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)])
    return {name: torch.stack([row[index] for row in rows]) for index, name in enumerate(names)}


def _vmap(student: nn.Module, units: Units, loss: UnitLoss, *, clip: float, num_real: int) -> Sum:
    from edgecmd.privacy.step.vmap_engine import clipped_chunk

    return clipped_chunk(student, units, loss, clip=clip, num_real=num_real, sparse=True)


def _loop(student: nn.Module, units: Units, loss: UnitLoss, *, clip: float, num_real: int) -> Sum:
    own = Units(images=units.images[:num_real], teacher=units.teacher[:num_real], mask=units.mask[:num_real])
    return clip_and_sum(loop_gradients(student, own, loss), clip=clip)


def _opacus(student: nn.Module, units: Units, loss: UnitLoss, *, clip: float, num_real: int) -> Sum:
    from edgecmd.privacy.step.opacus_engine import hooks_gradients

    return clip_and_sum(hooks_gradients(student, units, loss), clip=clip, num_real=num_real)


def _opacus_ghost(student: nn.Module, units: Units, loss: UnitLoss, *, clip: float, num_real: int) -> Sum:
    from edgecmd.privacy.step.opacus_engine import ghost_sum

    return ghost_sum(student, units, loss, clip=clip, num_real=num_real)


def _logits(student: nn.Module, units: Units, loss: UnitLoss, *, clip: float, num_real: int) -> Sum:
    from edgecmd.privacy.step.logit_engine import logit_sum

    del loss  # The one that the mechanism takes, whose similarities are clipped.
    return logit_sum(student, units, clip=clip, num_real=num_real)


ENGINES: dict[str, Callable[..., Sum]] = {
    "vmap": _vmap,
    "loop": _loop,
    "opacus": _opacus,
    "opacus-ghost": _opacus_ghost,
    "logits": _logits,
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
        Adding or removing one *unit*, in any place, moves the result by at most ``C``, rounding
        included up to 65,536 units in chunks of any size (the budget is at the top of the module); a
        pair that changes one bucket moves it by at most ``2 C``.

    Raises:
        ConfigError: The engine is unknown.
    """
    make = choose("privacy.engine", engine, ENGINES)
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in student.named_parameters()}
    for chunk in chunks:
        for units, num_real in calls(chunk):
            for name, value in make(student, units, loss, clip=clip, num_real=num_real).items():
                total[name] += value
    return total


def norm(gradients: Gradients) -> float:
    """L2 norm over all parameters."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))
