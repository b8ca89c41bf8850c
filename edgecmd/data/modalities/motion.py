"""Moved views: how far an image may be turned, shifted, scaled and mirrored, and the views themselves.

Shapes: B batch, C channels, H height, W width.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from edgecmd.data.on_device import exact_on, sent

Batch = Float[Tensor, "batch channels height width"]


def uniform(count: int, low: float, high: float, *, generator: torch.Generator) -> Tensor:
    """``count`` numbers from ``low`` to ``high``, (count,), where the generator draws."""
    return torch.rand(count, generator=generator, device=generator.device) * (high - low) + low


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


def draw_motion(batch: int, motion: Motion, *, generator: torch.Generator) -> Float[Tensor, "batch 2 3"]:
    """Maps from places of a view to places of the image, in shares of half a side from the middle.

    Guarantees:
        The same numbers on every processor: they are rounded from double, whose last digit decides about
        one in a hundred million of them. A GPU draws others, and one without double rounds them in float32.
    """
    # In double, since sine and exponential in float32 end in other digits on other processors.
    exact = exact_on(generator.device)
    angle = uniform(batch, -motion.max_degrees, motion.max_degrees, generator=generator).to(exact)
    angle = angle * (math.pi / 180.0)
    low, high = math.log(motion.min_scale), math.log(motion.max_scale)
    zoom = torch.exp(uniform(batch, low, high, generator=generator).to(exact))
    reach = 2.0 * motion.max_shift
    shift = uniform(2 * batch, -reach, reach, generator=generator).view(batch, 2)
    mirror = uniform(batch, 0.0, 1.0, generator=generator).lt(0.5).float().mul(-2.0).add(1.0)
    if not motion.flip:
        mirror = torch.ones_like(mirror)
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    row_x = torch.stack([cosine * mirror, -sine, shift[:, 0]], dim=1)
    row_y = torch.stack([sine * mirror, cosine, shift[:, 1]], dim=1)
    return torch.stack([row_x, row_y], dim=1).float()


def moved(image_BCHW: Batch, theta_B23: Float[Tensor, "batch 2 3"], *, mode: str = "bilinear") -> Batch:
    """Views of a batch by `draw_motion`; what comes from outside is the nearest border pixel."""
    theta_B23 = sent(theta_B23, image_BCHW.device).to(image_BCHW)
    grid = functional.affine_grid(theta_B23, list(image_BCHW.shape), align_corners=False)
    return functional.grid_sample(image_BCHW, grid, mode=mode, padding_mode="border", align_corners=False)


def random_affine(image_BCHW: Batch, motion: Motion, *, generator: torch.Generator) -> Batch:
    """Rotate, shift, scale and mirror each image.

    Args:
        image_BCHW: Scaled images.
        motion: How far.
        generator: Source of randomness.
    """
    return moved(image_BCHW, draw_motion(len(image_BCHW), motion, generator=generator), mode=motion.mode)


def moved_views(image_BCHW: Batch, motion: Motion, *, strength: float, generator: torch.Generator) -> Batch:
    """Views by ``motion``, ``strength`` times as wide; 0 returns the batch as it is."""
    if strength == 0:
        return image_BCHW
    return random_affine(image_BCHW, motion.times(strength), generator=generator)
