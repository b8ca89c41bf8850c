"""Augmentation of whole batches on the device, drawn from an explicit generator.

Each function maps a scaled batch to a new one of the same shape and draws from ``generator`` only.

Shapes: B batch, C channels, H height, W width.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from edgecmd.core.errors import choose
from edgecmd.data.modalities.motion import Batch, Motion, random_affine, uniform
from edgecmd.data.modalities.table import MODALITIES

SOURCE_MOTION = Motion(max_degrees=12.0, max_shift=0.08, min_scale=0.8, max_scale=1.3)


def augment(modality: str, batch: Batch, *, strength: float, generator: torch.Generator) -> Batch:
    """Views of a batch of that modality, a key of `MODALITIES`; each row's are independent of the others.

    Raises:
        ConfigError: The modality is unknown.
    """
    return choose("modality", modality, MODALITIES).view(batch, strength=strength, generator=generator)


def augment_source(
    image_BCHW: Batch, *, line_share: float, ink_share: float, generator: torch.Generator
) -> Batch:
    """SimCLR views of the source modality that make a teacher look at shape rather than at colour.

    Each view is moved a little and recoloured; a share of the views is reduced to its outlines,
    drawn dark on white, and another share to two tones. What survives both is the shape, which is
    what a drawing can tell. Nothing but the public image is used.

    Args:
        image_BCHW: RGB images scaled by `edgecmd.data.modalities.table.source_input` (white is +2, black -2).
        line_share: Share of views that become outlines.
        ink_share: Share of views that become two-tone.
        generator: Source of randomness.
    """
    shown = random_affine(image_BCHW, SOURCE_MOTION, generator=generator)
    view = _recolour(shown, generator=generator)
    kind = uniform(len(view), 0.0, 1.0, generator=generator).view(-1, 1, 1, 1).to(view.device)
    thick = uniform(len(view), 0.0, 1.0, generator=generator).lt(0.5).view(-1, 1, 1, 1).to(view.device)
    level = uniform(len(view), -0.8, 0.8, generator=generator).view(-1, 1, 1, 1).to(view.device)
    view = torch.where(kind.lt(line_share), outlines(view, thick=thick), view)
    return torch.where(kind.gt(1.0 - ink_share), two_tones(view, level=level), view)


def outlines(image_BCHW: Batch, *, thick: Bool[Tensor, "batch 1 1 1"]) -> Batch:
    """Edges of each image as dark lines on white, in the range of `source_input`.

    Args:
        image_BCHW: Scaled images.
        thick: Which images get lines of three pixels instead of one.
    """
    right = image_BCHW - functional.pad(image_BCHW, (1, 0, 0, 0), mode="replicate")[..., :-1]
    down = image_BCHW - functional.pad(image_BCHW, (0, 0, 1, 0), mode="replicate")[:, :, :-1]
    edge = (right.square() + down.square() + 1e-6).sqrt().amax(dim=1, keepdim=True)
    edge = torch.where(thick, functional.max_pool2d(edge, 3, stride=1, padding=1), edge)
    strength = 1.5 * edge / (edge.amax(dim=(1, 2, 3), keepdim=True) + 0.2)
    return (2.0 - 4.0 * strength.clamp(max=1.0)).expand_as(image_BCHW)


def two_tones(image_BCHW: Batch, *, level: Float[Tensor, "batch 1 1 1"]) -> Batch:
    """Each image in black and white, cut at ``level`` of its mean channel; soft, so edges stay smooth."""
    grey = image_BCHW.mean(dim=1, keepdim=True)
    return (2.0 * torch.tanh(4.0 * (grey - level))).expand_as(image_BCHW)


def _recolour(image_BCHW: Batch, *, generator: torch.Generator) -> Batch:
    """Random colour mixing, contrast and brightness for each image; every second one turns grey."""
    batch, device, drawn_on = len(image_BCHW), image_BCHW.device, generator.device
    noise = torch.randn(batch, 3, 3, generator=generator, device=drawn_on)
    mix = torch.eye(3, device=drawn_on).expand(batch, 3, 3) + 0.4 * noise
    weight = torch.rand(batch, 1, 3, generator=generator, device=drawn_on).square() + 0.05
    grey = (weight / weight.sum(dim=2, keepdim=True)).expand(batch, 3, 3)
    is_grey = uniform(batch, 0.0, 1.0, generator=generator).lt(0.5).view(batch, 1, 1)
    mix = torch.where(is_grey, grey, mix).to(device)
    contrast = uniform(batch, 0.6, 1.4, generator=generator).view(batch, 1, 1, 1).to(device)
    brightness = uniform(batch, -0.6, 0.6, generator=generator).view(batch, 1, 1, 1).to(device)
    return torch.einsum("bij,bjhw->bihw", mix, image_BCHW) * contrast + brightness
