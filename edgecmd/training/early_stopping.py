"""The best weights by the loss on held-out labels, and when to stop looking for better ones."""

import copy
from collections.abc import Callable

from torch import nn


class Best:
    """The weights with the least held-out loss, and how long ago that was.

    Args:
        model: Trained elsewhere between two looks; its weights before the first step count too.
        held_loss: Loss on what is held out, at the weights that ``model`` then has; None where nothing is.
        patience: Looks without a better one after which to stop.
    """

    def __init__(self, model: nn.Module, held_loss: Callable[[], float] | None, *, patience: int) -> None:
        self.model, self.held_loss, self.patience = model, held_loss, patience
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
