"""Weights stored in 8 or 4 bits and computed with in float32: a smaller file, no calibration, the same speed.

Each large weight becomes whole numbers with one scale for a few inputs of an output channel; nodes that
depend on constants alone turn them back, and ONNX Runtime evaluates these once, when it loads the file. (It
would not fold DequantizeLinear: kept for fusion with integer kernels, it runs at every inference, at 1.5
times the latency.) Opset 18 has no 4-bit tensors that can be cast, so two values share a byte and are told
apart by BitwiseAnd and BitShift.

Rounding is balanced: what the weights of one kernel lose by rounding sums to nothing, because the inputs that
they meet (neighbouring pixels after a ReLU) are much alike. This halves the distance to the original
embedding at 8 bits, without any data, and so do small groups.

A network of depthwise convolutions has few numbers in its narrow layers, and hangs on each. There these
layers are float16: measured for mobilenetv3_small_100 with GroupNorm, 3% more bytes bring the smallest cosine
to the student from 0.9970 to 0.9999. EfficientNet-Lite0: 0.9996; narrow from 10,000 numbers on, 0.9994.

So are narrow layers along a string, whose neighbours are bytes and not much alike: of a text-50k the smallest
cosine is 0.9999 for 0.9985, and its file 1.9 times smaller than float32 for 2.5 times.

A large table that is looked up has one scale a row, and only the rows that were found are turned back: the
table stays small in memory too.

Shapes: O output channels, G groups of inputs, M numbers in a group, R rows of a table, E numbers of a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from jaxtyping import Float, Int8, UInt8
from onnx import TensorProto, helper, numpy_helper

# Smaller tensors save less than their scales and nodes cost.
MIN_SIZE = 256
# With 4 bits, smaller tensors, such as the first convolution, stay at 8: they cost little and matter most. So
# do matrix products: the last one alone, at 4 bits, moved embeddings further than all convolutions together.
MIN_SIZE_4_BITS = 2000
# Inputs of one output channel that share a scale, of a matrix and of a convolution.
GROUP_OF_MATRIX, GROUP_OF_CONVOLUTION = 32, 4
# Clips that are tried for 4 bits, as shares of a group's largest weight.
CLIPS = np.linspace(0.6, 1.0, 21)
# Below so many numbers a layer is narrow; and what is surely below float16's largest number.
MOST_NARROW, MOST_HALF = 40_000, 2.0**15
# The same for convolutions along a string.
MOST_NARROW_LINE = 20_000
# Numbers of a table from which on it is stored smaller. Below is that of 256 bytes, and hangs on each number.
MIN_TABLE = 1 << 16
# Position of the weight's output channels, by the operator that takes it as its second input.
CHANNEL_AXIS = {"Conv": 0, "Gemm": 0, "MatMul": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredWeight:
    """A weight that may be stored smaller.

    Attributes:
        name: Of the initializer.
        values: float32.
        axis: Axis of the output channels, 0 or 1.
        depthwise: Whether each channel of a convolution is computed apart from others.
    """

    name: str
    values: np.ndarray
    axis: int
    depthwise: bool = False

    @property
    def is_narrow(self) -> bool:
        """Whether it is better kept in 16 bits beside depthwise convolutions."""
        small = self.depthwise or self.values.size < MOST_NARROW
        return small and bool(np.abs(self.values).max() < MOST_HALF)

    @property
    def is_narrow_line(self) -> bool:
        """Whether it is a convolution along a string that is better kept in 16 bits."""
        along = self.values.ndim == 4 and self.values.shape[2] == 1 < self.values.shape[3]
        return along and self.values.size < MOST_NARROW_LINE and bool(np.abs(self.values).max() < MOST_HALF)

    @property
    def may_have_4_bits(self) -> bool:
        """Whether it is a large convolution."""
        return self.values.ndim > 2 and self.values.size >= MIN_SIZE_4_BITS

    def groups(self) -> Float[np.ndarray, "channels groups numbers"]:
        """The weight with output channels first, cut into groups of inputs."""
        first = np.moveaxis(self.values, self.axis, 0)
        most = GROUP_OF_MATRIX if self.values.ndim == 2 else GROUP_OF_CONVOLUTION
        inputs = next(size for size in range(most, 0, -1) if first.shape[1] % size == 0)
        return np.ascontiguousarray(first).reshape(len(first), first.shape[1] // inputs, -1)

    @property
    def kernel(self) -> int:
        """Numbers over which rounding is balanced: one kernel of a convolution; 0 for a whole group."""
        return int(np.prod(self.values.shape[2:])) if self.values.ndim > 2 else 0


def store(model: onnx.ModelProto, *, bits: int) -> onnx.ModelProto:
    """Copy of ``model`` with its large weights in ``bits`` bits; everything else is as it was.

    Args:
        model: Exported; its weights are initializers.
        bits: 8, or 4 where a weight may have 4.

    Guarantees:
        With 8 bits a weight differs from the original by at most one step of its group's scale, 1/127 of the
        group's largest weight (rounded up to a float16); most differ by at most half a step. Narrow layers
        beside depthwise convolutions differ by the rounding of float16 alone. A number of a table differs by
        at most half a step of its row.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    weights = {weight.name: weight for weight in large_weights(model)}
    store_tables(small, bits=bits)
    nodes = list(small.graph.node)
    kept = [entry for entry in small.graph.initializer if entry.name not in weights]
    del small.graph.node[:], small.graph.initializer[:]
    small.graph.initializer.extend(kept)
    halved = any(weight.depthwise for weight in weights.values())
    for weight in weights.values():
        if (halved and weight.is_narrow) or (bits == 8 and weight.is_narrow_line):
            _store_16_bits(small.graph, weight)
        elif bits == 4 and weight.may_have_4_bits:
            _store_4_bits(small.graph, weight)
        else:
            _store_8_bits(small.graph, weight)
    small.graph.node.extend(nodes)
    return small


