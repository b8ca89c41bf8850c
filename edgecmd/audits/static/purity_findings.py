"""Purity: is what is computed for one pair independent of the others, in the student and in the loss?

Shapes: B batch, R rows of a unit, D embedding dimension.
"""

import torch
from torch import Tensor

from edgecmd.audits.audited_student import Subject
from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.static.opacus_reference import BatchLoss
from edgecmd.core.errors import PrivacyError
from edgecmd.losses.check import PROBE_ROWS, PROBE_SEED, leaking_rows
from edgecmd.privacy.step.purity import require_pure, require_pure_loss
from edgecmd.privacy.step.units import UnitLoss


def student_purity(subject: Subject, *, claims: bool) -> Finding:
    """Whether the student's output for an image depends on other images, present or past.

    Args:
        subject: The student.
        claims: Whether a guarantee for single pairs rests on it; else it is told, and contradicts nothing.
    """
    name = f"purity of the student, {subject.name}"
    try:
        require_pure(subject.student, in_channels=subject.in_channels, image_size=subject.image_size)
    except PrivacyError as error:
        return _finding(name, str(error), leaks=1, claims=claims)
    text = f"The student acts on each input alone ({subject.name}): poisoned rows do not reach other rows."
    return _finding(name, text, leaks=0, claims=claims)


def unit_loss_purity(loss: UnitLoss, *, embedding_dim: int) -> Finding:
    """Whether the loss of a unit, or its gradient, depends on units that it saw before.

    Other units of the batch are in no scope of it, so that is all it could do.
    """

    def each(student: Tensor, teacher: Tensor) -> Tensor:
        mask = torch.ones(1, dtype=torch.bool)
        return torch.stack([loss(z[None], t[None], mask) for z, t in zip(student, teacher)])

    try:
        require_pure_loss(loss, embedding_dim=embedding_dim)
        leaking = leaking_rows(each, embedding_dim=embedding_dim)
    except PrivacyError as error:
        return _finding("purity of the loss", str(error), leaks=1, claims=True)
    return _loss_finding(leaking, claims=True)


def batch_loss_purity(loss: BatchLoss, *, embedding_dim: int, claims: bool) -> Finding:
    """Whether the loss of one row of a batch, or its gradient, depends on another row.

    Args:
        loss: Losses (B,) of student (B, D) and teacher (B, D).
        embedding_dim: D.
        claims: Whether a guarantee for single pairs rests on it.
    """
    return _loss_finding(leaking_rows(loss, embedding_dim=embedding_dim), claims=claims)


def _loss_finding(leaking: dict[str, list[int]], *, claims: bool) -> Finding:
    rows = sorted({row for found in leaking.values() for row in found})
    if not rows:
        text = "The loss of a pair, and its gradient, depend on no other pair."
        return _finding("purity of the loss", text, leaks=0, claims=claims)
    where = " and ".join(name for name, found in leaking.items() if found)
    text = (
        f"The loss mixes the pairs of a batch: changing one row changes the {where} of others ({len(rows)}"
        f" of {PROBE_ROWS} rows do so). Clipping per pair does not bound that; use public anchors as"
        " negatives."
    )
    return _finding("purity of the loss", text, leaks=len(rows), claims=claims)


def _finding(name: str, text: str, *, leaks: int, claims: bool) -> Finding:
    verdict = CONTRADICTED if leaks else NOT_CONTRADICTED
    return Finding(
        level="check",
        name=name,
        attacker="code",
        verdict=verdict if claims else INDICATOR,
        text=text,
        quantity="leaking rows",
        claimed=0.0 if claims else None,
        measured=float(leaks),
        counts={"rows": PROBE_ROWS},
        seeds=(PROBE_SEED,),
    )
