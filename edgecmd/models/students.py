"""Small students of the target modality.

No student holds batch statistics, so that a client's update depends on each of its pairs
separately and a differentially private gradient stays possible. No activation is in place, so
that per-example gradient hooks work.

Two families share one topology:

- ``ws-*``: weight-standardised convolutions without any normalisation of activations
  (Brock et al. 2021, arXiv 2101.08692). At export each folds to one plain convolution.
- ``gn-*``: plain convolutions with GroupNorm, the usual choice; slower in ONNX Runtime.

``plain-*`` have convolutions with a bias and nothing else: what the exporter makes of a ``gn-*`` student by
folding its normalisation away (`export.fold_norm`). Training one from random weights is not meant.

``audio-*`` are students of the first family that take a recording and look at its log-mel picture.

``seg-*`` are students of the first family with a decoder: an embedding for each place of the picture.

Shapes: B batch, C channels, H height, W width, D embedding dimension.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ConfigError, choose
from edgecmd.data.modalities.log_mel import LogMel

# E[relu(x)^2] - E[relu(x)]^2 = (1 - 1/pi) / 2 for x ~ N(0, 1): this gain keeps the variance at 1.
RELU_GAIN = math.sqrt(2.0 / (1.0 - 1.0 / math.pi))
RESIDUAL_SCALE = 0.5
GROUP_SIZE = 8
# Side of a place of a dense student in pixels of its input, and what the input's sides are multiples of.
DENSE_STRIDE, INPUT_MULTIPLE = 4, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentSpec:
    """Topology of a student.

    Attributes:
        family: Of its convolutions, a key of `FAMILIES`.
        widths: Channels of each stage.
        front: What stands before the convolutions, a key of `FRONTS`.
        decoder: Channels of the decoder; 0 for one embedding of the whole picture.
    """

    family: str
    widths: tuple[int, int, int]
    front: str = "none"
    decoder: int = 0


STUDENTS: dict[str, StudentSpec] = {
    "ws-50k": StudentSpec(family="ws", widths=(12, 24, 36)),
    "ws-200k": StudentSpec(family="ws", widths=(24, 48, 80)),
    "ws-1m": StudentSpec(family="ws", widths=(48, 112, 184)),
    "gn-50k": StudentSpec(family="gn", widths=(16, 24, 32)),
    "gn-200k": StudentSpec(family="gn", widths=(24, 48, 80)),
    "gn-1m": StudentSpec(family="gn", widths=(48, 112, 184)),
    "plain-50k": StudentSpec(family="plain", widths=(16, 24, 32)),
    "plain-200k": StudentSpec(family="plain", widths=(24, 48, 80)),
    "plain-1m": StudentSpec(family="plain", widths=(48, 112, 184)),
    "audio-50k": StudentSpec(family="ws", widths=(12, 24, 36), front="log-mel"),
    "audio-200k": StudentSpec(family="ws", widths=(24, 48, 80), front="log-mel"),
    "seg-50k": StudentSpec(family="ws", widths=(12, 20, 32), decoder=20),
    "seg-200k": StudentSpec(family="ws", widths=(24, 40, 64), decoder=48),
}
FRONTS: dict[str, Callable[[], nn.Module]] = {"none": nn.Identity, "log-mel": LogMel}


class StandardisedConv2d(nn.Conv2d):
    """Convolution whose weight is standardised per output channel and scaled to keep variance.

    ``w = gain * (v - mean(v)) / (std(v) * sqrt(fan_in))``: a function of the parameters alone, so
    the exporter folds it to a plain convolution (scaled weight standardisation, arXiv 2101.08692).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2)
        self.gain = nn.Parameter(torch.ones(out_channels, 1, 1, 1))

    def standardised_weight(self) -> Float[Tensor, "out into height width"]:
        """Weight that the convolution applies."""
        fan_in = self.weight[0].numel()
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = (self.weight - mean).square().mean(dim=(1, 2, 3), keepdim=True)
        return self.gain * (self.weight - mean) * torch.rsqrt(variance * fan_in + 1e-8)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class names it so
        """Convolve ``input`` (B, C, H, W) with the standardised weight."""
        return functional.conv2d(
            input, self.standardised_weight(), self.bias, stride=self.stride, padding=self.padding
        )


class ScaledReLU(nn.Module):
    """ReLU times a constant that keeps the variance of a unit Gaussian input."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise."""
        return functional.relu(x) * RELU_GAIN


def _ws_conv(into: int, out: int, *, stride: int = 1) -> nn.Module:
    return nn.Sequential(StandardisedConv2d(into, out, 3, stride=stride), ScaledReLU())


def _gn_conv(into: int, out: int, *, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False)
    groups = max(1, out // GROUP_SIZE) if out % GROUP_SIZE == 0 else 1
    return nn.Sequential(convolution, nn.GroupNorm(groups, out), nn.ReLU())


def _plain_conv(into: int, out: int, *, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride=stride, padding=1), nn.ReLU())


FAMILIES: dict[str, Callable[..., nn.Module]] = {"ws": _ws_conv, "gn": _gn_conv, "plain": _plain_conv}


