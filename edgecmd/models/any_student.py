"""Students from any source: a row of the table, a network of a library, a user's own module.

Shapes: B batch, C channels, H height, W width, F features of a module, D embedding dimension.
"""

import copy
from pathlib import Path

import torch
from torch import nn

from edgecmd.arguments import refuse_seed
from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import torch_generator
from edgecmd.models.batch_norm import AUTO, batch_norm_of
from edgecmd.models.students import (
    DEFAULT_SIZE,
    INK,
    Projected,
    Student,
    build_student,
    load_first,
    project,
)
from edgecmd.models.trained_part import ALL, train_part
from edgecmd.models.trial import channels_of, refuse_wide, sides_of, try_out


def student(
    spec: str | nn.Module,
    *,
    dim: int,
    in_channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    weights: str | Path | None = None,
    batch_norm: str = AUTO,
    trainable: str = ALL,
) -> Student:
    """A student by name, or made from any module.

    If ``in_channels`` or ``size`` is left out, it is fitted to the task that the student is trained on, and
    so are pretrained weights.

    Args:
        spec: A key of `STUDENTS`; ``timm:NAME`` or ``torchvision:NAME``, with nothing downloaded;
            ``module:factory``, whose factory may take ``in_channels``, ``dim`` and ``size`` as parameters;
            or a module (B, C, H, W) to (B, F). Training changes the module that is given; to start again,
            give a copy.
        dim: Dimension of the teacher's feature, D. If F differs, a linear projector is added.
        in_channels: C: 1 for grey images and audio clips, 3 for RGB, 2 for depth with its mask. None: those
            of the first convolution of a module, otherwise 1.
        size: Height and width of the inputs, one number if they are equal; (1, samples) for audio clips.
            None: 64 pixels.
        seed: Seed of the first weights; a given module keeps its weights, except for the projector.
        weights: A .safetensors or .pth file with first weights, except for students of the table; the
            student's ``first_weights`` lists what matched.
        batch_norm: What is done with batch normalisation, a key of
            `edgecmd.models.batch_norm.BATCH_NORM`, or ``auto``.
        trainable: What part of it is trained, a key of `edgecmd.models.trained_part.TRAINABLE`.

    Raises:
        ConfigError: No student has that name, the factory cannot be imported or fails, or the module is not
            an encoder of such inputs; the message says what is wrong with it and the way out.
        DataError: The file of weights cannot be read, or does not belong to that network.

    Examples:
        >>> student("ws-50k", dim=8)(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 8])
        >>> own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> student(own, dim=8)(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 8])
    """
    refuse_wide(dim=dim, in_channels=1 if in_channels is None else in_channels)
    refuse_seed(seed)
    sides = sides_of(size, default=DEFAULT_SIZE)
    generator = torch_generator(seed, "student-init")
    file = Path(weights) if weights else None
    if isinstance(spec, Student):
        return _same_shape(spec, in_channels=in_channels or spec.in_channels, dim=dim)
    if isinstance(spec, str):
        made = build_student(
            spec,
            in_channels=in_channels or 1,
            embedding_dim=dim,
            generator=generator,
            size=sides,
            weights=file,
            batch_norm=batch_norm,
        )
        train_part(made, trainable)
        made.open_seed = seed if in_channels is None else None
        return made
    name, channels = f"<{type(spec).__name__}>", in_channels or channels_of(spec)
    how = batch_norm_of(batch_norm, architecture=name, weights=file)
    found = load_first(spec, file, name) if file is not None else None
    made = project(spec, name, in_channels=channels, dim=dim, size=sides, generator=generator, batch_norm=how)
    made.first_weights = found
    train_part(made, trainable)
    return made


def fitted(
    made: Student, *, in_channels: int, size: tuple[int, int], dim: int, seen: tuple[float, float]
) -> Student:
    """A student for the inputs of a task: ``made`` itself, or the same made anew where that was left open.

    Args:
        made: Of `student`.
        in_channels: C of the task.
        size: Height and width of the task's inputs.
        dim: D of the task's teacher.
        seen: Offset and scale of the task's inputs.

    Raises:
        ConfigError: It takes other inputs or gives another width, and its weights were loaded or trained, or
            its channels were asked for.
    """
    suits = (made.in_channels, made.size or size, made.seen or seen) == (in_channels, size, seen)
    if suits or made.embedding_dim != dim:
        return _same_shape(made, in_channels=in_channels, dim=dim)
    if made.open_seed is not None and _is_new(made):
        anew = _anew(made, in_channels=in_channels, size=size, dim=dim, seen=seen)
        train_part(anew, made.trainable)
        return anew
    if isinstance(made, Projected):
        shape, what = (in_channels, *size), f"The student {made.architecture}"
        width = try_out(made.backbone, shape, what=what, wanted="inputs of the task's shape", trained=True)
        if isinstance(made.projector, nn.Linear) and width != made.projector.in_features:
            raise ConfigError(
                f"{what} gives {width} numbers for inputs of shape {shape}, and"
                f" {made.projector.in_features} for those that it was made with. Make it with in_channels="
                f"{in_channels} and size={size}."
            )
        made = copy.copy(made)
        made.in_channels, made.size = in_channels, size
    return _same_shape(made, in_channels=in_channels, dim=dim)


def _anew(
    made: Student, *, in_channels: int, size: tuple[int, int], dim: int, seen: tuple[float, float]
) -> Student:
    """The same student with first weights, for other inputs; all of it is trained."""
    return build_student(
        made.architecture,
        in_channels=in_channels,
        embedding_dim=dim,
        generator=torch_generator(made.open_seed or 0, "student-init"),
        size=size,
        weights=made.first_weights.path if made.first_weights is not None else None,
        batch_norm=made.batch_norm,
        seen=seen,
    )


def _is_new(made: Student) -> bool:
    """Whether the weights are those that the student was made with."""
    first = _anew(
        made,
        in_channels=made.in_channels,
        size=made.size or DEFAULT_SIZE,
        dim=made.embedding_dim,
        seen=made.seen or INK,
    ).state_dict()
    own = made.state_dict()
    return own.keys() == first.keys() and all(torch.equal(own[name].cpu(), first[name]) for name in own)


def _same_shape(made: Student, *, in_channels: int, dim: int) -> Student:
    if (made.in_channels, made.embedding_dim) != (in_channels, dim):
        raise ConfigError(
            f"The student {made.architecture} takes {made.in_channels} channels and gives"
            f" {made.embedding_dim} numbers, but in_channels={in_channels} and dim={dim} are required. Make"
            " one with these."
        )
    made.architecture = made.architecture or f"<{type(made).__name__}>"
    return made
