"""Augmentation of whole batches on the device, drawn from an explicit generator.

Each function maps a scaled batch to a new one of the same shape and draws from ``generator`` only.

Shapes: B batch, C channels, H height, W width.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Batch = Float[Tensor, "batch channels height width"]


def _uniform(count: int, low: float, high: float, *, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def random_affine(
    image_BCHW: Batch,
    *,
    max_degrees: float,
    max_shift: float,
    min_scale: float,
    max_scale: float,
    flip: bool,
    generator: torch.Generator,
) -> Batch:
    """Rotate, shift, scale and mirror each image; what comes from outside is the nearest border pixel.

    Args:
        image_BCHW: Scaled images.
        max_degrees: Largest rotation to either side.
        max_shift: Largest shift as a share of the side.
        min_scale: Smallest magnification.
        max_scale: Largest magnification; 2 shows the middle half.
        flip: Mirror left and right with probability one half.
        generator: Source of randomness.
    """
    batch = len(image_BCHW)
    angle = _uniform(batch, -max_degrees, max_degrees, generator=generator) * (math.pi / 180.0)
    zoom = torch.exp(_uniform(batch, math.log(min_scale), math.log(max_scale), generator=generator))
    shift = _uniform(2 * batch, -2.0 * max_shift, 2.0 * max_shift, generator=generator).view(batch, 2)
    mirror = _uniform(batch, 0.0, 1.0, generator=generator).lt(0.5).float().mul(-2.0).add(1.0)
    if not flip:
        mirror = torch.ones_like(mirror)
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    row_x = torch.stack([cosine * mirror, -sine, shift[:, 0]], dim=1)
    row_y = torch.stack([sine * mirror, cosine, shift[:, 1]], dim=1)
    theta = torch.stack([row_x, row_y], dim=1).to(image_BCHW.device)
    grid = functional.affine_grid(theta, list(image_BCHW.shape), align_corners=False)
    return functional.grid_sample(image_BCHW, grid, padding_mode="border", align_corners=False)


def augment_target(image_BCHW: Batch, *, strength: float, generator: torch.Generator) -> Batch:
    """Views of the target modality: small rotations, shifts, scales and mirror images.

    Args:
        image_BCHW: Scaled images.
        strength: 0 returns the batch as it is; 1 is the default; larger is wilder.
        generator: Source of randomness.
    """
    if strength == 0:
        return image_BCHW
    return random_affine(
        image_BCHW,
        max_degrees=10.0 * strength,
        max_shift=0.06 * strength,
        min_scale=0.85**strength,
        max_scale=1.2**strength,
        flip=True,
        generator=generator,
    )


def augment_source(image_BCHW: Batch, *, generator: torch.Generator) -> Batch:
    """SimCLR views of the source modality: crop, mirror, colour change, greyscale.

    Args:
        image_BCHW: RGB images scaled by `edgecmd.preprocess.source_input`.
        generator: Source of randomness.
    """
    view = random_affine(
        image_BCHW, max_degrees=15.0, max_shift=0.15, min_scale=0.8, max_scale=1.8, flip=True, generator=generator
    )
    return _recolour(view, generator=generator)


def _recolour(image_BCHW: Batch, *, generator: torch.Generator) -> Batch:
    """Random colour mixing, contrast and brightness for each image; one in four turns grey."""
    batch, device = len(image_BCHW), image_BCHW.device
    identity = torch.eye(3).expand(batch, 3, 3)
    mix = identity + 0.25 * torch.randn(batch, 3, 3, generator=generator)
    grey = torch.full((3, 3), 1.0 / 3.0).expand(batch, 3, 3)
    is_grey = _uniform(batch, 0.0, 1.0, generator=generator).lt(0.25).view(batch, 1, 1)
    mix = torch.where(is_grey, grey, mix).to(device)
    contrast = _uniform(batch, 0.7, 1.3, generator=generator).view(batch, 1, 1, 1).to(device)
    brightness = _uniform(batch, -0.4, 0.4, generator=generator).view(batch, 1, 1, 1).to(device)
    mixed = torch.einsum("bij,bjhw->bihw", mix, image_BCHW)
    return mixed * contrast + brightness
