"""Profile `core`: the student alone, of fixed sizes and plain operators, for engines that fail at the whole.

The front end, which computes sizes and resizes, is left out; `core.json` says what it does
(`export.trust.raw_golden`). What is left is written with operators that phones' accelerators and other
engines know: means and maxima over all locations are global pooling, the unit length is a product, a sum
and a root, what is left of a division of whole numbers is a quotient, a product and a difference, and each
shape is a constant.

Shapes: C channels, H height, W width of what the student sees, D embedding dimension.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgecmd.core.errors import ExportError
from export.documents.requirements import LOWEST_OPSET, OPSET, lowest_ir_version
from export.graph import front_wave
from export.graph.deployable import EPSILON
from export.graph.front_graph import KINDS, PREFIX, SCALED, FrontSettings, front_graph

# Programs in other languages that read a bundle with a core; they ship with edgecmd.
SAMPLES = Path(__file__).resolve().parents[1] / "samples"
# Engines fail at these, or compute something else without a word.
FORBIDDEN = ("Resize", "Shape", "Mod", "ReduceL2", "ReduceMax")
# Names of nodes before the student's first layer: those of a recording make its log-mel image.
FRONT = (PREFIX, f"{front_wave.PREFIX}.", "student.front.")
RESHAPED = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
POOLED = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
LEAST = float(np.float32(EPSILON))
ONNXRUNTIME = "ONNX Runtime computes the whole graph: leave core out of export.profiles."


@dataclass(frozen=True, kw_only=True, slots=True)
class Halves:
    """The float32 file in two.

    Attributes:
        front: From the raw input to `SCALED`, of any size.
        core: From `SCALED`, of fixed size and batch 1, to the outputs.
    """

    front: ModelProto
    core: ModelProto


def core_of(model: ModelProto) -> ModelProto:
    """The core of the float32 file.

    Args:
        model: As `export.graph.to_onnx.to_onnx` makes it.

    Guarantees:
        No operator of `FORBIDDEN`, no free size, and the lowest operator set from `LOWEST_OPSET` on at which
        the file is valid.

    Raises:
        ExportError: The student is dense, or is made of an operator that has no plain form.
    """
    return halves_of(model).core


def halves_of(model: ModelProto) -> Halves:
    """Front end and core of the float32 file; see `core_of`."""
    properties = {entry.key.removeprefix("edgecmd."): entry.value for entry in model.metadata_props}
    if KINDS[properties["front_end"]].dense:
        raise ExportError(
            f"A student of masks ({properties['architecture']}) has no core: it takes inputs of every size"
            f" and enlarges maps by Resize. {ONNXRUNTIME}"
        )
    edge, shape = _edge(model, properties)
    front, rest = _cut(model, edge)
    return Halves(front=front, core=_plain(rest, shape))


def _edge(model: ModelProto, properties: Mapping[str, str]) -> tuple[str, list[int]]:
    """Name and shape of the value between front end and core."""
    side = int(properties["image_size"])
    settings = FrontSettings(side=side, channels=int(properties["channels"]))
    sizes = [1, *(size or side for size in front_graph(properties["front_end"], settings).shape)]
    edge = [name for node in model.graph.node if node.name.startswith(FRONT) for name in node.output][-1]
    if edge == SCALED:
        return edge, sizes
    rest = [node for node in model.graph.node if not node.name.startswith(PREFIX)]
    return edge, _shapes(_graph_of(model, rest, SCALED, sizes))[edge]


def _cut(model: ModelProto, edge: str) -> tuple[ModelProto, ModelProto]:
    """What makes ``edge``, and what follows it, which is called `SCALED` in both."""
    needed, before = {edge}, list[NodeProto]()
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            before.insert(0, node)
    after = [node for node in model.graph.node if not any(node is one for one in before)]
    inside = {name for node in before for name in node.output} - {edge}
    if any(inside.intersection(node.input) for node in after):
        raise ExportError(f"The student takes more of its front end than its output. {ONNXRUNTIME}")
    raw = model.graph.input[0]
    target = helper.make_tensor_value_info(SCALED, TensorProto.FLOAT, ["batch", None, None, None])
    if edge != SCALED:
        # A recording's samples have this name until the log-mel image takes it.
        before = [_renamed(node, {SCALED: f"{PREFIX}samples", edge: SCALED}) for node in before]
        after = [_renamed(node, {edge: SCALED}) for node in after]
    fixed = helper.make_tensor_value_info(SCALED, TensorProto.FLOAT, None)
    return _model(model, before, [raw], [target]), _model(model, after, [fixed], list(model.graph.output))


def _renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    for one in (made.input, made.output):
        one[:] = [names.get(name, name) for name in one]
    return made


def _model(
    like: ModelProto,
    nodes: Sequence[NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[TensorProto] | None = None,
) -> ModelProto:
    """A model of some nodes with the weights that they use."""
    used = {name for node in nodes for name in node.input}
    kept = [one for one in (like.graph.initializer if weights is None else weights) if one.name in used]
    graph = helper.make_graph(nodes, "student", inputs, outputs, initializer=kept)
    made = helper.make_model(
        graph, opset_imports=like.opset_import, ir_version=like.ir_version, producer_name="edgecmd"
    )
    made.metadata_props.extend(like.metadata_props)
    return made


def _graph_of(model: ModelProto, nodes: Sequence[NodeProto], source: str, sizes: Sequence[int]) -> ModelProto:
    fixed = helper.make_tensor_value_info(source, TensorProto.FLOAT, sizes)
    return _model(model, nodes, [fixed], [_untold(one) for one in model.graph.output])


def _untold(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None)


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """Shape of each value whose sizes are all told."""
    told = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    found = {}
    for one in (*told.value_info, *told.output, *told.input):
        dims = one.type.tensor_type.shape.dim
        if one.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[one.name] = [dim.dim_value for dim in dims]
    return found | {one.name: [*one.dims] for one in model.graph.initializer}


@dataclass(kw_only=True, slots=True)
class _Rewriting:
    """Nodes and weights as they are rewritten.

    Attributes:
        shapes: Of every value of the model that is rewritten.
        weights: By name.
        nodes: Those that are written.
        same: Values that are left out, with what stands in their place.
        lengths: Roots that are never 0.
    """

    shapes: Mapping[str, list[int]]
    weights: dict[str, TensorProto]
    nodes: list[NodeProto] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)
    lengths: set[str] = field(default_factory=set)

    def add(self, operator: str, inputs: Sequence[str], output: str, *, of: NodeProto) -> None:
        """Append a node in place of ``of``."""
        name = f"{of.name.rpartition('.')[0]}.{operator}".lstrip(".")
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name))

    def constant(self, name: str, values: np.ndarray) -> str:
        """Name of a weight, which is new or there already."""
        self.weights.setdefault(name, numpy_helper.from_array(values, name))
        return name

    def numbers(self, name: str) -> list[float]:
        """Of a weight; none of what is computed."""
        one = self.weights.get(name)
        return [] if one is None else [float(number) for number in numpy_helper.to_array(one).ravel()]

    def shaped(self, value: str, output: str, *, of: NodeProto) -> None:
        """``value`` in the shape that is told of ``output``."""
        sizes = self.shapes[output]
        shape = self.constant(f"shape.{'x'.join(map(str, sizes))}", np.array(sizes, dtype=np.int64))
        self.add("Reshape", [value, shape], output, of=of)

    def length(self, node: NodeProto) -> None:
        """Euclidean length of a row: the sum is a product with ones, which all engines have; never 0."""
        row, output = node.input[0], node.output[0]
        ones = self.constant("length.ones", np.ones((self.shapes[row][1], 1), dtype=np.float32))
        least = self.constant("length.least", np.array([EPSILON**2], dtype=np.float32))
        self.add("Mul", [row, row], f"{output}.squares", of=node)
        self.add("Gemm", [f"{output}.squares", ones], f"{output}.sum", of=node)
        self.add("Add", [f"{output}.sum", least], f"{output}.some", of=node)
        self.add("Sqrt", [f"{output}.some"], output, of=node)
        self.lengths.add(output)

    def remainder(self, node: NodeProto) -> None:
        """What is left of a division of whole numbers: as `Mod`, it has the sign of the divisor."""
        (value, divisor), output = node.input, node.output[0]
        zero = self.constant("remainder.zero", np.zeros((), dtype=np.int64))
        self.add("Div", [value, divisor], f"{output}.quotient", of=node)
        self.add("Mul", [f"{output}.quotient", divisor], f"{output}.product", of=node)
        self.add("Sub", [value, f"{output}.product"], f"{output}.left", of=node)
        self.add("Greater", [zero, f"{output}.left"], f"{output}.below", of=node)
        self.add("Add", [f"{output}.left", divisor], f"{output}.above", of=node)
        self.add("Where", [f"{output}.below", f"{output}.above", f"{output}.left"], output, of=node)

    def divides(self, node: NodeProto) -> bool:
        """Whether a node's divisor is one whole number above 0."""
        divisor = self.weights.get(node.input[1]) if len(node.input) > 1 else None
        whole = divisor is not None and divisor.data_type == TensorProto.INT64
        return whole and all(number > 0 for number in self.numbers(node.input[1]))

    def over(self, node: NodeProto, *, rank: int) -> bool:
        """Whether a node reduces all axes but the first two of ``rank``; of a row (rank 2) the last."""
        axes = sorted(int(axis) % rank for axis in self.numbers(node.input[1]) if len(node.input) > 1)
        return len(self.shapes.get(node.input[0], ())) == rank and axes == [*range(min(2, rank - 1), rank)]

    def write(self, node: NodeProto) -> None:
        """Append ``node``, or what stands in its place."""
        node = _renamed(node, self.same)
        value, output = (node.input[0] if node.input else ""), node.output[0]
        if node.op_type in RESHAPED and output in self.shapes:
            self.shaped(value, output, of=node)
        elif node.op_type in POOLED and self.over(node, rank=4):
            self.add(POOLED[node.op_type], [value], f"{output}.pooled", of=node)
            self.shaped(f"{output}.pooled", output, of=node)
        elif node.op_type == "ReduceL2" and self.over(node, rank=2):
            self.length(node)
        elif node.op_type == "Mod" and self.divides(node):
            self.remainder(node)
        elif node.op_type == "Clip" and value in self.lengths and self.numbers(node.input[1]) == [LEAST]:
            self.same[output] = value
        else:
            self.nodes.append(node)


