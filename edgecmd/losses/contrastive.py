"""The losses of contrastive distillation, each a pure function that returns one value per example.

Formulas after CMCD (Lin et al., arXiv 2405.03355) as far as they are known, see docs/method.md;
the anchored forms replace negatives from the batch by public constants.

Pairs of one source (several sketches of a photograph, a name in several languages) are not negatives of one
another: where the teacher's features are the same, the other pair, or the anchor, is left out of a contrast
(`same_source`). Relations keep it: there it is what the student should come near to.

Shapes: B batch, K anchors, D embedding dimension. All inputs are embeddings of any norm; each
function divides them by their L2 norm. Gradients flow into the student alone.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from edgecmd.data.modalities.signature import SAME_FEATURE
from edgecmd.losses.similarities import Rows, by_rows

Embeddings = Float[Tensor, "batch dim"]
Anchors = Float[Tensor, "anchors dim"]
PerExample = Float[Tensor, " batch"]

LOGIT_TEMPERATURE = 1.0


def unit(features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Divide each feature by its L2 norm; a zero feature stays zero."""
    return functional.normalize(features, dim=-1)


def same_source(teacher: Embeddings, other: Float[Tensor, "others dim"]) -> Bool[Tensor, "batch others"]:
    """Which of ``other`` the teacher cannot tell from its own feature of each pair; never a negative of it.

    Args:
        teacher: Teacher embeddings of the pairs, (B, D).
        other: Teacher embeddings of other pairs, or anchors, (M, D).

    Returns:
        Where the cosine is above ``1 - 1e-6``, (B, M); a zero feature is like none.

    Guarantees:
        Each entry depends on its own two features alone. So with public ``other`` the mask of a pair follows
        from that pair, and a loss per pair stays one: add or remove one pair moves one clipped gradient.
    """
    return unit(teacher.detach()) @ unit(other.detach()).T > SAME_FEATURE


def cmc(student: Embeddings, teacher: Embeddings, *, temperature: float) -> PerExample:
    """Cross-modal contrast with negatives from the batch (eq. 3; the CLIP form with a locked teacher).

    ``(-log softmax_j(s_i.t_j / temperature)[i] - log softmax_j(t_i.s_j / temperature)[i]) / 2``, both
    without the other pairs ``j`` of the same source as i.

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        temperature: Divides the similarities.

    Returns:
        Loss of each example, (B,). An uninformative student has ``log(B)``, and where ``m`` other pairs have
        the source of i ``log(B - m)``.
    """

    def of_rows(rows: Rows) -> PerExample:
        apart, similarity = rows.others_of_source, rows.similarity(temperature)
        to_teacher = functional.log_softmax(similarity.masked_fill(apart, float("-inf")), dim=1)
        if rows.is_whole:
            to_student = functional.log_softmax(similarity.masked_fill(apart, float("-inf")), dim=0)
        else:
            turned = rows.turned(similarity, temperature).masked_fill(apart, float("-inf"))
            to_student = functional.log_softmax(turned, dim=1)
        return (-rows.own(to_teacher) - rows.own(to_student)) / 2

    return by_rows(of_rows, unit(student), unit(teacher.detach()))


def cmd(
    student: Embeddings, teacher: Embeddings, *, temperature: float, teacher_temperature: float
) -> PerExample:
    """Cross-modal distillation of relations within the batch (eq. 2), the diagonal masked.

    ``-sum_{j != i} p_A(j|i) log p_B(j|i)`` with ``p_A ~ exp(t_i.t_j / teacher_temperature)`` and
    ``p_B ~ exp(s_i.s_j / temperature)``, both over ``j != i``: self-similarity would hold nearly
    all of the mass. Invariant to a rotation of the student's space, so it gives no cross-modal
    retrieval on its own.

    Args:
        student: Student embeddings, (B, D), at least two.
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        temperature: Of the student's relations.
        teacher_temperature: Of the teacher's relations.

    Returns:
        Loss of each example, (B,). An uninformative student has ``log(B - 1)``.
    """

    def of_rows(rows: Rows) -> PerExample:
        first = rows.first
        teacher_RO = _relations(rows.teacher, rows.teachers, first=first, temperature=teacher_temperature)
        student_RO = _relations(rows.student, rows.students, first=first, temperature=temperature)
        return -(teacher_RO.exp() * student_RO).sum(dim=1)

    return by_rows(of_rows, unit(student), unit(teacher.detach()))


