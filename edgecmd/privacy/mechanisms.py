"""What is clipped: units whose losses share nothing but public constants.

The relation everywhere is *add or remove one pair* (for ``client``: one client's data). A step
releases ``f(S) + N(0, (sigma Delta)^2 I)`` for a sample ``S`` in which each pair is by a coin of its own.

**Lemma 0.** If ``|f(S + x) - f(S)| <= Delta`` for every ``S``, every ``x`` and every fixed value of
all other coins, the step costs what the accountant charges for a sampled Gaussian of noise
multiplier ``sigma``. *Proof.* Fix all coins that are not those of ``x``. Without ``x`` the output is
``N(f(S), .)``, with it ``(1-q) N(f(S), .) + q N(f(S) + u, .)``, ``|u| <= Delta``; rotated and scaled
that is the one-dimensional pair of the accountant. Divergences are jointly quasi-convex, so mixing
over the fixed coins does not increase them.

**Trap.** The lemma needs coins, views and bucket numbers that are independent between pairs and
*secret*. Views from one public stream over the batch would shift for every later pair when one is
inserted, and the sensitivity would be that of the whole batch.

Shapes: U units, R rows of a unit, C channels, H height, W width, D embedding dimension, K anchors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from edgecmd import baselines, losses
from edgecmd.core.errors import choose
from edgecmd.data.augment import augment as augmented
from edgecmd.privacy.step.randomness import Source, generator, integers
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData

Rows = Float[Tensor, "rows dim"]
Mask = Bool[Tensor, " rows"]
UnitLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mechanism:
    """A way to make one step's sum insensitive to one unit.

    Attributes:
        unit: ``pair`` or ``client``.
        losses: Losses that are allowed; empty for all.
        factor: Sensitivity in units of the clip, for add or remove one unit.
        statement: Why, in a sentence.
    """

    unit: str
    losses: tuple[str, ...]
    factor: int
    statement: str


MECHANISMS: dict[str, Mechanism] = {
    "anchors": Mechanism(
        unit="pair",
        losses=("cmc-anchored", "cmd-anchored", "cmc+cmd-anchored"),
        factor=1,
        statement=(
            "The loss of a pair depends on that pair, the weights and public anchors alone, so one more pair"
            " adds one gradient of norm at most C to the sum and leaves the others as they are."
        ),
    ),
    "cosine": Mechanism(
        unit="pair",
        losses=("cosine", "l2"),
        factor=1,
        statement=(
            "The loss of a pair has no negatives, so one more pair adds one gradient of norm at most C to the"
            " sum and leaves the others as they are."
        ),
    ),
    "groups": Mechanism(
        unit="pair",
        losses=("cmc-groups",),
        factor=2,
        statement=(
            "Each sampled pair falls into a bucket by a secret coin of its own and each bucket's gradient is"
            " clipped to C; one more pair changes one bucket, from one vector of norm at most C to another."
        ),
    ),
    "client": Mechanism(
        unit="client",
        losses=(),
        factor=1,
        statement=(
            "A trusted server clips each client's whole update to C and divides by a fixed public number, so"
            " one client adds a vector of norm at most C to the sum and leaves the others as they are."
        ),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Units:
    """A chunk of units: views of one pair each, or the pairs of one bucket each, padded to equal length.

    Attributes:
        images: Scaled target images, (U, R, C, H, W).
        teacher: Teacher features, (U, R, D).
        mask: Which rows are real, (U, R).
    """

    images: Float[Tensor, "units rows channels height width"]
    teacher: Float[Tensor, "units rows dim"]
    mask: Bool[Tensor, "units rows"]

    def __len__(self) -> int:
        return len(self.images)


def bucket_loss(
    student: Rows, teacher: Rows, mask: Mask, *, anchors: losses.Anchors, temperature: float
) -> Float[Tensor, ""]:
    """Sum over a bucket of the contrast with the bucket's other pairs and all public anchors.

    ``-sum_i log[ e^{s_i.t_i/T} / (sum_{j in bucket} e^{s_i.t_j/T} + sum_k e^{s_i.u_k/T}) ]``

    Without other pairs and anchors of the source of i, as in `edgecmd.losses.cmc_groups`; which these are
    follows from the bucket's own pairs, so that one more pair still changes one bucket alone. The anchors
    keep a bucket of one pair from having no loss at all.

    Args:
        student: Student embeddings of any norm, (R, D).
        teacher: Teacher embeddings of the same pairs, (R, D); constants.
        mask: Which rows are real, (R,).
        anchors: Public teacher embeddings, (K, D); constants.
        temperature: ``T``.
    """
    embedded = losses.unit(student)
    own = embedded @ losses.unit(teacher.detach()).T / temperature
    itself = torch.eye(len(embedded), dtype=torch.bool, device=embedded.device)
    kept = mask[None, :] & (itself | ~losses.same_source(teacher, teacher))
    own = torch.where(kept, own, torch.full_like(own, float("-inf")))
    public = embedded @ losses.unit(anchors.detach()).T / temperature
    public = torch.where(losses.same_source(teacher, anchors), torch.full_like(public, float("-inf")), public)
    log_share = own.diagonal() - torch.logsumexp(torch.cat([own, public], dim=1), dim=1)
    return torch.where(mask, -log_share, torch.zeros_like(log_share)).sum()


def unit_loss(config: DistillConfig, anchors: losses.Anchors) -> UnitLoss:
    """Loss of one unit; it sees the unit's rows and public constants, and nothing else is in scope.

    Args:
        config: ``loss`` and its temperatures.
        anchors: Public teacher features, (K, D).

    Returns:
        Function of student rows (R, D), teacher rows (R, D) and mask (R,).

    Raises:
        ConfigError: The loss has no form per unit; in-batch losses have none.
    """

    def contrast(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
        return losses.cmc_anchored(student, teacher, anchors, temperature=config.temperature).mean()

    def relations(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
        return losses.cmd_anchored(
            student,
            teacher,
            anchors,
            temperature=config.temperature,
            teacher_temperature=config.teacher_temperature,
        ).mean()

    def both(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return contrast(student, teacher, mask) + config.cmd_weight * relations(student, teacher, mask)

    def bucket(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return bucket_loss(student, teacher, mask, anchors=anchors, temperature=config.temperature)

    options: dict[str, UnitLoss] = {
        "cmc-anchored": contrast,
        "cmd-anchored": relations,
        "cmc+cmd-anchored": both,
        "cosine": lambda student, teacher, _: baselines.cosine(student, teacher).mean(),
        "l2": lambda student, teacher, _: baselines.l2(student, teacher).mean(),
        "cmc-groups": bucket,
    }
    return choose("distill.loss", config.loss, options)


def view_units(data: LocalData, rows: np.ndarray, *, num_views: int, augment: float, source: Source) -> Units:
    """Each row of ``rows`` as a unit of ``num_views`` augmented views of its pair.

    The views are drawn from a generator whose state ``source`` fills, so they are secret and independent.
    """
    index = torch.from_numpy(rows)
    image_BCHW, teacher = data.target[index], data.teacher[index]
    coins = generator(source)
    views = [
        augmented(data.modality, image_BCHW, strength=augment, generator=coins) for _ in range(num_views)
    ]
    return Units(
        images=torch.stack(views, dim=1),
        teacher=teacher[:, None].expand(-1, num_views, -1),
        mask=torch.ones(len(rows), num_views, dtype=torch.bool, device=image_BCHW.device),
    )


def bucket_units(
    data: LocalData, rows: np.ndarray, *, num_groups: int, augment: float, source: Source
) -> list[Units]:
    """The pairs at ``rows`` in buckets: each pair in one drawn by a secret coin of its own.

    Returns:
        One chunk a bucket that has pairs, without padding.
    """
    bucket = integers(source, len(rows), high=num_groups)
    found = [rows[bucket == index] for index in range(num_groups)]
    chunks = []
    for members in found:
        if len(members):
            one = view_units(data, members, num_views=1, augment=augment, source=source)
            chunks.append(
                Units(
                    images=one.images[:, 0][None], teacher=one.teacher[:, 0][None], mask=one.mask[:, 0][None]
                )
            )
    return chunks


def make_units(
    data: LocalData, rows: np.ndarray, *, config: "StepSettings", augment: float, source: Source
) -> list[Units]:
    """Chunks of units for the pairs at ``rows``; none for no rows.

    Args:
        data: The client's pairs.
        rows: Sampled rows.
        config: Mechanism, views, groups and chunk size.
        augment: Strength of the augmentation.
        source: Secret coins.
    """
    if not len(rows):
        return []
    if config.mechanism == "groups":
        chunks = bucket_units(data, rows, num_groups=config.num_groups, augment=augment, source=source)
        return _packed(chunks, max_rows=config.chunk_size)
    size = max(1, config.chunk_size // config.num_views)
    return [
        view_units(data, part, num_views=config.num_views, augment=augment, source=source)
        for part in np.split(rows, range(size, len(rows), size))
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSettings:
    """What `make_units` needs to know of a plan.

    Attributes:
        mechanism: A key of `MECHANISMS` whose unit is a pair.
        num_views: Views of a pair.
        num_groups: Buckets of a step.
        chunk_size: Rows in memory at a time.
    """

    mechanism: str
    num_views: int = 1
    num_groups: int = 8
    chunk_size: int = 64


def _packed(buckets: list[Units], *, max_rows: int) -> list[Units]:
    """Neighbouring buckets of like size in one padded chunk of about ``max_rows`` rows."""
    ordered = sorted(buckets, key=lambda one: one.mask.shape[1])
    chunks: list[Units] = []
    open_chunk: list[Units] = []
    for bucket in ordered:
        if open_chunk and (len(open_chunk) + 1) * bucket.mask.shape[1] > max_rows:
            chunks.append(padded(open_chunk))
            open_chunk = []
        open_chunk.append(bucket)
    return [*chunks, *([padded(open_chunk)] if open_chunk else [])]


def padded(buckets: list[Units]) -> Units:
    """Buckets as one chunk, each padded to the size of the largest; the mask says which rows are real.

    How much a bucket is padded depends on the others, so padding must change nothing. It repeats the
    bucket's own first pair: blank rows could be made to overflow by weights that an adversary chose,
    and would then void all buckets but the largest.
    """
    size = max(one.mask.shape[1] for one in buckets)
    return Units(
        images=torch.cat([_lengthened(one.images, size) for one in buckets]),
        teacher=torch.cat([_lengthened(one.teacher, size) for one in buckets]),
        mask=torch.cat([functional.pad(one.mask, (0, size - one.mask.shape[1])) for one in buckets]),
    )


def _lengthened(value_UR: Tensor, size: int) -> Tensor:
    """The rows of each unit and its first row again, ``size`` in all."""
    missing = size - value_UR.shape[1]
    return torch.cat([value_UR, value_UR[:, :1].expand(-1, missing, *value_UR.shape[2:])], dim=1)