class Residual(nn.Module):
    """Two convolutions beside the identity: ``x + scale * f(x)``, ``scale`` learnt."""

    def __init__(self, conv: Callable[..., nn.Module], width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = conv(width, width)
        self.scale = nn.Parameter(torch.tensor(RESIDUAL_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        inner: Tensor = self.second(self.first(x))
        return x + self.scale * inner


class Student(nn.Module):
    """Convolutional encoder: an image of the target modality to an embedding (not normalised).

    Args:
        spec: Topology.
        in_channels: Channels of the target modality.
        embedding_dim: Dimension of the teacher's feature, ``D``.
    """

    def __init__(self, spec: StudentSpec, *, in_channels: int, embedding_dim: int) -> None:
        super().__init__()
        if spec.front == "log-mel" and in_channels != 1:
            raise ConfigError(
                f"A student of recordings takes 1 channel, not {in_channels}; for pictures set"
                " student.architecture to one of the ws-* or gn-* students."
            )
        conv = FAMILIES[spec.family]
        self.front = FRONTS[spec.front]()
        first, second, third = spec.widths
        self.trunk = nn.Sequential(
            conv(in_channels, first, stride=2),
            conv(first, first, stride=2),
            conv(first, second, stride=2),
            Residual(conv, second),
            conv(second, third, stride=2),
            Residual(conv, third),
        )
        self.projector = nn.Linear(2 * third, embedding_dim)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Embed a batch of inputs, see `edgecmd.data.modalities.table.target_input`."""
        features = self.trunk(self.front(image))
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        embedding: Tensor = self.projector(pooled)
        return embedding


class Pointwise(nn.Conv2d):
    """The same linear map at every place: a 1x1 convolution with the names of `torch.nn.Linear`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, 1)
        self.in_features, self.out_features = in_features, out_features


class DenseStudent(Student):
    """Convolutional encoder with a light decoder: an embedding for each square of `DENSE_STRIDE` pixels.

    The trunk is that of `Student`. The decoder enlarges its coarsest map twice, each time beside the trunk's
    map of that size (Ronneberger et al. 2015, arXiv 1505.04597).

    Args:
        spec: Topology, ``decoder`` above 0.
        in_channels: Channels of the target modality.
        embedding_dim: Dimension of the teacher's feature at a place, ``D``.
    """

    projector: Pointwise  # type: ignore[assignment]

    def __init__(self, spec: StudentSpec, *, in_channels: int, embedding_dim: int) -> None:
        super().__init__(spec, in_channels=in_channels, embedding_dim=embedding_dim)
        conv, (first, second, third) = FAMILIES[spec.family], spec.widths
        self.coarse = conv(third + second, second)
        self.fine = conv(second + first, spec.decoder)
        self.projector = Pointwise(spec.decoder, embedding_dim)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """Embed each place of a batch whose sides are multiples of `INPUT_MULTIPLE`; not normalised."""
        at_4 = self.trunk[:2](image)
        at_8 = self.trunk[2:4](at_4)
        at_16 = self.trunk[4:](at_8)
        coarse = self.coarse(torch.cat([_enlarged(at_16, like=at_8), at_8], dim=1))
        fine = self.fine(torch.cat([_enlarged(coarse, like=at_4), at_4], dim=1))
        embedding: Tensor = self.projector(fine)
        return embedding


def _enlarged(map_BCHW: Tensor, *, like: Tensor) -> Tensor:
    """A map at the size of a finer one; each number repeated, so nothing is computed."""
    return functional.interpolate(map_BCHW, size=like.shape[2:], mode="nearest")


def make_student(spec: StudentSpec, *, in_channels: int, embedding_dim: int) -> Student:
    """A student of that topology with torch's own first weights."""
    kind = DenseStudent if spec.decoder else Student
    return kind(spec, in_channels=in_channels, embedding_dim=embedding_dim)


def is_dense(architecture: str) -> bool:
    """Whether a student embeds each place of a picture instead of the whole.

    Raises:
        ConfigError: The architecture is unknown.
    """
    return choose("student.architecture", architecture, STUDENTS).decoder > 0


def refuse_dense(architecture: str, *, what: str) -> None:
    """Refuse a dense student where one embedding of the whole picture is looked at.

    Args:
        architecture: A key of `STUDENTS`.
        what: What was asked for, at the start of a sentence.

    Raises:
        ConfigError: The student is dense, or unknown.
    """
    if is_dense(architecture):
        raise ConfigError(
            f"{what} looks at one embedding a picture, and student.architecture={architecture!r} has one for"
            " each place. Choose a student of the ws-* or gn-* families."
        )


def build_student(
    architecture: str, *, in_channels: int, embedding_dim: int, generator: torch.Generator
) -> Student:
    """Make a student whose initial weights depend on ``generator`` alone.

    Args:
        architecture: A key of `STUDENTS`.
        in_channels: Channels of the target modality.
        embedding_dim: Dimension of the teacher's feature.
        generator: Source of the initial weights.

    Raises:
        ConfigError: The architecture is unknown.
    """
    spec = choose("student.architecture", architecture, STUDENTS)
    student = make_student(spec, in_channels=in_channels, embedding_dim=embedding_dim)
    initialise(student, generator=generator)
    return student


def initialise(module: nn.Module, *, generator: torch.Generator) -> None:
    """Draw weights of every convolution and linear layer from ``generator``; biases become zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def num_parameters(module: nn.Module) -> int:
    """Count the trainable numbers of ``module``."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
