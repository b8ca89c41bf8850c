"""Faults of the step: losses and batches that clipping for each pair does not bound.

Shapes: B batch, N pairs, K anchors, D embedding dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgecmd.audits.audited_student import Subject
from edgecmd.audits.finding import Finding
from edgecmd.audits.static.custom_code import random_anchors
from edgecmd.audits.static.opacus_reference import BatchLoss, opacus_hooks
from edgecmd.audits.static.scripted import bare_plan, settings_work, step_query
from edgecmd.audits.static.search import Neighbours, Query, Sample
from edgecmd.audits.static.sensitivity import (
    NAIVE_TOLERANCE,
    TOLERANCE,
    Effort,
    Question,
    batch_question,
    makers_of,
    search,
    two_buckets,
)
from edgecmd.core.seeding import torch_generator
from edgecmd.experiments.faults.planted import Fault
from edgecmd.losses import CMCGroups, cmc, cmc_anchored, unit
from edgecmd.models.students import build_student
from edgecmd.privacy.step.gradients import clipped_sum
from edgecmd.privacy.step.units import Units, unit_loss
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData

CLIP, TEMPERATURE, SEED = 1.0, 0.1, 0
DIM, SIDE, NUM_ANCHORS = 32, 16, 32
BATCH = Effort(num_tries=5, num_pairs=256, climb_length=1)
FEW = Effort(num_tries=40, num_pairs=8, climb_length=4)
CHUNK = 2
# Cosine of the features that pull a chunk one way or the other; sixty degrees off the student's own.
TILT = 0.5


def loss_faults() -> list[Fault]:
    """In-batch negatives under Opacus, anchors with gradient, and sequential chunks as groups."""
    subject = small_subject()
    return [
        Fault(
            name="in-batch negatives under Opacus",
            level="check",
            catch=lambda: _search_batch(subject, in_batch),
            sound=lambda: _search_batch(subject, _anchored(subject)),
        ),
        Fault(
            name="anchors with gradient under Opacus",
            level="check",
            catch=lambda: _search_own_anchors(subject, with_gradient=True),
            sound=lambda: _search_own_anchors(subject, with_gradient=False),
        ),
        Fault(
            name="sequential chunks as groups",
            level="check",
            catch=lambda: _search_groups(subject, _chunk_query(subject)),
            sound=lambda: _search_groups(subject, _bucket_query(subject)),
        ),
    ]


def small_subject() -> Subject:
    """A new student of fifty thousand parameters on 16 pixels, and random anchors."""
    student = build_student(
        "gn-50k", in_channels=1, embedding_dim=DIM, generator=torch_generator(SEED, "student-init")
    )
    return Subject(
        name="a new student",
        student=student,
        anchors=random_anchors(NUM_ANCHORS, DIM, seed=SEED),
        in_channels=1,
        image_size=SIDE,
    )


def in_batch(student: Tensor, teacher: Tensor) -> Tensor:
    """The contrast with the other pairs of the batch, (B,)."""
    return cmc(student, teacher, temperature=TEMPERATURE)


def _anchored(subject: Subject) -> BatchLoss:
    return lambda z, t: cmc_anchored(z, t, subject.anchors, temperature=TEMPERATURE)


def _search_batch(subject: Subject, loss: BatchLoss) -> Finding:
    question = batch_question(subject, loss, clip=CLIP, claimed=1.0, num_pairs=BATCH.num_pairs, mode="hooks")
    return search(question, BATCH)


def _search_own_anchors(subject: Subject, *, with_gradient: bool) -> Finding:
    question = Question(
        name=f"sensitivity search, {subject.name}",
        query=own_anchors_query(subject, with_gradient=with_gradient),
        makers=makers_of(subject, num_pairs=FEW.num_pairs, without=("poisoned",)),
        clip=CLIP,
        claimed=1.0,
        tolerance=NAIVE_TOLERANCE,
    )
    return search(question, FEW)


def own_anchors_query(subject: Subject, *, with_gradient: bool) -> Query:
    """Opacus with anchors that the student itself makes of public images.

    Without gradient they are a function of the released weights. With it the anchors are rows of the
    batch, each clipped to C, and each row's gradient is made by every private pair.
    """
    public = torch.rand(
        NUM_ANCHORS,
        subject.in_channels,
        SIDE,
        SIDE,
        generator=torch_generator(SEED, "public-images"),
    )
    student = subject.student

    def answer(data: LocalData, rows: np.ndarray) -> dict[str, Tensor]:
        image, teacher, num = data.target[rows], data.teacher[rows], len(rows)
        if not with_gradient:
            with torch.no_grad():
                anchors = student(public)
            return opacus_hooks(
                student,
                image,
                lambda z: cmc_anchored(z, teacher, anchors, temperature=TEMPERATURE),
                clip=CLIP,
            )

        def loss(embedded: Tensor) -> Tensor:
            own, anchors = unit(embedded[:num]), unit(embedded[num:])
            logits = torch.cat([(own * teacher).sum(dim=1, keepdim=True), own @ anchors.T], dim=1)
            return -functional.log_softmax(logits / TEMPERATURE, dim=1)[:, 0]

        return opacus_hooks(student, torch.cat([image, public]), loss, clip=CLIP)

    def query(samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        return [answer(data, rows) for data, rows in samples]

    return query


def _search_groups(subject: Subject, query: Query) -> Finding:
    makers = makers_of(subject, num_pairs=FEW.num_pairs, without=("poisoned",))
    question = Question(
        name=f"sensitivity search, {subject.name}",
        query=query,
        makers={**makers, "shifted": _Shifted(subject)},
        clip=CLIP,
        claimed=2.0,
        tolerance=TOLERANCE,
    )
    return search(question, replace(FEW, num_tries=4 * (len(makers) + 1)))


@dataclass(frozen=True, slots=True, eq=False)
class _Shifted:
    """Neighbours of which the first pair is missing, so that whatever is cut by position is cut anew.

    Copies of one image whose features pull two by two one way and the other: a chunk of two agrees
    with itself before the shift, and is torn after it.
    """

    subject: Subject
    num: int = 24

    def __call__(self, generator: torch.Generator) -> Neighbours:
        subject = self.subject
        image = torch.rand(1, subject.in_channels, SIDE, SIDE, generator=generator)
        with torch.no_grad():
            own = unit(subject.student(image))[0]
        other = torch.randn(len(own), generator=generator)
        across = unit(other - (other @ own) * own)
        pull = TILT * own + (1.0 - TILT**2) ** 0.5 * across
        signs = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(self.num // 4)
        data = LocalData(target=image.repeat(self.num, 1, 1, 1), teacher=signs[:, None] * pull)
        return Neighbours(data=data, added=0, kind="shifted")


def _chunk_query(subject: Subject) -> Query:
    """Groups cut by position: the first two pairs of the sample, the next two, and so on."""
    loss = unit_loss(CMCGroups(temperature=TEMPERATURE), subject.anchors)

    def answer(data: LocalData, rows: np.ndarray) -> dict[str, Tensor]:
        parts = np.split(rows, range(CHUNK, len(rows), CHUNK)) if len(rows) else []
        chunks = [
            Units(
                images=data.target[part][None],
                teacher=data.teacher[part][None],
                mask=torch.ones(1, len(part), dtype=torch.bool),
            )
            for part in parts
        ]
        return clipped_sum(subject.student, chunks, loss, clip=CLIP, engine="vmap")

    return lambda samples: [answer(data, rows) for data, rows in samples]


def _bucket_query(subject: Subject) -> Query:
    """Groups by a secret coin of each pair's own: the real step of edgecmd."""
    return step_query(
        subject.student,
        settings_work(DistillConfig(loss="cmc-groups", temperature=TEMPERATURE), subject.anchors),
        plan=bare_plan(mechanism="groups", clip=CLIP, num_groups=2),
        coins=two_buckets,
    )
