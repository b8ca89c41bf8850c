"""Modality distance: total variation between the relations of teacher and student on held-out pairs.

Relations within a batch are those of `edgecmd.losses.cmd`: ``p_A(j|i)`` and ``p_B(j|i)`` over the other
pairs, the diagonal masked. They depend on the size of the batch, which is reported with every distance.
Relations to anchors are those of `edgecmd.losses.cmd_anchored`: ``p_A(k|i) ~ exp(t_i.u_k / T_A)`` and
``p_B(k|i) ~ exp(s_i.u_k / T_B)`` over public anchors ``u_k``. They need a student in the teacher's space, and
what a pair has to do with the anchors does not depend on the other pairs, be they right or wrong.

Shapes: N pairs, B batch, K anchors, D embedding dimension.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edgecmd import losses
from edgecmd.core.errors import DataError
from edgecmd.core.seeding import numpy_generator
from edgecmd.losses import PerExample

MIN_BATCHES = 4
MAX_DIAGONAL = 0.99
MAX_WIDTH = 0.1
NUM_PREFIXES = 6
# The last makes all relations equal.
TEMPERATURES = (*(0.02 * 2.0 ** (step / 4) for step in range(33)), 1e6)

Mine = Float[Tensor, "batch dim"]
Theirs = Float[Tensor, "batch dim_teacher"]
LogRelations = Float[Tensor, "batch others"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Relations:
    """How relations are made.

    Attributes:
        batch_size: B.
        temperature: Of the student's relations.
        teacher_temperature: Of the teacher's relations.
        anchors: Public teacher features, (K, D); None for relations within the batch.
    """

    batch_size: int
    temperature: float
    teacher_temperature: float
    anchors: Float[Tensor, "anchors dim"] | None = field(default=None, compare=False)

    @property
    def form(self) -> str:
        """``anchors`` or ``batch``."""
        return "batch" if self.anchors is None else "anchors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """An estimate with what it rests on.

    Attributes:
        variation: Mean total variation, between 0 and 1.
        low: Lower end of the 95% bootstrap interval over batches.
        high: Upper end.
        bound: ``sqrt((L_CMD - H(p_A)) / 2)`` of the same pairs, which the variation never exceeds.
        diagonal: Mean mass that the teacher's relations have on the pair itself before it is masked; of
            relations to anchors the mean mass of the nearest anchor.
        num_pairs: Pairs that were used, whole batches.
        batch_size: B.
        temperature: Of the student's relations.
        form: ``batch`` or ``anchors``.
    """

    variation: float
    low: float
    high: float
    bound: float
    diagonal: float
    num_pairs: int
    batch_size: int
    temperature: float
    form: str = "batch"


def log_pair(student: Mine, teacher: Theirs, relations: Relations) -> tuple[LogRelations, LogRelations]:
    """Logarithms of ``p_B`` and ``p_A`` of one batch: (B, B - 1) within it, (B, K) to anchors.

    Args:
        student: Student embeddings, (B, D), at least two.
        teacher: Teacher embeddings of the same pairs, (B, D).
        relations: Temperatures and anchors.

    Raises:
        DataError: Relations to anchors are asked of a student that does not live in the teacher's space.
    """
    if relations.anchors is None:
        return (
            losses.log_relations(student, temperature=relations.temperature),
            losses.log_relations(teacher, temperature=relations.teacher_temperature),
        )
    if not student.shape[1] == teacher.shape[1] == relations.anchors.shape[1]:
        raise DataError(
            f"student.dim={student.shape[1]}, teacher.dim={teacher.shape[1]} and"
            f" anchors.dim={relations.anchors.shape[1]} differ; relations to anchors need one space."
            " Use relations within the batch."
        )
    anchor_KD = losses.unit(relations.anchors.to(teacher.dtype))
    return (
        torch.log_softmax(losses.unit(student) @ anchor_KD.T / relations.temperature, dim=1),
        torch.log_softmax(losses.unit(teacher) @ anchor_KD.T / relations.teacher_temperature, dim=1),
    )


def relation_variation(student: Mine, teacher: Theirs, relations: Relations) -> PerExample:
    """Total variation between ``p_A(.|i)`` and ``p_B(.|i)`` of one batch, ``sum |p_A - p_B| / 2``.

    Args:
        student: Student embeddings, (B, D), at least two.
        teacher: Teacher embeddings of the same pairs, (B, D); another dimension is allowed within a batch.
        relations: Temperatures and anchors.

    Returns:
        One value a pair, (B,), between 0 and 1.
    """
    mine, theirs = log_pair(student, teacher, relations)
    return (theirs.exp() - mine.exp()).abs().sum(dim=1) / 2


def pinsker_bound(student: Mine, teacher: Theirs, relations: Relations) -> float:
    """``sqrt((L_CMD - H(p_A)) / 2)``: by Pinsker and Jensen at least the mean total variation of a batch."""
    log_student, log_teacher = log_pair(student, teacher, relations)
    entropy = -(log_teacher.exp() * log_teacher).sum(dim=1).mean()
    loss = -(log_teacher.exp() * log_student).sum(dim=1).mean()
    return math.sqrt(max(0.0, float(loss - entropy)) / 2)


def fit_temperature(
    student: Float[Tensor, "num dim"], teacher: Float[Tensor, "num dim_teacher"], relations: Relations
) -> Relations:
    """The same relations with the student's temperature at which the distance is least.

    The scale of a student's similarities says nothing about what it knows, and a student of little
    knowledge that is sure of it would be farther away than one that tells nothing apart. The grid
    ends in a temperature at which all relations are equal, so no student is farther than that one.

    Args:
        student: Student embeddings of pairs, better other ones than those that are measured, (N, D).
        teacher: Teacher embeddings of the same pairs, (N, D).
        relations: Batch size and temperatures; the student's is replaced.

    Raises:
        DataError: Fewer pairs than two batches.
    """
    rows = _batches(len(student), batch_size=relations.batch_size, seed=0)
    each = [(student[one].double(), teacher[one].double()) for one in rows]
    choices = [replace(relations, temperature=one) for one in TEMPERATURES]
    return min(
        choices,
        key=lambda one: float(np.mean([float(relation_variation(s, t, one).mean()) for s, t in each])),
    )


def diagonal_mass(teacher: Theirs, relations: Relations) -> float:
    """Mean share that a pair has in its own relations where the diagonal is not masked.

    Of relations to anchors, in which a pair has no part, the mean share of the nearest anchor.
    """
    if relations.anchors is not None:
        return float(log_pair(teacher, teacher, relations)[1].exp().amax(dim=1).mean())
    embedded = losses.unit(teacher)
    similarity_BB = embedded @ embedded.T / relations.teacher_temperature
    return float(torch.softmax(similarity_BB, dim=1).diagonal().mean())


def measure(
    student: Float[Tensor, "num dim"],
    teacher: Float[Tensor, "num dim_teacher"],
    relations: Relations,
    *,
    num_resamples: int = 200,
    seed: int = 0,
) -> Distance:
    """Distance over disjoint random batches of held-out pairs, with a bootstrap interval over the batches.

    Pairs of one batch share their relations, so batches are what is drawn again, not pairs.

    Args:
        student: Student embeddings, (N, D).
        teacher: Teacher embeddings of the same pairs, (N, D); another dimension is allowed.
        relations: Batch size and temperatures.
        num_resamples: Of the bootstrap.
        seed: Of the batches and of the bootstrap.

    Raises:
        DataError: Fewer pairs than two batches.
    """
    batches = _batches(len(student), batch_size=relations.batch_size, seed=seed)
    each = [(student[rows].double(), teacher[rows].double()) for rows in batches]
    variation = np.asarray([float(relation_variation(s, t, relations).mean()) for s, t in each])
    low, high = bootstrap_interval(
        variation, num_resamples=num_resamples, generator=numpy_generator(seed, "distance-bootstrap")
    )
    squares = [pinsker_bound(s, t, relations) ** 2 for s, t in each]
    return Distance(
        variation=float(variation.mean()),
        low=low,
        high=high,
        bound=math.sqrt(float(np.mean(squares))),
        diagonal=float(np.mean([diagonal_mass(t, relations) for _, t in each])),
        num_pairs=len(each) * relations.batch_size,
        batch_size=relations.batch_size,
        temperature=relations.temperature,
        form=relations.form,
    )


def _batches(num: int, *, batch_size: int, seed: int) -> list[np.ndarray]:
    whole = num // batch_size
    if whole < 2:
        raise DataError(
            f"{num} held-out pairs make {whole} batches of {batch_size}; at least 2 are needed for an"
            " interval. Use a smaller batch, or hold out more pairs."
        )
    order = numpy_generator(seed, "distance-batches").permutation(num)
    return [order[start : start + batch_size] for start in range(0, whole * batch_size, batch_size)]


def bootstrap_interval(
    values: Float[np.ndarray, "num *_"],
    *,
    num_resamples: int,
    generator: np.random.Generator,
    statistic: Callable[[np.ndarray], float] = lambda one: float(one.mean()),
) -> tuple[float, float]:
    """95% percentile interval of a statistic over values drawn again with replacement.

    Args:
        values: Independent measurements, (N,).
        num_resamples: Draws.
        generator: Source of randomness.
        statistic: What is measured of a draw.
    """
    drawn = generator.integers(0, len(values), size=(num_resamples, len(values)))
    found = [statistic(values[rows]) for rows in drawn]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def convergence(
    student: Float[Tensor, "num dim"],
    teacher: Float[Tensor, "num dim_teacher"],
    relations: Relations,
    *,
    num_resamples: int = 200,
    seed: int = 0,
) -> list[Distance]:
    """The distance of more and more of the same pairs, doubling up to all of them."""
    whole = len(student) // relations.batch_size
    counts = {max(2, whole >> shift) for shift in range(NUM_PREFIXES)}
    order = numpy_generator(seed, "distance-prefixes").permutation(len(student))
    rows = [order[: count * relations.batch_size] for count in sorted(counts) if count <= whole]
    return [
        measure(student[one], teacher[one], relations, num_resamples=num_resamples, seed=seed) for one in rows
    ]


def require_trustworthy(found: Distance) -> Distance:
    """Give back a distance that can be answered for.

    Raises:
        DataError: The pair itself (or one anchor) holds nearly all of the teacher's relations, so that the
            rest is what the temperature leaves of noise; or there are too few batches; or the interval is
            too wide.
    """
    if found.diagonal > MAX_DIAGONAL:
        what = "diagonal: the pair itself" if found.form == "batch" else "nearest anchor, which"
        raise DataError(
            f"The distance is dominated by the {what} holds {found.diagonal:.4f} of the"
            f" teacher's relations in batches of {found.batch_size}, allowed is {MAX_DIAGONAL}. Raise"
            " distill.teacher_temperature, or use a larger batch."
        )
    num_batches = found.num_pairs // found.batch_size
    if num_batches < MIN_BATCHES:
        raise DataError(
            f"The distance is based on {num_batches} batches of {found.batch_size} pairs; at least"
            f" {MIN_BATCHES} are needed. Give more pairs or a smaller --batch-size."
        )
    if found.high - found.low > MAX_WIDTH:
        raise DataError(
            f"The distance is {found.variation:.3f} with the interval [{found.low:.3f}, {found.high:.3f}],"
            f" wider than {MAX_WIDTH}. Give more pairs or a smaller --batch-size."
        )
    return found
