"""onnxruntime, found, held to its oldest version, and opened on a model.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from edgecmd.data.user_files.decode import reason_of
from export.device.reading import InferError, out_of_memory

# The first that reads the operators of the model (opset 18).
LEAST_ONNXRUNTIME = (1, 14)
# How onnxruntime says that memory is short: in an error of its own.
NO_MEMORY = re.compile(
    r"bad_?\s?alloc|(failed to|cannot|can't|unable to) allocate|out of memory", re.IGNORECASE
)


def refuse_old_runtime(version: str) -> None:
    """Refuse an ONNX Runtime that does not know the model's operators, before it says so in its own words.

    Raises:
        InferError: The message names the version that is needed, and why.
    """
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < LEAST_ONNXRUNTIME:
        least = ".".join(map(str, LEAST_ONNXRUNTIME))
        raise InferError(
            f"onnxruntime {version} is too old: {least} is the first that reads the operators of this model"
            f" (opset 18). Install it: pip install 'onnxruntime>={least}'.",
            exit_code=1,
        )


def import_runtime() -> Any:  # noqa: ANN401 - onnxruntime has no types
    """onnxruntime, without the telemetry that version 1.32 has where nobody forbids it before the import."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except (ImportError, OSError, MemoryError) as error:
        raise InferError(
            f"onnxruntime cannot be imported ({reason_of(error)}). Install it: pip install onnxruntime",
            exit_code=1,
        ) from error
    return onnxruntime


def open_session(path: Path, *, num_threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """A model on the CPU.

    Raises:
        InferError: onnxruntime is missing or too old, or the file is no model that it can load.
    """
    runtime = import_runtime()
    refuse_old_runtime(runtime.__version__)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # What onnxruntime has to say comes as an exception; its own lines would go past all escaping.
    options.log_severity_level = 4
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except MemoryError as error:
        raise out_of_memory(path) from error
    except Exception as error:  # onnxruntime raises a dozen types of its own without a common base
        raise InferError(
            f"{path} is not a model that onnxruntime can load: {reason_of(error)}", exit_code=6
        ) from error
