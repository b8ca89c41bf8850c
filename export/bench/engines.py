"""Ways to run one student: torch as trained, folded and compiled, ONNX Runtime by profile, and OpenVINO.

Each takes the raw input that a device gives and returns what the bundle's own program returns.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgecmd.core.errors import ExportError
from export.device.student import Prediction
from export.device.student import Student as DeviceStudent
from export.graph.deployable import Deployable
from export.graph.fold_standardised import fold

TORCH, FOLDED, COMPILED, OPENVINO = "torch", "folded", "compile", "openvino"
AGAINST = {
    TORCH: "torch, eager, the student as trained",
    FOLDED: "torch, eager, weight standardisation folded as in the exported file",
    COMPILED: "torch.compile of the folded student",
    OPENVINO: "OpenVINO on the same files, where it is installed",
}
NUM_LOADS = 3
Run = Callable[[np.ndarray], Prediction]


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """One way to run a student.

    Attributes:
        name: Such as ``torch``, ``int8`` or ``openvino:int8``.
        run: A raw batch to outputs.
        clock: See `export.bench.timing.Timed`.
        num_bytes: Size of the file, or of the weights for torch.
        load_ms: Least of a few times of loading; 0 for torch, which is measured in a process of its own.
        path: The file, for ONNX Runtime alone.
        any_size: Runs inputs of other sizes than the student's; None for torch, which is what these are
            compared with.
    """

    name: str
    run: Run
    clock: str = "thread"
    num_bytes: int = 0
    load_ms: float = 0.0
    path: Path | None = None
    any_size: Run | None = None


def torch_engine(name: str, deployable: Deployable) -> Engine:
    """Torch, eager, folded or compiled.

    Args:
        name: `TORCH`, `FOLDED` or `COMPILED`.
        deployable: In evaluation mode, not folded; not changed.

    Raises:
        ExportError: This machine cannot compile.
    """
    student = deployable.student if name == TORCH else fold(deployable.student)
    size = sum(tensor.numel() * tensor.element_size() for tensor in student.state_dict().values())
    module: nn.Module = Deployable(student, deployable.spec).eval()
    # Small convolutions run faster so; a student of recordings has no such layout to gain from.
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward: Callable[..., Any] = torch.compile(module, dynamic=False) if name == COMPILED else module

    def run(inputs: np.ndarray) -> Prediction:
        with torch.inference_mode():
            outputs = [value.numpy() for value in forward(torch.from_numpy(inputs))]
        return Prediction(outputs[0], outputs[1] if len(outputs) > 1 else None)

    return Engine(name=name, run=run, num_bytes=size)


def onnx_engine(name: str, path: Path, *, num_threads: int) -> Engine:
    """ONNX Runtime through the bundle's own program."""
    device, load_ms = _loaded(lambda: DeviceStudent(path, num_threads=num_threads))
    return Engine(
        name=name,
        run=device,
        clock="thread" if num_threads == 1 else "wall",
        num_bytes=path.stat().st_size,
        load_ms=load_ms,
        path=path,
        any_size=device,
    )


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec(OPENVINO) is not None


def openvino_engine(name: str, path: Path, *, example: np.ndarray, num_threads: int) -> Engine:
    """OpenVINO on the same file, its input fixed to the size of ``example`` but for the batch.

    It computes in float32, as ONNX Runtime does; by itself it would choose bfloat16 on some processors.

    Raises:
        ExportError: It cannot read the file.
    """
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": num_threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }

    def load(*, fixed: bool) -> Any:  # noqa: ANN401 - openvino has no types
        core = openvino.Core()
        model = core.read_model(str(path))
        if fixed:
            model.reshape([-1, *example.shape[1:]])
        return core.compile_model(model, "CPU", settings)

    try:
        compiled, load_ms = _loaded(lambda: load(fixed=True))
        free = load(fixed=False)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot read {path.name}: {str(error).strip()[:200]}") from error

    def runs(compiled: Any) -> Run:  # noqa: ANN401 - openvino has no types
        request = compiled.create_infer_request()
        names = [output.get_any_name() for output in compiled.outputs]

        def run(inputs: np.ndarray) -> Prediction:
            found = request.infer([inputs])
            values = {name: np.array(found[name]) for name in names}
            return Prediction(values["embedding"], values.get("scores", values.get("mask")))

        return run

    return Engine(
        name=name,
        run=runs(compiled),
        clock="process" if num_threads == 1 else "wall",
        num_bytes=path.stat().st_size,
        load_ms=load_ms,
        any_size=runs(free),
    )


def _loaded(load: Callable[[], Any]) -> tuple[Any, float]:
    """What ``load`` gives, and the least time of a few, in milliseconds."""
    times, found = [], None
    for _ in range(NUM_LOADS):
        started = time.perf_counter()
        found = load()
        times.append(1e3 * (time.perf_counter() - started))
    return found, min(times)
