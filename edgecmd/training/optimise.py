"""The one loop of optimiser steps: students, teachers and classifiers, private or not."""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Progress = Callable[[int, float], None]
# Losses that stay on the device before they are read: to read one waits for all work before it.
UNREAD = 1024
Schedule = Callable[[int], None]
"""Sets the learning rate of a step, from 0, before it is made."""


class Best:
    """The weights with the least held-out loss, and how long ago that was.

    Args:
        model: Trained elsewhere between two looks; its weights before the first step count too.
        held_loss: Loss on what is held out, at the weights that ``model`` then has; None where nothing is.
        every: Steps between two looks.
        patience: Looks without a better one after which to stop.
    """

    def __init__(
        self, model: nn.Module, held_loss: Callable[[], float] | None, *, every: int, patience: int
    ) -> None:
        self.model, self.held_loss, self.every, self.patience = model, held_loss, every, patience
        self.loss, self.weights, self.looks = float("inf"), copy.deepcopy(model.state_dict()), 0
        self.is_over()

    def is_over(self) -> bool:
        """Look at the held-out loss; whether it has not fallen for too long."""
        if self.held_loss is None:
            return False
        loss = self.held_loss()
        self.looks += 1
        if loss < self.loss:
            self.loss, self.weights, self.looks = loss, copy.deepcopy(self.model.state_dict()), 0
        return self.looks >= self.patience

    def restore(self) -> None:
        """Put the best weights back and end training; the weights stay where nothing was held out."""
        if self.held_loss is not None:
            self.model.load_state_dict(self.weights)
        self.model.eval()


def optimise(
    optimizer: torch.optim.Optimizer,
    num_steps: int,
    *,
    gradient: Callable[[int], Tensor | None],
    schedule: Schedule | None = None,
    best: Best | None = None,
    progress: Progress | None = None,
) -> float:
    """Make optimiser steps.

    Args:
        optimizer: Over the parameters that are trained.
        num_steps: Steps; with ``best`` at most.
        gradient: Puts the gradient of a step, from 0, into parameters that have none. Returns the loss, or
            None where it must not be known. Nobody waits for its value.
        schedule: Learning rates; None: the optimiser's own.
        best: When to stop; its best weights are put back.
        progress: Called with (steps done, loss); on a GPU that waits for each step.

    Returns:
        Mean loss over the steps, of those that told one; 0 where none did.
    """
    total, told, unread = 0.0, 0, list[Tensor]()
    for step in range(num_steps):
        if schedule is not None:
            schedule(step)
        optimizer.zero_grad()
        loss = gradient(step)
        optimizer.step()
        if loss is not None:
            unread.append(loss)
            if progress is not None:
                progress(step + 1, float(loss))
        if len(unread) == UNREAD:
            total, told, unread = added(total, unread), told + UNREAD, []
        if best is not None and (step + 1) % best.every == 0 and best.is_over():
            break
    if best is not None:
        best.restore()
    return added(total, unread) / max(1, told + len(unread))


def added(total: float, losses: list[Tensor]) -> float:
    """``total`` and the losses, one after the other in double; they are read from the device at once."""
    for loss in torch.stack(losses).tolist() if losses else []:
        total += loss
    return total


def mean_gradient(loss: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Accumulate the gradient of the mean loss of a batch.

    Returns:
        The mean loss, where the batch is.
    """
    mean = loss.mean()
    mean.backward()  # type: ignore[no-untyped-call]
    return mean.detach()


def one_cycle(optimizer: torch.optim.Optimizer, *, peak: float, num_steps: int) -> Schedule:
    """One cycle of the learning rate, up to ``peak`` and down (Smith and Topin 2018, arXiv 1708.07120)."""
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=num_steps + 1)

    def schedule(step: int) -> None:
        if step:
            cycle.step()

    return schedule
