"""Losses of the methods that contrastive distillation is compared with.

Shapes: B batch, K anchors, D embedding dimension.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgecmd.data.on_device import exact_on
from edgecmd.losses.contrastive import Anchors, Embeddings, PerExample, same_source, unit

# Of the authors' code: SEED's two temperatures, CRD's temperature, SOCKET's two weights.
SEED_TEMPERATURE, SEED_TEACHER_TEMPERATURE = 0.2, 1e-4
CRD_TEMPERATURE = 0.07
SOCKET_STATISTICS, SOCKET_PAIRS = 0.5, 0.5


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

    The teacher is not used, so two targets of one source are negatives of one another, as in the original.

    Returns:
        Mean of the two views' losses of each example, (B,). An uninformative encoder has ``log(2B - 1)``.
    """
    batch = len(first)
    embedded = unit(torch.cat([first, second]))
    similarity = embedded @ embedded.T / temperature
    similarity = similarity.masked_fill(_diagonal(2 * batch, similarity), float("-inf"))
    partner = torch.arange(2 * batch, device=first.device).roll(batch)
    return functional.cross_entropy(similarity, partner, reduction="none").view(2, batch).mean(dim=0)


def seed(
    student: Embeddings,
    teacher: Embeddings,
    anchors: Anchors,
    *,
    temperature: float = SEED_TEMPERATURE,
    teacher_temperature: float = SEED_TEACHER_TEMPERATURE,
) -> PerExample:
    """SEED (Fang et al. 2021, arXiv 2101.04731) with public anchors in place of its queue.

    ``-sum_c softmax_c(t_i.c / teacher_temperature) log softmax_c(s_i.c / temperature)``, ``c`` over the
    teacher's own feature ``t_i`` and the K anchors. It differs from `edgecmd.losses.cmd_anchored` in that
    ``t_i`` stands among what is compared with, and in the temperatures of the authors' code: at 1e-4 the
    teacher's side is all but one-hot on ``t_i``. Adapted: the original's queue holds 65,536 features of past
    batches, which would be private here; the student's embedding has no head of its own. An anchor that
    equals ``t_i`` has its share of the teacher's side, so it is no negative.

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        anchors: Public teacher embeddings, (K, D); constants.
        temperature: Of the student's similarities.
        teacher_temperature: Of the teacher's similarities.

    Returns:
        Loss of each example, (B,). An uninformative student has ``log(K + 1)``.

    Guarantees:
        The loss of a pair depends on no other pair.
    """
    constant, anchor_KD = unit(teacher.detach()), unit(anchors.detach())
    embedded = unit(student)
    own_teacher = constant.square().sum(dim=1, keepdim=True)
    own_student = (embedded * constant).sum(dim=1, keepdim=True)
    teacher_BK = torch.cat([own_teacher, constant @ anchor_KD.T], dim=1) / teacher_temperature
    student_BK = torch.cat([own_student, embedded @ anchor_KD.T], dim=1) / temperature
    return -(functional.softmax(teacher_BK, dim=1) * functional.log_softmax(student_BK, dim=1)).sum(dim=1)


def crd(student: Embeddings, teacher: Embeddings, *, temperature: float = CRD_TEMPERATURE) -> PerExample:
    """CRD (Tian et al. 2020, arXiv 1910.10699) with its noise-contrastive form over the batch.

    With ``h_ij = exp(s_i.t_j / T) / Z``, noise ``P = 1 / B`` and ``K = B - 1`` negatives, example i has
    ``-log[h_ii / (h_ii + K P)] - sum_{j != i} log[K P / (h_ij + K P)]``, and the same with the roles of
    student and teacher exchanged (``h_ji``); the two are added, as in the authors' code.

    Other pairs of the source of i are left out of its sums and of ``Z``; ``K`` and ``P`` stay those of the
    batch.

    Adapted: negatives are the batch's, not 16,384 from two memory banks, which would hold features of all
    private pairs; ``Z``, which the original fixes from its first batch as the number of candidates times
    their mean, is ``B`` times the mean of ``exp(t_i.t_j / T)`` over different i and j, so that it holds no
    state and does not move with the student; the linear layer of each side is left out, because the student
    ends in one.

    Args:
        student: Student embeddings, (B, D), at least two.
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        temperature: Divides the similarities.

    Returns:
        Loss of each example, (B,).
    """
    constant = unit(teacher.detach())
    batch = len(constant)
    own = _diagonal(batch, constant)
    left_out = own | same_source(teacher, teacher)
    # At least one, so that a batch of a single source has a finite norm, which then counts for nothing.
    num_negatives = (batch * batch - left_out.sum()).clamp(min=1)
    log_share = (num_negatives.to(exact_on(constant.device)) / batch).log()
    relation_BB = constant @ constant.T / temperature
    log_relation = relation_BB.masked_fill(torch.where(left_out.all(), own, left_out), float("-inf"))
    log_norm = torch.logsumexp(log_relation.flatten(), dim=0) - log_share.to(relation_BB)
    log_h = unit(student) @ constant.T / temperature - log_norm
    # log(h / (h + KP)) and log(KP / (h + KP)), KP = (B - 1) / B, without leaving the logarithms.
    odds_BB = log_h - math.log((batch - 1) / batch)
    wrong_BB = functional.softplus(odds_BB).masked_fill(left_out, 0.0)
    right_B = functional.softplus(-odds_BB.diagonal())
    return 2.0 * right_B + wrong_BB.sum(dim=1) + wrong_BB.sum(dim=0)


def socket(student: Embeddings, teacher: Embeddings, anchors: Anchors) -> PerExample:
    """The label-free terms of SOCKET (Ahmed et al. 2022, arXiv 2209.04027), at the embedding.

    ``0.5 (|mean(F_B) - mean(U)| + |var(F_B) - var(U)|) + 0.5 |F_A - F_B|_F``: statistics over the batch
    against those of the public anchors ``U``, by dimension, and the Frobenius norm over the batch, neither
    squared nor averaged, as in the authors' code. Features are unit embeddings times ``sqrt(D)``, so that a
    coordinate is of order one, as the input of a normalisation is.

    Adapted: the original takes the statistics at every BatchNorm of a student that starts as the teacher
    (weight 10 for the first); students here have no BatchNorm and another modality, so only the embedding is
    matched. Pseudo-labels and the classifier's entropy are left out, because no class is known.

    Args:
        student: Student embeddings, (B, D), at least two.
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        anchors: Public teacher embeddings, (K, D); constants.

    Returns:
        The loss of the batch, B times, (B,): it is no sum over examples, its mean is the loss.
    """
    size = student.shape[1] ** 0.5
    mine, pairs, public = (size * unit(one) for one in (student, teacher.detach(), anchors.detach()))
    mean = torch.linalg.vector_norm(mine.mean(dim=0) - public.mean(dim=0))
    spread = torch.linalg.vector_norm(mine.var(dim=0, correction=0) - public.var(dim=0, correction=0))
    apart = torch.linalg.vector_norm(pairs - mine)
    loss: Tensor = SOCKET_STATISTICS * (mean + spread) + SOCKET_PAIRS * apart
    return loss.expand(len(student))


def _diagonal(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=torch.bool, device=like.device)
