"""Step 1: SimCLR (Chen et al. 2020, arXiv 2002.05709) on the public source set.

A teacher that was trained on photographs elsewhere keeps its weights; public images fit its projector.

Shapes: B batch, N images, D embedding dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from edgecmd.core.errors import choose
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.augment import augment, augment_source
from edgecmd.data.modalities.table import input_shape, kind_of, modality_of, source_input
from edgecmd.data.pairs import PublicSource
from edgecmd.losses.baselines import nt_xent
from edgecmd.models.devices import place, resolve_device
from edgecmd.models.projection import fit_projector
from edgecmd.models.teacher.teachers import (
    ARCHITECTURES,
    build_teacher,
    check_architecture,
    load_teacher,
    recipe_text,
)
from edgecmd.models.trunks.efficientnet import EfficientNetLite0
from edgecmd.settings import PretrainConfig
from edgecmd.training.optimise import Progress, mean_gradient, one_cycle, optimise

"""Told the number of steps that are done, and the loss of the last."""


def pretrain(public: PublicSource, config: PretrainConfig, *, progress: Progress | None = None) -> nn.Module:
    """Train a teacher on public images, or what else the source modality is, alone.

    Args:
        public: The public source set.
        config: Recipe; ``line_share`` and ``ink_share`` are for images in colour.
        progress: Called with (step, loss) after each step.

    Returns:
        The trained network, in evaluation mode.

    Raises:
        ConfigError: The architecture is not one for the source modality.
    """
    check_architecture(config.architecture, public.images)
    if is_photograph(config.architecture):
        return fitted_to(public, config)
    modality, channels = modality_of(public.images).name, input_shape(public.images)[0]
    network = build_teacher(
        config.architecture,
        embedding_dim=config.embedding_dim,
        generator=torch_generator(config.seed, "teacher-init"),
        in_channels=channels,
    )
    device = resolve_device("auto")
    place(network, device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = one_cycle(optimizer, peak=config.learning_rate, num_steps=config.num_steps)
    rows = numpy_generator(config.seed, "teacher-batches")
    views = torch_generator(config.seed, "teacher-views", device=device)

    def view(image: Tensor) -> Tensor:
        if kind_of(public.images) == "rgb":
            augmented = augment_source(
                image, line_share=config.line_share, ink_share=config.ink_share, generator=views
            )
        else:
            augmented = augment(modality, image, strength=1.0, generator=views)
        return network(augmented)  # type: ignore[no-any-return]

    draw = choose("pretrain.positives", config.positives, POSITIVES)(public.keys)

    def gradient(_: int) -> Tensor:
        first, second = (
            source_input(public.images[drawn]).to(device) for drawn in draw(config.batch_size, rows)
        )
        return mean_gradient(nt_xent(view(first), view(second), temperature=config.temperature))

    optimise(optimizer, config.num_steps, gradient=gradient, schedule=schedule, progress=progress)
    return network.cpu().eval()


def is_photograph(architecture: str) -> bool:
    """Whether a teacher of that architecture was trained on photographs elsewhere."""
    return bool(ARCHITECTURES[architecture].weights_of)


def fitted_to(public: PublicSource, config: PretrainConfig) -> nn.Module:
    """The shipped teacher of photographs with a projector that public images fit; nothing is trained.

    Args:
        public: Public RGB images.
        config: ``architecture`` and ``embedding_dim``; what else it has is for training and is not used.

    Raises:
        ConfigError: The images are too few for the dimension, or not RGB.
    """
    network = build_teacher(
        config.architecture,
        embedding_dim=config.embedding_dim,
        generator=torch_generator(config.seed, "teacher-init"),
        in_channels=input_shape(public.images)[0],
    )
    shipped = load_teacher(name=ARCHITECTURES[config.architecture].weights_of).network.state_dict()
    kept = {name: one for name, one in shipped.items() if not name.startswith("projector.")}
    network.load_state_dict(kept, strict=False)
    fit_projector(cast(EfficientNetLite0, network.eval()), public.images)
    return network


Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def same_picture(keys: Sequence[str]) -> Draw:
    """Draws of different images, each beside itself."""

    def draw(num: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        rows = generator.choice(len(keys), size=min(num, len(keys)), replace=False)
        return rows, rows

    return draw


def same_thing(keys: Sequence[str]) -> Draw:
    """Draws of different things, and of each thing two images, which may be one and the same.

    Args:
        keys: What comes before the last slash names the thing; a key without a slash names its own.
    """
    things: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        things.setdefault(key.rpartition("/")[0] or key, []).append(row)
    pictures = [np.array(rows) for rows in things.values()]

    def draw(num: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        chosen = generator.choice(len(pictures), size=min(num, len(pictures)), replace=False)
        first, second = (np.array([generator.choice(pictures[one]) for one in chosen]) for _ in range(2))
        return first, second

    return draw


POSITIVES: dict[str, Callable[[Sequence[str]], Draw]] = {"picture": same_picture, "thing": same_thing}


def _seen(public: PublicSource) -> dict[str, str]:
    """What a teacher of something else than images in colour takes; those say nothing, as ever."""
    if kind_of(public.images) == "rgb":
        return {}
    channels = input_shape(public.images)[0]
    return {"modality": modality_of(public.images).name, "in_channels": str(channels)}


def recipe(public: PublicSource, config: PretrainConfig) -> dict[str, str]:
    """Metadata that states how a teacher was made: settings, data and library version."""
    return {
        "architecture": config.architecture,
        "embedding_dim": str(config.embedding_dim),
        **_seen(public),
        "method": "principal components" if is_photograph(config.architecture) else "simclr",
        "settings": recipe_text(asdict(config)),
        "public_name": public.name,
        "public_sha256": public.fingerprint(),
        "num_images": str(len(public)),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
