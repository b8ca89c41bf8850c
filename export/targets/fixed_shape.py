"""An exported graph at one input shape: the steps that are left to compute, and the bytes of each value.

Sizes of a file are free. With the input's shape fixed, all that depends on shapes or weights alone is
computed once, by whoever prepares the file for a device; what remains are the steps of each inference.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from edgecmd.core.errors import ExportError
from export.graph.front_graph import PREFIX
from export.profiles.quantise import FRONT
from export.trust.gate_sizes import BITS

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
# Operators whose result is known when the shape of what they look at is.
OF_SHAPES = ("Shape", "Size")
# Larger constants are weights; no shape follows from them.
MOST_NUMBERS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One operator of an inference.

    Attributes:
        operator: Such as ``Conv``.
        name: Of its node.
        inputs: Values that it reads, constants too; each once.
        outputs: Values that it makes.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def is_front(self) -> bool:
        """Whether it turns the raw input into what the student sees."""
        return self.name.startswith((PREFIX, FRONT))


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedGraph:
    """What is computed at each inference, at one shape.

    Attributes:
        steps: In the order of the file, which is topological.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        num_bytes: Of every value that a step reads or makes.
        stored: Names of constants that are in the file as they are computed with.
    """

    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    num_bytes: Mapping[str, int]
    stored: frozenset[str]

    @property
    def computed(self) -> set[str]:
        """Names of the values that are no constants."""
        return {*self.inputs, *(name for step in self.steps for name in step.outputs)}

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the operators, sorted."""
        return tuple(sorted({step.operator for step in self.steps}))

    def constants(self) -> set[str]:
        """Names of the weights and other constants that a step reads."""
        return {name for step in self.steps for name in step.inputs} - self.computed


def fix_shape(model: ModelProto, shape: Sequence[int]) -> FixedGraph:
    """The graph at one shape of its input.

    Args:
        model: One input and no sub-graphs, as the exporter writes it.
        shape: Of the input, the number of examples first.

    Raises:
        ExportError: The shape is not of the input's rank, or that of a value does not follow from it.
    """
    stored = frozenset(entry.name for entry in model.graph.initializer)
    model = _with_input(model, shape)
    while _fold_sizes(model := _inferred(model)):
        continue
    graph = model.graph
    known = {entry.name for entry in graph.initializer}
    steps = []
    for node in graph.node:
        if _is_constant(node, known):
            known.update(node.output)
        else:
            steps.append(_step(node))
    read = {name for step in steps for name in (*step.inputs, *step.outputs)}
    inputs, outputs = [one.name for one in graph.input], [one.name for one in graph.output]
    return FixedGraph(
        steps=tuple(steps),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        num_bytes=_bytes(model, {*read, *inputs, *outputs}),
        stored=stored,
    )


def without_front(graph: FixedGraph) -> FixedGraph:
    """The student alone: its inputs are what the front end hands on, its operators the rest."""
    steps = tuple(step for step in graph.steps if not step.is_front)
    made = {name for step in graph.steps if step.is_front for name in step.outputs} | set(graph.inputs)
    inputs = [name for name in _in_order(steps) if name in made]
    return replace(graph, steps=steps, inputs=tuple(inputs))


def in_integers(graph: FixedGraph, weights: Mapping[str, str]) -> FixedGraph:
    """The graph as an engine with 8-bit kernels runs it: such a step reads and writes 8-bit values.

    A step is one if all that it reads was turned back from 8 bits, and all that it makes is only rounded to
    8 bits; rounding and turning back are then part of it. Everything else stays as it is.

    Args:
        graph: With `QUANTISE` and `DEQUANTISE`; without, it is returned as it is.
        weights: Constants in whole numbers, see `whole_weights`.
    """
    back = {step.outputs[0]: step.inputs[0] for step in graph.steps if step.operator == DEQUANTISE}
    back |= weights
    readers: dict[str, list[Step]] = {}
    for step in graph.steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    rounded = {
        name: steps[0].outputs[0]
        for name, steps in readers.items()
        if len(steps) == 1 and steps[0].operator == QUANTISE and name not in graph.outputs
    }
    whole = {
        step.name
        for step in graph.steps
        if step.operator not in (QUANTISE, DEQUANTISE)
        and all(name in back for name in step.inputs)
        and all(name in rounded for name in step.outputs)
    }
    steps = []
    for step in graph.steps:
        if step.name in whole:
            inputs = tuple(back.get(name, name) for name in step.inputs)
            step = replace(step, inputs=inputs, outputs=tuple(rounded[name] for name in step.outputs))
        steps.append(step)
    return replace(graph, steps=_needed(steps, graph.outputs))


def whole_weights(model: ModelProto) -> dict[str, str]:
    """Constants in whole numbers by the names of what `DEQUANTISE` turns them into; sizes by their own."""
    stored = {entry.name for entry in model.graph.initializer}
    sizes = [entry.name for entry in model.graph.initializer if entry.data_type == TensorProto.INT64]
    turned = [node for node in model.graph.node if node.op_type == DEQUANTISE and node.input[0] in stored]
    return dict(zip(sizes, sizes, strict=True)) | {node.output[0]: node.input[0] for node in turned}


