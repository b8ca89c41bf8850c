"""Weights stored in 8 or 4 bits and computed with in float32: a smaller file, no calibration, the same speed.

Each large weight becomes whole numbers and one scale an output channel; nodes that depend on constants alone
turn them back, and ONNX Runtime evaluates these once, when it loads the file. (It would not fold
DequantizeLinear: kept for fusion with integer kernels, it runs at every inference.) Opset 20 has no 4-bit
tensors that can be cast, so two values share a byte and are told apart by BitwiseAnd and BitShift.

Rounding is balanced: what the weights of one kernel lose by rounding sums to nothing, because the inputs
that they meet (neighbouring pixels after a ReLU) are much alike. At 8 bits this halves the distance to the
original embedding, without any data.

Shapes: K output channels, M numbers a channel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from jaxtyping import Float, Int8, UInt8
from onnx import TensorProto, helper, numpy_helper

# Smaller tensors save less than their scale and nodes cost.
MIN_SIZE = 256
# With 4 bits, smaller tensors, such as the first convolution, stay at 8: they cost little and matter most. So
# do matrix products: the last one alone, at 4 bits, moved embeddings further than all convolutions together.
MIN_SIZE_4_BITS = 2000
# Inputs of a matrix product over which rounding is balanced; for a convolution it is one kernel.
GROUP = 32
# Clips that are tried for 4 bits, as shares of a channel's largest weight.
CLIPS = np.linspace(0.6, 1.0, 21)
# Position of the weight's output channels, by the operator that takes it as its second input.
CHANNEL_AXIS = {"Conv": 0, "Gemm": 0, "MatMul": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredWeight:
    """A weight that may be stored smaller.

    Attributes:
        name: Of the initializer.
        values: float32.
        axis: Axis of the output channels.
    """

    name: str
    values: np.ndarray
    axis: int

    @property
    def may_have_4_bits(self) -> bool:
        """Whether it is a large convolution."""
        return self.values.ndim > 2 and self.values.size >= MIN_SIZE_4_BITS


def store(model: onnx.ModelProto, *, bits: int) -> onnx.ModelProto:
    """Copy of ``model`` with its large weights in ``bits`` bits; everything else is as it was.

    Args:
        model: Exported; its weights are initializers.
        bits: 8, or 4 where a weight may have 4.

    Guarantees:
        With 8 bits a weight differs from the original by at most one step of its channel's scale, 1/127 of
        the channel's largest weight; most differ by at most half a step.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    weights = {weight.name: weight for weight in large_weights(model)}
    nodes = list(small.graph.node)
    kept = [entry for entry in small.graph.initializer if entry.name not in weights]
    del small.graph.node[:], small.graph.initializer[:]
    small.graph.initializer.extend(kept)
    for weight in weights.values():
        if bits == 4 and weight.may_have_4_bits:
            _store_4_bits(small.graph, weight)
        else:
            _store_8_bits(small.graph, weight)
    small.graph.node.extend(nodes)
    return small


def large_weights(model: onnx.ModelProto) -> Iterator[StoredWeight]:
    """Float weights of convolutions and matrix products, in the order of the file."""
    axes: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in CHANNEL_AXIS and len(node.input) > 1:
            axis = CHANNEL_AXIS[node.op_type]
            if node.op_type == "Gemm" and not any(one.name == "transB" and one.i for one in node.attribute):
                axis = 1
            axes[node.input[1]] = axis
    for entry in model.graph.initializer:
        if entry.name not in axes or entry.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(entry)
        if values.ndim >= 2 and values.size >= MIN_SIZE:
            yield StoredWeight(name=entry.name, values=values, axis=axes[entry.name])


def channel_scale(weight: StoredWeight, *, largest: int) -> Float[np.ndarray, "..."]:
    """Step of each output channel, so that its largest weight is ``largest`` steps; shaped to broadcast."""
    others = tuple(axis for axis in range(weight.values.ndim) if axis != weight.axis)
    top = np.abs(weight.values).max(axis=others, keepdims=True)
    return np.asarray(np.where(top > 0, top, 1.0) / largest, dtype=np.float32)


