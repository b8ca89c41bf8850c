"""A batch of pairs, location by location: shared views, and the locations that the loss uses.

Student and teacher must mean the same location. So the target's view and the teacher's map are moved by
one and the same motion; locations that it brings in from outside are taken last.

Shapes: B batch, D dimension, R rows and Q columns of a map, L locations of a pair.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.motion import draw_motion, moved
from edgecmd.data.modalities.table import motion_of
from edgecmd.losses import Loss, name_of
from edgecmd.models.trial import running_student
from edgecmd.settings import DistillConfig
from edgecmd.training.in_parts import through

# Targets and maps differ in all but the first axis.
Grid = Float[Tensor, "batch _ _ _"]


class Embedded(NamedTuple):
    """One batch after the student: what a loss looks at.

    Attributes:
        student: Embeddings of the targets, (B, D), with several views (V, B, D); of locations those of a pair
            one after the other, (B * L, D).
        teacher: Teacher features of the same pairs or locations.
    """

    student: Tensor
    teacher: Tensor


def require_dense(loss: Loss) -> None:
    """Refuse a loss that has no form for locations.

    Raises:
        ConfigError: Its views have no location in common.
    """
    if not loss.dense:
        raise ConfigError(
            f"distill.loss={name_of(loss)!r} compares two views of a whole image, but a seg-* student embeds"
            " locations. Choose another loss, or a ws-* student."
        )


def shared_views(
    modality: str,
    target: Grid,
    maps: Grid,
    *,
    strength: float,
    generator: torch.Generator,
    mode: str = "bilinear",
) -> tuple[Grid, Grid, Bool[Tensor, "batch _ _"]]:
    """The same motion for the target and for what is known of its locations.

    Args:
        modality: Of the target, one that has a `Modality.motion`.
        target: Inputs of the student, (B, C, H, W).
        maps: Numbers at each location, (B, D, R, Q).
        strength: 0 leaves both as they are.
        generator: Source of randomness.
        mode: How the map is read between its locations.

    Returns:
        View of the target, the map moved alike, and which of its locations are inside the image.
    """
    inside = torch.ones(len(maps), *maps.shape[2:], dtype=torch.bool, device=maps.device)
    if strength == 0:
        return target, maps, inside
    motion = motion_of(modality).times(strength)
    theta = draw_motion(len(target), motion, generator=generator).to(target)
    grid = functional.affine_grid(theta, [*maps.shape], align_corners=False)
    inside = (grid.abs() <= 1).all(dim=3)
    return moved(target, theta, mode=motion.mode), moved(maps, theta, mode=mode), inside


def choose_places(
    inside: Bool[Tensor, "batch rows columns"], *, num: int, generator: torch.Generator
) -> Int[Tensor, "batch chosen"]:
    """Different locations of each pair, (B, L): at random among those inside, others where they run out."""
    flat = inside.flatten(1)
    drawn = torch.rand(flat.shape, generator=generator, device=generator.device)
    rank = drawn.to(flat.device) + flat.float()
    return rank.topk(min(num, flat.shape[1]), dim=1).indices


def at_places(
    map_BDRQ: Float[Tensor, "batch dim rows columns"], place_BL: Int[Tensor, "batch chosen"]
) -> Float[Tensor, "_ dim"]:
    """Features of the chosen locations as rows, (B * L, D)."""
    flat = map_BDRQ.flatten(2)
    index = place_BL[:, None].expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).transpose(1, 2).flatten(0, 1)


def embed_places(
    student: nn.Module,
    target: Grid,
    maps: Grid,
    *,
    modality: str,
    config: DistillConfig,
    generator: torch.Generator,
) -> Embedded:
    """Views of a batch, embedded, at a fixed number of locations of each pair.

    Args:
        student: Dense encoder.
        target: Inputs, (B, C, H, W).
        maps: Teacher features of each location, (B, D, R, Q).
        modality: Of the target.
        config: Strength of the views, places of a pair, precision and rows at once.
        generator: Source of randomness.

    Raises:
        ConfigError: The student's grid is not the teacher's.
    """
    view, seen, inside = shared_views(modality, target, maps, strength=config.augment, generator=generator)
    with running_student(student):
        found = through(student, view, precision=config.precision, rows_at_once=config.rows_at_once)
    if found.shape[2:] != seen.shape[2:]:
        raise ConfigError(
            f"The student has a grid of {tuple(found.shape[2:])} locations and the teacher's map one of"
            f" {tuple(seen.shape[2:])}; make the map with the same data.image_size."
        )
    place_BL = choose_places(inside, num=config.num_locations, generator=generator)
    return Embedded(student=at_places(found, place_BL), teacher=at_places(seen, place_BL))


def per_pair(loss_R: Float[Tensor, " rows"], num_pairs: int) -> Float[Tensor, " batch"]:
    """Loss of each pair: the mean over its locations; for whole images the loss itself."""
    return loss_R if len(loss_R) == num_pairs else loss_R.view(num_pairs, -1).mean(dim=1)
