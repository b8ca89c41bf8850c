"""Purity probe: does what is computed for one pair depend on another? Found by behaviour, not by type.

One row of a batch is poisoned, with NaN, a huge number and another image. Whatever mixes rows (batch
normalisation in any form, centring by the batch mean, negatives from the batch) carries the poison,
or its rounding, into another row. What remembers (queues, running statistics, counters) answers the
same batch differently later. A list of forbidden layer types would miss what it does not name:
Opacus accepts ``BatchNorm2d(affine=False)`` and ``x - x.mean(0)``.

Shapes: B batch, C channels, H height, W width, D embedding dimension.
"""

import copy
from collections import deque
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from edgecmd.core.errors import PrivacyError
from edgecmd.core.own_code import RAISED
from edgecmd.core.text import one_line
from edgecmd.losses import Loss
from edgecmd.losses.check import PROBE_DIM, PROBE_ROWS, PROBE_SEED, impure_rows
from edgecmd.models.base import noise_for
from edgecmd.models.trial import running_student
from edgecmd.privacy.step.units import UnitLoss, unit_loss

# Kernels for other batch sizes round otherwise; mixing at this level is what a clip's margin absorbs.
SIZE_TOLERANCE = 1e-3
WAY_OUT = (
    "Use a student of the ws-* or gn-* families (GroupNorm, LayerNorm), set student.batch_norm to 'freeze'"
    " or 'group' for your own network, or use privacy.mechanism='client'."
)


def require_pure(student: nn.Module, *, in_channels: int, image_size: int | tuple[int, int]) -> None:
    """Refuse a student whose output for one image depends on other images, present or past.

    Args:
        student: Encoder; a copy of it on the CPU is probed, so nothing of it changes.
        in_channels: C.
        image_size: H and W, one number where they are equal.

    Raises:
        PrivacyError: It mixes the rows of a batch, depends on their number or place, keeps statistics
            or other tensors of what it saw, or does not answer the same twice.

    Guarantees:
        Passes students whose layers act on each image alone; dropout counts as such. Parameters,
        buffers, mode and torch's global random state are as before.
    """
    probed = copy.deepcopy(student).cpu()
    kind = next((value.dtype for value in student.parameters()), torch.float32)
    coins = torch.Generator().manual_seed(PROBE_SEED)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    shape = (PROBE_ROWS, in_channels, *size)
    image, other = (noise_for(student, shape, generator=coins).to(kind) for _ in range(2))
    probed.train()
    _refuse_forgetful(probed, image, other)
    _refuse_mixing(probed, image)
    _refuse_statistics(probed, image, other)
    _refuse_counting(probed, image)


def _answer(student: nn.Module, image: Tensor) -> Tensor:
    """Output under the same global random numbers each time, so that dropout drops the same."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), running_student(student):
        torch.default_generator.manual_seed(PROBE_SEED)
        output: Tensor = student(image)
    return output


def _refuse(student: nn.Module, what: str) -> PrivacyError:
    return PrivacyError(f"The student {type(student).__name__} {what} {WAY_OUT}", code="mixes-pairs")


def _refuse_forgetful(student: nn.Module, image: Tensor, other: Tensor) -> None:
    """Refuse a student whose answer depends on what it was asked before (a queue, a counter)."""
    first = _answer(student, image)
    if not bool(torch.isfinite(first).all()):
        raise _refuse(student, "answers an ordinary image with a number that is not finite.")
    _answer(student, other)
    if not torch.equal(first, _answer(student, image)):
        raise _refuse(
            student,
            "answers the same images differently after other images: it remembers earlier batches (a queue,"
            " a running statistic, a counter), so a pair would affect steps that did not sample it.",
        )


def _refuse_mixing(student: nn.Module, image: Tensor) -> None:
    leaking = impure_rows(lambda rows: _answer(student, rows), image)
    if leaking:
        raise _refuse(
            student,
            f"mixes the pairs of a batch: changing image {leaking[0]} changes the output for others (batch"
            " normalisation in any form and centring by the batch mean do so). Clipping per pair does not"
            " bound that.",
        )


def _refuse_counting(student: nn.Module, image: Tensor) -> None:
    """Refuse a student whose answer depends on the number or the place of the rows; dropout is off here."""
    modes = [module.training for module in student.modules()]
    student.eval()
    whole, part = _answer(student, image), _answer(student, image[1:])
    for module, mode in zip(student.modules(), modes):
        module.training = mode
    if not torch.allclose(
        whole[1:], part, rtol=SIZE_TOLERANCE, atol=SIZE_TOLERANCE * float(whole.abs().max())
    ):
        raise _refuse(
            student,
            "answers an image differently in a batch of another size or at another position, so one more"
            " pair changes what is computed for all others.",
        )


def _refuse_statistics(student: nn.Module, image: Tensor, other: Tensor) -> None:
    """Refuse a student in which a forward pass leaves something behind."""
    _answer(student, image)
    before = {name: value.clone() for name, value in _kept_tensors(student)}
    _answer(student, other)
    after = dict(_kept_tensors(student))
    changed = sorted(
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not torch.equal(before[name], after[name])
    )
    if changed:
        raise _refuse(
            student,
            f"changes {changed[0]!r} in a forward pass: what it keeps of private pairs would be released"
            " without noise.",
        )


def _kept_tensors(student: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that the student holds: parameters, buffers, and those in plain attributes."""
    yield from chain(student.named_parameters(), student.named_buffers())
    for name, module in student.named_modules():
        for attribute, value in vars(module).items():
            if not attribute.startswith("_"):
                yield from _tensors(f"{name}.{attribute}".lstrip("."), value)


