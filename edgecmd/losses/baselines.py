"""Losses of the methods that contrastive distillation is compared with.

Shapes: B batch, K anchors, D embedding dimension.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from edgecmd.data.modalities.signature import SAME_FEATURE
from edgecmd.data.on_device import exact_on
from edgecmd.losses.contrastive import Anchors, Embeddings, PerExample, unit
from edgecmd.losses.similarities import Rows, by_rows

# Of the authors' code: SEED's two temperatures, CRD's temperature, SOCKET's two weights, DARK's weight off
# the diagonal at both ends of a run, CLIP-RD's weight of the features.
SEED_TEMPERATURE, SEED_TEACHER_TEMPERATURE = 0.2, 1e-4
CRD_TEMPERATURE = 0.07
SOCKET_STATISTICS, SOCKET_PAIRS = 0.5, 0.5
DARK_FIRST, DARK_LAST = 2.0, -0.8
CLIP_RD_FEATURES = 2000.0


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
    partner = torch.arange(2 * batch, device=first.device).roll(batch)

    def of_rows(rows: Rows) -> PerExample:
        similarity = (rows.student @ rows.students.T / temperature).masked_fill(rows.itself, float("-inf"))
        wanted = partner[rows.first : rows.first + len(similarity)]
        return functional.cross_entropy(similarity, wanted, reduction="none")

    return by_rows(of_rows, embedded, embedded).view(2, batch).mean(dim=0)


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
    ``t_i`` is among what is compared with, and in the temperatures of the authors' code: at 1e-4 the
    teacher's side is all but one-hot on ``t_i``. Adapted: the original's queue holds 65,536 features of past
    batches, which would be private here; the student's embedding has no head of its own. An anchor that
    equals ``t_i`` has its share of the teacher's side, so it is not a negative.

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
    log_norm = _log_norm(constant, temperature=temperature)

    def of_rows(rows: Rows) -> PerExample:
        left_out, similarity = rows.itself | rows.same_source, rows.similarity(temperature)

        # log(h / (h + KP)) and log(KP / (h + KP)), KP = (B - 1) / B, without leaving the logarithms.
        def odds(of_table: Tensor) -> Tensor:
            return of_table - log_norm - math.log((batch - 1) / batch)

        right_B = functional.softplus(-rows.own(odds(similarity)))
        wrong = functional.softplus(odds(similarity)).masked_fill(left_out, 0.0)
        if rows.is_whole:
            return 2.0 * right_B + wrong.sum(dim=1) + wrong.sum(dim=0)
        turned = functional.softplus(odds(rows.turned(similarity, temperature))).masked_fill(left_out, 0.0)
        return 2.0 * right_B + wrong.sum(dim=1) + turned.sum(dim=1)

    return by_rows(of_rows, unit(student), constant)


@torch.no_grad()
def _log_norm(constant: Embeddings, *, temperature: float) -> Tensor:
    """Logarithm of ``Z`` of `crd`."""
    batch = len(constant)
    num_left_out = by_rows(
        lambda rows: (rows.itself | rows.same_source).sum()[None], constant, constant
    ).sum()
    # At least one, so that a batch of a single source has a finite norm, which then counts for nothing.
    num_negatives = (batch * batch - num_left_out).clamp(min=1)
    log_share = (num_negatives.to(exact_on(constant.device)) / batch).log()
    alone = num_left_out == batch * batch

    def of_rows(rows: Rows) -> Tensor:
        left_out = torch.where(alone, rows.itself, rows.itself | rows.same_source)
        relation = rows.similarity(temperature).masked_fill(left_out, float("-inf"))
        return torch.logsumexp(relation.flatten(), dim=0)[None]

    return torch.logsumexp(by_rows(of_rows, constant, constant), dim=0) - log_share.to(constant)


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
        The loss of the batch, B times, (B,): it is not a sum over examples, its mean is the loss.
    """
    size = student.shape[1] ** 0.5
    mine, pairs, public = (size * unit(one) for one in (student, teacher.detach(), anchors.detach()))
    mean = torch.linalg.vector_norm(mine.mean(dim=0) - public.mean(dim=0))
    spread = torch.linalg.vector_norm(mine.var(dim=0, correction=0) - public.var(dim=0, correction=0))
    apart = torch.linalg.vector_norm(pairs - mine)
    loss: Tensor = SOCKET_STATISTICS * (mean + spread) + SOCKET_PAIRS * apart
    return loss.expand(len(student))


