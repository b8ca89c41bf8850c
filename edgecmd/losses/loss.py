"""What a loss is: a class with its parameters as fields, what it needs, and a value for each example.

Shapes: B batch, V views, R rows of a unit, K anchors, D embedding dimension.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from edgecmd.losses.contrastive import Anchors, Embeddings, PerExample


class Loss(ABC):
    """A distillation loss; subclass it to write your own.

    ::

        class Squared(Loss):
            couples_pairs = False

            def __call__(self, student, teacher, anchors):
                return (unit(student) - unit(teacher)).square().sum(dim=1)

    A loss's parameters are fields of a frozen dataclass, or arguments of ``__init__``. If settings name the
    loss (``distill.loss = "module:Squared"``), parameters that share a name with a number in the section
    ``distill`` take their value from there. `edgecmd.losses.check_loss` checks what is promised here.

    Attributes:
        needs_anchors: Whether it uses the public anchors.
        couples_pairs: Whether the loss of a pair depends on other pairs of its batch. If not, clipping per
            pair bounds each pair's effect, and the loss can be made private.
        num_views: Augmented views of each target; with more than one, ``student`` is (V, B, D).
        dense: Whether it also applies to locations in an image, each of which is then an example.
        uses_teacher: Whether it uses the teacher's features; if not, its students have no retrieval.
        aligns: Whether its students end in the teacher's space, so that anchors are meaningful for them.
        has_buckets: Whether `of_unit` is a loss of a bucket of pairs that uses only the bucket and the
            anchors, and does not change with rows outside its mask.
        may_be_private: False for losses kept as their authors wrote them, which no mechanism clips.
        family: Group in which `edgecmd compare` shows it: ``paper``, ``others``; empty: only on request.
        relative_cost: Approximate run time in units of a ``cmc`` run.
        text: Description for tables; it completes "the same federation with ...".
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
            One finite value per pair, (B,), through which gradients reach ``student``.
        """

    def at(self, share: float) -> "Loss":
        """The loss at one point of a run; itself, unless one of its parameters changes over the run.

        Args:
            share: Share of the run's optimiser steps made so far, from 0 to 1. It follows from the step
                only, so a loss has no state, and a resumed run continues as if it had never stopped.
        """
        del share
        return self

    @classmethod
    def anneals(cls) -> bool:
        """Whether one of its parameters changes over a run, that is, whether it overrides `Loss.at`."""
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
        """Loss of a student whose similarities are all equal; None if there is no such level.

        It holds for a batch in which no two pairs share a source, and no anchor is the source of a pair;
        pairs and anchors that do are left out of the contrast and lower it.

        Args:
            batch_size: ``B``.
            num_anchors: ``K``.
        """
        del batch_size, num_anchors
        return None


def alike_views(loss: Loss, student: Embeddings) -> Float[Tensor, "*views batch dim"]:
    """``student`` repeated for every view that ``loss`` takes, where only one view is available."""
    return student if loss.num_views == 1 else student.expand(loss.num_views, *student.shape)
