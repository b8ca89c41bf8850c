"""8-bit arithmetic: static with calibrated ranges for convolutions, dynamic for matrix products.

Only the student's own layers are quantised: the front end stays exact, and the L2 normalisation stays in
float32, or embeddings would not have unit length.

Networks for phones gain less. ONNX Runtime has no 8-bit HardSwish, HardSigmoid or Sigmoid, and depthwise
convolutions are too far off in 8 bits; so around each other layer values are rounded and turned back. That
pays where a layer computes much with each number; all else stays in float32 (figures: docs/export.md).
"""

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from edgecmd.core.errors import ExportError
from export.profiles.channels import equalise, fold_factors, values_to_scale
from export.profiles.ranges import extremes_of
from export.profiles.rounding import carry_rounding

STUDENT = "student."
# A student of recordings has its front end inside; that stays exact too.
FRONT = "student.front."
LAYERS = ("Conv", "Gemm", "MatMul")
# Quantised together with the convolutions around them, so that no value goes to float32 and back in between.
BETWEEN = ("Add", "Mul", "Relu")
# ONNX Runtime's quantiser rewires the constant scale of a normalisation, and the result does not run.
NORMS = ("InstanceNormalization", "LayerNormalization")
DYNAMIC = ("Gemm", "MatMul")
# Activations and gates of networks for phones, which ONNX Runtime computes in float32 alone.
IN_FLOAT = ("HardSigmoid", "HardSwish", "Sigmoid")
# Weights for each channel that a layer reads or writes, from which on it is worth rounding around it.
LEAST_REUSE = 60
# With fewer calibration inputs weights are rounded to the nearest.
LEAST_INPUTS = 64


class CalibrationReader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands out calibration inputs one at a time, as ONNX Runtime's quantiser asks for them.

    Args:
        inputs: Raw inputs, first axis the examples.
        name: Name of the graph's input.
    """

    def __init__(self, inputs: np.ndarray, *, name: str) -> None:
        self._rest = iter({name: inputs[row : row + 1]} for row in range(len(inputs)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, or None at the end."""
        return next(self._rest, None)


