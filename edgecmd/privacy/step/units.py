"""What is clipped, in tensors: units, and the loss of one; `edgecmd.privacy.mechanisms` says why.

Shapes: U units, R rows of a unit, C channels, H height, W width, D embedding dimension, K anchors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from edgecmd import losses
from edgecmd.core.errors import ConfigError, choose, nearest
from edgecmd.core.own_code import running
from edgecmd.data.augment import augment as augmented
from edgecmd.data.on_device import sent
from edgecmd.privacy.mechanisms import MECHANISMS, has_unit_form
from edgecmd.privacy.step.randomness import Source, generator, integers
from edgecmd.training.distill import LocalData

UnitLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Units:
    """A chunk of units: views of one pair each, or the pairs of one bucket each, padded to equal length.

    Attributes:
        images: Scaled target images, (U, R, C, H, W).
        teacher: Teacher features, (U, R, D).
        mask: Which rows are real, (U, R); on the CPU, so that nobody waits for a device to know it.
    """

    images: Float[Tensor, "units rows channels height width"]
    teacher: Float[Tensor, "units rows dim"]
    mask: Bool[Tensor, "units rows"]

    def __len__(self) -> int:
        return len(self.images)


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


def unit_loss(loss: losses.Loss, anchors: losses.Anchors) -> UnitLoss:
    """Loss of one unit; it sees the unit's rows and public constants, and nothing else is in scope.

    Args:
        loss: One that does not couple pairs, or that has a form for buckets.
        anchors: Public teacher features, (K, D).

    Returns:
        Function of student rows (R, D), teacher rows (R, D) and mask (R,).

    Raises:
        ConfigError: The loss has no form per unit; in-batch losses have none.
    """
    if not has_unit_form(loss):
        name, known = (
            losses.name_of(loss),
            [name for name, one in losses.LOSSES.items() if has_unit_form(one)],
        )
        raise ConfigError(
            f"distill.loss={name!r} has no form for one unit, so no mechanism can clip it."
            f" {nearest(name, known)}"
        )

    def of_unit(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        with running(f"The loss {losses.name_of(loss)}", loss):
            return loss.of_unit(student, teacher, mask, anchors)

    return of_unit


def view_units(data: LocalData, rows: np.ndarray, *, num_views: int, augment: float, source: Source) -> Units:
    """Each row of ``rows`` as a unit of ``num_views`` augmented views of its pair.

    The views are drawn from a generator whose state ``source`` fills, so they are secret and independent.
    """
    index = sent(torch.from_numpy(rows), data.indexed_on)
    image_BCHW, teacher = data.target[index], data.teacher[index]
    coins = generator(source)
    views = [
        augmented(data.modality, image_BCHW, strength=augment, generator=coins) for _ in range(num_views)
    ]
    return Units(
        images=torch.stack(views, dim=1),
        teacher=teacher[:, None].expand(-1, num_views, -1),
        mask=torch.ones(len(rows), num_views, dtype=torch.bool),
    )


def bucket_units(
    data: LocalData, rows: np.ndarray, *, num_groups: int, augment: float, source: Source, num_views: int = 1
) -> list[Units]:
    """The pairs at ``rows`` in buckets: each pair in one drawn by a secret coin of its own.

    All ``num_views`` views of a pair lie in its bucket, whose gradient is clipped as a whole: more of them
    are more negatives of the others, and one more pair still changes one bucket alone.

    Returns:
        One chunk a bucket that has pairs, without padding.
    """
    bucket = integers(source, len(rows), high=num_groups)
    found = [rows[bucket == index] for index in range(num_groups)]
    chunks = []
    for members in found:
        if len(members):
            one = view_units(data, members, num_views=num_views, augment=augment, source=source)
            chunks.append(
                Units(
                    images=one.images.flatten(0, 1)[None],
                    teacher=one.teacher.flatten(0, 1)[None],
                    mask=one.mask.flatten()[None],
                )
            )
    return chunks


def make_units(
    data: LocalData, rows: np.ndarray, *, config: StepSettings, augment: float, source: Source
) -> list[Units]:
    """Chunks of units for the pairs at ``rows``, as the mechanism makes them; none for no rows.

    Args:
        data: The client's pairs.
        rows: Sampled rows.
        config: Mechanism, views, groups and chunk size.
        augment: Strength of the augmentation.
        source: Secret coins.
    """
    if not len(rows):
        return []
    make = choose("privacy.mechanism", config.mechanism, MECHANISMS).make_units
    return make(data, rows, config=config, augment=augment, source=source)


def view_chunks(
    data: LocalData, rows: np.ndarray, *, config: StepSettings, augment: float, source: Source
) -> list[Units]:
    """Units that are the views of one pair each, in chunks; see `make_units`."""
    size = max(1, config.chunk_size // config.num_views)
    return [
        view_units(data, part, num_views=config.num_views, augment=augment, source=source)
        for part in np.split(rows, range(size, len(rows), size))
    ]


def bucket_chunks(
    data: LocalData, rows: np.ndarray, *, config: StepSettings, augment: float, source: Source
) -> list[Units]:
    """Units that are the pairs of one bucket each, in padded chunks; see `make_units`."""
    buckets = bucket_units(
        data,
        rows,
        num_groups=config.num_groups,
        num_views=config.num_views,
        augment=augment,
        source=source,
    )
    return _packed(buckets, max_rows=config.chunk_size)


def whole_sample(
    data: LocalData, rows: np.ndarray, *, config: StepSettings, augment: float, source: Source
) -> list[Units]:
    """One unit that is the whole sample, a row a pair; see `make_units`."""
    del config
    return bucket_units(data, rows, num_groups=1, augment=augment, source=source)


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
