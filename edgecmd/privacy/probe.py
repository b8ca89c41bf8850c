"""Purity probe: does what is computed for one pair depend on another? Found by behaviour, not by type.

One row of a batch is poisoned with NaN. Whatever mixes rows (batch normalisation in any form, centring
by the batch mean, in-batch negatives) carries the NaN, or its rounding, into another row.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgecmd.errors import PrivacyError
from edgecmd.privacy.mechanisms import UnitLoss

PROBE_ROWS = 5
PROBE_SEED = 20_053


def impure_rows(function: Callable[..., Tensor], *tensors: Tensor) -> list[int]:
    """Rows whose poisoning changes another row's result.

    Args:
        function: Maps tensors with equal first dimension to one with that first dimension.
        tensors: Inputs, at least two rows.

    Returns:
        Poisoned rows that leaked; empty where each result depends on its own row alone.
    """
    with torch.no_grad():
        clean, leaking = function(*tensors), []
        for row in range(len(tensors[0])):
            poisoned = [tensor.clone() for tensor in tensors]
            for tensor in poisoned:
                tensor[row] = float("nan")
            found = function(*poisoned)
            others = torch.arange(len(clean)) != row
            if not torch.equal(found[others], clean[others]):
                leaking.append(row)
    return leaking


def require_pure(student: nn.Module, *, in_channels: int, image_size: int) -> None:
    """Refuse a student whose output for one image depends on other images, present or past.

    Args:
        student: Encoder; left as it was: parameters, buffers, mode.
        in_channels: Channels of its input.
        image_size: Side of its input.

    Raises:
        PrivacyError: It mixes the rows of a batch, keeps statistics, or remembers earlier batches.
    """
    before = {name: value.clone() for name, value in student.state_dict().items()}
    modes = {module: module.training for module in student.modules()}
    first = next(student.parameters())
    coins = torch.Generator().manual_seed(PROBE_SEED)
    shape = (PROBE_ROWS, in_channels, image_size, image_size)
    image, other = (torch.rand(shape, generator=coins).to(first) for _ in range(2))
    try:
        student.train()
        _refuse_mixing(student, image)
        _refuse_memory(student, image, other, before)
    finally:
        student.load_state_dict(before)
        for module, mode in modes.items():
            module.training = mode


def _same_coins(student: nn.Module, image: Tensor) -> Tensor:
    """Output under the same global random numbers, so that dropout is the same twice."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(PROBE_SEED)
        output: Tensor = student(image)
    return output


def _refuse_mixing(student: nn.Module, image: Tensor) -> None:
    leaking = impure_rows(lambda rows: _same_coins(student, rows), image)
    if leaking:
        raise PrivacyError(
            f"The student {type(student).__name__} mixes the pairs of a batch: a change of image {leaking[0]}"
            " changes the output for others, as batch normalisation in any form and centring by the mean do."
            " No clip per pair bounds that. Use GroupNorm, weight standardisation (ws-*, gn-*) or"
            " privacy.mechanism='client'."
        )


def _refuse_memory(student: nn.Module, image: Tensor, other: Tensor, before: dict[str, Tensor]) -> None:
    with torch.no_grad():
        clean = _same_coins(student, image)
        _same_coins(student, other)
        again = _same_coins(student, image)
    changed = [name for name, value in student.state_dict().items() if not torch.equal(value, before[name])]
    if changed or not torch.equal(clean, again):
        what = f"changes its buffer {changed[0]!r}" if changed else "answers differently the second time"
        raise PrivacyError(
            f"The student {type(student).__name__} remembers earlier batches: it {what} in a forward pass."
            " Statistics and queues of private pairs are released without noise. Use a student without them."
        )


def require_pure_loss(loss: UnitLoss, *, embedding_dim: int) -> None:
    """Refuse a loss that remembers what it saw (a queue, a memory bank, a running centre).

    Args:
        loss: Loss of one unit.
        embedding_dim: Dimension of the embeddings.

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
            "The loss remembers earlier pairs (a queue, a memory bank, a running centre): a pair would act in"
            " steps that did not sample it. Use a loss of the pair and of public anchors."
        )