def log_relations(features: Embeddings, *, temperature: float) -> Float[Tensor, "batch others"]:
    """Log-probability of each other example of the batch, the diagonal left out.

    ``log softmax_{j != i}(z_i.z_j / temperature)``; the relations of `cmd`.

    Args:
        features: Embeddings, (B, D), at least two.
        temperature: Divides the similarities.

    Returns:
        (B, B - 1), the others in their order.
    """
    embedded = unit(features)
    return _relations(embedded, embedded, first=0, temperature=temperature)


def _relations(
    rows: Float[Tensor, "rows dim"], batch: Float[Tensor, "batch dim"], *, first: int, temperature: float
) -> Float[Tensor, "rows others"]:
    """`log_relations` of some rows of the batch, from ``first`` on; features have unit norm."""
    num, size = len(rows), len(batch)
    flat = (rows @ batch.T / temperature).flatten()
    # In a row of all numbers, after its first, every (B + 1)-th is of the diagonal.
    between = flat[first + 1 :][: (num - 1) * (size + 1)].view(num - 1, size + 1)[:, :-1]
    others = torch.cat([flat[:first], between.flatten(), flat[first + 1 + (num - 1) * (size + 1) :]])
    return functional.log_softmax(others.view(num, size - 1), dim=1)


def cmc_anchored(
    student: Embeddings, teacher: Embeddings, anchors: Anchors, *, temperature: float
) -> PerExample:
    """Cross-modal contrast whose negatives are public: no other pair enters the loss of a pair.

    ``-log[e^{s_i.t_i/T} / (e^{s_i.t_i/T} + sum_k e^{s_i.u_k/T})]``, without anchors that the teacher cannot
    tell from ``t_i``.

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        anchors: Public teacher embeddings, (K, D); constants.
        temperature: ``T``.

    Returns:
        Loss of each example, (B,). An uninformative student has ``log(K + 1)``.
    """
    embedded = unit(student)
    positive_B = (embedded * unit(teacher.detach())).sum(dim=1) / temperature
    negative_BK = embedded @ unit(anchors.detach()).T / temperature
    negative_BK = negative_BK.masked_fill(same_source(teacher, anchors), float("-inf"))
    logits = torch.cat([positive_B[:, None], negative_BK], dim=1)
    return -functional.log_softmax(logits, dim=1)[:, 0]


def cmd_anchored(
    student: Embeddings,
    teacher: Embeddings,
    anchors: Anchors,
    *,
    temperature: float,
    teacher_temperature: float,
) -> PerExample:
    """Relations to public anchors instead of to other pairs (the form of SEED, Fang et al. 2021).

    ``-sum_k softmax_k(t_i.u_k / teacher_temperature) log softmax_k(s_i.u_k / temperature)``

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        anchors: Public teacher embeddings, (K, D); constants.
        temperature: Of the student's relations.
        teacher_temperature: Of the teacher's relations.

    Returns:
        Loss of each example, (B,). An uninformative student has ``log(K)``.
    """
    anchor_KD = unit(anchors.detach())
    relation_teacher = functional.softmax(unit(teacher.detach()) @ anchor_KD.T / teacher_temperature, dim=1)
    relation_student = functional.log_softmax(unit(student) @ anchor_KD.T / temperature, dim=1)
    return -(relation_teacher * relation_student).sum(dim=1)


def cmc_groups(
    student: Embeddings, teacher: Embeddings, anchors: Anchors, *, temperature: float
) -> PerExample:
    """Contrast with the other pairs of the batch and with public anchors, from the student's side.

    ``-log[ e^{s_i.t_i/T} / (sum_j e^{s_i.t_j/T} + sum_k e^{s_i.u_k/T}) ]``, without other pairs and anchors
    of the same source as i; under privacy the batch is one bucket: `cmc_bucket`.

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        anchors: Public teacher embeddings, (K, D); constants.
        temperature: ``T``.

    Returns:
        Loss of each example, (B,). An uninformative student has ``log(B + K)``.
    """
    anchors = unit(anchors.detach())

    def of_rows(rows: Rows) -> PerExample:
        logits = rows.student @ torch.cat([rows.teachers, anchors]).T / temperature
        same = torch.cat([rows.others_of_source, rows.teacher @ anchors.T > SAME_FEATURE], dim=1)
        logits = logits.masked_fill(same, float("-inf"))
        return -rows.own(functional.log_softmax(logits, dim=1))

    return by_rows(of_rows, unit(student), unit(teacher.detach()))


