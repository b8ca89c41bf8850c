"""Is the front end of a file the one that this edgecmd writes? It alone may compute sizes from sizes."""

import json

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgecmd.settings import FITS, SQUEEZE
from export.graph.front_graph import KINDS, PREFIX, SCALED, WHOLE, FrontGraph, FrontSettings, front_graph
from export.trust.errors import GateError

METADATA_PREFIX = "edgecmd."
LARGEST_SIDE = 1 << 24
# Beyond these the constants of a front end are no numbers of float32.
LARGEST_SCALE, SMALLEST_SCALE = 1 << 20, 1e-30
ANOTHER = "Another version of edgecmd may have made it: export it again with this one."


def refuse_other_front(model: ModelProto) -> FrontGraph | None:
    """Compare the front end of a file with what `export.graph.front_graph` writes, node by node.

    Args:
        model: Has passed the checks of its structure: nodes in order, each value made once.

    Returns:
        The front end; None for a file without one, all of whose sizes must then be told by inference.

    Raises:
        GateError: A node, an attribute or a constant differs from what the file's own properties ask for, or
            something else takes what is inside the front end; the message names it.
    """
    found = [node for node in model.graph.node if node.name.startswith(PREFIX)]
    if not found:
        return None
    front = _expected(model)
    expected = {node.name: node for node in (*front.before, *front.after)}
    for node in found:
        if node.name not in expected or _content(node) != _content(expected[node.name]):
            raise GateError(
                f"Front end: node {node.name[:80]!r}, a {node.op_type[:80]!r}, is not one that this edgecmd"
                f" writes for {front.input.name!r} with these properties. {ANOTHER}"
            )
    if len(found) != len(expected):
        raise GateError(f"Front end: it has {len(found)} nodes; allowed are {len(expected)}. {ANOTHER}")
    _refuse_other_constants(model, front)
    _refuse_other_input(model, front)
    _refuse_tapped(model, front)
    return front


def _expected(model: ModelProto) -> FrontGraph:
    """The front end that the properties of the file ask for."""
    properties = {entry.key.removeprefix(METADATA_PREFIX): entry.value for entry in model.metadata_props}
    name = properties.get("front_end", "")
    if name not in KINDS:
        raise GateError(f"It has edgecmd.front_end={name[:80]!r}; allowed are {', '.join(KINDS)}.")
    try:
        preprocess = json.loads(properties["preprocess"])
        if not isinstance(preprocess, dict):
            raise ValueError("edgecmd.preprocess is not a JSON object")
        side, channels = int(properties["image_size"]), int(properties["channels"])
        fit = preprocess.get("fit", SQUEEZE)
        offset, scale = (float(preprocess.get(key, usual)) for key, usual in (("offset", 0), ("scale", 1)))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise GateError(f"It has broken edgecmd properties: {error!r:.200}.") from error
    if not (1 <= side <= LARGEST_SIDE and 1 <= channels <= LARGEST_SIDE):
        raise GateError(f"It has image_size={side} and channels={channels}; allowed are 1 to {LARGEST_SIDE}.")
    if fit not in FITS:
        raise GateError(f"It has fit={fit!r:.80}; allowed are {', '.join(FITS)}.")
    if not (abs(offset) <= LARGEST_SCALE and SMALLEST_SCALE <= abs(scale) <= LARGEST_SCALE):
        raise GateError(
            f"It has offset={offset} and scale={scale}; allowed are finite numbers up to {LARGEST_SCALE:,},"
            f" scale not 0 (from {SMALLEST_SCALE:g} on)."
        )
    settings = FrontSettings(
        side=side, channels=KINDS[name].raw_channels(channels), fit=fit, offset=offset, scale=scale
    )
    return front_graph(name, settings, mask=any(one.name == "mask" for one in model.graph.output))


def _content(node: NodeProto) -> tuple[object, ...]:
    """What a node does, and with which names; attributes in any order."""
    attributes = {entry.name: (entry.type, helper.get_attribute_value(entry)) for entry in node.attribute}
    return node.op_type, node.domain, node.name, [*node.input], [*node.output], attributes


def _refuse_other_constants(model: ModelProto, front: FrontGraph) -> None:
    expected = {one.name: one for one in front.constants}
    found = {one.name: one for one in model.graph.initializer if one.name.startswith(PREFIX)}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected or not _same_numbers(found[name], expected[name]):
            raise GateError(
                f"Front end: its constant {name[:80]!r} is not the one that this edgecmd writes for the"
                f" file's own properties. {ANOTHER}"
            )


def _same_numbers(one: TensorProto, other: TensorProto) -> bool:
    if one.data_type != other.data_type or list(one.dims) != list(other.dims):
        return False
    return numpy_helper.to_array(one).tobytes() == numpy_helper.to_array(other).tobytes()


def _refuse_other_input(model: ModelProto, front: FrontGraph) -> None:
    """Another type or a fixed size would be another input than the one the front end is written for."""
    one = model.graph.input[0]
    found, expected = (
        (value.type.tensor_type.elem_type, [dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in (one, front.input)
    )
    if one.name != front.input.name or found != expected:
        raise GateError(
            f"Its input {one.name[:80]!r} has elem_type={found[0]} and sizes {found[1]} (0: free); the front"
            f" end takes {front.input.name!r}, elem_type={expected[0]} and {expected[1]}."
        )


def _refuse_tapped(model: ModelProto, front: FrontGraph) -> None:
    """The rest sees `SCALED` and nothing else of the front end, and makes no value of its own there."""
    inside = {name for node in [*front.before, *front.after] for name in (*node.input, *node.output) if name}
    inside -= {SCALED, WHOLE}
    for node in (one for one in model.graph.node if not one.name.startswith(PREFIX)):
        taken = [name for name in node.input if name in inside or name.startswith(PREFIX)]
        made = [name for name in node.output if name.startswith(PREFIX)]
        if taken or made:
            raise GateError(
                f"Node {node.name[:80]!r} takes or makes {[*taken, *made][0][:80]!r}, which belongs to the"
                f" front end; allowed is {SCALED!r} alone."
            )
