"""EfficientNet-Lite0, a network of photographs that was trained on ImageNet, as a frozen teacher.

Topology: Tan and Le 2019 (arXiv 1905.11946), in the "lite" form of its authors (no squeeze-and-excitation,
ReLU6 in place of swish). Batch normalisation is folded into the convolutions, because nothing here trains
them. The classifier of ImageNet's thousand classes is replaced by a projector that
`edgecmd.models.projection` fits.

Shapes: B batch, C channels, H height, W width, D embedding dimension.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.data.modalities.image import SOURCE_OFFSET, SOURCE_SCALE

NAME = "efficientnet-lite0"
STEM_WIDTH, HEAD_WIDTH = 32, 1280
# What the network was trained with: (value of 0 to 255 - 127) / 128.
OFFSET, SCALE = 127 / 255, 128 / 255
# Pictures at a time: with more, each map is memory that the system has to fetch anew, which takes longer than
# the arithmetic does.
FEW = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Blocks that follow one another at one size.

    Attributes:
        blocks: How many.
        kernel_size: Of the depthwise convolutions.
        stride: Of the first block.
        expansion: Channels inside a block for each channel that enters it.
        width: Channels that leave it.
    """

    blocks: int
    kernel_size: int
    stride: int
    expansion: int
    width: int


STAGES = (
    Stage(blocks=1, kernel_size=3, stride=1, expansion=1, width=16),
    Stage(blocks=2, kernel_size=3, stride=2, expansion=6, width=24),
    Stage(blocks=2, kernel_size=5, stride=2, expansion=6, width=40),
    Stage(blocks=3, kernel_size=3, stride=2, expansion=6, width=80),
    Stage(blocks=3, kernel_size=5, stride=1, expansion=6, width=112),
    Stage(blocks=4, kernel_size=5, stride=2, expansion=6, width=192),
    Stage(blocks=1, kernel_size=3, stride=1, expansion=6, width=320),
)


class SameConv2d(nn.Conv2d):
    """Convolution with a bias, padded as TensorFlow's "SAME": an odd pixel goes right and below."""

    def __init__(self, into: int, out: int, kernel_size: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(into, out, kernel_size, stride=stride, groups=groups)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class names it so
        """Convolve ``input`` (B, C, H, W); the sides are divided by the stride and rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (
            max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in input.shape[2:]
        )
        padding = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(functional.pad(input, padding))


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project; beside the identity where the shape stays."""

    def __init__(self, into: int, stage: Stage, *, stride: int) -> None:
        super().__init__()
        inner = into * stage.expansion
        self.expand = SameConv2d(into, inner, 1) if stage.expansion > 1 else None
        self.depthwise = SameConv2d(inner, inner, stage.kernel_size, stride=stride, groups=inner)
        self.project = SameConv2d(inner, stage.width, 1)
        self.keeps_shape = stride == 1 and into == stage.width

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        inner = x if self.expand is None else functional.relu6(self.expand(x))
        out: Tensor = self.project(functional.relu6(self.depthwise(inner)))
        return x + out if self.keeps_shape else out


class EfficientNetLite0(nn.Module):
    """Frozen encoder of RGB pictures.

    Args:
        embedding_dim: Dimension of the projector's output, D.
        input_side: Side in pixels to which `forward` brings each picture.
    """

    def __init__(self, *, embedding_dim: int, input_side: int) -> None:
        super().__init__()
        self.input_side = input_side
        self.stem = SameConv2d(3, STEM_WIDTH, 3, stride=2)
        width, stages = STEM_WIDTH, []
        for stage in STAGES:
            blocks = []
            for index in range(stage.blocks):
                blocks.append(InvertedResidual(width, stage, stride=stage.stride if index == 0 else 1))
                width = stage.width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = SameConv2d(width, HEAD_WIDTH, 1)
        self.projector = nn.Linear(HEAD_WIDTH, embedding_dim)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Embed a batch of inputs, see `edgecmd.data.modalities.table.source_input`; not normalised."""
        embedding: Tensor = self.projector(self.pooled(image))
        return embedding

    def pooled(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1280"]:
        """Mean of the last map over its places, which is what ImageNet's classes were told by."""
        return torch.cat([self._pooled(few) for few in torch.split(image, FEW)])

    def _pooled(self, image: Tensor) -> Tensor:
        seen = functional.interpolate(
            image,
            size=(self.input_side, self.input_side),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return functional.relu6(self.head(self.maps(seen)[-1])).mean(dim=(2, 3))

    def maps(self, image: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        """Map after each of `STAGES`, of the picture at the size that it has."""
        in_unit = image * SOURCE_SCALE + SOURCE_OFFSET
        map_BCHW = functional.relu6(self.stem((in_unit - OFFSET) / SCALE))
        found = []
        for stage in self.stages:
            map_BCHW = stage(map_BCHW)
            found.append(map_BCHW)
        return found


def fold(
    convolution: Float[Tensor, "out into height width"], norm: dict[str, Tensor], *, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what one without bias and batch normalisation do.

    Args:
        convolution: Its weight.
        norm: ``weight``, ``bias``, ``running_mean`` and ``running_var`` of the normalisation.
        epsilon: Added to the variance.
    """
    scale = norm["weight"] * torch.rsqrt(norm["running_var"] + epsilon)
    return convolution * scale[:, None, None, None], norm["bias"] - norm["running_mean"] * scale