def _tensors(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(f"{name}[{key!r}]", item)
    elif isinstance(value, list | tuple | set | deque):
        for index, item in enumerate(value):
            yield from _tensors(f"{name}[{index}]", item)


def require_pure_loss(loss: UnitLoss, *, embedding_dim: int) -> None:
    """Refuse a loss of a unit that remembers what it saw (a queue, a memory bank, a running centre).

    A loss of one unit cannot mix units: no other unit is in its scope. It can remember them.

    Args:
        loss: Loss of one unit; asked three times.
        embedding_dim: D.

    Raises:
        PrivacyError: Its value for the same unit changes after another was seen.
    """
    coins = torch.Generator().manual_seed(PROBE_SEED)
    rows, others = (torch.randn(2, 2, embedding_dim, generator=coins) for _ in range(2))
    mask = torch.ones(2, dtype=torch.bool)
    with torch.no_grad():
        clean = loss(rows[0], rows[1], mask)
        loss(others[0], others[1], mask)
        again = loss(rows[0], rows[1], mask)
    if not torch.equal(clean, again):
        raise PrivacyError(
            "The loss remembers earlier pairs (a queue, a memory bank or a running centre): a pair would"
            " affect steps that did not sample it. Use a loss of the pair and public anchors only.",
            code="mixes-pairs",
        )


def require_private_loss(loss: Loss, *, called: str, engine: str) -> None:
    """Refuse a user's own loss whose failure could reveal a pair, or that has memory.

    What it does to other pairs was measured by `edgecmd.losses.check_loss`.

    Args:
        loss: One that a mechanism takes.
        called: What settings name it by.
        engine: A key of `edgecmd.privacy.step.gradients.ENGINES`.

    Raises:
        PrivacyError: The engine runs it as plain Python, it cannot be traced, or it remembers.

    Guarantees:
        Under ``torch.func.vmap`` no value of a tensor reaches Python: there is no branch on one, and no error
        because of one. So whether a step fails is the same for all pairs.
    """
    if engine == "loop":
        raise PrivacyError(
            f"privacy.engine='loop' runs distill.loss={called!r}, your own code, on one pair after another,"
            " so that the values of one pair could decide whether a step fails. Use privacy.engine='vmap'."
        )
    coins = torch.Generator().manual_seed(PROBE_SEED)
    student, teacher, anchors = (torch.randn(PROBE_ROWS, 2, PROBE_DIM, generator=coins) for _ in range(3))
    mask, of_unit = torch.ones(PROBE_ROWS, 2, dtype=torch.bool), unit_loss(loss, anchors[:, 0])
    try:
        torch.func.vmap(torch.func.grad(lambda *unit: of_unit(*unit)))(student, teacher, mask)
    except RAISED as error:
        raise PrivacyError(
            f"distill.loss={called!r} cannot be run by torch.func.vmap: {type(error).__name__}:"
            f" {one_line(str(error))}. Under privacy a loss must be pure tensor arithmetic: no if on a"
            " value, no .item(), no .numpy()."
        ) from error
    require_pure_loss(of_unit, embedding_dim=PROBE_DIM)
