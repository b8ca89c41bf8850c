"""Weights rounded one after the other, so that later ones make good what earlier ones lost.

What a layer loses on inputs ``x`` is ``E (x dw)^2 = dw H dw`` with ``H = E x x^T``. Each weight of an output
channel is rounded in turn, and its loss is carried to those not yet rounded, as ``H`` tells (Frantar et al.
2023, arXiv 2210.17323). Inputs are public or made up, and only ``H`` is looked at.

Shapes: O output channels, K weights of an output channel, N inputs, C channels, H height, W width.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from jaxtyping import Float, Int8
from onnx import NodeProto, helper, numpy_helper
from torch.nn import functional

from export.profiles.ranges import values_of

# Of the mean of H's diagonal, added to it: few inputs do not tell all of H apart.
DAMPING = 0.01
# Layers with more weights for an output channel are rounded to the nearest: H grows with the square.
MOST_WEIGHTS = 2400
# Places of one batch's maps that are looked at.
MOST_PLACES = 16384
LARGEST = 127
# How ONNX Runtime's quantiser names what a weight becomes.
STEPS, SCALE = "_quantized", "_scale"


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """How a convolution meets its input.

    Attributes:
        kernel: Height and width.
        strides: Of rows and columns.
        dilations: Likewise.
        pads: Left, right, above, below.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


def window_of(node: NodeProto, *, shape: tuple[int, ...]) -> Window | None:
    """Window of a plain convolution of maps with a weight of ``shape``; None of another node."""
    told = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    padding = told.get("auto_pad", b"NOTSET")
    if node.op_type != "Conv" or len(shape) != 4 or told.get("group", 1) != 1 or padding != b"NOTSET":
        return None
    above, left, below, right = told.get("pads", (0, 0, 0, 0))
    return Window(
        kernel=(shape[2], shape[3]),
        strides=tuple(told.get("strides", (1, 1))),
        dilations=tuple(told.get("dilations", (1, 1))),
        pads=(left, right, above, below),
    )


def products(
    inputs_NCHW: Float[np.ndarray, "num channels height width"], window: Window
) -> tuple[Float[np.ndarray, "weights weights"], int]:
    """Sum of ``x x^T`` over the places of a convolution's inputs, (K, K), and over how many."""
    padded = functional.pad(torch.from_numpy(inputs_NCHW), window.pads)
    columns_NKP = functional.unfold(padded, window.kernel, dilation=window.dilations, stride=window.strides)
    columns_KP = columns_NKP.transpose(0, 1).flatten(1)
    columns_KP = columns_KP[:, :: -(-columns_KP.shape[1] // MOST_PLACES)]
    return (columns_KP @ columns_KP.T).double().numpy(), columns_KP.shape[1]


def carried_steps(
    weight_OK: Float[np.ndarray, "out weights"],
    scale_O: Float[np.ndarray, " out"],
    products_KK: Float[np.ndarray, "weights weights"],
) -> Int8[np.ndarray, "out weights"]:
    """Weights in steps of ``scale_O``.

    Args:
        weight_OK: Weights.
        scale_O: Step of each output channel; its largest weight has at most `LARGEST`.
        products_KK: ``H``; weights that meet the largest inputs are rounded first.
    """
    order = np.argsort(-np.diag(products_KK), kind="stable")
    damping = max(DAMPING * float(np.diag(products_KK).mean()), np.finfo(np.float64).tiny)
    matrix = products_KK[np.ix_(order, order)] + damping * np.eye(len(order))
    carry = np.linalg.cholesky(np.linalg.inv(matrix)).T
    left = weight_OK.astype(np.float64)[:, order] / scale_O.astype(np.float64)[:, None]
    steps = np.zeros_like(left)
    for place in range(len(order)):
        steps[:, place] = np.rint(left[:, place]).clip(-LARGEST, LARGEST)
        lost = (left[:, place] - steps[:, place]) / carry[place, place]
        left[:, place:] -= np.outer(lost, carry[place, place:])
    found = np.zeros(steps.shape, np.int8)
    found[:, order] = steps
    return found


def carry_rounding(
    made: onnx.ModelProto, model: onnx.ModelProto, inputs: np.ndarray, *, layers: Sequence[NodeProto]
) -> None:
    """Round the weights of a quantised model anew, in place.

    Args:
        made: What ONNX Runtime's quantiser made of ``model``, with a scale for each output channel.
        model: In float32.
        inputs: Raw inputs.
        layers: Convolutions that are in 8 bits; others than plain ones of maps are left as they are.
    """
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    stored = {one.name: one for one in made.graph.initializer}
    windows = {
        node.name: window
        for node in layers
        if f"{node.input[1]}{STEPS}" in stored
        and (window := window_of(node, shape=weights[node.input[1]].shape)) is not None
        and math.prod(weights[node.input[1]].shape[1:]) <= MOST_WEIGHTS
    }
    chosen = [node for node in layers if node.name in windows]
    sums: dict[str, np.ndarray] = {}
    places = Counter[str]()
    for batch in values_of(model, inputs, sorted({node.input[0] for node in chosen})) if chosen else ():
        for node in chosen:
            product, num = products(batch[node.input[0]], windows[node.name])
            sums[node.name] = product + sums.get(node.name, 0.0)
            places[node.name] += num
    for node in chosen:
        weight, name = weights[node.input[1]], f"{node.input[1]}{STEPS}"
        scale_O = numpy_helper.to_array(stored[f"{node.input[1]}{SCALE}"])
        steps = carried_steps(weight.reshape(len(weight), -1), scale_O, sums[node.name] / places[node.name])
        stored[name].CopyFrom(numpy_helper.from_array(steps.reshape(weight.shape), name))