def _plain(model: ModelProto, sizes: Sequence[int]) -> ModelProto:
    """The student with fixed sizes and plain operators, at the lowest operator set that it is valid at."""
    shapes = _shapes(_graph_of(model, list(model.graph.node), SCALED, sizes))
    work = _Rewriting(shapes=shapes, weights={one.name: one for one in model.graph.initializer})
    for node in model.graph.node:
        work.write(node)
    nodes = _used(work.nodes, {one.name for one in model.graph.output})
    _refuse_forbidden(nodes)
    names = [SCALED, *(one.name for one in model.graph.output)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in names]
    return _lowest(_model(model, nodes, ports[:1], ports[1:], list(work.weights.values())))


def _used(nodes: Sequence[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """Nodes that have a part in an output, each under a name of its own."""
    used, kept = set(outputs), list[NodeProto]()
    for node in reversed(nodes):
        if used.intersection(node.output):
            used.update(node.input)
            kept.insert(0, node)
    taken = set[str]()
    for node in kept:
        names = itertools.chain([node.name], (f"{node.name}.{num}" for num in itertools.count(2)))
        node.name = next(name for name in names if name not in taken)
        taken.add(node.name)
    return kept


def _refuse_forbidden(nodes: Sequence[NodeProto]) -> None:
    for node in nodes:
        if node.op_type in FORBIDDEN:
            raise ExportError(
                f"This student has no core: its layer {node.name!r} is a {node.op_type}, which a core may not"
                f" have ({', '.join(FORBIDDEN)}), and not one that pools all locations, measures the length"
                " of a row or divides whole numbers by a constant. Build that part from other layers."
                f" {ONNXRUNTIME}"
            )


def _lowest(model: ModelProto) -> ModelProto:
    """The same nodes at the lowest operator set that they are valid at; parity is checked later."""
    for opset in range(LOWEST_OPSET, OPSET + 1):
        model.opset_import[0].version = opset
        model.ir_version = lowest_ir_version(model)
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = error
        else:
            return model
    raise ExportError(f"The core is an invalid file: {reason}")
