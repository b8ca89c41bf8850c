"""What a loss is: one class with its numbers as fields, what it needs, and a value for each example.

Shapes: B batch, V views, R rows of a unit, K anchors, D embedding dimension.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from edgecmd.losses.contrastive import Anchors, Embeddings, PerExample


class Loss(ABC):
    """A loss of distillation; subclass it for one of your own.

    ::

        class Squared(Loss):
            couples_pairs = False

            def __call__(self, student, teacher, anchors):
                return (unit(student) - unit(teacher)).square().sum(dim=1)

    Numbers of a loss are fields of a frozen dataclass, or arguments of ``__init__``. Where the loss is named
    in settings (``distill.loss = "module:Squared"``), those with the name of a number of the section
    ``distill`` are filled from there. `edgecmd.losses.check_loss` finds what is not as it is said here.

    Attributes:
        needs_anchors: Whether it looks at the public anchors.
        couples_pairs: Whether the loss of a pair depends on other pairs of its batch. Where it does not, a
            clip for each pair bounds what the pair does, and the loss may be made private.
        num_views: Augmented views of each target; with more than one ``student`` is (V, B, D).
        dense: Whether it also has a meaning for places of a picture, each of which is then an example.
        uses_teacher: Whether it looks at the teacher's features; else a student of it has no retrieval.
        aligns: Whether a student of it ends in the teacher's space, so that anchors tell of it.
        has_buckets: Whether `of_unit` is a loss of a bucket of pairs that looks at nothing but the bucket and
            the anchors, and is not changed by rows outside of its mask.
        may_be_private: False for what stays as its authors have it, and is clipped by no mechanism.
        family: Under what `edgecmd compare` shows it by default: ``paper``, ``others``; empty: if asked for.
        relative_cost: Time of a run in units of a run of ``cmc``, roughly.
        text: What it is, for tables: it ends "the same federation with ...".
    """

    needs_anchors: ClassVar[bool] = False
    couples_pairs: ClassVar[bool] = True
    num_views: ClassVar[int] = 1
    dense: ClassVar[bool] = True
    uses_teacher: ClassVar[bool] = True
    aligns: ClassVar[bool] = True
    has_buckets: ClassVar[bool] = False
    may_be_private: ClassVar[bool] = True
    family: ClassVar[str] = ""
    relative_cost: ClassVar[float] = 1.0
    text: ClassVar[str] = ""

    @abstractmethod
    def __call__(
        self, student: Float[Tensor, "*views batch dim"], teacher: Embeddings, anchors: Anchors
    ) -> PerExample:
        """Loss of each example.

        Args:
            student: Student embeddings of any norm, (B, D); with several views (V, B, D).
            teacher: Teacher embeddings of the same pairs, (B, D); constants.
            anchors: Public teacher embeddings, (K, D); constants.

        Returns:
            One finite value for each pair, (B,), through which the gradient reaches ``student``.
        """

    def at(self, share: float) -> "Loss":
        """The loss at one place of a run; itself, unless a number of it changes over the run.

        Args:
            share: Optimiser steps of the whole run that were made before, from 0 to 1. It follows from the
                step alone, so a loss stays free of state, and a resumed run goes on as it would have.
        """
        del share
        return self

    @classmethod
    def anneals(cls) -> bool:
        """Whether a number of it changes over a run: whether it has a `Loss.at` of its own."""
        return cls.at is not Loss.at

    def of_unit(
        self, student: Embeddings, teacher: Embeddings, mask: Bool[Tensor, " rows"], anchors: Anchors
    ) -> Float[Tensor, ""]:
        """Loss of one unit under privacy, a scalar: the mean over the views of its pair.

        Args:
            student: Student embeddings of the unit's rows, (R, D).
            teacher: Teacher embeddings of the rows, (R, D); constants.
            mask: Which rows are real, (R,); all of them, unless the unit is a bucket.
            anchors: Public teacher embeddings, (K, D); constants.
        """
        del mask  # Without buckets all rows are real.
        return self(student, teacher, anchors).mean()

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float | None:
        """Loss of a student whose similarities are all equal; None where there is no such level.

        It is that of a batch in which no two pairs have one source, and no anchor the source of a pair;
        others, which are left out of a contrast, lower it.

        Args:
            batch_size: ``B``.
            num_anchors: ``K``.
        """
        del batch_size, num_anchors
        return None


def alike_views(loss: Loss, student: Embeddings) -> Float[Tensor, "*views batch dim"]:
    """``student`` as every view that ``loss`` looks at: what it takes where only one view is at hand."""
    return student if loss.num_views == 1 else student.expand(loss.num_views, *student.shape)
