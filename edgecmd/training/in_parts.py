"""A batch that goes through the student in parts, so that memory does not grow with it.

What a part's layers hold is thrown away once its embeddings are there, and computed again, part by part,
when the gradient of the whole batch's loss arrives (Chen et al. 2016, arXiv 1604.06174; Gao et al.
2021, arXiv 2101.06983). The loss still sees all embeddings, so its negatives are those of the batch.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edgecmd.core.errors import ConfigError
from edgecmd.models.batch_norm import norms_of
from edgecmd.models.devices import forward


def through(student: nn.Module, image: Tensor, *, precision: str, rows_at_once: int) -> Tensor:
    """What a student gives in training, `edgecmd.models.devices.forward`, ``rows_at_once`` rows at a time.

    Args:
        student: In training; its layers treat a row by itself.
        image: Its inputs, (B, C, H, W).
        precision: As in `edgecmd.models.devices.forward`.
        rows_at_once: Most rows of a part; 0 for all at once.

    Raises:
        ConfigError: The student averages over a batch, of which parts have other means.

    Guarantees:
        The same numbers and gradients as all at once but for the last digits of sums, for about a third more
        time. Dropout draws for parts, so it drops others.
    """
    if not 0 < rows_at_once < len(image):
        return forward(student, image, precision)
    if any(norm.training for _, norm in norms_of(student)):
        raise ConfigError(
            f"distill.rows_at_once={rows_at_once}: this student's batch normalisation averages over the rows"
            " of a batch, and parts have other averages. Set student.batch_norm to freeze, fold or group, or"
            " distill.rows_at_once=0."
        )
    parts = [
        checkpoint(forward, student, part, precision, use_reentrant=False)
        for part in torch.split(image, rows_at_once)
    ]
    return torch.cat(parts)
