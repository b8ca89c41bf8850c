"""EfficientNet-Lite0, a network of photographs that was trained on ImageNet.

The whole is a frozen teacher; its first stages are the trunk of pretrained students.

Topology: Tan and Le 2019 (arXiv 1905.11946), in the "lite" form of its authors (no squeeze-and-excitation,
ReLU6 in place of swish). Batch normalisation is folded into the convolutions, so no statistic of a batch is
left. The teacher's classifier of ImageNet's thousand classes is replaced by a projector that
`edgecmd.models.projection` fits.

Shapes: B batch, C channels, H height, W width, D embedding dimension.
"""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.catalogue.data_files import shipped_file
from edgecmd.core.errors import DataError
from edgecmd.data.modalities.image import SOURCE_OFFSET, SOURCE_SCALE
from edgecmd.models.backbones import adapt_channels
from edgecmd.models.tensor_file import unpack

NAME = "efficientnet-lite0"
# The whole with its projector, as it ships.
FILE = "imagenet_192.safetensors"
SHA256 = "a3cca4bb43c708b4c3c45544fb864f3abf2e573916ed36226121a676a929645b"
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
        # No other arithmetic on sizes: what an exporter cannot work out would be computed on the device.
        height, width = (max(0, kernel - (side % stride or stride)) for side in input.shape[2:])
        if height % 2 == 0 and width % 2 == 0:
            # Equal on both sides: the convolution pads by itself, without a copy of the map.
            pad = (height // 2, width // 2)
            return functional.conv2d(input, self.weight, self.bias, self.stride, pad, groups=self.groups)
        padding = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(functional.pad(input, padding))


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project; beside the identity where the shape stays."""

    def __init__(self, into: int, stage: Stage, *, stride: int) -> None:
        super().__init__()
        inner = into * stage.expansion
        self.expand = nn.Conv2d(into, inner, 1) if stage.expansion > 1 else None
        self.depthwise = SameConv2d(inner, inner, stage.kernel_size, stride=stride, groups=inner)
        self.project = nn.Conv2d(inner, stage.width, 1)
        self.keeps_shape = stride == 1 and into == stage.width

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        inner = x if self.expand is None else functional.relu6(self.expand(x))
        out: Tensor = self.project(functional.relu6(self.depthwise(inner)))
        return x + out if self.keeps_shape else out


class Trunk(nn.Module):
    """Stem and first stages: maps of what they see, from fine to coarse.

    Args:
        in_channels: C.
        num_stages: How many of `STAGES`.

    Attributes:
        widths: Channels of each map.
    """

    def __init__(self, *, in_channels: int = 3, num_stages: int = len(STAGES)) -> None:
        super().__init__()
        self.widths = tuple(stage.width for stage in STAGES[:num_stages])
        self.stem = SameConv2d(in_channels, STEM_WIDTH, 3, stride=2)
        width, stages = STEM_WIDTH, []
        for stage in STAGES[:num_stages]:
            blocks = []
            for index in range(stage.blocks):
                blocks.append(InvertedResidual(width, stage, stride=stage.stride if index == 0 else 1))
                width = stage.width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def maps(self, image: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """Map after each stage, of the image at the size that it has; strides 2, 4, 8, 16, 16, 32, 32."""
        map_BCHW = functional.relu6(self.stem(image))
        found = []
        for stage in self.stages:
            map_BCHW = stage(map_BCHW)
            found.append(map_BCHW)
        return found


class EfficientNetLite0(Trunk):
    """Frozen encoder of RGB images.

    Args:
        embedding_dim: Dimension of the projector's output, D.
        input_side: Side in pixels to which `forward` brings each image.
    """

    def __init__(self, *, embedding_dim: int, input_side: int) -> None:
        super().__init__()
        self.input_side = input_side
        self.head = nn.Conv2d(STAGES[-1].width, HEAD_WIDTH, 1)
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
        """As in `Trunk`, of what `edgecmd.data.modalities.table.source_input` gives."""
        in_unit = image * SOURCE_SCALE + SOURCE_OFFSET
        return super().maps((in_unit - OFFSET) / SCALE)


@torch.no_grad()
def load_shipped(trunk: Trunk, *, offset: float, scale: float) -> None:
    """Put the shipped teacher's weights into a trunk that sees ``(value - offset) / scale``.

    The first convolution takes the channels and the scale of what the trunk sees, see `adapt_channels`: on a
    grey image, it gives what the teacher's does on the same image in RGB. At the border the teacher sees
    grey beyond it, and the trunk what it sees as zero, such as the paper of a drawing.

    Args:
        trunk: Its weights are overwritten.
        offset: Value in [0, 1] that it sees as zero.
        scale: Divisor, not 0.

    Raises:
        DataError: The file is missing or is not the one that ships.
    """
    path, again = shipped_file(FILE), "Install edgecmd again."
    tensors, _ = unpack(path, advice=again)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise DataError(f"{path} does not have the checksum {SHA256}. {again}")
    weight_OCHW = adapt_channels(tensors["stem.weight"].float(), trunk.stem.in_channels)
    shift_O = weight_OCHW.sum(dim=(1, 2, 3)) * ((offset - OFFSET) / SCALE)
    first = {
        "stem.weight": weight_OCHW * (scale / SCALE),
        "stem.bias": tensors["stem.bias"].float() + shift_O,
    }
    trunk.load_state_dict({name: (tensors | first)[name] for name in trunk.state_dict()})


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
