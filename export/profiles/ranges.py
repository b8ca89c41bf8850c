"""Largest values of a student on calibration inputs, by channel, and the ranges that 8 bits are to cover.

Shapes: N inputs, C channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from export.device.runtime import import_runtime

BATCH = 32
# Of the inputs, by their largest values: the few beyond would cost all others steps.
SHARE = 0.995
# Some inputs of a device are larger than all of the calibration, and what is beyond a range is cut off.
MARGIN = 1.2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Extremes:
    """Least and largest number of each channel of a value, for each input.

    Attributes:
        low: (N, C).
        high: (N, C).
    """

    low: np.ndarray
    high: np.ndarray

    def tops(self) -> np.ndarray:
        """Largest size of each channel, (C,), but for a few inputs."""
        sizes = np.maximum(np.abs(self.low), np.abs(self.high))
        return np.asarray(np.quantile(sizes, SHARE, axis=0), dtype=np.float32)

    def range(self) -> tuple[np.float32, np.float32]:
        """What 8 bits are to cover; 0 is inside."""
        low = min(0.0, float(np.quantile(self.low.min(axis=1), 1 - SHARE)))
        high = max(0.0, float(np.quantile(self.high.max(axis=1), SHARE)))
        return np.float32(MARGIN * low), np.float32(MARGIN * high)


def values_of(
    model: onnx.ModelProto, inputs: np.ndarray, names: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
    """Values inside a model, for one batch of inputs after the other; only those that are float32.

    Args:
        model: Exported, with one input.
        inputs: Raw inputs, first axis the examples.
        names: Of values that nodes make.
    """
    onnxruntime = import_runtime()
    told = onnx.ModelProto()
    told.CopyFrom(model)
    del told.graph.output[:]
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        told.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    source = model.graph.input[0].name
    for start in range(0, len(inputs), BATCH):
        found = session.run(list(names), {source: inputs[start : start + BATCH]})
        yield {name: one for name, one in zip(names, found, strict=True) if one.dtype == np.float32}


def extremes_of(model: onnx.ModelProto, inputs: np.ndarray, names: Sequence[str]) -> Mapping[str, Extremes]:
    """Extremes of values inside a model, by name."""
    lows: dict[str, list[np.ndarray]] = {}
    highs: dict[str, list[np.ndarray]] = {}
    for batch in values_of(model, inputs, names) if names else ():
        for name, value in batch.items():
            flat = value.reshape(*value.shape[:2], -1) if value.ndim > 1 else value.reshape(1, 1, -1)
            lows.setdefault(name, []).append(flat.min(axis=2))
            highs.setdefault(name, []).append(flat.max(axis=2))
    return {name: Extremes(low=np.concatenate(lows[name]), high=np.concatenate(highs[name])) for name in lows}
