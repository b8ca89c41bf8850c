"""The losses of contrastive distillation, each a pure function that returns one value per example.

Formulas after CMCD (Lin et al., arXiv 2405.03355) as far as they are known, see docs/method.md;
the anchored forms replace negatives from the batch by public constants.

Shapes: B batch, K anchors, D embedding dimension. All inputs are embeddings of any norm; each
function divides them by their L2 norm. Gradients flow into the student alone.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Embeddings = Float[Tensor, "batch dim"]
Anchors = Float[Tensor, "anchors dim"]
PerExample = Float[Tensor, " batch"]


def unit(features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Divide each feature by its L2 norm; a zero feature stays zero."""
    return functional.normalize(features, dim=-1)


def cmc(student: Embeddings, teacher: Embeddings, *, temperature: float) -> PerExample:
    """Cross-modal contrast with negatives from the batch (eq. 3; the CLIP form with a locked teacher).

    ``(-log softmax_j(s_i.t_j / temperature)[i] - log softmax_j(t_i.s_j / temperature)[i]) / 2``

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        temperature: Divides the similarities.

    Returns:
        Loss of each example, (B,). An uninformative student has ``log(B)``.
    """
    similarity_BB = unit(student) @ unit(teacher.detach()).T / temperature
    to_teacher = -functional.log_softmax(similarity_BB, dim=1).diagonal()
    to_student = -functional.log_softmax(similarity_BB, dim=0).diagonal()
    return (to_teacher + to_student) / 2


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
    relation_teacher = log_relations(teacher.detach(), temperature=teacher_temperature).exp()
    relation_student = log_relations(student, temperature=temperature)
    return -(relation_teacher * relation_student).sum(dim=1)


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
    batch = len(embedded)
    similarity_BB = embedded @ embedded.T / temperature
    others = ~torch.eye(batch, dtype=torch.bool, device=features.device)
    return functional.log_softmax(similarity_BB[others].view(batch, batch - 1), dim=1)


def cmc_anchored(
    student: Embeddings, teacher: Embeddings, anchors: Anchors, *, temperature: float
) -> PerExample:
    """Cross-modal contrast whose negatives are public: no other pair enters the loss of a pair.

    ``-log[e^{s_i.t_i/T} / (e^{s_i.t_i/T} + sum_k e^{s_i.u_k/T})]``

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

    ``-log[ e^{s_i.t_i/T} / (sum_j e^{s_i.t_j/T} + sum_k e^{s_i.u_k/T}) ]``; under privacy the batch
    is one bucket of `edgecmd.privacy.mechanisms`.

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings of the same pairs, (B, D); constants.
        anchors: Public teacher embeddings, (K, D); constants.
        temperature: ``T``.

    Returns:
        Loss of each example, (B,). An uninformative student has ``log(B + K)``.
    """
    columns = unit(torch.cat([teacher.detach(), anchors.detach()]))
    logits = unit(student) @ columns.T / temperature
    return -functional.log_softmax(logits, dim=1).diagonal()


def chance_level(loss: str, *, batch_size: int, num_anchors: int) -> float | None:
    """Loss of a student whose similarities are all equal; None where there is no such level.

    Args:
        loss: Name of the loss.
        batch_size: ``B``.
        num_anchors: ``K``.
    """
    levels: dict[str, Callable[[], float]] = {
        "cmc": lambda: math.log(batch_size),
        "cmd": lambda: math.log(batch_size - 1),
        "cmc+cmd": lambda: math.log(batch_size) + math.log(batch_size - 1),
        "cmc-anchored": lambda: math.log(num_anchors + 1),
        "cmd-anchored": lambda: math.log(num_anchors),
        "cmc+cmd-anchored": lambda: math.log(num_anchors + 1) + math.log(num_anchors),
        "cmc-groups": lambda: math.log(batch_size + num_anchors),
        "seed": lambda: math.log(num_anchors + 1),
        "simclr": lambda: math.log(2 * batch_size - 1),
    }
    return levels[loss]() if loss in levels else None
