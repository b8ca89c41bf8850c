"""What other tools release for a batch: real Opacus modules and optimisers, noise off, whatever the loss.

Opacus clips the gradient of each row of a batch and accounts for a sensitivity of C. It cannot know
whether the loss of a row depends on other rows; where it does, the clip bounds nothing. This is the
released sum itself, made by Opacus' own code, so that a search can measure how far a pair moves it.

Shapes: B batch, C channels, H height, W width, D embedding dimension.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgecmd.audits.static.search import Query, Sample
from edgecmd.core.errors import choose
from edgecmd.privacy.step.opacus_engine import plain_layout, row_major
from edgecmd.training.distill import LocalData

BatchLoss = Callable[[Tensor, Tensor], Tensor]
"""Losses (B,) of student embeddings (B, D) and teacher features (B, D) of a whole batch."""
RowLosses = Callable[[Tensor], Tensor]
"""Losses of the embeddings of all rows that were forwarded."""
NaiveSum = dict[str, Tensor]
Images = Float[Tensor, "batch channels height width"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Opacus warns that images need no gradient; it is meant so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield


def opacus_hooks(student: nn.Module, image: Images, loss: RowLosses, *, clip: float) -> NaiveSum:
    """Sum of clipped gradients by ``GradSampleModule`` and ``DPOptimizer``.

    Args:
        student: Encoder; a copy of it in the mode of training is asked.
        image: Scaled images, (B, C, H, W).
        loss: Losses of the B embeddings; their sum is what Opacus differentiates.
        clip: C.

    Returns:
        For each parameter, its shape: what noise would be added to.
    """
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    own = plain_layout(student).train()
    with _quiet():
        hooked = GradSampleModule(own, batch_first=True, loss_reduction="sum", strict=False)
        optimizer = DPOptimizer(_sgd(own), **_options(clip))
        loss(hooked(row_major(image))).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.clip_and_accumulate()
    return _found(own, "summed_grad")


def opacus_ghost(student: nn.Module, image: Images, loss: RowLosses, *, clip: float) -> NaiveSum:
    """Sum of clipped gradients by ghost norms (fast gradient clipping): two backward passes.

    Args:
        student: Encoder; a copy of it in the mode of training is asked.
        image: Scaled images, (B, C, H, W).
        loss: One loss for each of the B embeddings, (B,).
        clip: C.

    Returns:
        For each parameter, its shape.
    """
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    own = plain_layout(student).train()
    with _quiet():
        hooked = GradSampleModuleFastGradientClipping(
            own, batch_first=True, loss_reduction="sum", strict=False, max_grad_norm=clip
        )
        optimizer = DPOptimizerFastGradientClipping(_sgd(own), **_options(clip))
        DPTensorFastGradientClipping(hooked, optimizer, loss(hooked(row_major(image))), "sum").backward()
    return _found(own, "grad")


def _sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=1.0)


def _options(clip: float) -> dict[str, object]:
    return {
        "noise_multiplier": 0.0,
        "max_grad_norm": clip,
        "expected_batch_size": None,
        "loss_reduction": "sum",
    }


def _found(module: nn.Module, attribute: str) -> NaiveSum:
    """What Opacus left on each parameter; zeros where it left nothing."""
    sums = {}
    for name, value in module.named_parameters():
        found = getattr(value, attribute, None)
        sums[name] = torch.zeros_like(value) if found is None else found.detach()
    return sums


MODES: dict[str, Callable[..., NaiveSum]] = {"hooks": opacus_hooks, "ghost": opacus_ghost}


def naive_query(student: nn.Module, loss: BatchLoss, *, clip: int | float, mode: str = "hooks") -> Query:
    """Opacus with a loss over the batch, as a question for `edgecmd.audits.static.search.search_sensitivity`.

    Args:
        student: Encoder; not changed.
        loss: Losses (B,) of a whole batch; it may look at all of it.
        clip: C.
        mode: A key of `MODES`.

    Raises:
        ConfigError: The mode is unknown.
    """
    release = choose("mode", mode, MODES)

    def answer(data: LocalData, rows: np.ndarray) -> NaiveSum:
        if not len(rows):
            return {name: torch.zeros_like(value) for name, value in student.named_parameters()}
        teacher = data.teacher[rows]
        return release(student, data.target[rows], lambda z: loss(z, teacher), clip=float(clip))

    def query(samples: Sequence[Sample]) -> list[NaiveSum]:
        return [answer(data, rows) for data, rows in samples]

    return query
