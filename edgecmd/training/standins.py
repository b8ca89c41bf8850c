"""Public stand-ins for private targets: what a calibration or a recovery may look at.

Public source pictures reduced to outlines and tones, as `warm_start` uses them. No pair is read.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.modalities.image import augment_image
from edgecmd.data.modalities.table import modality_of, source_input
from edgecmd.data.problem import experiment
from edgecmd.training.run_folder import student_channels
from edgecmd.training.warm_start import drawings


def public_inputs(
    config: RunConfig, *, purpose: str
) -> Callable[[int], Float[Tensor, "num channels height width"]]:
    """A sampler of public stand-ins, scaled as the student takes them.

    Args:
        config: Settings of the run.
        purpose: What they are for; another purpose draws others.

    Raises:
        ConfigError: Targets are no pictures, of which public pictures could be made.
    """
    modality = modality_of(experiment(config.data).train.target)
    if not modality.is_drawn:
        raise ConfigError(
            f"data.name={config.data.name!r} has targets of modality {modality.name!r}; public pictures"
            " stand in for pictures alone."
        )
    images = source_input(experiment(config.data).public.pictures(use="A stand-in for targets"))
    channels, size = student_channels(config), config.data.image_size
    rows = numpy_generator(config.seed, f"stand-in-rows-{purpose}")
    coins = torch_generator(config.seed, f"stand-in-views-{purpose}")

    def sample(num: int) -> Tensor:
        index = torch.from_numpy(rows.integers(0, len(images), num))
        target = drawings(images[index], size=size, channels=channels, generator=coins)
        return augment_image(target, strength=config.distill.augment, generator=coins)

    return sample
