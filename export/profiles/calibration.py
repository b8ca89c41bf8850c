"""Inputs whose ranges int8 takes: public images drawn like targets, or made-up inputs. Never a pair.

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
from export.profiles.made_strings import made_text
from export.profiles.made_up import made_depth, made_sounds
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


def _depth(task: Task, generator: np.random.Generator) -> tuple[np.ndarray, str]:
    return made_depth(NUM_INPUTS, side=task.target_side, generator=generator), "made-up depth maps of things"


def _sounds(task: Task, generator: np.random.Generator) -> tuple[np.ndarray, str]:
    samples, rate_hz = task.data.train.target.shape[1], task.sampling_rate_hz
    sounds = made_sounds(NUM_INPUTS, samples=samples, rate_hz=rate_hz, generator=generator)
    return sounds, "made-up tones, chirps and noise"


def _strings(task: Task, generator: np.random.Generator) -> tuple[np.ndarray, str]:
    num_bytes = task.data.train.target.shape[1]
    return made_text(NUM_INPUTS, num_bytes=num_bytes, generator=generator), "made-up words of many scripts"


# Modalities that no public image can stand in for, and what does.
MADE_UP = {"depth": _depth, "wave": _sounds, "text": _strings}


def calibration_of(task: Task, kind: str, *, seed: int) -> Calibration:
    """Calibration inputs of a task.

    For images: public ones, or made-up ones, reduced to outlines and tones as the warm start sees them. For
    depth, sound and strings there is no public set, so either kind is made up.

    Args:
        task: Its public images, and how its targets are scaled.
        kind: A key of `KINDS`.
        seed: Chooses among the images, or makes the inputs.

    Guarantees:
        Reads public images and settings; of the pairs the shape of a target alone, and no label. Equal
        settings give equal inputs.

    Raises:
        ConfigError: The kind is unknown, or nothing stands in for such targets.
    """
    draw = choose("export.calibration", kind, KINDS)
    target = task.data.train.target
    modality = modality_of(target)
    if modality.name in MADE_UP:
        made, name = MADE_UP[modality.name](task, numpy_generator(seed, "calibration-made-up"))
        return Calibration(inputs=made, description=f"{len(made)} {name}; no private pair")
    if not modality.is_drawn:
        raise ConfigError(
            f"data.name={task.name!r} has targets of modality {modality.name!r}, for which no public images"
            " can provide ranges. Leave int8 out: export.profiles='w8'."
        )
    sources, name = draw(task, seed)
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
