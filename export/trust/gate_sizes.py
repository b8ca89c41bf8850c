"""How much the weights and values of an ONNX file hold and cost, derived from shapes only.

Weights are inside the file, of the size they claim, and finite.

Thirty bytes can ask for a terabyte: an Expand to a huge size, or an outer product of outer products. They can
also wait: a size that is computed from the size of the input is small for the images that somebody tries,
and explodes for the next. So sizes are constants, or sizes of other values as they are; then every size is a
polynomial of the input's, and it is tried up to the largest input that a device takes.

Work is bounded likewise, and no division ends the process.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from export.graph.front_graph import KINDS, PREFIX, SCALED, SIDES, WHOLE, FrontGraph
from export.trust.errors import GateError

if TYPE_CHECKING:
    from export.trust.gate import GateLimits

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
# Sizes that are free in the file are tried with those of `export.graph.front_graph.Kind.sizes`, and these
# numbers of examples.
BATCHES = (64, 4096)
# A long thin picture of that area: what grows with the square of one side looks like the area in a square.
THIN, LONG = 16, 1 << 22
# Larger weights are no sizes; only their own shape matters.
LARGEST_SIZE_TENSOR = 64
# Operands whose numbers decide how large the output is.
SIZE_OPERANDS = {
    "Expand": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceL2", "ReduceSum", "ReduceSumSquare"), (1,)
    ),
}
# Of these, sizes of other values may be taken as well.
TAKE_SIZES = ("Expand", "Reshape", "Resize")
# Operators that hand sizes on as they are.
SELECTION = ("Gather", "Slice", "Squeeze", "Unsqueeze", "Identity")
# For each number of its input a value may have this many, beside ``max_elements``.
GROWTH = 256
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


def refuse_tensors(model: ModelProto, *, limits: "GateLimits") -> None:
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


def _refuse_shape(name: str, tensor: TensorProto, *, limits: "GateLimits") -> int:
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


def refuse_shapes(model: ModelProto, *, limits: "GateLimits", front: FrontGraph | None = None) -> None:
    """Refuse a model with a value of too many elements, or whose size cannot be told.

    Args:
        model: Has passed the checks of its structure: no sub-graphs, weights of the claimed size.
        limits: ``max_elements`` of one value, for one example of usual size.
        front: Its front end, as `export.trust.gate_front.refuse_other_front` found it.

    Guarantees:
        Behind the front end, no value has more than ``max_elements`` and `GROWTH` times the numbers of what
        the front end gives (without one, of the input), for every number of examples up to 4,096 and every
        input as large as a device takes: square, long and thin, or upright. Nor do its nodes need more
        multiply-adds than `MAX_WORK` and `WORK_A_NUMBER` allow for it, nor divide whole numbers by anything
        but constants other than 0 and -1.

    Raises:
        GateError: The message names the value and its size, or the node.
    """
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        _refuse_value(value, most=limits.max_elements)
    _refuse_constant_sizes(model, limits=limits)
    rest = [node for node in model.graph.node if not node.name.startswith(PREFIX)]
    source = _source(model, front)
    _refuse_computed_sizes(rest, source=source.name)
    for usual, dims in _probes(source, front):
        most = limits.max_elements + (0 if usual else GROWTH * math.prod(dims))
        told = _refuse_large(model, rest, helper.make_tensor_value_info(*_typed(source), dims), most=most)
        if usual:
            refuse_divisions(rest, told, constants(model))
        sizes = {
            name: [dim.dim_value for dim in one.type.tensor_type.shape.dim] for name, one in told.items()
        }
        sizes |= {one.name: [*one.dims] for one in model.graph.initializer} | {source.name: dims}
        refuse_work(rest, sizes, dims, usual=usual)


def _refuse_value(value: ValueInfoProto, *, most: int) -> None:
    """The sizes that are known give at most ``most``."""
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
    if any(size < 0 for size in dims) or math.prod(dims) > most:
        raise GateError(
            f"Value {value.name[:80]!r} has {math.prod(dims):,} numbers, sizes {dims}; allowed are {most:,}."
        )


def _refuse_constant_sizes(model: ModelProto, *, limits: "GateLimits") -> None:
    """Sizes and scales that are constants are no larger than a value may be."""
    known = constants(model)
    for node in model.graph.node:
        for place in SIZE_OPERANDS[node.op_type] if node.op_type in TAKE_SIZES else ():
            tensor = known.get(node.input[place]) if place < len(node.input) else None
            if tensor is None:
                continue
            sizes = np.abs(numpy_helper.to_array(tensor).astype(np.float64))
            if sizes.size > limits.max_rank or np.maximum(sizes, 1).prod() > limits.max_elements:
                raise GateError(
                    f"Node {node.name[:80]!r} is a {node.op_type!r} to {sizes.tolist()[:8]}; allowed are"
                    f" {limits.max_elements:,} numbers and {limits.max_rank} sizes."
                )


def _refuse_computed_sizes(nodes: Iterable[NodeProto], *, source: str) -> None:
    """Sizes follow from constants alone, or are sizes of other values as they are."""
    varying, sizes = {source}, set[str]()
    for node in nodes:
        for place in SIZE_OPERANDS.get(node.op_type, ()):
            name = node.input[place] if place < len(node.input) else ""
            if name in varying and not (name in sizes and node.op_type in TAKE_SIZES):
                raise GateError(
                    f"Node {node.name[:80]!r}, a {node.op_type!r}, computes a size from its input"
                    f" ({name[:80]!r}); allowed are constants, and sizes of other values as they are. Only"
                    " the front end may compute sizes, as this edgecmd writes it."
                )
        if any(name in varying for name in node.input):
            varying.update(node.output)
            if _hands_on(node, varying, sizes):
                sizes.update(node.output)


def _hands_on(node: NodeProto, varying: set[str], sizes: set[str]) -> bool:
    """Whether a node gives sizes as they are: those of a value, or some of those it takes."""
    taken = [name for name in node.input if name in varying]
    if node.op_type == "Concat":
        return sizes.issuperset(taken)
    # What is taken must be the first operand alone: an index that varies would look sizes up in a table.
    selects = node.op_type in SELECTION and taken == [node.input[0]] and node.input[0] in sizes
    return node.op_type == "Shape" or selects


def _source(model: ModelProto, front: FrontGraph | None) -> ValueInfoProto:
    """What the rest takes, with 0 for sizes that are free."""
    if front is None:
        one = model.graph.input[0]
        tensor = one.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
        return helper.make_tensor_value_info(one.name, tensor.elem_type, dims)
    return helper.make_tensor_value_info(SCALED, TensorProto.FLOAT, [0, *(size or 0 for size in front.shape)])


def _typed(value: ValueInfoProto) -> tuple[str, int]:
    return value.name, value.type.tensor_type.elem_type


def _probes(source: ValueInfoProto, front: FrontGraph | None) -> Iterator[tuple[bool, list[int]]]:
    """Sizes to try, and whether they are usual ones: free sides together and each alone, the batch alone."""
    fixed = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
    if front is None and len(fixed) == 4:
        fixed[3] = fixed[3] or 1
    usual, *tried = _tried(source.name) if front is None else front.sizes
    yield True, _filled(fixed, 1, usual)
    for size in tried if 0 in fixed[1:] else ():
        yield False, _filled(fixed, 1, size)
    free = [place for place, size in enumerate(fixed) if place and size == 0]
    for long in free if len(free) > 1 else ():
        yield False, [fixed[0] or 1, *_stretched(fixed, long)[1:]]
    for number in BATCHES if fixed[0] == 0 else ():
        yield False, _filled(fixed, number, usual)


def _tried(name: str) -> tuple[int, ...]:
    """Sizes for a file without a front end, by its input; a core has no free ones."""
    found = [one.sizes for one in KINDS.values() if one.input == name]
    return found[0] if found else SIDES


def _stretched(fixed: Sequence[int], long: int) -> list[int]:
    """One free side is long, the others are thin."""
    return [size or (LONG if place == long else THIN) for place, size in enumerate(fixed)]


def _filled(fixed: Sequence[int], batch: int, size: int) -> list[int]:
    return [fixed[0] or batch, *(one or size for one in fixed[1:])]


def _refuse_large(
    model: ModelProto, nodes: Sequence[NodeProto], source: ValueInfoProto, *, most: int
) -> dict[str, ValueInfoProto]:
    """Infer all shapes behind ``source``; each must be told, of one number or more, and at most ``most``.

    Returns them by name.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(
            _skeleton(model, nodes, source), check_type=True, strict_mode=True, data_prop=True
        )
    except Exception as error:  # its C++ part raises several types without a common base
        first_line = str(error).strip().splitlines()[:1]
        raise GateError(f"Its shapes or types contradict each other: {' '.join(first_line)[:300]}") from error
    told = {one.name: one for one in (*inferred.graph.value_info, *inferred.graph.output)}
    sizes = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
    for node in nodes:
        for name in filter(None, node.output):
            _refuse_untold(told.get(name), node, name, where=sizes)
            _refuse_value(told[name], most=most)
    return told


