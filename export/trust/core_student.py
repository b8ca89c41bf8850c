"""The core behind its front end, as one: what the parity gate compares with the student and with the whole.

Shapes: N inputs, C channels, H height, W width of what the student sees.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgecmd.data.modalities.wave import FULL_SCALE
from export.device.properties import CORE
from export.device.runtime import import_runtime
from export.device.student import Prediction
from export.profiles.core import halves_of
from export.trust.verify import ParityError, compare

# Both are computed by ONNX Runtime in float32 with the same weights; only the length is measured otherwise.
MAX_FROM_WHOLE = 1e-5


class CoreStudent:
    """Raw inputs to outputs, through the nodes of the front end and then the core, one input at a time.

    Args:
        path: File of the core.
        whole: The float32 file that it was made from.
    """

    def __init__(self, path: Path, whole: bytes) -> None:
        front = halves_of(onnx.load_from_string(whole)).front
        self.front, self.core, self.whole = (
            _session(data) for data in (front.SerializeToString(), path.read_bytes(), whole)
        )

    def with_core(self, path: Path) -> "CoreStudent":
        """The same front end before another file of the core."""
        other = copy.copy(self)
        other.core = _session(str(path))
        return other

    def ports(self) -> list[dict[str, Any]]:
        """Name and shape of its input, and of each output."""
        ports = (*self.core.get_inputs(), *self.core.get_outputs())
        return [{"name": one.name, "shape": [*one.shape]} for one in ports]

    def see(self, raw: np.ndarray) -> np.ndarray:
        """What the student sees of raw inputs, float32 (N, C, H, W); samples may be of 16 bits."""
        return np.asarray(_run(self.front, raw)[0])

    def takes(self, raw: np.ndarray) -> bool:
        """Whether the core is for what the front end makes of such inputs."""
        return bool(list(self.see(raw[:1]).shape) == self.core.get_inputs()[0].shape)

    def __call__(self, raw: np.ndarray) -> Prediction:
        """Outputs for raw inputs."""
        return self.embed(self.see(raw))

    def embed(self, seen: np.ndarray) -> Prediction:
        """Outputs for what the front end gives."""
        rows = [_run(self.core, seen[place : place + 1]) for place in range(len(seen))]
        return _prediction([np.concatenate(parts) for parts in zip(*rows, strict=True)])

    def gap(self, raw: np.ndarray) -> float:
        """Largest difference of any output from the whole graph's."""
        found = compare(_prediction(_run(self.whole, raw)), self(raw))
        return max(found.max_abs, found.max_abs_scores or 0.0)


def refuse_gap(gap: float) -> None:
    """Refuse a core that is not the whole graph's.

    Raises:
        ParityError: The message names figure and limit.
    """
    if not gap <= MAX_FROM_WHOLE:
        raise ParityError(
            f"Parity of profile {CORE}: it differs by {gap:.3g} from the whole graph that it was cut from;"
            f" the limit is {MAX_FROM_WHOLE:g}. Leave it out of export.profiles."
        )


def _prediction(outputs: list[np.ndarray]) -> Prediction:
    return Prediction(outputs[0], outputs[1] if len(outputs) > 1 else None)


def _run(session: Any, inputs: np.ndarray) -> list[np.ndarray]:  # noqa: ANN401 - onnxruntime has no types
    samples = inputs.astype(np.float32) / FULL_SCALE if inputs.dtype == np.int16 else inputs
    return list(session.run(None, {session.get_inputs()[0].name: samples}))


def _session(model: bytes | str) -> Any:  # noqa: ANN401 - onnxruntime has no types
    onnxruntime = import_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
