"""Weights and constants of an ONNX file: inside the file, of the size they claim, and finite."""

import math
from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper

from export.trust.gate_limits import GateError, GateLimits

# Bits of one element. Text, complex numbers and float8 are no business of a student.
BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.BOOL: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
}
FLOATS: set[int] = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
# Where a type's numbers lie when they are not raw bytes; float16 and int4 share int32_data by tricks
# that no writer needs, so they must be raw.
TYPED_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.BOOL: "int32_data",
    TensorProto.INT8: "int32_data",
    TensorProto.UINT8: "int32_data",
    TensorProto.INT16: "int32_data",
    TensorProto.UINT16: "int32_data",
    TensorProto.INT32: "int32_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
DATA_FIELDS = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data", "string_data")


def refuse_tensors(model: ModelProto, *, limits: GateLimits) -> None:
    """Refuse a weight that is outside the file, not of its claimed size, too large or not finite.

    Raises:
        GateError: The message names the weight and the fault.
    """
    total = 0
    for name, tensor in tensors(model):
        total += _refuse_shape(name, tensor, limits=limits)
        if total > limits.max_weights:
            raise GateError(
                f"Its weights have {total:,} numbers up to {name!r}; allowed are {limits.max_weights:,}."
            )
        _refuse_data(name, tensor)


def tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """All tensors of a model without sub-graphs: its weights, then those in attributes of nodes."""
    for tensor in model.graph.initializer:
        yield tensor.name, tensor
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield f"{node.name or node.op_type}.{attribute.name}", attribute.t
            for tensor in attribute.tensors:
                yield f"{node.name or node.op_type}.{attribute.name}", tensor


def num_elements(dims: list[int]) -> int:
    """Numbers in a tensor of this shape; exact, however large."""
    return math.prod(dims)


def _refuse_shape(name: str, tensor: TensorProto, *, limits: GateLimits) -> int:
    """Number of elements of a tensor whose place, type and shape are allowed."""
    if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
        places = [entry.value for entry in tensor.external_data if entry.key == "location"]
        raise GateError(
            f"Weight {name!r} is external data, kept at {places[:1]}; allowed is none: one file holds it all."
        )
    if tensor.data_type not in BITS:
        raise GateError(
            f"Weight {name!r} has data_type={tensor.data_type}; allowed are numbers: {sorted(BITS)}."
        )
    dims = list(tensor.dims)
    if any(size < 0 for size in dims) or len(dims) > limits.max_rank:
        raise GateError(f"Weight {name!r} has shape {dims}; allowed are up to {limits.max_rank} sizes >= 0.")
    count = num_elements(dims)
    if count > limits.max_elements:
        raise GateError(
            f"Weight {name!r} claims {count:,} numbers, shape {dims}; allowed are {limits.max_elements:,}."
        )
    if tensor.HasField("segment"):
        raise GateError(f"Weight {name!r} is one segment of a larger one; allowed is the whole.")
    return count


def _refuse_data(name: str, tensor: TensorProto) -> None:
    """The content is exactly what shape and type claim."""
    count = num_elements(list(tensor.dims))
    filled = [field for field in DATA_FIELDS if len(getattr(tensor, field))]
    if tensor.HasField("raw_data") and (tensor.raw_data or not filled):
        expected = (count * BITS[tensor.data_type] + 7) // 8
        if len(tensor.raw_data) != expected or filled:
            raise GateError(
                f"Weight {name!r} has {len(tensor.raw_data):,} bytes of data but its shape"
                f" {list(tensor.dims)} and data_type={tensor.data_type} need {expected:,}."
            )
    else:
        field = TYPED_FIELDS.get(tensor.data_type, "")
        found = len(getattr(tensor, field)) if field else 0
        if set(filled) - {field} or found != count:
            raise GateError(
                f"Weight {name!r} has {found:,} numbers of data in {filled or 'no field'} but its shape"
                f" {list(tensor.dims)} needs {count:,}."
            )
    if tensor.data_type in FLOATS:
        num_bad = int((~np.isfinite(numpy_helper.to_array(tensor))).sum())
        if num_bad:
            raise GateError(f"Weight {name!r} has {num_bad} numbers that are not finite; allowed are none.")
