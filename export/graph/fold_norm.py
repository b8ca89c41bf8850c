"""GroupNorm folded into the convolution before it, then the student's embedding learnt back without labels.

ONNX Runtime has no kernel for GroupNorm: a student with it is two to three times as slow on a
device and gains nothing from int8. Here each normalisation becomes the affine map that it is on
average over public inputs, which folds into the convolution; what that costs is won back by
distilling the embedding of the student itself, again on public inputs alone. Under differential
privacy both are post-processing, because no pair is read.

Shapes: B batch, N inputs, C channels, H height, W width, G groups, D embedding dimension.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ExportError
from edgecmd.losses import unit
from edgecmd.models.students import STUDENTS, Student, build_student
from edgecmd.training.optimise import mean_gradient, one_cycle, optimise

RECOVERY_BATCH = 64
RECOVERY_LEARNING_RATE = 1e-3
COSINE_WEIGHT = 5.0

Inputs = Float[Tensor, "num channels height width"]
Sampler = Callable[[int], Inputs]
"""Draws that many fresh public inputs, scaled as the student takes them."""


class Folded(NamedTuple):
    """A student without normalisation, the name of its architecture, and how close it is.

    Attributes:
        student: In evaluation mode.
        architecture: A key of `edgecmd.models.students.STUDENTS`.
        cosine_before: Mean cosine to the original's embedding after calibration alone.
        cosine: The same after recovery.
    """

    student: Student
    architecture: str
    cosine_before: float
    cosine: float


def folded_architecture(architecture: str) -> str:
    """Name of the student that ``architecture`` becomes.

    Raises:
        ExportError: It has no GroupNorm.
    """
    row = STUDENTS.get(architecture)
    if row is None or not row.folds_to:
        with_norm = ", ".join(name for name, one in STUDENTS.items() if one.folds_to)
        raise ExportError(
            f"student.architecture={architecture!r} has no GroupNorm to fold; --fold-norm is for"
            f" {with_norm}. Other students already export as plain convolutions."
        )
    return row.folds_to


def fold_norm(
    student: Student, architecture: str, *, sampler: Sampler, num_calibration: int = 512, num_steps: int = 200
) -> Folded:
    """Fold GroupNorm away and recover.

    Args:
        student: A ``gn-*`` student; not changed.
        architecture: Its name.
        sampler: Public inputs; the randomness is its own.
        num_calibration: Inputs whose statistics stand for all.
        num_steps: Optimiser steps of the recovery; 0 for calibration alone.

    Raises:
        ExportError: The student has no GroupNorm, or the result is not finite.
    """
    name = folded_architecture(architecture)
    reference = copy.deepcopy(student).cpu().eval()
    calibration, held_out = sampler(num_calibration), sampler(num_calibration)
    plain = calibrate(reference, calibration, architecture=name)
    before = mean_cosine(plain, reference, held_out)
    recover(plain, reference, sampler=sampler, num_steps=num_steps)
    after = mean_cosine(plain, reference, held_out)
    if not torch.isfinite(torch.tensor([before, after])).all():
        raise ExportError("Folding the normalisation gave numbers that are not finite. Export without it.")
    return Folded(student=plain.eval(), architecture=name, cosine_before=before, cosine=after)


@torch.no_grad()
def calibrate(student: Student, inputs: Inputs, *, architecture: str) -> Student:
    """Each GroupNorm as its average affine map, folded into the convolution before it, first to last.

    With ``m_g``, ``v_g`` the mean and variance of a group, averaged over the inputs:
    ``w (x - m_g) / sqrt(v_g + eps) + b``. A later layer is measured behind those already folded.

    Args:
        student: With GroupNorm behind convolutions without a bias; not changed.
        inputs: Public inputs.
        architecture: Name of the result.
    """
    working = copy.deepcopy(student).eval()
    for name, pair in [(name, one) for name, one in working.named_modules() if _is_normalised(one)]:
        convolution, norm = pair[0], pair[1]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.GroupNorm)
        scale, shift = affine_of(norm, _input_of(working, norm, inputs))
        parent, _, place = name.rpartition(".")
        setattr(working.get_submodule(parent), place, _plain(convolution, scale, shift))
    found = build_student(
        architecture,
        in_channels=student.in_channels,
        embedding_dim=student.embedding_dim,
        generator=torch.Generator().manual_seed(0),
    )
    found.load_state_dict(working.state_dict())
    return found.eval()


def _is_normalised(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and len(module) == 3 and isinstance(module[1], nn.GroupNorm)


def _input_of(student: nn.Module, layer: nn.Module, inputs: Inputs) -> Tensor:
    """What ``layer`` is given while ``student`` embeds ``inputs``, (N, C, H, W)."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        for start in range(0, len(inputs), RECOVERY_BATCH):
            student(inputs[start : start + RECOVERY_BATCH])
    finally:
        handle.remove()
    return torch.cat(seen)


def affine_of(
    norm: nn.GroupNorm, entered_NCHW: Float[Tensor, "num channels height width"]
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Scale and shift of each channel that stand for ``norm`` on average over what entered it."""
    groups = entered_NCHW.double().reshape(len(entered_NCHW), norm.num_groups, -1)
    mean_G, variance_G = groups.mean(dim=(0, 2)), groups.var(dim=2, correction=0).mean(dim=0)
    size = norm.num_channels // norm.num_groups
    mean_C, variance_C = mean_G.repeat_interleave(size), variance_G.repeat_interleave(size)
    scale = norm.weight.double() / torch.sqrt(variance_C + norm.eps)
    return scale.float(), (norm.bias.double() - scale * mean_C).float()


def _plain(convolution: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Sequential:
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
    )
    plain.weight.copy_(convolution.weight * scale[:, None, None, None])
    assert plain.bias is not None
    plain.bias.copy_(shift if convolution.bias is None else shift + convolution.bias * scale)
    return nn.Sequential(plain, nn.ReLU())


def recover(plain: Student, reference: Student, *, sampler: Sampler, num_steps: int) -> None:
    """Distil the embedding of ``reference`` into ``plain``, in place.

    Loss of a batch: ``5 (1 - mean cosine) + mean squared difference of the Gram matrices`` of the unit
    embeddings; AdamW with one cycle of the learning rate.
    """
    if not num_steps:
        return
    optimizer = torch.optim.AdamW(plain.parameters(), lr=RECOVERY_LEARNING_RATE)
    schedule = one_cycle(optimizer, peak=RECOVERY_LEARNING_RATE, num_steps=num_steps)

    def gradient(_: int) -> Tensor:
        batch = sampler(RECOVERY_BATCH)
        with torch.no_grad():
            wanted = unit(reference(batch))
        found = unit(plain(batch))
        cosine = (found * wanted).sum(dim=1).mean()
        gram = functional.mse_loss(found @ found.T, wanted @ wanted.T)
        return mean_gradient(COSINE_WEIGHT * (1.0 - cosine) + gram)

    plain.train()
    optimise(optimizer, num_steps, gradient=gradient, schedule=schedule)
    plain.eval()


@torch.no_grad()
def mean_cosine(plain: Student, reference: Student, inputs: Inputs) -> float:
    """Mean cosine between the two embeddings of each input."""
    plain.eval()
    found, wanted = unit(plain(inputs)), unit(reference(inputs))
    return float((found * wanted).sum(dim=1).mean())
