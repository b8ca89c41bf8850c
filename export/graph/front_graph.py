"""The front ends as nodes of the exported graph, written here one by one.

The exporter traces the student alone. What lies between the raw input and the student is put before it from
here, so that it is the same with every version of torch, and a checker can tell it node by node from anything
else (`gate_front`): it is the only part of a file that computes sizes from the size of its input.

`export.graph.frontends` has the same in torch, which every export is compared with.

Shapes: B batch, H height, W width, C channels, S side of the student's input; P and Q are H and W up to the
next multiple of `INPUT_MULTIPLE`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgecmd.data.modalities.depth import DEPTH_OFFSET_M, DEPTH_SCALE_M
from edgecmd.models.students import INPUT_MULTIPLE

PREFIX = "front_end."
# What the student sees, and the masks of a dense student before they are cut to the size of the input.
SCALED, WHOLE = "scaled", "whole_mask"
# As the exporter writes an interpolation of torch.
BILINEAR: dict[str, Any] = {
    "antialias": 1,
    "coordinate_transformation_mode": "half_pixel",
    "exclude_outside": 1,
    "keep_aspect_ratio_policy": "stretch",
    "mode": "linear",
    "nearest_mode": "floor",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontSettings:
    """What a front end depends on.

    Attributes:
        side: S.
        channels: C of the raw input.
        offset: The value in [0, 1] that the student sees as zero; of pictures.
        scale: The student sees (value - offset) / scale; of pictures.
    """

    side: int
    channels: int
    offset: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontGraph:
    """Nodes of a front end.

    Attributes:
        input: The raw input of the graph.
        before: Nodes from the raw input to `SCALED`, in order.
        after: Nodes from `WHOLE` to ``mask``; of dense students with a head alone.
        constants: What both take.
        shape: Sizes of `SCALED` behind the batch; None where it follows the input's.
    """

    input: ValueInfoProto
    before: tuple[NodeProto, ...]
    after: tuple[NodeProto, ...]
    constants: tuple[TensorProto, ...]
    shape: tuple[int | None, ...]


@dataclass(kw_only=True, slots=True)
class _Nodes:
    """Collects nodes and constants; each is named after what it makes."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)

    def constant(self, name: str, values: object, dtype: type = np.int64) -> str:
        """Name of a constant; whole numbers are vectors, as sizes are."""
        made = numpy_helper.from_array(np.asarray(values, dtype=dtype), PREFIX + name)
        self.constants[name] = made
        return made.name

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:  # noqa: ANN401
        """Append a node; returns the name of its output, which has the prefix but for those of the graph."""
        target = output if output in (SCALED, "mask") else PREFIX + output
        node = helper.make_node(operator, inputs, [target], name=f"{PREFIX}{output}.{operator}", **attributes)
        self.nodes.append(node)
        return target

    def size(self, of: str, axis: int, name: str) -> str:
        """Size of one axis, as a vector of one number."""
        return self.add("Shape", [of], name, start=axis, end=axis + 1)


def _image(nodes: _Nodes, settings: FrontSettings) -> None:
    """`export.graph.frontends.ImageFrontEnd`: resize to whole blocks of S x S and average the blocks."""
    side, one = nodes.constant("side", [settings.side]), nodes.constant("one", [1])
    most, divisor = (
        nodes.constant("most", [2 * settings.side - 2]),
        nodes.constant("divisor", [2 * settings.side - 1]),
    )
    sizes = {"height": nodes.size("image", 1, "height"), "width": nodes.size("image", 2, "width")}
    rests = [nodes.add("Mod", [size, side], f"{name}_rest") for name, size in sizes.items()]
    rest = nodes.add("Add", rests, "rest")
    rounded = nodes.add("Add", [rest, most], "rounded")
    uneven = nodes.add("Div", [rounded, divisor], "uneven")
    even = nodes.add("Sub", [one, uneven], "even")
    counts, targets = [], []
    for name, size in sizes.items():
        whole = nodes.add("Div", [size, side], f"{name}_whole")
        more = nodes.add("Sub", [whole, one], f"{name}_more")
        kept = nodes.add("Mul", [more, even], f"{name}_kept")
        counts.append(nodes.add("Add", [kept, one], f"{name}_count"))
        targets.append(nodes.add("Mul", [counts[-1], side], f"{name}_target"))
    first = nodes.add("Transpose", ["image"], "channels_first", perm=[0, 3, 1, 2])
    grey = nodes.add("Cast", [first], "float", to=TensorProto.FLOAT)
    lead = nodes.add("Shape", [grey], "lead", start=0, end=2)
    target = nodes.add("Concat", [lead, *targets], "target", axis=0)
    large = nodes.add("Resize", [grey, "", "", target], "large", **BILINEAR)
    shape = nodes.add("Concat", [lead, side, counts[0], side, counts[1]], "shape", axis=0)
    blocks = nodes.add("Reshape", [large, shape], "blocks")
    axes = nodes.constant("axes", [3, 5])
    level = nodes.add("ReduceMean", [blocks, axes], "level", keepdims=0)
    half = nodes.constant("half", 0.501, np.float32)
    above = nodes.add("Add", [level, half], "above")
    _scaled(nodes, nodes.add("Floor", [above], "rounded_level"), settings, SCALED)


