"""The most memory that the values of one inference take at a time, from shapes and order alone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import onnx

from export.targets.fixed_shape import FixedGraph, fix_shape, in_integers, whole_weights, without_front


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """The step at which most memory is held.

    Attributes:
        num_bytes: Of all values that are held there.
        step: Name of the node.
    """

    num_bytes: int
    step: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What an inference needs, in bytes.

    Attributes:
        activations: The most that values other than weights take at a time, with 8-bit kernels where the
            file is made for them.
        as_written: The same with every node of the file computed by itself, in the type that it has there.
        peak: Name of the node at which ``activations`` are held.
        weights: Of the constants, as they are computed with.
        expanded: Of those among them that the file holds in another form, so that they must be made in RAM.
        operators: Names of the operators.
    """

    activations: int
    as_written: int
    peak: str
    weights: int
    expanded: int
    operators: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """The figures as a table, without the operators."""
        return {name: value for name, value in asdict(self).items() if name != "operators"}


def peak_of(graph: FixedGraph) -> Peak:
    """The largest sum of bytes of values that are held at the same time.

    A value is held from the step that makes it (an input: from the beginning) to the last step that reads it
    (an output: to the end). While a step runs, all that it reads and all that it makes is held: no result
    takes the place of an operand, and no steps are joined. Scratch memory inside an operator, gaps between
    blocks and the engine itself are not counted.

    Args:
        graph: At a fixed shape.
    """
    computed = graph.computed
    last = dict.fromkeys(graph.inputs, -1)
    for position, step in enumerate(graph.steps):
        last |= dict.fromkeys((name for name in (*step.inputs, *step.outputs) if name in computed), position)
    last |= dict.fromkeys(graph.outputs, len(graph.steps))
    held, best = set(graph.inputs), Peak(num_bytes=_sum(graph.num_bytes, set(graph.inputs)), step="")
    for position, step in enumerate(graph.steps):
        held |= set(step.outputs)
        total = _sum(graph.num_bytes, held)
        if total > best.num_bytes:
            best = Peak(num_bytes=total, step=step.name)
        held = {name for name in held if last[name] > position}
    return best


def memory_of(model: onnx.ModelProto, shape: tuple[int, ...], *, student_alone: bool) -> Memory:
    """What an inference of a file needs at one shape of its input.

    Args:
        model: As the exporter writes it.
        shape: Of the raw input, the number of examples first.
        student_alone: Whether the front end is left to the device's own code.

    Raises:
        ExportError: The size of a value does not follow from that of the input.
    """
    graph = fix_shape(model, shape)
    graph = without_front(graph) if student_alone else graph
    joined = in_integers(graph, whole_weights(model))
    peak, constants = peak_of(joined), joined.constants()
    return Memory(
        activations=peak.num_bytes,
        as_written=peak_of(graph).num_bytes,
        peak=peak.step,
        weights=_sum(joined.num_bytes, constants),
        expanded=_sum(joined.num_bytes, constants - joined.stored),
        operators=joined.operators,
    )


def _sum(num_bytes: Mapping[str, int], names: set[str]) -> int:
    return sum(num_bytes[name] for name in names)