def dark(
    student: Embeddings,
    teacher: Embeddings,
    *,
    temperature: float,
    teacher_temperature: float,
    off_diagonal: float,
) -> PerExample:
    """DARK (Saeed et al. 2026, arXiv 2603.05421): the teacher's relations, imitated first and repelled later.

    `edgecmd.losses.cmc`, and the cross-entropy of the teacher's relations in two parts: with
    ``p(j) = softmax_j(t_i.t_j / teacher_temperature)`` and ``q(j) = softmax_j(s_i.t_j / temperature)``
    example i adds ``-p(i) log q(i) - off_diagonal * sum_{j != i} p(j) log q(j)``, and the same with
    ``softmax_j(t_i.s_j / temperature)`` for ``q``, half each. In the authors' code ``off_diagonal`` falls in
    a straight line over the run, from 2 to -0.8.

    Adapted: the original has two encoders of the student and two of the teacher. Here the source's encoder is
    the frozen teacher for both, and no teacher sees a target, so ``t_i`` stands for its feature there. Other
    pairs of the source of i are left out of ``p`` and ``q``: they would be repelled in the end.

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        temperature: Of the student's similarities.
        teacher_temperature: Of the teacher's relations.
        off_diagonal: Weight of the relations to other pairs.

    Returns:
        Loss of each example, (B,); with a negative weight it may be below zero.
    """

    def of_rows(rows: Rows) -> PerExample:
        contrast_B, _ = _contrast(rows, temperature=temperature)
        temperatures = {"temperature": temperature, "teacher_temperature": teacher_temperature}
        relation, _ = _cross_entropies(rows, **temperatures)
        others_B = relation.masked_fill(rows.itself, 0.0).sum(dim=1)
        return contrast_B + rows.own(relation) + off_diagonal * others_B

    return by_rows(of_rows, student, unit(teacher.detach()))


def clip_rd(
    student: Embeddings, teacher: Embeddings, *, temperature: float, teacher_temperature: float
) -> PerExample:
    """CLIP-RD (Chung et al. 2026, arXiv 2603.25383) with the weights of its authors' script.

    ``2 C_i + r_i / 2 + 2000 |s_i - t_i|^2 / D + R_i(teacher_temperature) + 1.5 R_i(temperature)``: ``C`` is
    `edgecmd.losses.cmc`, ``r`` its half from the student's side, and ``R_i(T)`` is the divergence
    ``KL(p || q)`` of ``p(j) = softmax_j(t_i.t_j / T)`` and ``q(j) = softmax_j(s_i.t_j / temperature)``, and
    of ``p`` and ``softmax_j(t_i.s_j / temperature)``, half each.

    Adapted: the original has two encoders of the student and two of the teacher. Here the source's encoder is
    the frozen teacher for both, and no teacher sees a target, so ``t_i`` stands for its feature there. Then
    its horizontal (1), vertical (1) and cross relations (1/2: the other half has no gradient) are all ``R``;
    task and vertical contrast are both ``C``, and of the interactive one ``r / 2`` is left. Temperatures are
    numbers here, and learnt there. Other pairs of the source of i are left out.

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        temperature: Of the student's similarities.
        teacher_temperature: Of the teacher's relations that the horizontal ones are held against.

    Returns:
        Loss of each example, (B,).
    """

    def divergence(rows: Rows, of_teacher: float) -> PerExample:
        relation, entropy = _cross_entropies(rows, temperature=temperature, teacher_temperature=of_teacher)
        return (relation - entropy).sum(dim=1)

    def of_rows(rows: Rows) -> PerExample:
        contrast_B, from_student_B = _contrast(rows, temperature=temperature)
        features_B = (
            CLIP_RD_FEATURES / student.shape[1] * (unit(rows.student) - rows.teacher).square().sum(dim=1)
        )
        relations_B = divergence(rows, teacher_temperature) + 1.5 * divergence(rows, temperature)
        return 2.0 * contrast_B + 0.5 * from_student_B + features_B + relations_B

    return by_rows(of_rows, student, unit(teacher.detach()))


