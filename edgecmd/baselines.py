"""Losses of the methods that contrastive distillation is compared with.

Shapes: B batch, D embedding dimension.
"""

import torch
from torch import Tensor
from torch.nn import functional

from edgecmd.losses import Embeddings, PerExample, unit


def l2(student: Embeddings, teacher: Embeddings) -> PerExample:
    """Squared distance of unit embeddings (supervision transfer, Gupta et al. 2016, at the embedding).

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.

    Returns:
        ``|s_i - t_i|^2``, (B,), between 0 and 4.
    """
    return (unit(student) - unit(teacher.detach())).square().sum(dim=1)


def cosine(student: Embeddings, teacher: Embeddings) -> PerExample:
    """One minus the cosine of student and teacher: feature regression without negatives.

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.

    Returns:
        ``1 - s_i.t_i``, (B,), between 0 and 2; half of `l2`.
    """
    return 1.0 - (unit(student) * unit(teacher.detach())).sum(dim=1)


def nt_xent(first: Embeddings, second: Embeddings, *, temperature: float) -> PerExample:
    """NT-Xent of SimCLR (Chen et al. 2020) over two views of each example.

    Args:
        first: Embeddings of the first views, (B, D).
        second: Embeddings of the second views, (B, D).
        temperature: Divides the similarities.

    Returns:
        Mean of the two views' losses of each example, (B,). An uninformative encoder has ``log(2B - 1)``.
    """
    batch = len(first)
    embedded = unit(torch.cat([first, second]))
    similarity = embedded @ embedded.T / temperature
    similarity = similarity.masked_fill(_diagonal(2 * batch, similarity), float("-inf"))
    partner = torch.arange(2 * batch, device=first.device).roll(batch)
    return functional.cross_entropy(similarity, partner, reduction="none").view(2, batch).mean(dim=0)


def _diagonal(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=torch.bool, device=like.device)
