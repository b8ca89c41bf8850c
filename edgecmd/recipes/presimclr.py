"""SimCLR of the student's own architecture on public source pictures: the start of ``presimclr``.

The baseline asks what the source gives without any pair: a student learns from public images as the
teacher did, and goes on with SimCLR on the target. It is the student's architecture, not the teacher's
weights, because their shapes differ.

Shapes: B batch, C channels, H height, W width.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.augment import augment_source
from edgecmd.data.modalities.row import FromPictures, InputShape
from edgecmd.data.modalities.table import input_shape, modality_of
from edgecmd.data.on_device import sent
from edgecmd.losses.baselines import nt_xent
from edgecmd.models.devices import device_of, forward
from edgecmd.models.students import Student, refuse_dense
from edgecmd.models.trained_part import ALL
from edgecmd.run import Run
from edgecmd.training.optimise import Progress, mean_gradient, one_cycle, optimise

BATCH_SIZE = 128


def run_steps(run: Run) -> int:
    """Optimiser steps that a client of the run makes: the budget of every method."""
    return run.federation.num_rounds * run.federation.local_steps


def source_start(
    run: Run, *, num_steps: int, learning_rate: float, progress: Progress | None = None
) -> Student:
    """SimCLR on the public source images, seen as the target modality is seen.

    Args:
        run: Student, temperature, seed, and how a target is scaled.
        num_steps: Optimiser steps of 128 images.
        learning_rate: Peak of a one-cycle schedule, AdamW.
        progress: Called with (steps done, loss).

    Returns:
        The student, in evaluation mode.

    Raises:
        ConfigError: The target is a recording, which no image can be made into.

    Guarantees:
        Reads public images and settings; no pair, no teacher and no label.
    """
    whole = run.task.data
    modality, shape = modality_of(whole.train.target), input_shape(whole.train.target)
    from_pictures = modality.from_pictures
    if from_pictures is None:
        raise ConfigError(
            f"presimclr with data.name={run.task.name!r}: the targets are {modality.nouns}, and a student of"
            f" {modality.nouns} cannot start from images. Leave presimclr out; simclr is the baseline there."
        )
    refuse_dense(run.student.architecture, what="presimclr")
    student = replace(run, student=replace(run.student, path="", trainable=ALL)).new_student()
    images, device = run.task.public_inputs(use="presimclr"), device_of(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate)
    schedule = one_cycle(optimizer, peak=learning_rate, num_steps=num_steps)
    rows = numpy_generator(run.seed, "presimclr-rows")
    coins = torch_generator(run.seed, "presimclr-views", device=device)

    def view(image: Tensor) -> Tensor:
        moved = augment_source(image, line_share=0.0, ink_share=0.0, generator=coins)
        target = as_target(moved, run, from_pictures, shape=shape)
        return forward(student, target, run.distill.precision)

    def gradient(_: int) -> Tensor:
        drawn = rows.choice(len(images), min(BATCH_SIZE, len(images)), replace=False)
        image = sent(images[torch.from_numpy(drawn)], device)
        return mean_gradient(nt_xent(view(image), view(image), temperature=run.distill.temperature))

    student.train()
    optimise(optimizer, num_steps, gradient=gradient, schedule=schedule, progress=progress)
    return student.eval()


def as_target(
    image_BCHW: Float[Tensor, "batch 3 height width"],
    run: Run,
    from_pictures: FromPictures,
    *,
    shape: InputShape,
) -> Float[Tensor, "batch _ _ _"]:
    """Source images in the form of the target's input: its sides, its channels, its scale and offset.

    Args:
        image_BCHW: RGB images scaled by `edgecmd.data.modalities.table.source_input`.
        run: How its task scales targets.
        from_pictures: Of the target's modality.
        shape: (C, H, W) of the target's input.
    """
    channels, height, width = shape
    sized = functional.interpolate(image_BCHW, size=(height, width), mode="area")
    return from_pictures(sized, channels, offset=run.task.target_offset, scale=run.task.target_scale)