def store_tables(model: onnx.ModelProto, *, bits: int) -> None:
    """Store the large tables of float32 numbers that are looked up, and nothing else, in place.

    Args:
        model: Exported.
        bits: 8, or 4 for rows of an even number of numbers.
    """
    graph, tables = model.graph, large_tables(model)
    nodes, kept = list(graph.node), [one for one in graph.initializer if one.name not in tables]
    del graph.node[:], graph.initializer[:]
    graph.initializer.extend(kept)
    for node in nodes:
        if node.op_type == "Gather" and node.input[0] in tables:
            _look_up(graph, node, tables[node.input[0]], bits=bits)
        else:
            graph.node.append(node)


def large_tables(model: onnx.ModelProto) -> dict[str, Float[np.ndarray, "rows numbers"]]:
    """Float32 weights whose rows are looked up by one node and that nothing else takes, by name."""
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    found = {}
    for entry in model.graph.initializer:
        nodes = takers.get(entry.name, [])
        large = len(entry.dims) == 2 and int(np.prod(entry.dims)) >= MIN_TABLE
        if large and entry.data_type == TensorProto.FLOAT and [*map(_looks_up, nodes)] == [entry.name]:
            found[entry.name] = numpy_helper.to_array(entry)
    return found


def _looks_up(node: onnx.NodeProto) -> str:
    """What a node takes rows of; empty where it does something else."""
    first = not any(one.name == "axis" and one.i for one in node.attribute)
    return node.input[0] if node.op_type == "Gather" and first else ""


def large_weights(model: onnx.ModelProto) -> Iterator[StoredWeight]:
    """Float weights of convolutions and matrix products, in the order of the file."""
    axes: dict[str, int] = {}
    depthwise: set[str] = set()
    for node in model.graph.node:
        if node.op_type in CHANNEL_AXIS and len(node.input) > 1:
            axis = CHANNEL_AXIS[node.op_type]
            if node.op_type == "Gemm" and not any(one.name == "transB" and one.i for one in node.attribute):
                axis = 1
            axes[node.input[1]] = axis
            if any(one.name == "group" and one.i > 1 for one in node.attribute):
                depthwise.add(node.input[1])
    for entry in model.graph.initializer:
        if entry.name not in axes or entry.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(entry)
        if values.ndim >= 2 and values.size >= MIN_SIZE:
            yield StoredWeight(
                name=entry.name, values=values, axis=axes[entry.name], depthwise=entry.name in depthwise
            )


def group_scale(
    groups: Float[np.ndarray, "channels groups numbers"], *, largest: int
) -> Float[np.ndarray, "channels groups 1"]:
    """Step of each group, so that its largest weight is at most ``largest`` steps; each is a float16."""
    top = np.abs(groups).max(axis=2, keepdims=True)
    exact = np.where(top > 0, top, 1.0) / largest
    half = exact.astype(np.float16)
    # Rounded up, so that no weight is clipped; never 0.
    return np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)


