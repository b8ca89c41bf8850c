"""A student's first weights from public images alone, so that no privacy is spent on what anyone may know.

Public source images are reduced to outlines and tones, as a stand-in for the target modality, and the
student is distilled on them against the teacher. No pair is touched, so it costs no privacy.

Shapes: B batch, C channels, H height, W width.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edgecmd import losses
from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.augment import SOURCE_MOTION, outlines, two_tones
from edgecmd.data.modalities.image import augment_image
from edgecmd.data.modalities.motion import random_affine, uniform
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.on_device import sent
from edgecmd.models.devices import device_of, forward
from edgecmd.models.students import Student, refuse_dense
from edgecmd.models.trained_part import ALL
from edgecmd.run import Run
from edgecmd.training.distill import make_optimizer, scheduled
from edgecmd.training.optimise import Progress, mean_gradient, optimise

BATCH_SIZE = 256
THICK_SHARE = 0.7
TONE_SHARE = 0.2

Batch = Float[Tensor, "batch channels height width"]


def warm_start(run: Run, *, num_steps: int, moved: bool = False, progress: Progress | None = None) -> Student:
    """Distil a new student on the public set.

    Args:
        run: Student, learning rate, temperature and seed.
        num_steps: Optimiser steps of 256 images.
        moved: Turn, shift, scale and mirror each image before the teacher looks at it again, so that no
            two steps show the same image; otherwise a long training learns a small public set by heart.
        progress: Called with (steps done, mean loss of the batch).

    Returns:
        The student, in evaluation mode.

    Raises:
        ConfigError: The target is recordings, or images are to be moved for a teacher that is only known by
            its features.

    Guarantees:
        Reads public images, the teacher and settings; no pair and no label.
    """
    whole = run.task.data
    modality = modality_of(whole.train.target)
    if modality.from_pictures is None:
        raise ConfigError(
            f"data.name={run.task.name!r} has {modality.nouns}: public images cannot stand in for them."
            " Leave student.path empty."
        )
    refuse_dense(run.student.architecture, what="A warm start")
    if moved and run.task.has_ready_features:
        raise ConfigError(
            "teacher.pair_features says nothing of images that are moved. Leave out --moved, or set"
            " teacher.name or teacher.path."
        )
    # A run that holds most of it begins with what is made here.
    student = replace(run, student=replace(run.student, trainable=ALL)).new_student()
    # Of images that move, the teacher says something new each time.
    features = torch.empty(0) if moved else torch.from_numpy(np.asarray(run.task.public_features))
    images = run.task.public_inputs(use="A warm start")
    optimizer = make_optimizer(student, run.distill)
    rows = numpy_generator(run.seed, "warm-start-rows")
    device = device_of(student)
    coins = torch_generator(run.seed, "warm-start-views", device=device)
    student.train()

    def gradient(_: int) -> Tensor:
        index = torch.from_numpy(rows.integers(0, len(images), BATCH_SIZE))
        shown = sent(images[index], device)
        if moved:
            shown = random_affine(shown, SOURCE_MOTION, generator=coins)
            taught = sent(features_of(run.task.teacher.network, shown), device)
        else:
            taught = sent(features[index], device)
        target = drawings(shown, size=run.task.target_side, channels=student.in_channels, generator=coins)
        view = augment_image(target, strength=run.distill.augment, generator=coins)
        seen = forward(student, view, run.distill.precision)
        return mean_gradient(losses.cmc(seen, taught, temperature=run.distill.temperature))

    schedule = scheduled(optimizer, run.distill, total_steps=num_steps)
    optimise(optimizer, num_steps, gradient=gradient, schedule=schedule, progress=progress)
    return student.eval()


@torch.no_grad()
def features_of(network: nn.Module, image_BCHW: Batch) -> Float[Tensor, "batch dim"]:
    """What a teacher says of images that are scaled already, on its own device."""
    features: Tensor = network(sent(image_BCHW, device_of(network)))
    return features


def drawings(
    image_BCHW: Batch, *, size: int, channels: int, generator: torch.Generator
) -> Float[Tensor, "batch _ _ _"]:
    """Outlines, or for one in five two tones, as ink (2) on white (0): what a drawing's input looks like.

    Args:
        image_BCHW: RGB images scaled by `edgecmd.data.modalities.table.source_input`.
        size: Side of the result.
        channels: Channels of the result, all equal.
        generator: Source of randomness.
    """
    batch = len(image_BCHW)

    def draw() -> Tensor:
        return uniform(batch, 0.0, 1.0, generator=generator).view(-1, 1, 1, 1)

    def share(value: float) -> Tensor:
        return draw() < value

    level = draw() * 1.6 - 0.8
    lines = outlines(image_BCHW, thick=share(THICK_SHARE))
    mixed = torch.where(share(TONE_SHARE), two_tones(image_BCHW, level=level), lines)
    ink = (2.0 - mixed.mean(dim=1, keepdim=True)) / 2.0
    return functional.interpolate(ink, size=(size, size), mode="area").expand(-1, channels, -1, -1)
