"""Inputs whose ranges int8 takes: public images drawn like targets, or made-up ones. Never a pair.

A range is a statistic of the data that it was taken from, and it ships in the file; so it must not come from
private data.
"""

import numpy as np
import torch

from edgecmd.core.errors import ConfigError, choose
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.anchors import procedural_images
from edgecmd.data.modalities.row import Pictures
from edgecmd.data.modalities.table import modality_of, source_input
from edgecmd.recipes.warm_start import drawings
from edgecmd.training.task import Task
from export.profiles.table import Calibration

NUM_INPUTS = 128


def _public(task: Task, seed: int) -> tuple[Pictures, str]:
    """Some of the public source set, and what they are."""
    public = task.data.public
    order = numpy_generator(seed, "calibration-rows").permutation(len(public))
    rows = np.sort(order[:NUM_INPUTS])
    pictures = public.pictures(use="export.calibration='public'")
    return pictures[rows], f"public source pictures ({public.name})"


def _procedural(task: Task, seed: int) -> tuple[Pictures, str]:
    """Made-up images, and that they are."""
    generator = numpy_generator(seed, "calibration-procedural")
    images = procedural_images(NUM_INPUTS, side=task.source_side, generator=generator)
    return images, "procedurally drawn pictures"


KINDS = {"public": _public, "procedural": _procedural}


def calibration_of(task: Task, kind: str, *, seed: int) -> Calibration:
    """Calibration inputs of a task: images reduced to outlines and tones, as the warm start sees them.

    Args:
        task: Its public images, and how its targets are scaled.
        kind: A key of `KINDS`.
        seed: Chooses among the images.

    Guarantees:
        Reads public images and settings; no pair, no target image and no label. Equal settings give equal
        inputs.

    Raises:
        ConfigError: The kind is unknown, or targets are not images.
    """
    sources, name = choose("export.calibration", kind, KINDS)(task, seed)
    target = task.data.train.target
    modality = modality_of(target)
    if not modality.is_drawn:
        raise ConfigError(
            f"data.name={task.name!r} has targets of modality {modality.name!r}, for which no public images"
            " can provide ranges. Leave int8 out: export.profiles='w8'."
        )
    channels = target.shape[3]
    ink = drawings(
        source_input(sources),
        size=task.target_side,
        channels=channels,
        generator=torch_generator(seed, "calibration-views"),
    )
    value = ink * task.target_scale + task.target_offset
    inputs = torch.round(value * 255.0).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return Calibration(
        inputs=np.ascontiguousarray(inputs.numpy()),
        description=f"{len(inputs)} {name}, reduced to outlines and tones; no private pair",
    )
