"""The auditor's own clipped sum, independent of any engine, and how far rounding alone can move it.

Two ways to compute one gradient in float32 differ in their last bits, and where an activation lies on a
kink (the zero of a ReLU, two equal maxima of a pool) a last bit decides which side is differentiated: the
unit's gradient then differs by up to 2 C, once in some ten thousand units. Both are gradients that the code
may rightly clip, and the guarantee bounds either. So a sum that is off is computed again, unit by unit,
under other roundings; only a gap that none of them explains is the code's.

Shapes: R rows of a unit.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgecmd.audits.static.search import distance
from edgecmd.privacy.step.gradients import MARGIN, Sum
from edgecmd.privacy.step.units import UnitLoss, Units

# Share of C for each unit by which float32 may let two ways to make a sum differ, kinks aside: sound steps
# were seen to differ by 3e-6 at most.
SUM_TOLERANCE = 1e-3
# Relative size of a last bit or two, and how often weights and pictures are moved by that much.
LAST_BITS, NUM_MOVED = 2.0**-22, 8
CALL_ROWS, GRAIN = 128, 8


def plain_sum(module: nn.Module, chunks: Sequence[Units], loss: UnitLoss, *, clip: float) -> Sum:
    """Clipped sum of units, each by a backward pass of its own: the auditor's, apart from any engine.

    Args:
        module: What gradients are taken of.
        chunks: Units; padding is left out.
        loss: Loss of one unit.
        clip: C.

    Returns:
        float64, keyed like ``module.named_parameters()``.
    """
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in module.named_parameters()}
    for chunk in chunks:
        for index in range(len(chunk)):
            add(total, _alone(module, chunk, index, loss, clip=clip))
    return total


def nearest_sum(
    module: nn.Module, chunks: Sequence[Units], loss: UnitLoss, *, clip: float, found: Sum
) -> Sum:
    """`plain_sum`, or where ``found`` is off it, the sum under those roundings that come nearest to it.

    Each unit in turn is computed alone, as rows of a call of eight and of all units of its length, in
    float64, and with weights and images moved by a last bit or two; what brings the sum nearer to
    ``found`` is kept. But for a flip all of these are equal to 1e-5, so a unit that is left out, added
    twice or clipped otherwise stays as far off as it was.

    Args:
        module: What gradients are taken of.
        chunks: Units; padding is left out.
        loss: Loss of one unit.
        clip: C.
        found: The sum of an engine.
    """
    own = plain_sum(module, chunks, loss, clip=clip)
    gap = distance(found, own)
    if gap <= SUM_TOLERANCE * clip * max(1, sum(len(one) for one in chunks)):
        return own
    for chunk in chunks:
        for index in range(len(chunk)):
            kept = _alone(module, chunk, index, loss, clip=clip)
            for other in _otherwise(module, chunk, index, loss, clip=clip):
                moved = {name: value - kept[name] + other[name] for name, value in own.items()}
                if distance(found, moved) < gap:
                    own, kept, gap = moved, other, distance(found, moved)
    return own


def add(total: Sum, one: Mapping[str, Tensor]) -> None:
    """Add ``one`` to ``total``, in place."""
    for name, value in one.items():
        total[name] += value


def norm(values: Mapping[str, Tensor]) -> float:
    """L2 norm over all parameters."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in values.values()))


def _clipped(value: Tensor, parameters: Mapping[str, Tensor], *, clip: float) -> Sum:
    """Clipped gradient of one unit's loss; zero where it is not finite."""
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    gradient = {
        name: torch.zeros_like(like, dtype=torch.float64) if one is None else one.double()
        for (name, like), one in zip(parameters.items(), found, strict=True)
    }
    size = norm(gradient)
    if not math.isfinite(size):
        return {name: torch.zeros_like(one) for name, one in gradient.items()}
    factor = min(1.0, clip * (1.0 - MARGIN) / max(size, 1e-30))
    return {name: factor * one for name, one in gradient.items()}


def _alone(module: nn.Module, chunk: Units, index: int, loss: UnitLoss, *, clip: float) -> Sum:
    mask = chunk.mask[index]
    value = loss(module(chunk.images[index][mask]), chunk.teacher[index][mask], mask[mask])
    return _clipped(value, dict(module.named_parameters()), clip=clip)


def _otherwise(module: nn.Module, chunk: Units, index: int, loss: UnitLoss, *, clip: float) -> Iterator[Sum]:
    """The same unit's clipped gradient under other roundings, the likeliest first."""
    mask, parameters = chunk.mask[index], dict(module.named_parameters())
    images, teacher, real = chunk.images[index][mask], chunk.teacher[index][mask], mask[mask]
    rows = len(images)
    copies = images.repeat(max(1, -(-GRAIN // max(1, rows))), *[1] * (images.dim() - 1))
    for call in (copies, _company(chunk, index, images)):
        yield _clipped(loss(module(call)[:rows], teacher, real), parameters, clip=clip)
    wide = copy.deepcopy(module).double()
    value = loss(wide(images.double()).to(images.dtype), teacher, real)
    yield _clipped(value, dict(wide.named_parameters()), clip=clip)
    coins = torch.Generator().manual_seed(index)
    for _ in range(NUM_MOVED):
        moved = {name: _moved(each, each, coins) for name, each in parameters.items()}
        shown = _moved(images, images.abs().amax(), coins)
        yield _clipped(loss(functional_call(module, moved, (shown,)), teacher, real), parameters, clip=clip)


def _company(chunk: Units, index: int, images: Tensor) -> Tensor:
    """The unit's rows before those of the other units of its length, as many as go into a call."""
    length_U = chunk.mask.sum(dim=1)
    others = [
        chunk.images[other][chunk.mask[other]]
        for other in range(len(chunk))
        if other != index and length_U[other] == length_U[index]
    ]
    together = torch.cat([images, *others])[:CALL_ROWS]
    filling = images[:1].expand(-len(together) % GRAIN, *images.shape[1:])
    return torch.cat([together, filling])


def _moved(value: Tensor, scale: Tensor, coins: torch.Generator) -> Tensor:
    """``value`` with noise of a last bit or two of ``scale``."""
    drawn = torch.randn(value.shape, generator=coins).to(value.device, value.dtype)
    return value + LAST_BITS * scale.detach() * drawn
