"""What the nodes of an ONNX file compute: bounded work, and no division that ends the process."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from export.trust.gate_limits import GateError

# Multiply-adds of all nodes together: for one example of usual size, and for each number of the input. The
# largest student of edgecmd needs 2^27 at 128 x 128 pixels, which are 2^13 for each.
MAX_WORK, WORK_A_NUMBER = 1 << 36, 1 << 16
# Dividing a whole number by 0, or the least by -1, ends the whole process with a signal.
DIVISIONS = ("Div", "Mod")
BROKEN_DIVISORS = (0, -1)
WHOLE_NUMBERS = {
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
    TensorProto.UINT32,
    TensorProto.INT64,
    TensorProto.UINT64,
}


def constants(model: ModelProto) -> dict[str, TensorProto]:
    """Weights, and constants that are nodes, by name."""
    found = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = attribute.t
    return found


def refuse_divisions(
    nodes: Sequence[NodeProto], told: Mapping[str, ValueInfoProto], known: Mapping[str, TensorProto]
) -> None:
    """Refuse a division of whole numbers by anything but a constant that is neither 0 nor -1.

    Args:
        nodes: Behind the front end.
        told: Type of every value that a node makes.
        known: As `constants` gives them.

    Raises:
        GateError: The message names the node.
    """
    for node in nodes:
        if node.op_type not in DIVISIONS:
            continue
        if told[node.output[0]].type.tensor_type.elem_type not in WHOLE_NUMBERS:
            continue
        divisor = known.get(node.input[1])
        if divisor is None or np.isin(numpy_helper.to_array(divisor).astype(np.int64), BROKEN_DIVISORS).any():
            found = "a value that varies" if divisor is None else "0 or -1"
            raise GateError(
                f"Node {node.name[:80]!r} is a {node.op_type!r} of whole numbers by {found}, which may end"
                " the process; allowed are constants other than 0 and -1."
            )


def refuse_work(
    nodes: Sequence[NodeProto], sizes: Mapping[str, Sequence[int]], source: Sequence[int], *, usual: bool
) -> None:
    """Refuse nodes that need too many multiply-adds for an input of this size.

    Args:
        nodes: Behind the front end.
        sizes: Of every value and weight.
        source: Of the input.
        usual: Whether it is one example of usual size.

    Raises:
        GateError: The message names the node that needs most.
    """
    work = {place: _work(node, sizes) for place, node in enumerate(nodes)}
    total, most = sum(work.values()), MAX_WORK + (0 if usual else WORK_A_NUMBER * math.prod(source))
    if total > most:
        node = nodes[max(work, key=lambda place: work[place])]
        raise GateError(
            f"Its nodes need {total:,} multiply-adds for an input of {[*source]}, most of them node"
            f" {node.name[:80]!r}, a {node.op_type!r}; allowed are {most:,}."
        )


def _work(node: NodeProto, sizes: Mapping[str, Sequence[int]]) -> int:
    """Multiply-adds of one node; of others than the costly ones, one for each number it makes or takes."""
    made: int = sum(math.prod(sizes[name]) for name in node.output if name)
    taken = [sizes.get(name, ()) for name in node.input]
    if node.op_type in ("Conv", "ConvInteger"):
        return made * math.prod(taken[1][1:])
    if node.op_type in ("MatMul", "MatMulInteger"):
        return made * (taken[0][-1] if taken[0] else 1)
    if node.op_type == "Gemm":
        return made * max(taken[0])
    if node.op_type in ("AveragePool", "MaxPool"):
        window: list[int] = [
            size for one in node.attribute if one.name == "kernel_shape" for size in one.ints
        ]
        return made * math.prod(window)
    return made + sum(map(math.prod, taken))