def clipped_scale(weight: StoredWeight, *, largest: int) -> Float[np.ndarray, "..."]:
    """Like `channel_scale`, with the largest weights clipped where that lowers the squared error."""
    others = tuple(axis for axis in range(weight.values.ndim) if axis != weight.axis)
    full = channel_scale(weight, largest=largest)
    best, least = full, np.full_like(full, np.inf)
    for share in CLIPS:
        scale = np.asarray(full * np.float32(share))
        rounded = np.clip(np.rint(weight.values / scale), -largest, largest) * scale
        error = np.square(weight.values - rounded).sum(axis=others, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return np.asarray(best, dtype=np.float32)


def balanced_steps(
    weight: StoredWeight, scale: Float[np.ndarray, "..."], *, largest: int
) -> Int8[np.ndarray, "..."]:
    """Weights in steps of ``scale``, rounded so that the sum of each group is nearly kept.

    A group is one kernel of a convolution, or `GROUP` inputs of one output of a matrix product. Those numbers
    that were nearest to being rounded the other way are.
    """
    exact = np.clip(np.moveaxis(weight.values / scale, weight.axis, 0), -largest, largest)
    if exact.ndim > 2:
        groups = [exact.reshape(exact.shape[0] * exact.shape[1], -1)]
    else:
        groups = [exact[:, start : start + GROUP] for start in range(0, exact.shape[1], GROUP)]
    steps = np.concatenate([_balanced_rows(group) for group in groups], axis=1).reshape(exact.shape)
    return np.moveaxis(np.clip(steps, -largest, largest), 0, weight.axis).astype(np.int8)


def _balanced_rows(exact: Float[np.ndarray, "rows group"]) -> Float[np.ndarray, "rows group"]:
    rounded = np.rint(exact)
    error = exact - rounded
    missing = np.rint(error.sum(axis=1, keepdims=True))
    # Rank 0 is the number that was rounded furthest against the sign of what is missing.
    order = np.argsort(-np.sign(missing) * error, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    return np.asarray(rounded + np.sign(missing) * (rank < np.abs(missing)))


def _store_8_bits(graph: onnx.GraphProto, weight: StoredWeight) -> None:
    name, scale = weight.name, channel_scale(weight, largest=127)
    steps = balanced_steps(weight, scale, largest=127)
    _add_constants(graph, {f"{name}.steps": steps, f"{name}.scale": scale})
    _add_nodes(
        graph,
        [
            helper.make_node("Cast", [f"{name}.steps"], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]),
        ],
    )


def pack_nibbles(steps: np.ndarray) -> UInt8[np.ndarray, " half"]:
    """Whole numbers in -7..7 as bytes: the first half in the low four bits, the second in the high four.

    Each is stored plus 8; an odd number of them is filled up with a zero.
    """
    flat = (steps.ravel() + 8).astype(np.uint8)
    flat = np.append(flat, np.full(len(flat) % 2, 8, dtype=np.uint8))
    low, high = flat.reshape(2, -1)
    return np.asarray(low | (high << 4), dtype=np.uint8)


def _store_4_bits(graph: onnx.GraphProto, weight: StoredWeight) -> None:
    name, scale = weight.name, clipped_scale(weight, largest=7)
    steps = balanced_steps(weight, scale, largest=7)
    size = np.asarray([steps.size], dtype=np.int64)
    _add_constants(
        graph,
        {
            f"{name}.nibbles": pack_nibbles(steps),
            f"{name}.scale": scale,
            f"{name}.mask": np.asarray(15, dtype=np.uint8),
            f"{name}.shift": np.asarray(4, dtype=np.uint8),
            f"{name}.begin": np.asarray([0], dtype=np.int64),
            f"{name}.size": size,
            f"{name}.shape": np.asarray(steps.shape, dtype=np.int64),
            f"{name}.zero": np.asarray(8, dtype=np.float32),
        },
    )
    part = {one: f"{name}.{one}" for one in ("low", "high", "both", "cut", "float", "signed", "shaped")}
    _add_nodes(
        graph,
        [
            helper.make_node("BitwiseAnd", [f"{name}.nibbles", f"{name}.mask"], [part["low"]]),
            helper.make_node(
                "BitShift", [f"{name}.nibbles", f"{name}.shift"], [part["high"]], direction="RIGHT"
            ),
            helper.make_node("Concat", [part["low"], part["high"]], [part["both"]], axis=0),
            helper.make_node("Slice", [part["both"], f"{name}.begin", f"{name}.size"], [part["cut"]]),
            helper.make_node("Cast", [part["cut"]], [part["float"]], to=TensorProto.FLOAT),
            helper.make_node("Sub", [part["float"], f"{name}.zero"], [part["signed"]]),
            helper.make_node("Reshape", [part["signed"], f"{name}.shape"], [part["shaped"]]),
            helper.make_node("Mul", [part["shaped"], f"{name}.scale"], [name]),
        ],
    )


def _add_constants(graph: onnx.GraphProto, constants: dict[str, np.ndarray]) -> None:
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())


def _add_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Append nodes, each named after what it makes."""
    for node in nodes:
        node.name = f"{node.output[0]}.{node.op_type}"
        graph.node.append(node)