def fd_cmkd(student: Embeddings, teacher: Embeddings) -> PerExample:
    """FD-CMKD (Liu et al. 2025, arXiv 2511.19887) without labels: low frequencies match, high ones roughly.

    With ``l`` and ``h`` the lower and the upper half of the frequencies along the feature, without the
    constant one, each divided by its norm, and ``g(x) = sign(x) log(1 + |x|)``, example i has
    ``(|l(s_i) - l(t_i)|^2 + |g(h(s_i)) - g(h(t_i))|^2) / D``, as in the authors' code.

    Left out are the cross-entropies with labels, of the task and of the classifiers that both modalities
    share. The order of a feature's numbers decides what is a frequency; nothing here gives it a meaning.

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.

    Returns:
        Loss of each example, (B,).

    Guarantees:
        The loss of a pair depends on no other pair.
    """
    low, high = _bands(student)
    low_teacher, high_teacher = _bands(teacher.detach())
    rough = _compressed(high) - _compressed(high_teacher)
    return ((low - low_teacher).square() + rough.square()).mean(dim=1)


def _bands(features: Embeddings) -> tuple[Embeddings, Embeddings]:
    """The lower and the upper half of the frequencies of each feature, each of unit norm, (B, D)."""
    size = features.shape[1]
    # Not every device transforms numbers of 16 bits.
    spectrum = torch.fft.rfft(features.to(torch.promote_types(features.dtype, torch.float32)), dim=1)
    place, cut = torch.arange(spectrum.shape[1], device=features.device), max(1, size // 4)
    bands = ((place >= 1) & (place <= cut), place > cut)
    low, high = (unit(torch.fft.irfft(spectrum * band, n=size, dim=1)) for band in bands)
    return low, high


def _compressed(values: Tensor) -> Tensor:
    return values.sign() * values.abs().log1p()


def _log_shares(rows: Rows, *, temperature: float) -> tuple[Tensor, Tensor]:
    """``log softmax_j`` of ``s_i.t_j`` and of ``t_i.s_j``, (R, B); zero for other pairs of a source."""
    apart, similarity = _others_of_source(rows), rows.similarity(temperature)
    from_student, from_teacher = (
        functional.log_softmax(one.masked_fill(apart, -math.inf), dim=1).masked_fill(apart, 0.0)
        for one in (similarity, rows.turned(similarity, temperature))
    )
    return from_student, from_teacher


def _unit_rows(rows: Rows) -> Rows:
    """With the student's features of unit norm; each use divides anew, so that gradients add up after it."""
    return replace(rows, student=unit(rows.student), students=unit(rows.students))


def _contrast(rows: Rows, *, temperature: float) -> tuple[PerExample, PerExample]:
    """`edgecmd.losses.cmc`, and its half from the student's side, (R,) each."""
    from_student, from_teacher = _log_shares(_unit_rows(rows), temperature=temperature)
    own = -rows.own(from_student)
    return (own - rows.own(from_teacher)) / 2, own


def _cross_entropies(rows: Rows, *, temperature: float, teacher_temperature: float) -> tuple[Tensor, Tensor]:
    """``-p(j) log q(j)``, mean over both directions of ``q``, and ``-p(j) log p(j)``, (R, B) each."""
    of_teacher = replace(rows, student=rows.teacher, students=rows.teachers)
    relation, _ = _log_shares(of_teacher, temperature=teacher_temperature)
    p = relation.exp().masked_fill(_others_of_source(rows), 0.0)
    from_student, from_teacher = _log_shares(_unit_rows(rows), temperature=temperature)
    return -p * (from_student + from_teacher) / 2, torch.special.entr(p)


def _others_of_source(rows: Rows) -> Tensor:
    """Which other pairs have the source of each pair, (R, B); symmetric also where rounding is not."""
    turned = (rows.teachers @ rows.teacher.T > SAME_FEATURE).T
    return (rows.same_source | turned) & ~rows.itself
