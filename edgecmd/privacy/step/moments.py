"""Second moments of embeddings, released once: the last layer of a student follows from them in closed form.

A student gives a pair the unit embedding ``z``. Its teacher gives it ``t``: the unit feature less the mean of
the public anchors, divided by its norm. Without that, where features share much of a direction, ``M`` would
turn all embeddings into it, and they would be told apart worse than before. The linear map ``M`` that is
nearest to the teacher over all pairs, ``min sum |t - M z|^2 + ridge |M - I|^2``, needs nothing of them but
``A = sum z z^T`` and ``B = sum z t^T``: ``M = (B^T + ridge I) (A + ridge I)^-1``. It turns the projector, the
student's last layer: as ``z`` is divided by its norm anyway, ``M W`` and ``M b`` take the place of ``W``
and ``b``. The ridge pulls towards the first weights, so a public warm start is what noise falls back to.

`Moments` is that sum as a gradient: of parameters that are zero, with a loss that is linear in them. So
units, clip, noise, ledger and audits are those of every other step.

Shapes: R rows of a unit, D embedding dimension.
"""

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgecmd.core.errors import PrivacyError
from edgecmd.losses import Anchors, Loss, unit
from edgecmd.privacy.step.units import UnitLoss, unit_loss

if TYPE_CHECKING:
    from edgecmd.models.students import Student
    from edgecmd.privacy.plan import PrivacyPlan

FEATURES, CROSS = "features", "cross"


class Moments(nn.Module):
    """What is summed over the pairs of a client, as parameters whose gradient it is.

    Args:
        student: Gives the embeddings; a copy at its present weights is asked, in evaluation mode.

    Raises:
        PrivacyError: The student has no linear layer at its end.

    Attributes:
        features: Of ``A``: its diagonal and, times the root of two, what is above it, (D (D + 1) / 2,). So
            its norm is that of the symmetric matrix, and no number of it receives noise twice.
        cross: Of ``B``, (D, D).
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        dim = require_projector(student).out_features
        # In a tuple it is no child: its weights are constants here.
        self._asked = (copy.deepcopy(student).eval().requires_grad_(False),)
        like = next(iter(student.parameters()))
        self.features = nn.Parameter(like.new_zeros(dim * (dim + 1) // 2))
        self.cross = nn.Parameter(like.new_zeros(dim, dim))
        self._upper = torch.triu_indices(dim, dim, device=like.device)
        self._weight = torch.where(self._upper[0] == self._upper[1], 1.0, 2.0**0.5)

    def double(self) -> "Moments":
        """As every module; the student's copy too."""
        self._asked[0].double()
        return super().double()

    def forward(self, image_RCHW: Tensor) -> Float[Tensor, "rows _"]:
        """For each row what `moment_loss` needs: its part of ``A``, and one for each teacher feature."""
        z = unit(self._asked[0](image_RCHW))
        squares = z[:, self._upper[0]] * z[:, self._upper[1]] * self._weight
        return torch.cat([(squares @ self.features)[:, None], z @ self.cross], dim=1)


def moment_loss(anchors: Anchors) -> UnitLoss:
    """Loss whose gradient is minus ``(A, B)`` of one pair, the mean over its views, of norm at most root 2.

    Args:
        anchors: Public teacher features, (K, D), whose mean is taken from the pair's.

    Returns:
        Function of what `Moments` found of a pair's rows (R, 1 + D), teacher rows (R, D) and mask (R,).
    """
    shared = unit(anchors).mean(dim=0)

    def of_pair(found: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        of_row = found[:, 0] + (found[:, 1:] * unit(unit(teacher) - shared)).sum(dim=1)
        return -(of_row * mask).sum() / mask.sum()

    return of_pair


def summed_module(plan: "PrivacyPlan", student: nn.Module) -> nn.Module:
    """What the numbers of a client's sum are those of: the student, or the moments of one release."""
    return Moments(student) if plan.row.one_shot else student


def subject_of(
    plan: "PrivacyPlan", student: nn.Module, loss: Loss, anchors: Anchors
) -> tuple[nn.Module, UnitLoss]:
    """What gradients are taken of and the loss of a unit: the student, or the moments of one release.

    Args:
        plan: Of the run.
        student: As it came.
        loss: Of the run.
        anchors: Public teacher features, (K, D).

    Raises:
        ConfigError: The loss has no form per unit.
        PrivacyError: One release is asked of a student that has no linear layer at its end.
    """
    made = moment_loss(anchors) if plan.row.one_shot else unit_loss(loss, anchors)
    return summed_module(plan, student), made


def require_projector(student: nn.Module) -> nn.Linear:
    """The last layer, which is to be replaced.

    Raises:
        PrivacyError: The student has no linear layer at its end.
    """
    projector = getattr(student, "projector", None)
    if isinstance(projector, nn.Linear):
        return projector
    name = getattr(student, "architecture", type(student).__name__)
    raise PrivacyError(
        f"student.architecture={name!r} with privacy.mechanism='statistics': the closed form"
        " replaces a linear last layer, and this student has none of its own. Use a ws-*, gn-* or lite0-*"
        " student, or privacy.mechanism=anchors."
    )


def solved(
    student: "Student", features: np.ndarray, cross: np.ndarray, *, noise_std: float
) -> dict[str, np.ndarray]:
    """The projector that noised moments ask for: post-processing.

    The ridge is what noise alone would make of the largest singular value of ``B``: a function of
    public numbers. Directions in which the pairs say less than that keep their first weights.

    Args:
        student: Its projector is read.
        features: As `Moments.features`, with noise.
        cross: As `Moments.cross`, with noise.
        noise_std: Standard deviation of the noise on each number of both.

    Returns:
        Weight and bias of the projector by their names in the student, float64.
    """
    projector, dim = require_projector(student), len(cross)
    rows, columns = np.triu_indices(dim)
    second = np.zeros((dim, dim))
    second[rows, columns] = features / np.where(rows == columns, 1.0, 2.0**0.5)
    second += np.triu(second, 1).T
    spread, axes = np.linalg.eigh(second)
    ridge = max(2.0 * noise_std * dim**0.5, 1e-6 * float(spread.max(initial=0.0)), 1e-12)
    inverse = (axes / (spread.clip(min=0.0) + ridge)) @ axes.T
    turn = (inverse @ (cross + ridge * np.eye(dim))).T
    state = {name: value.detach().cpu().double().numpy() for name, value in projector.named_parameters()}
    return {f"projector.{name}": turn @ value for name, value in state.items()}
