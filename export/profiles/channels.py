"""Channels of a student scaled until 8 bits suit them alike; it computes the same as before.

8-bit arithmetic has one step for all channels of a value, so a channel that is ten times smaller than the
largest has ten times fewer steps. But ``g relu(x) = relu(g x)`` for ``g > 0``: what one layer's channel is
divided by, the next layer's weights of that channel may be multiplied with. Values that are added share
their factors (Nagel et al. 2019, arXiv 1906.04721, with exponent `STRENGTH` in place of the weights' ranges).

Shapes: C channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

# What a factor for a channel passes through unchanged.
PASSING = (
    "Add",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "MaxPool",
    "ReduceMax",
    "ReduceMean",
    "Relu",
)
# 0: nothing is scaled; 1: all channels have the same largest value. Larger is better on the inputs that the
# largest values were taken of, and worse on others, whose largest values are in other channels.
STRENGTH = 0.5
# A channel that was hardly used is not blown up further: on a device it may be.
LEAST_SHARE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stream:
    """Values that share the factors of their channels.

    Attributes:
        values: Names of the values.
        writers: Convolutions that make them.
        readers: Layers that take them, each with the place of the first channel among its inputs.
    """

    values: frozenset[str]
    writers: tuple[NodeProto, ...]
    readers: tuple[tuple[NodeProto, int], ...]


class Rewritten:
    """A model whose weights are changed in place.

    Args:
        model: Exported; changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.weights = {one.name: numpy_helper.to_array(one).copy() for one in model.graph.initializer}
        self.changed = set[str]()
        self.index()

    def index(self) -> None:
        """Look up again who makes and takes each value."""
        self.maker = {name: node for node in self.model.graph.node for name in node.output}
        self.outputs = {one.name for one in self.model.graph.output}
        self.takers: dict[str, list[NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)

    def own(self, node: NodeProto) -> bool:
        """Whether a layer's weights are constants that no other node takes."""
        names = node.input[1:]
        return bool(names) and all(name in self.weights and len(self.takers[name]) == 1 for name in names)

    def scale(self, name: str, factor: np.ndarray) -> None:
        """Multiply a weight."""
        self.weights[name] = (self.weights[name] * factor).astype(self.weights[name].dtype)
        self.changed.add(name)

    def scale_outputs(self, layer: NodeProto, factor_C: np.ndarray) -> None:
        """Multiply what a convolution gives, by channel."""
        rank = self.weights[layer.input[1]].ndim
        self.scale(layer.input[1], factor_C.reshape(-1, *[1] * (rank - 1)))
        for name in layer.input[2:]:
            self.scale(name, factor_C)

    def scale_inputs(self, layer: NodeProto, factor_C: np.ndarray, *, first: int) -> None:
        """Multiply the weights for the inputs from ``first`` on."""
        weight = self.weights[layer.input[1]]
        rows = np.ones(weight.shape[1], dtype=weight.dtype)
        rows[first : first + len(factor_C)] = factor_C
        self.scale(layer.input[1], rows.reshape(1, -1, *[1] * (weight.ndim - 2)))

    def write(self) -> onnx.ModelProto:
        """The model with its changed weights."""
        for one in self.model.graph.initializer:
            if one.name in self.changed:
                one.CopyFrom(numpy_helper.from_array(self.weights[one.name], one.name))
        return self.model


def fold_factors(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of a model in which a positive factor behind a convolution, and a ReLU, is part of its weights.

    In 8 bits such a multiplication would cost a step of rounding, and time.
    """
    work = Rewritten(_copy(model))
    for node in [node for node in work.model.graph.node if node.op_type == "Mul"]:
        factor = next((name for name in node.input if work.weights.get(name, np.ones(2)).size == 1), None)
        value = next((name for name in node.input if name != factor), "")
        if factor is None or work.weights[factor].item() <= 0:
            continue
        way = [value]
        if value in work.maker and work.maker[value].op_type == "Relu":
            way.append(work.maker[value].input[0])
        layer = work.maker.get(way[-1])
        if layer is None or layer.op_type != "Conv" or not work.own(layer):
            continue
        if any(len(work.takers[name]) > 1 or name in work.outputs for name in way):
            continue
        channels = len(work.weights[layer.input[1]])
        work.scale_outputs(layer, np.full(channels, work.weights[factor].item(), np.float32))
        for taker in work.takers.get(node.output[0], []):
            taker.input[:] = [value if name == node.output[0] else name for name in taker.input]
        work.model.graph.node.remove(node)
        if len(work.takers[factor]) == 1:
            work.model.graph.initializer.remove(
                next(one for one in work.model.graph.initializer if one.name == factor)
            )
        work.index()
    return work.write()


def equalise(
    model: onnx.ModelProto, tops: Mapping[str, np.ndarray], *, strength: float = STRENGTH
) -> onnx.ModelProto:
    """Copy of a model whose channels are closer to each other in size; it computes the same but for rounding.

    Args:
        model: Exported.
        tops: Largest value of each channel, (C,), of the values that convolutions and additions make.
        strength: See `STRENGTH`.
    """
    work = Rewritten(_copy(model))
    for stream in streams(work):
        known = [tops[name] / max(float(tops[name].max()), 1e-30) for name in stream.values if name in tops]
        if len({len(one) for one in known}) != 1:
            continue
        share_C = np.max(known, axis=0).clip(LEAST_SHARE, None) ** strength
        for layer in stream.writers:
            work.scale_outputs(layer, 1 / share_C)
        for layer, first in stream.readers:
            work.scale_inputs(layer, share_C, first=first)
    return work.write()


def values_to_scale(model: onnx.ModelProto) -> list[str]:
    """Names of the values whose largest numbers `equalise` asks for: what is rounded, behind a ReLU."""
    work = Rewritten(_copy(model))
    names = {name for stream in streams(work) for name in stream.values}
    before = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    return sorted(name for name in names - before if work.maker[name].op_type in ("Add", "Conv", "Relu"))


def streams(work: Rewritten) -> Iterator[Stream]:
    """The streams of a model whose channels may be scaled."""
    seen = set[str]()
    for node in work.model.graph.node:
        if node.op_type == "Conv" and node.output[0] not in seen:
            found, values = _stream(work, node.output[0])
            seen |= values
            if found is not None:
                yield found


def _stream(work: Rewritten, start: str) -> tuple[Stream | None, set[str]]:
    """The stream of a value, or None where something else than a layer makes or takes it; and its values."""
    values, rest = set[str](), [start]
    writers, readers, possible = list[NodeProto](), list[tuple[NodeProto, int]](), True
    while rest:
        name = rest.pop()
        if name in values:
            continue
        values.add(name)
        maker = work.maker.get(name)
        if maker is not None and maker.op_type == "Conv" and work.own(maker):
            writers.append(maker)
        elif maker is not None and maker.op_type in PASSING and _passes(work, maker):
            rest += _variables(work, maker)
        else:
            possible = False
        possible = possible and name in work.takers and name not in work.outputs
        for taker in work.takers.get(name, []):
            if taker.op_type in PASSING and _passes(work, taker):
                rest += [*taker.output]
            elif (
                taker.op_type == "Conv" and taker.input[0] == name and work.own(taker) and _groups(taker) == 1
            ):
                readers.append((taker, 0))
            elif (gemm := _behind_concat(work, taker, name)) is not None:
                readers.append(gemm)
            else:
                possible = False
    found = Stream(values=frozenset(values), writers=tuple(writers), readers=tuple(readers))
    return found if possible else None, values


def _variables(work: Rewritten, node: NodeProto) -> list[str]:
    return [name for name in node.input if name not in work.weights]


def _passes(work: Rewritten, node: NodeProto) -> bool:
    """Whether a node keeps channels apart: sums of two values alike, and reductions over places alone."""
    if node.op_type == "Add":
        return len(_variables(work, node)) == 2
    if node.op_type in ("ReduceMax", "ReduceMean"):
        axes = work.weights.get(node.input[1]) if len(node.input) > 1 else None
        return axes is not None and {*axes.ravel().tolist()} in ({2, 3}, {-1, -2})
    return True


def _behind_concat(work: Rewritten, node: NodeProto, name: str) -> tuple[NodeProto, int] | None:
    """The matrix product that takes rows put together of some values, and where those of ``name`` begin."""
    first = 0
    if list(node.input).count(name) != 1:
        return None
    if node.op_type == "Concat" and len(work.takers.get(node.output[0], [])) == 1:
        for other in node.input:
            if other == name:
                break
            width = _width(work, other)
            if width is None:
                return None
            first += width
        name, node = node.output[0], work.takers[node.output[0]][0]
    if node.op_type != "Gemm" or node.input[0] != name or not work.own(node):
        return None
    plain = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    return (node, first) if plain.get("transB") == 1 and not plain.get("transA") else None


def _width(work: Rewritten, name: str) -> int | None:
    """Channels of a value, told by the convolution before it."""
    node = work.maker.get(name)
    while node is not None and node.op_type in PASSING:
        node = work.maker.get(_variables(work, node)[0])
    return len(work.weights[node.input[1]]) if node is not None and node.op_type == "Conv" else None


def _groups(node: NodeProto) -> int:
    return next((one.i for one in node.attribute if one.name == "group"), 1)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made
