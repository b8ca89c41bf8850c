"""An ONNX file as ONNX Runtime's own format, `.ort`, whose small weights stay small.

At loading, ONNX Runtime computes whatever depends on constants alone. While it converts, that would write
the weights of w8 and w4 in float32: the files would be four and six times as large. So that step is left
out; then the weights are expanded at each inference.
"""

import tempfile
from pathlib import Path

from edgecmd.core.errors import ExportError
from export.device.runtime import import_runtime

# It expands 8-bit weights for good.
LEFT_OUT = ("ConstantFolding",)


def to_ort(model: Path) -> bytes:
    """Convert an ONNX file.

    Args:
        model: The file.

    Guarantees:
        Operators are joined as for every processor (``ORT_ENABLE_EXTENDED``), not as for this one.

    Raises:
        ExportError: ONNX Runtime does not convert it.
    """
    runtime = import_runtime()
    with tempfile.TemporaryDirectory(prefix="edgecmd-ort-") as name:
        made, options = Path(name) / "made.ort", runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.optimized_model_filepath = str(made)
        options.add_session_config_entry("session.save_model_format", "ORT")
        try:
            runtime.InferenceSession(
                str(model),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(LEFT_OUT),
            )
            return made.read_bytes()
        except Exception as error:  # onnxruntime raises a dozen types of its own without a common base
            reason = " ".join(str(error).split())[:300]
            raise ExportError(f"ONNX Runtime does not convert {model.name} to .ort: {reason}") from error