def clipped_scale(
    groups: Float[np.ndarray, "channels groups numbers"], *, largest: int
) -> Float[np.ndarray, "channels groups 1"]:
    """Like `group_scale`, with the largest weights clipped where that lowers the squared error."""
    full = group_scale(groups, largest=largest)
    best, least = full, np.full_like(full, np.inf)
    for share in CLIPS:
        scale = np.maximum(full * share, 1e-7).astype(np.float16).astype(np.float32)
        rounded = np.clip(np.rint(groups / scale), -largest, largest) * scale
        error = np.square(groups - rounded).sum(axis=2, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return np.asarray(best, dtype=np.float32)


def pack_nibbles(steps: np.ndarray) -> UInt8[np.ndarray, " half"]:
    """Whole numbers in -7..7 as bytes: the first half in the low four bits, the second in the high four.

    Each is stored plus 8; an odd number of them is filled up with a zero.
    """
    flat = (steps.ravel() + 8).astype(np.uint8)
    flat = np.append(flat, np.full(len(flat) % 2, 8, dtype=np.uint8))
    low, high = flat.reshape(2, -1)
    return np.asarray(low | (high << 4), dtype=np.uint8)


def balanced_steps(
    groups: Float[np.ndarray, "channels groups numbers"],
    scale: Float[np.ndarray, "channels groups 1"],
    *,
    largest: int,
    kernel: int = 0,
) -> Int8[np.ndarray, "channels groups numbers"]:
    """Weights in steps of ``scale``, rounded so that the sum of each kernel is nearly kept.

    Those numbers that were nearest to being rounded the other way are.

    Args:
        groups: Weights.
        scale: Their steps.
        largest: Most steps to either side.
        kernel: Consecutive numbers of a kernel; 0 for whole groups.
    """
    exact = np.clip(groups / scale, -largest, largest)
    steps = _balanced_rows(exact.reshape(-1, kernel or exact.shape[2])).reshape(exact.shape)
    return np.clip(steps, -largest, largest).astype(np.int8)


def _balanced_rows(exact: Float[np.ndarray, "rows group"]) -> Float[np.ndarray, "rows group"]:
    rounded = np.rint(exact)
    error = exact - rounded
    missing = np.rint(error.sum(axis=1, keepdims=True))
    # Rank 0 is the number that was rounded furthest against the sign of what is missing.
    order = np.argsort(-np.sign(missing) * error, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    return np.asarray(rounded + np.sign(missing) * (rank < np.abs(missing)))


def _store_8_bits(graph: onnx.GraphProto, weight: StoredWeight) -> None:
    name, groups = weight.name, weight.groups()
    scale = group_scale(groups, largest=127)
    steps = balanced_steps(groups, scale, largest=127, kernel=weight.kernel)
    _add_constants(graph, {f"{name}.steps": steps})
    _add_nodes(graph, [_cast(f"{name}.steps", f"{name}.signed")])
    _scale_back(graph, weight, scale)


def _store_16_bits(graph: onnx.GraphProto, weight: StoredWeight) -> None:
    _add_constants(graph, {f"{weight.name}.half": weight.values.astype(np.float16)})
    _add_nodes(graph, [_cast(f"{weight.name}.half", weight.name)])


def _store_4_bits(graph: onnx.GraphProto, weight: StoredWeight) -> None:
    name, groups = weight.name, weight.groups()
    scale = clipped_scale(groups, largest=7)
    steps = balanced_steps(groups, scale, largest=7, kernel=weight.kernel)
    _add_constants(
        graph,
        {
            f"{name}.nibbles": pack_nibbles(steps),
            f"{name}.mask": np.asarray(15, dtype=np.uint8),
            f"{name}.shift": np.asarray(4, dtype=np.uint8),
            f"{name}.begin": np.asarray([0], dtype=np.int64),
            f"{name}.size": np.asarray([steps.size], dtype=np.int64),
            f"{name}.grouped": np.asarray(steps.shape, dtype=np.int64),
            f"{name}.zero": np.asarray(8, dtype=np.float32),
        },
    )
    part = {one: f"{name}.{one}" for one in ("low", "high", "both", "cut", "float", "flat", "signed")}
    right = {"direction": "RIGHT"}
    _add_nodes(
        graph,
        [
            helper.make_node("BitwiseAnd", [f"{name}.nibbles", f"{name}.mask"], [part["low"]]),
            helper.make_node("BitShift", [f"{name}.nibbles", f"{name}.shift"], [part["high"]], **right),
            helper.make_node("Concat", [part["low"], part["high"]], [part["both"]], axis=0),
            helper.make_node("Slice", [part["both"], f"{name}.begin", f"{name}.size"], [part["cut"]]),
            _cast(part["cut"], part["float"]),
            helper.make_node("Sub", [part["float"], f"{name}.zero"], [part["flat"]]),
            helper.make_node("Reshape", [part["flat"], f"{name}.grouped"], [part["signed"]]),
        ],
    )
    _scale_back(graph, weight, scale)


def _look_up(
    graph: onnx.GraphProto, node: onnx.NodeProto, table_RE: Float[np.ndarray, "rows numbers"], *, bits: int
) -> None:
    """Nodes that find rows of a stored table and turn them back, in place of ``node``."""
    name, rows = node.input[0], node.input[1]
    groups, half = table_RE[:, None], bits == 4 and table_RE.shape[1] % 2 == 0
    scale = clipped_scale(groups, largest=7) if half else group_scale(groups, largest=127)
    most = 7 if half else 127
    steps_RE = np.clip(np.rint(groups / scale), -most, most)[:, 0].astype(np.int8)
    _add_constants(graph, {f"{name}.scale": scale[:, 0].astype(np.float16)})
    if half:
        signed = _rows_of_nibbles(graph, name, rows, steps_RE)
    else:
        _add_constants(graph, {f"{name}.steps": steps_RE})
        signed = [
            helper.make_node("Gather", [f"{name}.steps", rows], [f"{name}.found"], axis=0),
            _cast(f"{name}.found", f"{name}.signed"),
        ]
    back = [
        helper.make_node("Gather", [f"{name}.scale", rows], [f"{name}.scales"], axis=0),
        _cast(f"{name}.scales", f"{name}.step"),
        helper.make_node("Mul", [f"{name}.signed", f"{name}.step"], [*node.output]),
    ]
    for one in (*signed, *back):
        one.name = f"{one.output[0] if one.output[0] not in node.output else name}.{one.op_type}"
    graph.node.extend([*signed, *back])


def _rows_of_nibbles(
    graph: onnx.GraphProto, name: str, rows: str, steps_RE: Int8[np.ndarray, "rows numbers"]
) -> list[onnx.NodeProto]:
    """Nodes that find rows of which the first half is in the low four bits, the second in the high four."""
    low, high = np.split((steps_RE + 8).astype(np.uint8), 2, axis=1)
    _add_constants(
        graph,
        {
            f"{name}.nibbles": low | (high << 4),
            f"{name}.mask": np.asarray(15, dtype=np.uint8),
            f"{name}.shift": np.asarray(4, dtype=np.uint8),
            f"{name}.zero": np.asarray(8, dtype=np.float32),
        },
    )
    part = {one: f"{name}.{one}" for one in ("found", "low", "high", "both", "float", "signed")}
    return [
        helper.make_node("Gather", [f"{name}.nibbles", rows], [part["found"]], axis=0),
        helper.make_node("BitwiseAnd", [part["found"], f"{name}.mask"], [part["low"]]),
        helper.make_node("BitShift", [part["found"], f"{name}.shift"], [part["high"]], direction="RIGHT"),
        helper.make_node("Concat", [part["low"], part["high"]], [part["both"]], axis=-1),
        _cast(part["both"], part["float"]),
        helper.make_node("Sub", [part["float"], f"{name}.zero"], [part["signed"]]),
    ]


def _scale_back(
    graph: onnx.GraphProto, weight: StoredWeight, scale: Float[np.ndarray, "channels groups 1"]
) -> None:
    """Nodes from signed whole numbers in groups to the weight in its own shape."""
    name = weight.name
    shape = np.moveaxis(weight.values, weight.axis, 0).shape
    constants: dict[str, np.ndarray] = {
        f"{name}.scale": scale.astype(np.float16),
        f"{name}.shape": np.asarray(shape, dtype=np.int64),
    }
    _add_constants(graph, constants)
    first = name if weight.axis == 0 else f"{name}.first"
    nodes = [
        _cast(f"{name}.scale", f"{name}.step"),
        helper.make_node("Mul", [f"{name}.signed", f"{name}.step"], [f"{name}.groups"]),
        helper.make_node("Reshape", [f"{name}.groups", f"{name}.shape"], [first]),
    ]
    if weight.axis:
        nodes.append(helper.make_node("Transpose", [first], [name], perm=[1, 0]))
    _add_nodes(graph, nodes)


def _cast(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], to=TensorProto.FLOAT)


def _add_constants(graph: onnx.GraphProto, constants: dict[str, np.ndarray]) -> None:
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())


def _add_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Append nodes, each named after what it makes."""
    for node in nodes:
        node.name = f"{node.output[0]}.{node.op_type}"
        graph.node.append(node)
