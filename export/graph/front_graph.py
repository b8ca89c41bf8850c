"""The front ends as nodes of the exported graph, written here one by one.

The exporter traces the student alone. What is between the raw input and the student is put before it from
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
from edgecmd.data.modalities.string_bytes import MOST_GIVEN
from edgecmd.data.user_files.images import WHITE
from edgecmd.models.students import INPUT_MULTIPLE
from edgecmd.settings import CROP, PAD, SQUEEZE

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
        fit: ``data.fit``; of those that resize.
        offset: The value in [0, 1] that the student sees as zero; of images.
        scale: The student sees (value - offset) / scale; of images.
    """

    side: int
    channels: int
    fit: str = SQUEEZE
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
        sizes: That its free axes are tried with, see `Kind`.
    """

    input: ValueInfoProto
    before: tuple[NodeProto, ...]
    after: tuple[NodeProto, ...]
    constants: tuple[TensorProto, ...]
    shape: tuple[int | None, ...]
    sizes: tuple[int, ...]


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


def _start(nodes: _Nodes, whole: str, part: str, name: str) -> str:
    """Where ``part`` of ``whole`` places begins in their middle, see `downsample.middle`."""
    free = nodes.add("Sub", [whole, part], f"{name}_free")
    return nodes.add("Div", [free, nodes.constant("two", [2])], f"{name}_start")


def _kept(nodes: _Nodes, raw: str, settings: FrontSettings) -> str:
    """`export.graph.front_image.kept`: the middle square where the fit is `CROP`."""
    if settings.fit != CROP:
        return raw
    sizes = {"height": nodes.size(raw, 1, "own_height"), "width": nodes.size(raw, 2, "own_width")}
    short = nodes.add("Min", list(sizes.values()), "short")
    starts = [_start(nodes, size, short, name) for name, size in sizes.items()]
    first = nodes.add("Concat", starts, "from", axis=0)
    last = nodes.add("Add", [first, short], "to")
    return nodes.add("Slice", [raw, first, last, nodes.constant("sides", [1, 2])], "kept")


def _shown(nodes: _Nodes, raw: str, names: tuple[str, str], settings: FrontSettings) -> dict[str, str]:
    """`downsample.shown`: rows and columns of the result that show the image, by the names of the axes."""
    if settings.fit != PAD:
        return dict.fromkeys(names, nodes.constant("side", [settings.side]))
    sizes = {name: nodes.size(raw, axis, f"{name}_own") for axis, name in enumerate(names, start=1)}
    two, one = nodes.constant("two", [2]), nodes.constant("one", [1])
    longest = nodes.add("Max", list(sizes.values()), "longest")
    twice = nodes.add("Mul", [longest, two], "longest_twice")
    factor, found = nodes.constant("side_twice", [2 * settings.side]), {}
    for name, size in sizes.items():
        product = nodes.add("Mul", [size, factor], f"{name}_scaled")
        above = nodes.add("Add", [product, longest], f"{name}_above")
        nearest = nodes.add("Div", [above, twice], f"{name}_nearest")
        found[name] = nodes.add("Max", [nearest, one], f"{name}_shown")
    return found


def _bordered(
    nodes: _Nodes, value: str, shown: Mapping[str, str], settings: FrontSettings, *, empty: int, rank: int
) -> str:
    """`downsample.bordered` of the last two of ``rank`` axes, where the fit is `PAD`.

    Too much is put on either side and cut off again: no operator whose output's size is a number in the data.
    """
    if settings.fit != PAD:
        return value
    side, twice = nodes.constant("side", [settings.side]), nodes.constant("side_twice", [2 * settings.side])
    zero, one = nodes.constant("zero", [0]), nodes.constant("one", [1])
    nothing = nodes.constant("empty", empty, np.float32)
    for axis, (name, size) in enumerate(shown.items(), start=rank - 2):
        place = nodes.constant(f"{name}_axis", [axis])
        edge = nodes.add("Slice", [value, zero, one, place], f"{name}_edge")
        blank = nodes.add("Add", [nodes.add("Sub", [edge, edge], f"{name}_none"), nothing], f"{name}_blank")
        repeats = [settings.side if one == axis else 1 for one in range(rank)]
        border = nodes.add("Expand", [blank, nodes.constant(f"{name}_repeats", repeats)], f"{name}_border")
        wide = nodes.add("Concat", [border, value, border], f"{name}_wide", axis=axis)
        start = _start(nodes, side, size, f"{name}_before")
        first, last = (
            nodes.add("Sub", [end, start], f"{name}_{word}") for end, word in ((side, "from"), (twice, "to"))
        )
        value = nodes.add("Slice", [wide, first, last, place], f"{name}_bordered")
    return value


def _image(nodes: _Nodes, settings: FrontSettings) -> None:
    """`export.graph.front_image.ImageFrontEnd`: resize to whole blocks of S x S and average the blocks."""
    raw = _kept(nodes, "image", settings)
    shown, one = _shown(nodes, raw, ("height", "width"), settings), nodes.constant("one", [1])
    most, divisor = (
        nodes.constant("most", [2 * settings.side - 2]),
        nodes.constant("divisor", [2 * settings.side - 1]),
    )
    sizes = {"height": nodes.size(raw, 1, "height"), "width": nodes.size(raw, 2, "width")}
    rests = [nodes.add("Mod", [size, shown[name]], f"{name}_rest") for name, size in sizes.items()]
    rest = nodes.add("Add", rests, "rest")
    rounded = nodes.add("Add", [rest, most], "rounded")
    uneven = nodes.add("Div", [rounded, divisor], "uneven")
    even = nodes.add("Sub", [one, uneven], "even")
    counts, targets = [], []
    for name, size in sizes.items():
        whole = nodes.add("Div", [size, shown[name]], f"{name}_whole")
        more = nodes.add("Sub", [whole, one], f"{name}_more")
        kept = nodes.add("Mul", [more, even], f"{name}_kept")
        counts.append(nodes.add("Add", [kept, one], f"{name}_count"))
        targets.append(nodes.add("Mul", [counts[-1], shown[name]], f"{name}_target"))
    first = nodes.add("Transpose", [raw], "channels_first", perm=[0, 3, 1, 2])
    grey = nodes.add("Cast", [first], "float", to=TensorProto.FLOAT)
    lead = nodes.add("Shape", [grey], "lead", start=0, end=2)
    target = nodes.add("Concat", [lead, *targets], "target", axis=0)
    large = nodes.add("Resize", [grey, "", "", target], "large", **BILINEAR)
    shape = nodes.add(
        "Concat", [lead, shown["height"], counts[0], shown["width"], counts[1]], "shape", axis=0
    )
    blocks = nodes.add("Reshape", [large, shape], "blocks")
    axes = nodes.constant("axes", [3, 5])
    level = nodes.add("ReduceMean", [blocks, axes], "level", keepdims=0)
    half = nodes.constant("half", 0.501, np.float32)
    above = nodes.add("Add", [level, half], "above")
    level = _bordered(
        nodes, nodes.add("Floor", [above], "rounded_level"), shown, settings, empty=WHITE, rank=4
    )
    _scaled(nodes, level, settings, SCALED)


def _scaled(nodes: _Nodes, level: str, settings: FrontSettings, output: str) -> str:
    """(level / 255 - offset) / scale."""
    share = nodes.add("Div", [level, nodes.constant("white", 255.0, np.float32)], "share")
    offset, scale = settings.offset, settings.scale
    moved = nodes.add("Sub", [share, nodes.constant("offset", offset, np.float32)], "moved")
    return nodes.add("Div", [moved, nodes.constant("scale", scale, np.float32)], output)


def _depth(nodes: _Nodes, settings: FrontSettings) -> None:
    """`export.graph.front_depth.DepthFrontEnd`: the pixel under each centre, metres, mask."""
    raw = _kept(nodes, "depth", settings)
    grey = nodes.add("Cast", [raw], "float", to=TensorProto.FLOAT)
    picked = nodes.add("Gather", [grey, nodes.constant("first", 0)], "flat", axis=3)
    every = nodes.constant("centre", np.arange(1, 2 * settings.side, 2))
    twice = nodes.constant("twice", 2.0 * settings.side, np.float64)
    shown = _shown(nodes, raw, ("rows", "columns"), settings) if settings.fit == PAD else {}
    for axis, name in ((1, "rows"), (2, "columns")):
        centre = every
        if shown:
            centre, twice = _centres(nodes, every, shown[name], name)
        size = nodes.size(raw, axis, f"{name}_size")
        product = nodes.add("Mul", [centre, size], f"{name}_product")
        double = nodes.add("Cast", [product], f"{name}_double", to=TensorProto.DOUBLE)
        place = nodes.add("Div", [double, twice], f"{name}_place")
        below = nodes.add("Floor", [place], f"{name}_below")
        index = nodes.add("Cast", [below], f"{name}_index", to=TensorProto.INT64)
        picked = nodes.add("Gather", [picked, index], name, axis=axis)
    picked = _bordered(nodes, picked, shown, settings, empty=0, rank=3)
    metres, measured = _metres(nodes, picked)
    axis_1 = nodes.constant("axis", [1])
    pair = [nodes.add("Unsqueeze", [one, axis_1], f"{one[len(PREFIX) :]}_1") for one in (metres, measured)]
    nodes.add("Concat", pair, SCALED, axis=1)


def _centres(nodes: _Nodes, every: str, shown: str, name: str) -> tuple[str, str]:
    """Centres of the pixels that show the map, in halves, and twice their number."""
    centre = nodes.add("Slice", [every, nodes.constant("zero", [0]), shown], f"{name}_centre")
    twice = nodes.add("Mul", [shown, nodes.constant("two", [2])], f"{name}_twice")
    return centre, nodes.add("Cast", [twice], f"{name}_twice_double", to=TensorProto.DOUBLE)


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


def _text(nodes: _Nodes, _: FrontSettings) -> None:
    number = nodes.add("Cast", ["text"], "float", to=TensorProto.FLOAT)
    nodes.add("Unsqueeze", [number, nodes.constant("axes", [1, 2])], SCALED)


def _crop(nodes: _Nodes) -> None:
    """Masks at the size of the input, whose border was continued."""
    zero, one, value = PREFIX + "zero", PREFIX + "one", WHOLE
    for name, output in (("height", "cropped"), ("width", "mask")):
        value = nodes.add("Slice", [value, zero, PREFIX + name, f"{PREFIX}{name}_axis", one], output)


# Sizes that free axes are tried with: of one usual input, and of larger ones up to the largest that a device
# takes (of pictures and maps the side of a square of that area, of recordings samples, of strings bytes).
SIDES, SAMPLES, BYTES = (256, 16, 1024, 8192), (16000, 256, 1 << 20, 1 << 26), (48, 16, 256, MOST_GIVEN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """All that the file of one kind of input is known by; nothing else asks for a kind by its name.

    Attributes:
        build: Writes its nodes.
        input: Name of the graph's input.
        dtype: Of its elements.
        axes: Names of its free axes behind the batch: two of a grid, whose channels follow, one of a line.
        raw_channels: Channels of a grid, by what the student sees.
        student_channels: Channels that the student sees.
        square: Whether the student sees a square of fixed side.
        dense: Whether the student tells a class for each pixel.
        has_rate: Whether a file is for one sampling rate.
        sizes: That free axes are tried with: the usual one, then others up to the largest.
        large: Sizes of the free axes of the large input that a file is tried with.
    """

    build: Callable[[_Nodes, FrontSettings], None]
    input: str
    dtype: int
    axes: tuple[str, ...] = ("height", "width")
    raw_channels: Callable[[int], int] = lambda channels: channels
    student_channels: Callable[[FrontSettings], int] = lambda one: one.channels
    square: bool = True
    dense: bool = False
    has_rate: bool = False
    sizes: tuple[int, ...] = SIDES
    large: tuple[int, ...] = (1200, 1600)

    @property
    def is_line(self) -> bool:
        """Whether an input is a line of numbers, and no grid of pixels."""
        return len(self.axes) == 1

    @property
    def rank(self) -> int:
        """Axes of the raw input."""
        return 2 if self.is_line else 4


KINDS: Mapping[str, Kind] = {
    "image": Kind(build=_image, input="image", dtype=TensorProto.UINT8),
    "depth16": Kind(
        build=_depth,
        input="depth",
        dtype=TensorProto.UINT16,
        raw_channels=lambda _: 1,
        student_channels=lambda _: 2,
    ),
    "image-dense": Kind(
        build=_dense_image,
        input="image",
        dtype=TensorProto.UINT8,
        square=False,
        dense=True,
        large=(768, 1024),
    ),
    "depth16-dense": Kind(
        build=_dense_depth,
        input="depth",
        dtype=TensorProto.UINT16,
        raw_channels=lambda _: 1,
        student_channels=lambda _: 2,
        square=False,
        dense=True,
        large=(768, 1024),
    ),
    "wave": Kind(
        build=_wave,
        input="wave",
        dtype=TensorProto.FLOAT,
        axes=("samples",),
        student_channels=lambda _: 1,
        square=False,
        has_rate=True,
        sizes=SAMPLES,
        large=(1 << 20,),
    ),
    "text": Kind(
        build=_text,
        input="text",
        dtype=TensorProto.UINT8,
        axes=("bytes",),
        student_channels=lambda _: 1,
        square=False,
        sizes=BYTES,
        large=(MOST_GIVEN,),
    ),
}


def front_graph(name: str, settings: FrontSettings, *, mask: bool = False) -> FrontGraph:
    """Nodes of a front end.

    Args:
        name: A key of `KINDS`.
        settings: What it depends on.
        mask: Whether the file has the output ``mask``, which is cut to the size of the input.

    Guarantees:
        Equal arguments give equal nodes, whatever is installed. What is between the raw input and `SCALED`
        is never larger than a few copies of the raw input in float32 and of `SCALED`.
    """
    kind, nodes = KINDS[name], _Nodes()
    kind.build(nodes, settings)
    before = tuple(nodes.nodes)
    if mask:
        _crop(nodes)
    sizes: list[str | int] = ["batch", *kind.axes]
    if kind.is_line:
        shape: tuple[int | None, ...] = (1, 1, None)
    else:
        sizes.append(kind.raw_channels(settings.channels))
        side = settings.side if kind.square else None
        shape = (kind.student_channels(settings), side, side)
    return FrontGraph(
        input=helper.make_tensor_value_info(kind.input, kind.dtype, sizes),
        before=before,
        after=tuple(nodes.nodes[len(before) :]),
        constants=tuple(nodes.constants.values()),
        shape=shape,
        sizes=kind.sizes,
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
