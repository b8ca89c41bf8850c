"""Augmentation of whole batches on the device, drawn from an explicit generator.

Each function maps a scaled batch to a new one of the same shape and draws from ``generator`` only.

Shapes: B batch, C channels, H height, W width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from edgecmd.core.errors import choose

Batch = Float[Tensor, "batch channels height width"]


def _uniform(count: int, low: float, high: float, *, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


@dataclass(frozen=True, kw_only=True, slots=True)
class Motion:
    """How far a view may be moved.

    Attributes:
        max_degrees: Largest rotation to either side.
        max_shift: Largest shift as a share of the side.
        min_scale: Smallest magnification.
        max_scale: Largest magnification; 2 shows the middle half.
        flip: Mirror left and right with probability one half.
        mode: ``bilinear``, or ``nearest``, which mixes no two pixels.
    """

    max_degrees: float
    max_shift: float
    min_scale: float
    max_scale: float
    flip: bool = True
    mode: str = "bilinear"

    def times(self, strength: float) -> "Motion":
        """The same motion, ``strength`` times as wide."""
        return replace(
            self,
            max_degrees=self.max_degrees * strength,
            max_shift=self.max_shift * strength,
            min_scale=self.min_scale**strength,
            max_scale=self.max_scale**strength,
        )


# Motions of each modality that is a picture, at strength 1.
MOTIONS: dict[str, Motion] = {
    "image": Motion(max_degrees=10.0, max_shift=0.06, min_scale=0.85, max_scale=1.2),
    "depth": Motion(max_degrees=5.0, max_shift=0.06, min_scale=0.9, max_scale=1.15, mode="nearest"),
}
SOURCE_MOTION = Motion(max_degrees=12.0, max_shift=0.08, min_scale=0.8, max_scale=1.3)


def draw_motion(batch: int, motion: Motion, *, generator: torch.Generator) -> Float[Tensor, "batch 2 3"]:
    """Maps from places of a view to places of the picture, in shares of half a side from the middle.

    Guarantees:
        The same numbers on every processor: they are rounded from double, whose last digit decides about
        one in a hundred million of them.
    """
    # In double, since sine and exponential in float32 end in other digits on other processors.
    angle = _uniform(batch, -motion.max_degrees, motion.max_degrees, generator=generator).double()
    angle = angle * (math.pi / 180.0)
    low, high = math.log(motion.min_scale), math.log(motion.max_scale)
    zoom = torch.exp(_uniform(batch, low, high, generator=generator).double())
    reach = 2.0 * motion.max_shift
    shift = _uniform(2 * batch, -reach, reach, generator=generator).view(batch, 2)
    mirror = _uniform(batch, 0.0, 1.0, generator=generator).lt(0.5).float().mul(-2.0).add(1.0)
    if not motion.flip:
        mirror = torch.ones_like(mirror)
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    row_x = torch.stack([cosine * mirror, -sine, shift[:, 0]], dim=1)
    row_y = torch.stack([sine * mirror, cosine, shift[:, 1]], dim=1)
    return torch.stack([row_x, row_y], dim=1).float()


def moved(image_BCHW: Batch, theta_B23: Float[Tensor, "batch 2 3"], *, mode: str = "bilinear") -> Batch:
    """Views of a batch by `draw_motion`; what comes from outside is the nearest border pixel."""
    grid = functional.affine_grid(theta_B23.to(image_BCHW), list(image_BCHW.shape), align_corners=False)
    return functional.grid_sample(image_BCHW, grid, mode=mode, padding_mode="border", align_corners=False)


def random_affine(image_BCHW: Batch, motion: Motion, *, generator: torch.Generator) -> Batch:
    """Rotate, shift, scale and mirror each image.

    Args:
        image_BCHW: Scaled images.
        motion: How far.
        generator: Source of randomness.
    """
    return moved(image_BCHW, draw_motion(len(image_BCHW), motion, generator=generator), mode=motion.mode)


def augment_target(image_BCHW: Batch, *, strength: float, generator: torch.Generator) -> Batch:
    """Views of the target modality: small rotations, shifts, scales and mirror images.

    Args:
        image_BCHW: Scaled images.
        strength: 0 returns the batch as it is; 1 is the default; larger is wilder.
        generator: Source of randomness.
    """
    if strength == 0:
        return image_BCHW
    return random_affine(image_BCHW, MOTIONS["image"].times(strength), generator=generator)


def augment_depth(depth_BCHW: Batch, *, strength: float, generator: torch.Generator) -> Batch:
    """Views of depth maps: moved and mirrored whole pixels, so that nothing mixes with what is missing."""
    if strength == 0:
        return depth_BCHW
    return random_affine(depth_BCHW, MOTIONS["depth"].times(strength), generator=generator)


def augment_wave(wave_B11T: Batch, *, strength: float, generator: torch.Generator) -> Batch:
    """Views of recordings: as if at another moment, by a faster or slower voice, through another microphone.

    At strength 1: moved by up to a tenth of the length (silence enters), played up to 16 percent faster or
    slower, which moves pitch and formants alike (Ko et al. 2015), tilted towards low or high tones, louder
    or softer by a factor of 0.7 to 1.4, and with white noise 30 to 60 dB below its own peak.
    """
    if strength == 0:
        return wave_B11T
    batch, length = len(wave_B11T), wave_B11T.shape[-1]

    def draw(low: float, high: float) -> Tensor:
        return _uniform(batch, low, high, generator=generator)[:, None].to(wave_B11T)

    shift, speed = draw(-0.1 * strength, 0.1 * strength), torch.exp(draw(-0.15 * strength, 0.15 * strength))
    shown = _read_at(wave_B11T.flatten(1), (torch.arange(length).to(shift) - shift * length) * speed)
    tilt = draw(-0.5, 0.5) * min(strength, 1.5)
    tilted = shown + tilt * functional.pad(shown, (1, 0))[:, :-1]
    gain = torch.exp(draw(-0.35 * strength, 0.35 * strength))
    level = strength * 10.0 ** draw(-3.0, -1.5) * tilted.abs().amax(dim=1, keepdim=True)
    noise = torch.randn(batch, length, generator=generator).to(shown)
    return (gain * (tilted + level * noise)).view_as(wave_B11T)


def _read_at(
    wave_BT: Float[Tensor, "batch samples"], place_BT: Float[Tensor, "batch places"]
) -> Float[Tensor, "batch places"]:
    """Samples at fractional places, linear between neighbours, silence outside."""
    last = wave_BT.shape[1] - 1
    inside = (place_BT >= 0) & (place_BT <= last)
    low = place_BT.floor().clamp(0, last - 1)
    share = place_BT - low
    before = wave_BT.gather(1, low.long())
    after = wave_BT.gather(1, low.long() + 1)
    return (before + share * (after - before)) * inside.to(wave_BT)


AUGMENTATIONS: dict[str, Callable[..., Batch]] = {
    "image": augment_target,
    "depth": augment_depth,
    "wave": augment_wave,
}


def augment(modality: str, batch: Batch, *, strength: float, generator: torch.Generator) -> Batch:
    """Views of a batch of that modality, a key of `AUGMENTATIONS`; each row's are independent of the others.

    Raises:
        ConfigError: The modality is unknown.
    """
    view: Batch = choose("modality", modality, AUGMENTATIONS)(batch, strength=strength, generator=generator)
    return view


def augment_source(
    image_BCHW: Batch, *, line_share: float, ink_share: float, generator: torch.Generator
) -> Batch:
    """SimCLR views of the source modality that make a teacher look at shape rather than at colour.

    Each view is moved a little and recoloured; a share of the views is reduced to its outlines,
    drawn dark on white, and another share to two tones. What survives both is the shape, which is
    what a drawing can tell. Nothing but the public image is used.

    Args:
        image_BCHW: RGB images scaled by `edgecmd.data.student_input.source_input` (white is +2, black -2).
        line_share: Share of views that become outlines.
        ink_share: Share of views that become two-tone.
        generator: Source of randomness.
    """
    shown = random_affine(image_BCHW, SOURCE_MOTION, generator=generator)
    view = _recolour(shown, generator=generator)
    kind = _uniform(len(view), 0.0, 1.0, generator=generator).view(-1, 1, 1, 1).to(view.device)
    thick = _uniform(len(view), 0.0, 1.0, generator=generator).lt(0.5).view(-1, 1, 1, 1).to(view.device)
    level = _uniform(len(view), -0.8, 0.8, generator=generator).view(-1, 1, 1, 1).to(view.device)
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
    batch, device = len(image_BCHW), image_BCHW.device
    mix = torch.eye(3).expand(batch, 3, 3) + 0.4 * torch.randn(batch, 3, 3, generator=generator)
    weight = torch.rand(batch, 1, 3, generator=generator).square() + 0.05
    grey = (weight / weight.sum(dim=2, keepdim=True)).expand(batch, 3, 3)
    is_grey = _uniform(batch, 0.0, 1.0, generator=generator).lt(0.5).view(batch, 1, 1)
    mix = torch.where(is_grey, grey, mix).to(device)
    contrast = _uniform(batch, 0.6, 1.4, generator=generator).view(batch, 1, 1, 1).to(device)
    brightness = _uniform(batch, -0.6, 0.6, generator=generator).view(batch, 1, 1, 1).to(device)
    return torch.einsum("bij,bjhw->bihw", mix, image_BCHW) * contrast + brightness