def _scaled(nodes: _Nodes, level: str, settings: FrontSettings, output: str) -> str:
    """(level / 255 - offset) / scale."""
    share = nodes.add("Div", [level, nodes.constant("white", 255.0, np.float32)], "share")
    offset, scale = settings.offset, settings.scale
    moved = nodes.add("Sub", [share, nodes.constant("offset", offset, np.float32)], "moved")
    return nodes.add("Div", [moved, nodes.constant("scale", scale, np.float32)], output)


def _depth(nodes: _Nodes, settings: FrontSettings) -> None:
    """`export.graph.front_depth.DepthFrontEnd`: the pixel under each centre, metres, mask."""
    grey = nodes.add("Cast", ["depth"], "float", to=TensorProto.FLOAT)
    picked = nodes.add("Gather", [grey, nodes.constant("first", 0)], "flat", axis=3)
    centre = nodes.constant("centre", np.arange(1, 2 * settings.side, 2))
    twice = nodes.constant("twice", 2.0 * settings.side, np.float64)
    for axis, name in ((1, "rows"), (2, "columns")):
        size = nodes.size("depth", axis, f"{name}_size")
        product = nodes.add("Mul", [centre, size], f"{name}_product")
        double = nodes.add("Cast", [product], f"{name}_double", to=TensorProto.DOUBLE)
        place = nodes.add("Div", [double, twice], f"{name}_place")
        below = nodes.add("Floor", [place], f"{name}_below")
        index = nodes.add("Cast", [below], f"{name}_index", to=TensorProto.INT64)
        picked = nodes.add("Gather", [picked, index], name, axis=axis)
    metres, measured = _metres(nodes, picked)
    axis_1 = nodes.constant("axis", [1])
    pair = [nodes.add("Unsqueeze", [one, axis_1], f"{one[len(PREFIX) :]}_1") for one in (metres, measured)]
    nodes.add("Concat", pair, SCALED, axis=1)


def _metres(nodes: _Nodes, millimetres: str) -> tuple[str, str]:
    """Scaled metres and the mask of what was measured."""
    measured = nodes.add("Clip", [millimetres, "", nodes.constant("most", 1.0, np.float32)], "measured")
    metre = nodes.add("Div", [millimetres, nodes.constant("thousand", 1000.0, np.float32)], "metre")
    moved = nodes.add("Sub", [metre, nodes.constant("offset", DEPTH_OFFSET_M, np.float32)], "moved")
    scaled = nodes.add("Div", [moved, nodes.constant("scale", DEPTH_SCALE_M, np.float32)], "distance")
    return nodes.add("Mul", [scaled, measured], "metres"), measured


def _continued(nodes: _Nodes, value: str, *, raw: str) -> None:
    """`export.graph.front_dense.continued`: the border repeated up to whole places."""
    missing = nodes.constant("missing", [INPUT_MULTIPLE - 1])
    multiple, zero, one = (
        nodes.constant("multiple", [INPUT_MULTIPLE]),
        nodes.constant("zero", [0]),
        nodes.constant("one", [1]),
    )
    for axis, name in ((2, "height"), (3, "width")):
        size = nodes.size(raw, axis - 1, name)
        place = nodes.constant(f"{name}_axis", [axis])
        last = nodes.add("Sub", [size, one], f"{name}_last")
        edge = nodes.add("Slice", [value, last, size, place, one], f"{name}_edge")
        repeats = [1, 1, 1, 1]
        repeats[axis] = INPUT_MULTIPLE - 1
        more = nodes.add("Expand", [edge, nodes.constant(f"{name}_repeats", repeats)], f"{name}_more")
        long = nodes.add("Concat", [value, more], f"{name}_long", axis=axis)
        rounded = nodes.add("Add", [size, missing], f"{name}_rounded")
        places = nodes.add("Div", [rounded, multiple], f"{name}_places")
        end = nodes.add("Mul", [places, multiple], f"{name}_end")
        output = SCALED if axis == 3 else f"{name}_whole"
        value = nodes.add("Slice", [long, zero, end, place, one], output)