def _refuse_untold(value: ValueInfoProto | None, node: NodeProto, name: str, *, where: list[int]) -> None:
    tensor = value.type.tensor_type if value is not None else None
    if tensor is None or not tensor.HasField("shape"):
        dims: list[int] | None = None
    else:
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    if dims is None or min(dims, default=1) < 1:
        found = "unknown" if dims is None or -1 in dims else f"are {dims}"
        raise GateError(
            f"The sizes of {name[:80]!r}, which node {node.name[:80]!r}, a {node.op_type!r}, makes of an"
            f" input of {where}, {found}; allowed are sizes of 1 and more that follow from shapes and"
            " constants."
        )


def _skeleton(model: ModelProto, nodes: Sequence[NodeProto], source: ValueInfoProto) -> ModelProto:
    """The model after ``source``, without large weights, so that inference is quick and exact."""
    graph = model.graph
    kept = [one for one in graph.initializer if not one.name.startswith(PREFIX)]
    small = [one for one in kept if math.prod(one.dims) <= LARGEST_SIZE_TENSOR]
    large = [one for one in kept if math.prod(one.dims) > LARGEST_SIZE_TENSOR]
    weights = [helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)) for one in large]
    made = {name for node in nodes for name in node.output}
    outputs = [
        helper.make_tensor_value_info(
            one.name if one.name in made else WHOLE, one.type.tensor_type.elem_type, None
        )
        for one in graph.output
    ]
    light = helper.make_graph(nodes, "skeleton", [source, *weights], outputs, initializer=small)
    return helper.make_model(light, opset_imports=model.opset_import, ir_version=model.ir_version)


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
                f"Node {node.name[:80]!r} is a {node.op_type!r} of whole numbers by {found}, which may crash"
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
