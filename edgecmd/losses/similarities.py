"""The table of similarities of a batch, a few rows at a time: memory grows with the batch and not its square.

A loss is written for some rows of the table. Of a small batch these are all rows. Of a large one each block
of rows is thrown away once its losses are there, and computed again when the gradient comes (Chen et al.
2016, arXiv 1604.06174). The other direction, ``t_i.s_j``, is a row of the transposed table, so no sum over a
column is needed.

Shapes: B batch, R rows of a block, D embedding dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from edgecmd.data.modalities.signature import SAME_FEATURE

# Numbers of a table that is held whole: up to 1,024 rows. A block of a larger one has as many at most.
ENTRIES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """Some pairs of a batch beside all of them; features have unit norm, where a loss does not say otherwise.

    Attributes:
        student: Of these pairs, (R, D).
        teacher: Of these pairs, (R, D).
        students: Of the batch, (B, D).
        teachers: Of the batch, (B, D).
        first: Place of the first of these pairs in the batch.
    """

    student: Float[Tensor, "rows dim"]
    teacher: Float[Tensor, "rows dim"]
    students: Float[Tensor, "batch dim"]
    teachers: Float[Tensor, "batch dim"]
    first: int

    @property
    def is_whole(self) -> bool:
        """Whether these are all pairs."""
        return len(self.student) == len(self.students)

    @property
    def itself(self) -> Bool[Tensor, "rows batch"]:
        """Where a pair meets itself, (R, B)."""
        if self.is_whole:
            return torch.eye(len(self.students), dtype=torch.bool, device=self.teachers.device)
        place = torch.arange(len(self.students), device=self.teachers.device)
        return place[self.first : self.first + len(self.student), None] == place

    @property
    def same_source(self) -> Bool[Tensor, "rows batch"]:
        """`edgecmd.losses.same_source` of these pairs and the batch, (R, B)."""
        return self.teacher @ self.teachers.T > SAME_FEATURE

    @property
    def others_of_source(self) -> Bool[Tensor, "rows batch"]:
        """Which other pairs have the source of each of these, (R, B)."""
        return self.same_source & ~self.itself

    def similarity(self, temperature: float) -> Float[Tensor, "rows batch"]:
        """``s_i.t_j / temperature``, (R, B)."""
        return self.student @ self.teachers.T / temperature

    def turned(
        self, similarity: Float[Tensor, "rows batch"], temperature: float
    ) -> Float[Tensor, "rows batch"]:
        """``t_i.s_j / temperature``, (R, B); of all pairs ``similarity`` turned."""
        return similarity.T if self.is_whole else self.teacher @ self.students.T / temperature

    def own(self, table: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
        """What stands in ``table``, whose columns begin with the batch, where a pair meets itself."""
        return table.diagonal(self.first)


def by_rows(
    of_rows: Callable[[Rows], Tensor],
    student: Float[Tensor, "batch dim"],
    teacher: Float[Tensor, "batch dim"],
    *,
    whole: bool = False,
) -> Tensor:
    """What ``of_rows`` gives for all pairs, one block of rows after another.

    Args:
        of_rows: To values in the order of the rows, (R,). It is called twice for each block of a large batch.
        student: Embeddings, (B, D); gradients flow into them.
        teacher: Unit embeddings, (B, D).
        whole: One call with all rows whatever their number; gradients of `torch.func` cannot pass blocks.

    Guarantees:
        Up to ``B * B = 2^20`` one call with the whole table. Above, never more than 2^20 numbers (or one row)
        of a table at a time, and the values and gradients of the whole table but for the last digits of sums.
    """
    size = len(student)
    if whole or size * size <= ENTRIES:
        return of_rows(Rows(student=student, teacher=teacher, students=student, teachers=teacher, first=0))
    step = max(1, ENTRIES // size)
    blocks = [
        Rows(student=one, teacher=other, students=student, teachers=teacher, first=first)
        for first, one, other in zip(
            range(0, size, step), torch.split(student, step), torch.split(teacher, step), strict=True
        )
    ]
    return torch.cat(
        [checkpoint(of_rows, one, use_reentrant=False, preserve_rng_state=False) for one in blocks]
    )