def _dense_image(nodes: _Nodes, settings: FrontSettings) -> None:
    first = nodes.add("Transpose", ["image"], "channels_first", perm=[0, 3, 1, 2])
    grey = nodes.add("Cast", [first], "float", to=TensorProto.FLOAT)
    _continued(nodes, _scaled(nodes, grey, settings, "value"), raw="image")


def _dense_depth(nodes: _Nodes, _: FrontSettings) -> None:
    first = nodes.add("Transpose", ["depth"], "channels_first", perm=[0, 3, 1, 2])
    grey = nodes.add("Cast", [first], "float", to=TensorProto.FLOAT)
    _continued(nodes, nodes.add("Concat", [*_metres(nodes, grey)], "value", axis=1), raw="depth")


def _wave(nodes: _Nodes, _: FrontSettings) -> None:
    nodes.add("Unsqueeze", ["wave", nodes.constant("axes", [1, 2])], SCALED)


def _crop(nodes: _Nodes) -> None:
    """Masks at the size of the input, whose border was continued."""
    zero, one, value = PREFIX + "zero", PREFIX + "one", WHOLE
    for name, output in (("height", "cropped"), ("width", "mask")):
        value = nodes.add("Slice", [value, zero, PREFIX + name, f"{PREFIX}{name}_axis", one], output)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """A front end: its nodes, its input, and the sizes of what the student sees."""

    build: Callable[[_Nodes, FrontSettings], None]
    input: str
    dtype: int
    student_channels: Callable[[FrontSettings], int]
    square: bool = True


KINDS: Mapping[str, _Kind] = {
    "image": _Kind(
        build=_image, input="image", dtype=TensorProto.UINT8, student_channels=lambda one: one.channels
    ),
    "depth16": _Kind(build=_depth, input="depth", dtype=TensorProto.UINT16, student_channels=lambda _: 2),
    "image-dense": _Kind(
        build=_dense_image,
        input="image",
        dtype=TensorProto.UINT8,
        student_channels=lambda one: one.channels,
        square=False,
    ),
    "depth16-dense": _Kind(
        build=_dense_depth,
        input="depth",
        dtype=TensorProto.UINT16,
        student_channels=lambda _: 2,
        square=False,
    ),
    "wave": _Kind(
        build=_wave, input="wave", dtype=TensorProto.FLOAT, student_channels=lambda _: 1, square=False
    ),
}


def front_graph(name: str, settings: FrontSettings, *, mask: bool = False) -> FrontGraph:
    """Nodes of a front end.

    Args:
        name: A key of `KINDS`.
        settings: What it depends on.
        mask: Whether the file has the output ``mask``, which is cut to the size of the input.

    Guarantees:
        Equal arguments give equal nodes, whatever is installed. What lies between the raw input and `SCALED`
        is never larger than a few copies of the raw input in float32 and of `SCALED`.
    """
    kind, nodes = KINDS[name], _Nodes()
    kind.build(nodes, settings)
    before = tuple(nodes.nodes)
    if mask:
        _crop(nodes)
    if kind.input == "wave":
        sizes: list[str | int] = ["batch", "samples"]
        shape: tuple[int | None, ...] = (1, 1, None)
    else:
        last = 1 if kind.input == "depth" else settings.channels
        sizes = ["batch", "height", "width", last]
        side = settings.side if kind.square else None
        shape = (kind.student_channels(settings), side, side)
    return FrontGraph(
        input=helper.make_tensor_value_info(kind.input, kind.dtype, sizes),
        before=before,
        after=tuple(nodes.nodes[len(before) :]),
        constants=tuple(nodes.constants.values()),
        shape=shape,
    )


def put_before(model: onnx.ModelProto, front: FrontGraph) -> None:
    """Put a front end before a student that takes `SCALED`, in place."""
    graph = model.graph
    nodes = list(graph.node)
    if front.after:
        _rename(nodes, "mask", WHOLE)
        for value in graph.output:
            if value.name == "mask":
                for dim, name in zip(value.type.tensor_type.shape.dim[2:], ("height", "width"), strict=True):
                    dim.dim_param = name
    del graph.node[:], graph.input[:]
    graph.input.append(front.input)
    graph.node.extend([*front.before, *nodes, *front.after])
    graph.initializer.extend(front.constants)


def _rename(nodes: list[NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
