"""How large the values between the nodes of an ONNX file become, told from shapes alone.

Thirty bytes can ask for a terabyte: an Expand to a huge size, or an outer product of outer products. They can
also wait: a size that is computed from the size of the input is small for the pictures that somebody tries,
and explodes for the next. So sizes are constants, or sizes of other values as they are; then every size is a
polynomial of the input's, and it is tried up to the largest input that a device takes.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from export.graph.front_graph import PREFIX, SCALED, WHOLE, FrontGraph
from export.trust.gate_limits import GateError, GateLimits
from export.trust.gate_work import constants, refuse_divisions, refuse_work

# Sizes that are free in the file are tried with these: number of examples, sides of pictures (the largest is
# the largest area that infer.py takes), samples of a recording. The usual ones come first.
BATCHES, SIDES, SAMPLES = (64, 4096), (16, 1024, 8192), (256, 1 << 20, 1 << 26)
# A long thin picture of that area: what grows with the square of one side looks like the area in a square.
THIN, LONG = 16, 1 << 22
USUAL_SIDE, USUAL_SAMPLES = 256, 16000
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


def refuse_shapes(model: ModelProto, *, limits: GateLimits, front: FrontGraph | None = None) -> None:
    """Refuse a model with a value of too many elements, or whose size cannot be told.

    Args:
        model: Has passed the checks of its structure: no sub-graphs, weights of the claimed size.
        limits: ``max_elements`` of one value, for one example of usual size.
        front: Its front end, as `export.trust.gate_front.refuse_other_front` found it.

    Guarantees:
        Behind the front end, no value has more than ``max_elements`` and `GROWTH` times the numbers of what
        the front end gives (without one, of the input), for every number of examples up to 4,096 and every
        input as large as a device takes: square, long and thin, or upright. Nor do its nodes need more
        multiply-adds than `gate_work` allows for such an input, nor divide whole numbers by anything
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
    for usual, dims in _probes(source, raw=front is None):
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


def _refuse_constant_sizes(model: ModelProto, *, limits: GateLimits) -> None:
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


def _probes(source: ValueInfoProto, *, raw: bool) -> Iterator[tuple[bool, list[int]]]:
    """Sizes to try, and whether they are usual ones: free sides together and each alone, the batch alone."""
    fixed = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
    if raw and len(fixed) == 4:
        fixed[3] = fixed[3] or 1
    waves = len(fixed) == 2 or (fixed[3] == 0 and fixed[2] > 0)
    usual, tried = (USUAL_SAMPLES, SAMPLES) if waves else (USUAL_SIDE, SIDES)
    yield True, _filled(fixed, 1, usual)
    for size in tried if 0 in fixed[1:] else ():
        yield False, _filled(fixed, 1, size)
    free = [place for place, size in enumerate(fixed) if place and size == 0]
    for long in free if len(free) > 1 else ():
        yield False, [fixed[0] or 1, *_stretched(fixed, long)[1:]]
    for number in BATCHES if fixed[0] == 0 else ():
        yield False, _filled(fixed, number, usual)


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
        found = "nobody can tell" if dims is None or -1 in dims else f"are {dims}"
        raise GateError(
            f"The sizes of {name[:80]!r}, which node {node.name[:80]!r}, a {node.op_type!r}, makes of an"
            f" input of {where}, {found}; allowed are sizes of 1 and more that follow from shapes and"
            " constants."
        )


def _skeleton(model: ModelProto, nodes: Sequence[NodeProto], source: ValueInfoProto) -> ModelProto:
    """What lies behind ``source`` without large weights, so that inference is quick and exact."""
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