def quantise_static(
    model: onnx.ModelProto, calibration: np.ndarray, *, leave_out: Sequence[str] = (), alone: bool = False
) -> onnx.ModelProto:
    """Quantise weights (signed, a scale for each output channel) and activations (unsigned) to 8 bits.

    Before, factors are folded and channels are brought to more alike sizes, which changes nothing of what is
    computed; after, weights are rounded so that later ones make good what earlier ones lost. Signed
    activations, 16-bit activations and a scale for the whole weight were all measured to be slower or further
    from the original on x86.

    Args:
        model: Exported; its nodes are named after the modules they come from.
        calibration: Raw inputs whose ranges are taken.
        leave_out: Names of layers that stay in float32.
        alone: Whether everything between the layers stays in float32 too.

    Guarantees:
        Deterministic: equal files and inputs give equal files on the same kind of processor.
    """
    operators = [*LAYERS, *BETWEEN]
    if alone or any(node.op_type in NORMS for node in model.graph.node):
        operators = list(LAYERS)
    model = fold_factors(model)
    sizes = extremes_of(model, calibration, values_to_scale(model))
    model = equalise(model, {name: one.tops() for name, one in sizes.items()})
    left = [*leave_out, *_last_between(model, leave_out)]
    inside = [node for node in model.graph.node if is_students(node.name) and node.name not in left]
    inside = [node for node in inside if node.op_type in operators]
    kept = {node.name for node in model.graph.node} - {node.name for node in inside}
    ranges = _ranges(model, calibration, inside)

    def run(source: Path, target: Path) -> None:
        quantize_static(
            source,
            target,
            CalibrationReader(calibration[:1], name=model.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=operators,
            nodes_to_exclude=sorted(kept),
            extra_options={"TensorQuantOverrides": ranges},
        )

    made = _through_files(model, run)
    if len(calibration) >= LEAST_INPUTS:
        carry_rounding(made, model, calibration, layers=[node for node in inside if node.op_type == "Conv"])
    return made


def _last_between(model: onnx.ModelProto, leave_out: Sequence[str]) -> list[str]:
    """Additions and the like that no layer in 8 bits follows: rounding what they give would buy nothing."""
    found, needed = list[str](), set[str]()
    for node in reversed(model.graph.node):
        followed = not needed.isdisjoint(node.output)
        if (node.op_type in LAYERS and is_students(node.name) and node.name not in leave_out) or followed:
            needed.update(node.input)
        elif node.op_type in BETWEEN and is_students(node.name):
            found.append(node.name)
    # What a convolution gives is rounded in any case, and then the ReLU behind it costs nothing.
    makers = {name: node for node in model.graph.node for name in node.output}
    relus = {node.name: node for node in model.graph.node if node.op_type == "Relu"}
    return [
        name
        for name in found
        if name not in relus or getattr(makers.get(relus[name].input[0]), "op_type", "") not in LAYERS
    ]


def _ranges(
    model: onnx.ModelProto, calibration: np.ndarray, inside: Sequence[onnx.NodeProto]
) -> dict[str, list[dict[str, np.float32]]]:
    """Ranges of what the nodes in 8 bits take and give, as ONNX Runtime's quantiser reads them."""
    constants = {entry.name for entry in model.graph.initializer} | {""}
    names = {name for node in inside for name in (*node.input, *node.output)} - constants
    found = {name: one.range() for name, one in extremes_of(model, calibration, sorted(names)).items()}
    for node in inside:
        if node.op_type == "Relu" and node.input[0] in found:
            found[node.input[0]] = found[node.output[0]]
    return {name: [{"rmin": low, "rmax": high}] for name, (low, high) in found.items()}


def quantised_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the student's layers, in the order of the file."""
    nodes = [node for node in model.graph.node if node.op_type in LAYERS]
    return [node.name for node in nodes if is_students(node.name)]


def paying_layers(model: onnx.ModelProto) -> list[str] | None:
    """Names of the layers of a network for phones that 8-bit arithmetic makes faster by themselves.

    Args:
        model: Exported; its nodes are named after the modules they come from.

    Returns:
        Layers with at least `LEAST_REUSE` weights a channel. None where all are to be in 8 bits: without
        depthwise convolutions and operators of `IN_FLOAT`, or where no layer pays, so that the file is small
        at least (`export.profiles.advice` says which profile to take).
    """
    nodes = [node for node in model.graph.node if is_students(node.name)]
    between = {node.op_type for node in nodes} & set(IN_FLOAT)
    weights = {entry.name: tuple(entry.dims) for entry in model.graph.initializer}
    layers = [node for node in nodes if node.op_type in LAYERS]
    if not between and all(_groups(node) == 1 for node in layers):
        return None
    return [node.name for node in layers if _reuse(node, weights) >= LEAST_REUSE] or None


def layers_in_8_bits(model: onnx.ModelProto) -> list[str]:
    """Names of the layers that a file of `quantise_static` computes in 8 bits, in its order."""
    rounded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    nodes = [node for node in model.graph.node if node.op_type in LAYERS]
    return [node.name for node in nodes if rounded.issuperset(node.input[:2])]


def _groups(node: onnx.NodeProto) -> int:
    return next((one.i for one in node.attribute if one.name == "group"), 1)


def _reuse(node: onnx.NodeProto, weights: Mapping[str, tuple[int, ...]]) -> float:
    """Weights of a layer for each channel that it reads or writes; 0 where its weight is computed."""
    shape = weights.get(node.input[1], (0, 1))
    return math.prod(shape) / (shape[0] + shape[1] * _groups(node))


def is_students(name: str) -> bool:
    """Whether the node of that name is a layer of the student and no part of a front end."""
    return name.startswith(STUDENT) and not name.startswith(FRONT)


def quantise_dynamic(model: onnx.ModelProto, *, leave_out: Sequence[str] = ()) -> onnx.ModelProto:
    """Quantise the student's matrix products with ranges found at run time; needs no calibration.

    Args:
        model: Exported.
        leave_out: Names of layers that stay in float32.

    Raises:
        ExportError: The student has convolutions, or no matrix product.
    """
    layers = [node for node in model.graph.node if is_students(node.name) and node.op_type in LAYERS]
    num_convolutions = sum(node.op_type == "Conv" for node in layers)
    if num_convolutions:
        raise ExportError(
            f"Profile dyn8 is for transformers, and this student has {num_convolutions} convolutions, where"
            " ranges found at run time cost more than they save: 3.8 times the latency of fp32 with unsigned"
            " weights, 12.5 times with signed ones (measured at 64 px, 1 thread, x86 with VNNI)."
            " Use int8 where speed matters, else w8."
        )
    if not layers:
        raise ExportError("Profile dyn8 found no matrix product in the student. Use w8.")
    kept = [node.name for node in model.graph.node if not is_students(node.name)]

    def run(source: Path, target: Path) -> None:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(DYNAMIC),
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*kept, *leave_out],
        )

    return _through_files(model, run)


def _through_files(model: onnx.ModelProto, run: Callable[[Path, Path], None]) -> onnx.ModelProto:
    """``run(source, target)`` on files that are gone afterwards; the quantiser knows no other way."""
    with tempfile.TemporaryDirectory(prefix="edgecmd-quantise-") as name, quiet():
        source, target = Path(name) / "source.onnx", Path(name) / "target.onnx"
        source.write_bytes(model.SerializeToString())
        run(source, target)
        result = onnx.load(target)
    tidy(result)
    return result


def tidy(model: onnx.ModelProto) -> None:
    """Remove what the quantiser leaves behind: opsets that no node uses, notes, shapes; in place."""
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx") or entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.graph.value_info[:]
    del model.graph.quantization_annotation[:]
    model.producer_name, model.producer_version, model.doc_string = "edgecmd", "", ""
    for node in model.graph.node:
        node.doc_string = ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the quantiser's advice to run its own optimiser first, which folds nothing here."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
