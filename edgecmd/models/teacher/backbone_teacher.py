"""A network of timm or torchvision as a teacher, with its weights from a local file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.models.backbones import build_backbone, load_matching, pooled, read_weights
from edgecmd.models.teacher.prepared import Opened, Preparation

SETTING, WEIGHTS = "teacher.name", "teacher.weights"
# How the weights that torchvision publishes were trained; its networks do not say it.
TORCHVISION: Mapping[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
}
# What makes the file, on a machine that may fetch weights.
MAKERS = {
    "timm": "timm.create_model({name!r}, pretrained=True)",
    "torchvision": "torchvision.models.get_model({name!r}, weights='DEFAULT')",
}


def open_backbone(text: str, *, weights: Path | None, output: str, size: int | None) -> Opened:  # noqa: ARG001
    """The network of a name, with its weights, and how its images are made.

    Args:
        text: ``timm:NAME`` or ``torchvision:NAME``.
        weights: File of its weights.
        output: Unused; a network has one.
        size: Side of its images in pixels; None: that of its published weights.

    Raises:
        ConfigError: No file is named, the library is not here, or it has no such network.
        DataError: The file cannot be read, or lacks a tensor of the network.

    Guarantees:
        No weight is random, nothing is fetched, and no code of the file runs.
    """
    if weights is None:
        raise ConfigError(_no_weights(text))
    network = build_backbone(SETTING, text)
    report = load_matching(network, read_weights(WEIGHTS, weights), setting=WEIGHTS, what=text)
    if report.absent or report.misshapen:
        raise DataError(
            f"{WEIGHTS}={str(weights)!r} does not hold all weights of {text}: {report.sentence()}. The rest"
            " would be random. Give the file of this exact network."
        )
    published = _published(network)
    resize = getattr(network, "set_input_size", None)
    if size is not None and size != published.size and resize is not None:
        # A vision transformer has a position for each patch of one size.
        resize(img_size=(size, size))
    side = size or published.size or 224
    return Opened(
        module=pooled(network, (3, side, side)),
        about=f"{text} with {weights.name} ({report.sentence()})",
        identity=text,
        own=published,
    )


def _published(network: nn.Module) -> Preparation:
    """How the images were made that the published weights of a network were trained on."""
    known: Any = getattr(network, "pretrained_cfg", None) or TORCHVISION
    sides = known.get("input_size", TORCHVISION["input_size"])
    return Preparation(
        size=int(sides[-1]),
        mean=tuple(known.get("mean", TORCHVISION["mean"])),
        std=tuple(known.get("std", TORCHVISION["std"])),
        crop=float(known.get("crop_pct") or 1.0),
    )


def _no_weights(text: str) -> str:
    library, _, name = text.partition(":")
    return (
        f"{SETTING}={text!r} needs {WEIGHTS}, a .safetensors or .pth file: random weights teach nothing, and"
        " nothing is downloaded. Get the file from the publisher, or make it on a machine that may"
        f" download: torch.save({MAKERS[library].format(name=name)}.state_dict(), {f'{name}.pth'!r})."
    )
