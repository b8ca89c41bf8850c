"""The table of similarities of a batch, a few rows at a time: memory grows with the batch and not its square.

A loss is written for some rows of the table. Of a small batch these are all rows. Of a large one each block
of rows is thrown away once its losses are there, and computed again when the gradient comes (Chen et al.
2016, arXiv 1604.06174). The other direction, ``t_i.s_j``, is a row of the transposed table, so no sum over a
column is needed.

Shapes: B batch, R rows of a block, D embedding dimension.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

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
    found: Tensor = _ByRows.apply(of_rows, student, teacher.detach())  # type: ignore[no-untyped-call]
    return found


class _ByRows(torch.autograd.Function):
    """`by_rows` in blocks: no graph is kept, and each block's is made again when the gradient comes.

    One result for all blocks, and no object that stays from one block to the next: between these, the memory
    that a block gives back would be in pieces too small for another.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, of_rows: Callable[[Rows], Tensor], student: Tensor, teacher: Tensor
    ) -> Tensor:
        """Values of all rows; student and teacher are kept and nothing else."""
        ctx.of_rows = of_rows  # type: ignore[attr-defined]
        ctx.save_for_backward(student, teacher)
        found: Tensor | None = None
        for part in _parts(len(student)):
            value = of_rows(_rows(student[part], student, teacher, part))
            found = value.new_empty(len(student)) if found is None else found
            found[part] = value
        assert found is not None
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[None, Tensor, None]:
        """Gradient at the student's embeddings."""
        of_rows = ctx.of_rows  # type: ignore[attr-defined]
        student, teacher = ctx.saved_tensors  # type: ignore[attr-defined]
        students, total = student.detach().requires_grad_(), torch.zeros_like(student)
        for part in _parts(len(student)):
            own = student[part].detach().requires_grad_()
            with torch.enable_grad():
                value = of_rows(_rows(own, students, teacher, part))
            to_own, to_all = torch.autograd.grad(
                value, (own, students), gradient[part], allow_unused=True, materialize_grads=True
            )
            total[part] += to_own
            total += to_all
        return None, total, None


def _parts(size: int) -> Iterator[slice]:
    step = max(1, ENTRIES // size)
    return (slice(first, min(first + step, size)) for first in range(0, size, step))


def _rows(own: Tensor, students: Tensor, teachers: Tensor, part: slice) -> Rows:
    return Rows(student=own, teacher=teachers[part], students=students, teachers=teachers, first=part.start)
