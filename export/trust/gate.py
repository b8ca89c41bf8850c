"""Structural gate: is an ONNX file a student and nothing else? Asked before anything loads it.

`onnx.checker` is no gate: it accepts a loop of 2^40 rounds, a nested graph that takes a minute to load, and
a hundred bytes that ask for gigabytes. Here nothing runs and no other file is opened.

A parser turns two bytes of an empty node into a hundred bytes of memory, so a file within its size limit can
still fill the machine. So its structure is counted before any parser makes objects of it: the raw bytes of
weights are one block each and cost no more than themselves. Source:
protobuf.dev/programming-guides/encoding; field numbers: onnx.proto.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from edgecmd.core.errors import nearest
from export.documents.requirements import LOWEST_OPSET
from export.graph.front_graph import KINDS, SCALED
from export.trust.errors import GateError
from export.trust.gate_front import METADATA_PREFIX, refuse_other_front
from export.trust.gate_sizes import refuse_shapes, refuse_tensors

WAY_OUT = "Do not load it; make it again with `edgecmd export`, or get it again from its maker."
PLAIN_ATTRIBUTES = {
    AttributeProto.FLOAT,
    AttributeProto.INT,
    AttributeProto.STRING,
    AttributeProto.TENSOR,
    AttributeProto.FLOATS,
    AttributeProto.INTS,
    AttributeProto.STRINGS,
}
LARGEST_ATTRIBUTE = 2**31
# The largest side of a picture that a device takes: a window reaches no further.
LARGEST_WINDOW, WINDOWS = 8192, ("dilations", "kernel_shape", "strides")
# Pooling has no weights that would bound the work of a window; what pools everything is written as a mean.
LARGEST_POOL, POOLS = 64, ("AveragePool", "MaxPool")
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
LONGEST_VARINT = 10
# A parser spends at least this on a field, however short.
SMALLEST_COST = 16
# ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
WAY_TO_WEIGHTS = (7, 5, 9)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateLimits:
    """Sizes of a student's file.

    Attributes:
        opsets: Versions of the default operator set.
        ir_versions: Versions of the file format.
        core_opsets: Versions of the default operator set of a core.
        core_ir_versions: Likewise of the file format.
        max_file_bytes: Size of the file.
        max_structure_bytes: Size of the file without the raw data of weights.
        max_nodes: Nodes of the graph.
        max_elements: Numbers in one weight, and in one value between nodes for one example.
        max_weights: Numbers in all weights.
        max_rank: Dimensions of a tensor.
        max_text_bytes: Length of one metadata value or name.
    """

    opsets: tuple[int, ...] = (18, 19, 20)
    ir_versions: tuple[int, ...] = (8, 9, 10, 11)
    core_opsets: tuple[int, ...] = (*range(LOWEST_OPSET, 19),)
    core_ir_versions: tuple[int, ...] = (6, 7, 8)
    max_file_bytes: int = 256 << 20
    max_structure_bytes: int = 2 << 20
    max_nodes: int = 5000
    max_elements: int = 64 << 20
    max_weights: int = 128 << 20
    max_rank: int = 8
    max_text_bytes: int = 1 << 20


# Why each operator is allowed. None of them runs a graph of its own, repeats itself, reads a file, draws
# random numbers or makes a tensor whose size is a number in the data, except Expand and Resize, whose
# constant sizes are checked.
OPERATORS = {
    "layers of the students": ("Conv", "Gemm", "MatMul"),
    "activations": (
        "Relu",
        "Clip",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Erf",
        "Gelu",
        "Softmax",
        "LeakyRelu",
        "Elu",
        "PRelu",
    ),
    "norms": ("BatchNormalization", "InstanceNormalization", "LayerNormalization"),
    "pooling and the unit length": (
        "GlobalAveragePool",
        "GlobalMaxPool",
        "AveragePool",
        "MaxPool",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceSum",
        "ReduceSumSquare",
        "ReduceL2",
    ),
    "arithmetic of preprocessing, scales and norms": (
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Sqrt",
        "Abs",
        "Neg",
        "Reciprocal",
        "Max",
        "Min",
        "Floor",
        "Ceil",
        "Round",
    ),
    "log-mel front end": ("Exp", "Log", "Mod", "Cos", "Sin"),
    "resize of pictures": ("Resize",),
    "where a string ends": ("Greater", "GreaterOrEqual", "Where"),
    "which runs of bytes it has": ("And", "Equal", "LessOrEqual", "Not", "Or"),
    "types": ("Cast", "Identity", "Constant"),
    "shapes": (
        "Shape",
        "Gather",
        "Slice",
        "Split",
        "Concat",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Expand",
    ),
    "int8 with calibrated ranges": ("QuantizeLinear", "DequantizeLinear"),
    "int8 with ranges found at run time": ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"),
    "two 4-bit weights in a byte": ("BitwiseAnd", "BitShift"),
}
ALLOWED = frozenset(name for names in OPERATORS.values() for name in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """An input or output of the file: its element types and the number of its dimensions."""

    types: tuple[int, ...]
    rank: int


# The one input is one of these; a file without a front end may have some in another type.
MORE_TYPES = {"image": (TensorProto.UINT16,), "wave": (TensorProto.INT16,)}
RAW_INPUTS = {
    one.input: Port(types=(one.dtype, *MORE_TYPES.get(one.input, ())), rank=one.rank)
    for one in KINDS.values()
}
# A core, and nothing else, takes what the student sees.
INPUTS = {**RAW_INPUTS, SCALED: Port(types=(TensorProto.FLOAT,), rank=4)}
# The first is always there, one of the others only with a head.
OUTPUTS = {
    "embedding": Port(types=(TensorProto.FLOAT,), rank=2),
    "scores": Port(types=(TensorProto.FLOAT,), rank=2),
    "mask": Port(types=(TensorProto.FLOAT,), rank=4),
}


def gate_file(path: Path, *, limits: GateLimits | None = None) -> ModelProto:
    """Read a file and pass it through `gate`; no more than the allowed size is read.

    Raises:
        GateError: The file is missing or no student; the message begins with its name.
    """
    limits = limits or GateLimits()
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_file_bytes + 1)
    except OSError as error:
        raise GateError(f"{path.name} cannot be read: {error.strerror}. Check the path.") from error
    return gate(data, name=path.name, limits=limits)


def gate(
    data: bytes, *, name: str = "The file", limits: GateLimits | None = None, way_out: str = WAY_OUT
) -> ModelProto:
    """Let a student through and nothing else.

    Args:
        data: An ONNX file.
        name: What messages call it.
        limits: Sizes and versions that are allowed; `GateLimits` by default.
        way_out: What the message ends with.

    Returns:
        The parsed file.

    Guarantees:
        A file that passes is one graph in order, of allowed operators in the default domain, without
        sub-graphs, functions, data outside the file or sparse weights; it has the inputs and outputs of a
        student; its weights are finite and as large as they claim; its front end, if any, is the one that
        this edgecmd writes for its properties; behind that the size of every value can be told, and grows no
        faster than the input, and so does the work (see `refuse_shapes`); no whole number
        is divided by one that may be 0 or -1; every node and weight is used; and it holds no byte that was
        not looked at. Nothing was executed, and no other file was opened.

    Raises:
        GateError: The message names file, fault, what is allowed, and the way out.
    """
    limits = limits or GateLimits()
    try:
        model = _parse(data, limits=limits)
        _refuse_header(model, limits=limits)
        _refuse_graph(model, limits=limits)
        _refuse_ports(model, limits=limits)
        refuse_tensors(model, limits=limits)
        refuse_shapes(model, limits=limits, front=refuse_other_front(model))
        _refuse_unused(model)
    except GateError as error:
        raise GateError(f"{name}: {error} {way_out}") from error
    return model


def _parse(data: bytes, *, limits: GateLimits) -> ModelProto:
    """Message whose every byte is a field that this version of ONNX knows."""
    if not data:
        raise GateError("It is empty.")
    if len(data) > limits.max_file_bytes:
        raise GateError(f"It has {len(data):,} bytes or more; allowed are {limits.max_file_bytes:,}.")
    model = ModelProto()
    try:
        structure = structure_bytes(data, limit=limits.max_structure_bytes)
        if structure > limits.max_structure_bytes:
            raise GateError(
                f"It has {structure:,} bytes or more of structure beside its weights; allowed are"
                f" {limits.max_structure_bytes:,}."
            )
        model.ParseFromString(data)
    except (WireError, DecodeError) as error:
        raise GateError(f"It is not an ONNX file, or only part of one: {error}.") from error
    # Written again without what is unknown, it must be as long as before.
    model.DiscardUnknownFields()
    if model.ByteSize() != len(data):
        raise GateError(
            f"It has {len(data) - model.ByteSize():,} bytes that belong to no known field; allowed are none."
        )
    unreadable = [text for text in _texts(model) if not isinstance(text, str)]
    if unreadable:
        raise GateError(f"It has the text {unreadable[0][:80]!r}, which is not UTF-8; allowed is UTF-8.")
    return model


def _texts(model: ModelProto) -> Iterator[str]:
    """Names of everything; protobuf hands out text that is not UTF-8 as bytes."""
    for entry in (*model.opset_import, *model.graph.node):
        yield entry.domain
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    graph = model.graph
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield entry.name
    for node in graph.node:
        yield from (node.name, node.op_type, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _refuse_header(model: ModelProto, *, limits: GateLimits) -> None:
    """Versions, metadata, and everything beside the graph."""
    core = is_core(model)
    formats, opsets = (
        (limits.core_ir_versions, limits.core_opsets) if core else (limits.ir_versions, limits.opsets)
    )
    if model.ir_version not in formats:
        raise GateError(f"It has ir_version={model.ir_version}; allowed are {formats}.")
    foreign = sorted({entry.domain for entry in model.opset_import} - {"", "ai.onnx"})
    if foreign:
        raise GateError(
            f"It uses the operator domain {foreign[0][:80]!r}; allowed is the default domain only."
        )
    versions = [entry.version for entry in model.opset_import]
    if len(versions) != 1 or versions[0] not in opsets:
        raise GateError(f"It has opset {versions}; allowed is one of {opsets}.")
    for field in ("functions", "training_info", "configuration"):
        if len(getattr(model, field, ())):
            raise GateError(f"It has {len(getattr(model, field))} {field}; allowed are none.")
    if model.doc_string or model.graph.doc_string or len(model.graph.metadata_props):
        raise GateError("It has a comment on model or graph; allowed is none: the exporter strips them.")
    keys = [entry.key for entry in model.metadata_props]
    for entry in model.metadata_props:
        if not entry.key.startswith(METADATA_PREFIX):
            raise GateError(f"It has the property {entry.key[:80]!r}; allowed are {METADATA_PREFIX}* only.")
        if len(entry.value.encode()) > limits.max_text_bytes:
            raise GateError(
                f"Property {entry.key[:80]!r} has {len(entry.value):,} letters; allowed are"
                f" {limits.max_text_bytes:,} bytes."
            )
    _refuse_repeated("property", keys)


def _refuse_graph(model: ModelProto, *, limits: GateLimits) -> None:
    """Nodes in order, each of an allowed kind, each value made once before it is used."""
    graph = model.graph
    if len(graph.sparse_initializer):
        raise GateError(f"It has {len(graph.sparse_initializer)} sparse weights; allowed are none.")
    if len(graph.quantization_annotation):
        raise GateError("It has quantization annotations; allowed are none.")
    if not 1 <= len(graph.node) <= limits.max_nodes:
        raise GateError(f"It has {len(graph.node):,} nodes; allowed are 1 to {limits.max_nodes:,}.")
    known = [one.name for one in (*graph.input, *graph.initializer)]
    _refuse_repeated("input or weight", known)
    made = set(known)
    for index, node in enumerate(graph.node):
        where = f"Node {index} ({node.name[:80]!r})"
        _refuse_node(where, node)
        unknown = [name for name in node.input if name and name not in made]
        if unknown:
            raise GateError(
                f"{where} uses {unknown[0][:80]!r}, which nothing before it produces; allowed are inputs,"
                " weights and earlier outputs."
            )
        outputs = [name for name in node.output if name]
        twice = [name for name in outputs if name in made or outputs.count(name) > 1]
        if twice:
            raise GateError(f"{where} makes {twice[0][:80]!r}, which already exists; allowed is once.")
        made.update(outputs)
    missing = [one.name for one in graph.output if one.name not in made - {*known}]
    if missing:
        raise GateError(f"Output {missing[0][:80]!r} is not produced by any node.")


def _refuse_node(where: str, node: NodeProto) -> None:
    """An allowed operator with plain attributes and no comment."""
    kind = node.op_type[:80]
    if node.domain not in ("", "ai.onnx"):
        raise GateError(f"{where} is of the domain {node.domain[:80]!r}; allowed is the default domain only.")
    for attribute in node.attribute:
        most = LARGEST_POOL if node.op_type in POOLS and attribute.name == "kernel_shape" else LARGEST_WINDOW
        _refuse_attribute(f"{where}, a {kind!r},", attribute, window=most)
    _refuse_repeated(f"{where}: attribute", [attribute.name for attribute in node.attribute])
    if node.op_type not in ALLOWED:
        raise GateError(
            f"{where} is a {kind!r}, which is not an operator of a student. {nearest(kind, ALLOWED)}"
        )
    if node.overload or len(getattr(node, "device_configurations", ())):
        raise GateError(f"{where} has an overload or a device configuration; allowed is none.")
    if node.doc_string or len(node.metadata_props):
        raise GateError(f"{where} has a comment; allowed is none: the exporter strips them.")


def _refuse_attribute(where: str, attribute: AttributeProto, *, window: int) -> None:
    """Numbers, text or a dense tensor."""
    name = attribute.name[:80]
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) or attribute.HasField("g"):
        raise GateError(f"{where} has a sub-graph {name!r}; allowed is none.")
    if attribute.type not in PLAIN_ATTRIBUTES or attribute.ref_attr_name:
        raise GateError(
            f"{where} has the attribute {name!r} of type {attribute.type}; allowed are numbers, text and"
            " dense tensors."
        )
    if any(abs(number) > LARGEST_ATTRIBUTE for number in (attribute.i, *attribute.ints)):
        raise GateError(f"{where} has a number beyond 2^31 in {name!r}; allowed are smaller.")
    if attribute.name in WINDOWS and any(not 1 <= number <= window for number in attribute.ints):
        raise GateError(f"{where} has {name}={[*attribute.ints][:8]}; allowed are 1 to {window}.")


def _refuse_ports(model: ModelProto, *, limits: GateLimits) -> None:
    """Inputs and outputs have the names, types and ranks of a student."""
    inputs, outputs = list(model.graph.input), list(model.graph.output)
    if len(inputs) != 1 or inputs[0].name not in INPUTS:
        found = [one.name[:80] for one in inputs[:4]]
        raise GateError(f"It has the inputs {found}; allowed is one of {sorted(INPUTS)}.")
    names = [one.name[:80] for one in outputs]
    if names not in (["embedding"], ["embedding", "scores"], ["embedding", "mask"]):
        raise GateError(
            f"It has the outputs {names[:4]}; allowed is embedding, optionally followed by scores or mask."
        )
    core = is_core(model)
    for one in inputs:
        _refuse_port(one, INPUTS[one.name], limits=limits, core=core)
    for one in outputs:
        _refuse_port(one, OUTPUTS[one.name], limits=limits, core=core)


def is_core(model: ModelProto) -> bool:
    """Whether a file takes what the student sees, in place of a raw input."""
    return [one.name for one in model.graph.input] == [SCALED]


def _refuse_port(value: ValueInfoProto, port: Port, *, limits: GateLimits, core: bool) -> None:
    tensor = value.type.tensor_type
    rank = len(tensor.shape.dim) if tensor.HasField("shape") else 0
    if (
        value.type.WhichOneof("value") != "tensor_type"
        or tensor.elem_type not in port.types
        or rank != port.rank
    ):
        raise GateError(
            f"{value.name!r} has elem_type={tensor.elem_type} and {rank} dimensions; allowed are elem_type"
            f" {port.types} and {port.rank} dimensions."
        )
    if value.doc_string or len(value.metadata_props):
        raise GateError(f"{value.name!r} has a comment; allowed is none: the exporter strips them.")
    sizes = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
    if any(not 1 <= size <= limits.max_elements for size in sizes):
        raise GateError(f"{value.name!r} has sizes {sizes}; allowed are 1 to {limits.max_elements:,}.")
    if core:
        if len(sizes) != rank or sizes[0] != 1:
            raise GateError(
                f"{value.name!r} of a core has sizes {sizes}; allowed is a batch of 1, none free."
            )
        return
    # A mask is as large as the input is.
    free = (0, 2, 3) if value.name == "mask" else (0,)
    if any(tensor.shape.dim[place].HasField("dim_value") for place in free):
        raise GateError(
            f"{value.name!r} has the fixed sizes {sizes}; allowed is a free batch, of masks also free sides."
        )


def _refuse_unused(model: ModelProto) -> None:
    """Every node and weight has a part in an output, and nothing is declared beside inputs and outputs."""
    graph = model.graph
    if len(graph.value_info):
        raise GateError(
            f"It declares {len(graph.value_info)} values between its nodes (value_info), the first"
            f" {graph.value_info[0].name[:80]!r}; allowed are none: sizes follow from the nodes."
        )
    used = {one.name for one in graph.output}
    for node in reversed(graph.node):
        if used.isdisjoint(filter(None, node.output)):
            raise GateError(
                f"Node {node.name[:80]!r}, a {node.op_type!r}, contributes to no output; allowed are nodes"
                " that do."
            )
        used.update(node.input)
    unused = [one.name for one in graph.initializer if one.name not in used]
    if unused:
        raise GateError(f"Weight {unused[0][:80]!r} is used by no node; allowed are weights that are used.")


def _refuse_repeated(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise GateError(f"The {what} {twice[0][:80]!r} occurs twice; allowed is once.")


class WireError(ValueError):
    """The bytes are no protobuf message."""


def structure_bytes(data: bytes, *, limit: int) -> int:
    """Bytes of a model that are not raw data of weights; a short field counts as 16.

    Args:
        data: The file.
        limit: Counting stops beyond it, so that a hostile file costs little.

    Returns:
        The count; some number above ``limit`` where it stopped.

    Raises:
        WireError: A field reaches beyond its message, or has a type that protobuf does not have.
    """
    count = 0
    for cost in _costs(data, 0, len(data), level=0):
        count += cost
        if count > limit:
            break
    return count


def _costs(data: bytes, start: int, end: int, *, level: int) -> Iterator[int]:
    """Bytes of each field of the message between ``start`` and ``end``, without raw data of weights."""
    while start < end:
        key, after_key = _varint(data, start, end)
        number, wire_type = key >> 3, key & 7
        begin, stop = _payload(data, after_key, end, wire_type=wire_type)
        on_the_way = wire_type == LENGTH and number == WAY_TO_WEIGHTS[level]
        if not on_the_way:
            yield max(stop - start, SMALLEST_COST)
        else:
            yield SMALLEST_COST
            if level + 1 < len(WAY_TO_WEIGHTS):
                yield from _costs(data, begin, stop, level=level + 1)
        start = stop


def _payload(data: bytes, start: int, end: int, *, wire_type: int) -> tuple[int, int]:
    """Begin and end of a field's content."""
    if wire_type == VARINT:
        begin, stop = start, _varint(data, start, end)[1]
    elif wire_type == LENGTH:
        length, begin = _varint(data, start, end)
        stop = begin + length
    elif wire_type in FIXED_BYTES:
        begin, stop = start, start + FIXED_BYTES[wire_type]
    else:
        raise WireError(f"byte {start} begins a field of type {wire_type}, which protobuf does not have")
    if stop > end:
        raise WireError(f"the field at byte {start} needs {stop - end} bytes more than there are")
    return begin, stop


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Number written from ``start`` on, and where the next field begins."""
    value = 0
    for place, byte in enumerate(data[start : min(end, start + LONGEST_VARINT)]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, start + place + 1
    raise WireError(f"the number at byte {start} has no end")