def cmc_bucket(
    student: Embeddings,
    teacher: Embeddings,
    mask: Bool[Tensor, " batch"],
    anchors: Anchors,
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over a bucket of the contrast with the bucket's other pairs and all public anchors.

    ``-sum_i log[ e^{s_i.t_i/T} / (sum_{j in bucket} e^{s_i.t_j/T} + sum_k e^{s_i.u_k/T}) ]``

    Without other pairs and anchors of the source of i, as in `cmc_groups`; which these are follows from the
    bucket's own pairs, so that one more pair still changes one bucket alone. The anchors keep a bucket of one
    pair from having no loss at all.

    Args:
        student: Student embeddings of any norm, (R, D).
        teacher: Teacher embeddings of the same pairs, (R, D); constants.
        mask: Which rows are real, (R,).
        anchors: Public teacher embeddings, (K, D); constants.
        temperature: ``T``.
    """
    embedded = unit(student)
    own = embedded @ unit(teacher.detach()).T / temperature
    itself = torch.eye(len(embedded), dtype=torch.bool, device=embedded.device)
    kept = mask[None, :] & (itself | ~same_source(teacher, teacher))
    own = torch.where(kept, own, torch.full_like(own, float("-inf")))
    public = embedded @ unit(anchors.detach()).T / temperature
    public = torch.where(same_source(teacher, anchors), torch.full_like(public, float("-inf")), public)
    log_share = own.diagonal() - torch.logsumexp(torch.cat([own, public], dim=1), dim=1)
    return torch.where(mask, -log_share, torch.zeros_like(log_share)).sum()


def gcl(
    student: Embeddings,
    teacher: Embeddings,
    mask: Bool[Tensor, " batch"],
    *,
    temperature: float,
    whole: bool = False,
) -> PerExample:
    """Contrast within a bucket in both directions, whose rows may be several views of each pair.

    The bounding of DP-GCL (Li et al., arXiv 2604.26467), for a teacher that is frozen: with ``V`` views a
    pair has ``V`` rows, and the other pairs' views are ``V`` times as many negatives of its source,
    ``-log[ e^{t_i.s_i/T} / (e^{t_i.s_i/T} + sum_j e^{t_i.s_j/T}) ]``, ``j`` over the rows of other sources.
    The other direction is from a view to the sources, each of which counts once; the value is the mean of
    both. No anchors. With one view of each pair, and no source twice, it is `cmc` of the bucket.

    Args:
        student: Student embeddings of any norm, (B, D).
        teacher: Teacher embeddings of the rows' pairs, (B, D); constants. Views of one pair have the same.
        mask: Which rows are real, (B,).
        temperature: ``T``.
        whole: Hold the table whole whatever its size, as gradients of `torch.func` want it.

    Returns:
        Loss of each row, (B,); 0 outside of the mask, and for rows of the only source.
    """
    embedded, constant = unit(student), unit(teacher.detach())
    with torch.no_grad():
        rows_B = by_rows(lambda rows: (rows.same_source & mask).sum(dim=1), constant, constant, whole=whole)
    # Rows of a source that has m of them weigh 1 / m each, but the row's own.
    weight_B = rows_B.clamp(min=1).to(embedded.dtype).log()

    def of_rows(rows: Rows) -> PerExample:
        similarity, itself = rows.similarity(temperature), rows.itself
        kept = itself | (mask[None, :] & ~rows.same_source)
        weight = torch.where(itself, 0.0, weight_B[None, :])
        away = torch.full_like(similarity, float("-inf"))
        to_source = torch.where(kept, similarity - weight, away)
        to_view = torch.where(kept, rows.turned(similarity, temperature), away)
        both = torch.logsumexp(to_source, dim=1) + torch.logsumexp(to_view, dim=1)
        return both / 2 - rows.own(similarity)

    each = by_rows(of_rows, embedded, constant, whole=whole)
    return torch.where(mask, each, torch.zeros_like(each))


def cmc_logits(student: Embeddings, teacher: Embeddings, mask: Bool[Tensor, " batch"]) -> PerExample:
    """Contrast from the student's side whose similarities are clipped one by one (Logit-DP).

    After arXiv 2310.03104. ``-log softmax_j(s_i.t_j / T)[i]`` at the fixed temperature
    `LOGIT_TEMPERATURE`, on which the sensitivity depends. Other pairs of the source of i stay negatives: to
    leave them out would void the bound (`edgecmd.privacy.step.logit_engine`).

    Args:
        student: Student embeddings of any norm, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        mask: Which rows are real, (B,).

    Returns:
        Loss of each example, (B,); 0 outside of the mask.
    """

    def of_rows(rows: Rows) -> PerExample:
        kept = mask[None, :] | rows.itself
        similarity = rows.similarity(LOGIT_TEMPERATURE).masked_fill(~kept, float("-inf"))
        return rows.own(functional.log_softmax(similarity, dim=1))

    log_share = by_rows(of_rows, unit(student), unit(teacher.detach()))
    return torch.where(mask, -log_share, torch.zeros_like(log_share))
