"""Choices that look fast and are not: made so that the advice against them is measured, never shipped.

Each is what the usual tool makes of the float32 file with its usual settings.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from export.profiles.quantise import CalibrationReader, quiet

Make = Callable[[Path, Path, np.ndarray], None]


def _dynamic(weight_type: QuantType) -> Make:
    def make(source: Path, target: Path, _: np.ndarray) -> None:
        quantize_dynamic(source, target, weight_type=weight_type)

    return make


def _static(activation_type: QuantType) -> Make:
    def make(source: Path, target: Path, inputs: np.ndarray) -> None:
        name = onnx.load(source, load_external_data=False).graph.input[0].name
        quantize_static(
            source,
            target,
            CalibrationReader(inputs, name=name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=activation_type,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "Mul", "Relu"],
        )

    return make


def _half(source: Path, target: Path, _: np.ndarray) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


# Name, what it is, and how it is made.
SLOWER: dict[str, tuple[str, Make]] = {
    "dynamic-s8": ("dynamic int8 on convolutions, signed weights", _dynamic(QuantType.QInt8)),
    "dynamic-u8": ("dynamic int8 on convolutions, unsigned weights", _dynamic(QuantType.QUInt8)),
    "static-s8s8": ("static int8 with signed activations", _static(QuantType.QInt8)),
    "static-u16": ("static int8 with 16-bit activations", _static(QuantType.QUInt16)),
    "fp16": ("float16 graph", _half),
}


def make_slower(data: bytes, name: str, *, inputs: np.ndarray) -> bytes:
    """The file of such a choice.

    Args:
        data: The float32 file.
        name: A key of `SLOWER`.
        inputs: Public inputs whose ranges are taken.
    """
    properties = list(onnx.load_from_string(data).metadata_props)
    with tempfile.TemporaryDirectory(prefix="edgecmd-slower-") as folder, quiet():
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        source.write_bytes(data)
        SLOWER[name][1](source, target, inputs)
        model = onnx.load(target)
    del model.metadata_props[:]
    model.metadata_props.extend(properties)
    return bytes(model.SerializeToString())