def _needed(steps: Sequence[Step], outputs: Iterable[str]) -> tuple[Step, ...]:
    """Steps without those whose results nobody reads, and each result made once."""
    wanted, kept, first = set(outputs), list[Step](), list[Step]()
    made = set[str]()
    for step in steps:
        if not set(step.outputs) <= made:
            first.append(step)
        made.update(step.outputs)
    for step in reversed(first):
        if wanted & set(step.outputs):
            kept.append(step)
            wanted.update(step.inputs)
    return tuple(reversed(kept))


def _in_order(steps: Iterable[Step]) -> list[str]:
    return list(dict.fromkeys(name for step in steps for name in step.inputs))


def _step(node: NodeProto) -> Step:
    inputs, outputs = dict.fromkeys(filter(None, node.input)), tuple(filter(None, node.output))
    return Step(operator=node.op_type, name=node.name or outputs[0], inputs=tuple(inputs), outputs=outputs)


def _with_input(model: ModelProto, shape: Sequence[int]) -> ModelProto:
    """A copy whose only input has this shape, without what was said of others."""
    copy = ModelProto()
    copy.CopyFrom(model)
    given = copy.graph.input[0].type.tensor_type.shape
    if len(copy.graph.input) != 1 or len(given.dim) != len(shape):
        raise ExportError(f"shape={tuple(shape)} does not fit the input, which has {len(given.dim)} axes.")
    for axis, size in zip(given.dim, shape, strict=True):
        axis.dim_value = size
    del copy.graph.value_info[:]
    for output in copy.graph.output:
        output.type.tensor_type.ClearField("shape")
    return copy


def _inferred(model: ModelProto) -> ModelProto:
    """Shapes anew; what was found before may have been less."""
    del model.graph.value_info[:]
    try:
        return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise ExportError(f"The shapes of the file do not fit each other: {error}") from error


def _fold_sizes(model: ModelProto) -> bool:
    """Put numbers in the place of nodes that compute sizes; whether there were any."""
    graph, shapes = model.graph, _shapes(model)
    known = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer if _is_small(entry)}
    kept, found = [], dict[str, np.ndarray]()
    for node in graph.node:
        values = _sizes(node, {**known, **found}, shapes)
        if values is None:
            kept.append(node)
        else:
            found |= dict(zip(node.output, values, strict=True))
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in found.items())
    return bool(found)


def _sizes(
    node: NodeProto, known: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...] | None]
) -> list[np.ndarray] | None:
    """Results of a node that computes sizes; None of another, or where they are not known yet."""
    if node.op_type in OF_SHAPES:
        shape = shapes.get(node.input[0])
        if shape is None:
            return None
        values = {node.input[0]: np.broadcast_to(np.float32(0), shape)}
    elif node.input and all(name in known for name in node.input if name):
        values = {name: known[name] for name in node.input if name}
    else:
        return None
    results = [np.asarray(one) for one in ReferenceEvaluator(node).run(None, values)]
    return results if all(one.size <= MOST_NUMBERS for one in results) else None


def _is_small(entry: TensorProto) -> bool:
    return math.prod(entry.dims) <= MOST_NUMBERS and entry.data_type not in (
        TensorProto.INT4,
        TensorProto.UINT4,
    )


def _is_constant(node: NodeProto, known: set[str]) -> bool:
    return all(name in known for name in node.input if name)


def _types(model: ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    graph = model.graph
    entries = [*graph.value_info, *graph.input, *graph.output]
    return {entry.name: entry.type.tensor_type for entry in entries}


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...] | None]:
    """Shape of each value; None where it is not known."""
    return {name: _shape(kind) for name, kind in _types(model).items()}


def _shape(kind: onnx.TypeProto.Tensor) -> tuple[int, ...] | None:
    known = kind.HasField("shape") and all(axis.HasField("dim_value") for axis in kind.shape.dim)
    return tuple(axis.dim_value for axis in kind.shape.dim) if known else None


def _bytes(model: ModelProto, names: Iterable[str]) -> dict[str, int]:
    """Bytes of each value; parts of a byte count as one."""
    found = {entry.name: _size(entry.data_type, tuple(entry.dims)) for entry in model.graph.initializer}
    for name, kind in _types(model).items():
        shape = _shape(kind)
        if shape is not None:
            found[name] = _size(kind.elem_type, shape)
    unknown = sorted(set(names) - found.keys())
    if unknown:
        raise ExportError(
            f"The size of {unknown[0]!r} in the file does not follow from the size of the input, so its"
            " memory cannot be counted. Build that part of the student without sizes that depend on values."
        )
    return found


def _size(data_type: int, shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) * BITS[data_type] // 8)
