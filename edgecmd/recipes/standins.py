"""Public stand-ins for private targets: what a calibration or a recovery may look at.

Public source images reduced to outlines and tones, as `warm_start` uses them. No pair is read.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.modalities.image import augment_image
from edgecmd.data.modalities.table import modality_of
from edgecmd.recipes.warm_start import drawings
from edgecmd.run import Run


def public_inputs(run: Run, *, purpose: str) -> Callable[[int], Float[Tensor, "num channels height width"]]:
    """A sampler of public stand-ins, scaled as the student takes them.

    Args:
        run: Settings of the run.
        purpose: What they are for; another purpose draws others.

    Raises:
        ConfigError: Targets are not images, of which public images could be made.
    """
    modality = modality_of(run.task.data.train.target)
    if not modality.is_drawn:
        raise ConfigError(
            f"data.name={run.task.name!r} has targets of modality {modality.name!r}; public images can only"
            " stand in for images."
        )
    images = run.task.public_inputs(use="A stand-in for targets")
    channels, size = run.task.input_shape[0], run.task.target_side
    rows = numpy_generator(run.seed, f"stand-in-rows-{purpose}")
    coins = torch_generator(run.seed, f"stand-in-views-{purpose}")

    def sample(num: int) -> Tensor:
        index = torch.from_numpy(rows.integers(0, len(images), num))
        target = drawings(images[index], size=size, channels=channels, generator=coins)
        return augment_image(target, strength=run.distill.augment, generator=coins)

    return sample
