"""How large the values between the nodes of an ONNX file become, told from shapes alone.

Thirty bytes can ask for a terabyte: an Expand to a huge size, or an outer product of outer products.
"""

import math

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from export.gate_limits import GateError, GateLimits

# Sizes that are free in the file are tried with these: one example; height and width of a usual picture.
BATCH, SIDE, NUM_SAMPLES = 1, 256, 16000
# Larger weights are no sizes; only their own shape matters.
LARGEST_SIZE_TENSOR = 64
# Operand that says how large the output is.
SIZE_OPERANDS = {"Expand": (1,), "Reshape": (1,), "Resize": (2, 3)}


def refuse_shapes(model: ModelProto, *, limits: GateLimits) -> None:
    """Refuse a model with a value of too many elements, or with shapes that contradict each other.

    Args:
        model: Has passed the checks of its structure: no sub-graphs, weights of the claimed size.
        limits: ``max_elements`` of one value, for one example.

    Raises:
        GateError: The message names the value and its size.
    """
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        _refuse_value(value, limits=limits)
    _refuse_size_operands(model, limits=limits)
    try:
        inferred = onnx.shape_inference.infer_shapes(
            _skeleton(model), check_type=True, strict_mode=True, data_prop=True
        )
    except Exception as error:  # its C++ part raises several types without a common base
        first_line = str(error).strip().splitlines()[:1]
        raise GateError(f"Its shapes or types contradict each other: {' '.join(first_line)[:300]}") from error
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        _refuse_value(value, limits=limits)


def _refuse_value(value: ValueInfoProto, *, limits: GateLimits) -> None:
    """The sizes that are known give at most ``max_elements``."""
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
    if any(size < 0 for size in dims) or math.prod(dims) > limits.max_elements:
        raise GateError(
            f"Value {value.name[:80]!r} has {math.prod(dims):,} numbers, sizes {dims}; allowed are"
            f" {limits.max_elements:,}."
        )


def _refuse_size_operands(model: ModelProto, *, limits: GateLimits) -> None:
    """Sizes and scales that are constants are no larger than a value may be."""
    constants = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                constants[node.output[0]] = attribute.t
    for node in model.graph.node:
        for place in SIZE_OPERANDS.get(node.op_type, ()):
            tensor = constants.get(node.input[place]) if place < len(node.input) else None
            if tensor is None:
                continue
            sizes = np.abs(numpy_helper.to_array(tensor).astype(np.float64))
            if sizes.size > limits.max_rank or np.maximum(sizes, 1).prod() > limits.max_elements:
                raise GateError(
                    f"Node {node.name[:80]!r} is a {node.op_type!r} to {sizes.tolist()[:8]}; allowed are"
                    f" {limits.max_elements:,} numbers and {limits.max_rank} sizes."
                )


def _skeleton(model: ModelProto) -> ModelProto:
    """Copy without large weights, with the free sizes filled in, so that inference is quick and exact."""
    graph = model.graph
    small = [one for one in graph.initializer if math.prod(one.dims) <= LARGEST_SIZE_TENSOR]
    large = [one for one in graph.initializer if math.prod(one.dims) > LARGEST_SIZE_TENSOR]
    weights = [helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)) for one in large]
    outputs = [
        helper.make_tensor_value_info(one.name, one.type.tensor_type.elem_type, None) for one in graph.output
    ]
    light = helper.make_graph(
        graph.node, "skeleton", [*map(_filled, graph.input), *weights], outputs, initializer=small
    )
    return helper.make_model(light, opset_imports=model.opset_import, ir_version=model.ir_version)


def _filled(value: ValueInfoProto) -> ValueInfoProto:
    """The input with a number for every size."""
    tensor = value.type.tensor_type
    free = (BATCH, NUM_SAMPLES) if len(tensor.shape.dim) == 2 else (BATCH, SIDE, SIDE, 1)
    dims = [
        dim.dim_value if dim.HasField("dim_value") else usual for dim, usual in zip(tensor.shape.dim, free)
    ]
    if tensor.elem_type == TensorProto.UNDEFINED:
        raise GateError(f"{value.name!r} has no type.")
    return helper.make_tensor_value_info(value.name, tensor.elem_type, dims)
