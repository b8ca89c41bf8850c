"""What other tools release for a batch: real Opacus modules and optimisers, noise off, whatever the loss."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn

from edgecmd.distill import LocalData
from edgecmd.privacy.search import Query, Sample

BatchLoss = Callable[[Tensor, Tensor], Tensor]
"""Losses (B,) of student embeddings (B, D) and teacher features (B, D) of a whole batch."""


@contextmanager
def quiet() -> Iterator[None]:
    """Opacus warns that images need no gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield


def opacus_hooks(student: nn.Module, image: Tensor, loss: Callable[[Tensor], Tensor], clip: float) -> dict:
    """Sum of clipped gradients by GradSampleModule and DPOptimizer."""
    own = copy.deepcopy(student).train()
    with quiet():
        hooked = GradSampleModule(own, batch_first=True, loss_reduction="sum", strict=False)
        optimizer = DPOptimizer(
            torch.optim.SGD(own.parameters(), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=clip,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        loss(hooked(image)).sum().backward()
        optimizer.clip_and_accumulate()
    return {name: value.summed_grad.detach() for name, value in own.named_parameters()}


def opacus_ghost(student: nn.Module, image: Tensor, loss: Callable[[Tensor], Tensor], clip: float) -> dict:
    """Sum of clipped gradients by ghost norms (fast gradient clipping): two backward passes."""
    own = copy.deepcopy(student).train()
    with quiet():
        hooked = GradSampleModuleFastGradientClipping(
            own, batch_first=True, loss_reduction="sum", strict=False, max_grad_norm=clip
        )
        optimizer = DPOptimizerFastGradientClipping(
            torch.optim.SGD(own.parameters(), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=clip,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        DPTensorFastGradientClipping(hooked, optimizer, loss(hooked(image)), "sum").backward()
    return {name: value.grad.detach() for name, value in own.named_parameters()}


MODES = {"hooks": opacus_hooks, "ghost": opacus_ghost}


def naive_query(student: nn.Module, loss: BatchLoss, *, clip: float, mode: str = "hooks") -> Query:
    """Opacus with a loss over the batch, as a question for the search."""

    def answer(data: LocalData, rows: np.ndarray) -> dict[str, Tensor]:
        teacher = data.teacher[rows]
        return MODES[mode](student, data.target[rows], lambda z: loss(z, teacher), clip)

    def query(samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        return [answer(data, rows) for data, rows in samples]

    return query
