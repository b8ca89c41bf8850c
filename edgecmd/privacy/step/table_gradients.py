"""Clipped gradients of a large table, of which a unit looks few rows up.

A unit's gradient of the table is not laid out: for each row that the unit looked up there is the sum of the
gradients at the places that did, and all other rows are zero.

Shapes: U units, P places of a unit, G places that move something, S pairs of a unit and a row that it looked
up, E numbers of a row.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Rows of a table up to which a unit's gradient is laid out.
MOST_LAID_OUT = 1024


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Looked:
    """What the units of a chunk left at a table.

    Attributes:
        name: Name of the table in the student.
        num_rows: Of the table.
        entered: Which rows were looked up, (U, ...).
        gradient: Gradient at what came out, (U, ..., E).
    """

    name: str
    num_rows: int
    entered: Tensor
    gradient: Tensor

    def sums(self, num_real: int) -> "RowSums":
        """Gradients of the first ``num_real`` units; those behind are padding."""
        row_UP = self.entered[:num_real].flatten(1)
        unit_U = torch.arange(num_real, device=row_UP.device)
        key_G = (row_UP + self.num_rows * unit_U[:, None]).flatten()
        gradient_GE = self.gradient[:num_real].flatten(0, -2)
        if key_G.is_cpu:  # Elsewhere, to know how many there are is to wait.
            # At most places of a short string there is padding: no gradient, and no work.
            moves = torch.linalg.vector_norm(gradient_GE, dim=1) != 0
            key_G, gradient_GE = key_G[moves], gradient_GE[moves]
        key_S, place = torch.unique(key_G, return_inverse=True)
        sum_SE = gradient_GE.new_zeros(len(key_S), gradient_GE.shape[1], dtype=torch.float64)
        sum_SE.index_add_(0, place, gradient_GE.double())
        return RowSums(
            units=torch.div(key_S, self.num_rows, rounding_mode="floor"),
            rows=key_S % self.num_rows,
            sums=sum_SE,
            num_units=num_real,
            num_rows=self.num_rows,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowSums:
    """Each unit's gradient of a table, without the rows that it did not look up; float64.

    Guarantees:
        A unit's numbers depend on that unit alone, and `squares` measures the very numbers that `weighted`
        adds up: one more unit of factor f moves that sum by f times the root of its square.
    """

    units: Int[Tensor, " sums"]
    rows: Int[Tensor, " sums"]
    sums: Float[Tensor, "sums width"]
    num_units: int
    num_rows: int

    def squares(self) -> Float[Tensor, " units"]:
        """Squared norm of each unit's gradient; not a number or infinite where that is."""
        square_S = self.sums.square().sum(dim=1)
        return square_S.new_zeros(self.num_units).index_add_(0, self.units, square_S)

    def weighted(self, factor_U: Float[Tensor, " units"]) -> Tensor:
        """Sum over the units of factor times gradient; whatever a unit of factor 0 holds counts as zero.

        Returns:
            Of the table's shape, sparse: to add it up costs what the rows that were looked up cost.
        """
        factor_S = factor_U[self.units][:, None]
        weighted_SE = torch.where(factor_S > 0, self.sums * factor_S, 0.0)
        shape = (self.num_rows, weighted_SE.shape[1])
        return torch.sparse_coo_tensor(self.rows[None], weighted_SE, shape, check_invariants=False)
