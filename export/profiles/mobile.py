"""What accelerators of phones would take of a file, as ONNX Runtime's own checker for them tells it.

The checker knows operators and whether sizes are fixed, not each limit of each chip: its verdict says where
trying is worth it, and is no measurement.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import onnx

# Accelerator -> the checker's list of operators that it takes; empty for the one with its own function.
ACCELERATORS = {
    "nnapi": "",
    "coreml_ml_program": "coreml_supported_mlprogram_ops.md",
    "coreml_neural_network": "coreml_supported_neuralnetwork_ops.md",
}


def mobile_verdict(path: Path) -> dict[str, dict[str, Any]]:
    """How much of a file each accelerator would take.

    Args:
        path: A file that ONNX Runtime loads.

    Returns:
        For each of `ACCELERATORS`: ``nodes`` after the simplifications that are made at loading,
        ``supported`` nodes, ``partitions`` that these form, ``unsupported`` operators, and ``worth_trying``
        (``yes``, ``maybe``, ``no``), the checker's own verdict.
    """
    # Read once, when it is imported: version 1.32 counts its users else.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from onnxruntime.tools.mobile_helpers import usability_checker
    from onnxruntime.tools.onnx_model_utils import optimize_model

    with tempfile.TemporaryDirectory(prefix="edgecmd-mobile-") as folder:
        simple = Path(folder) / path.name
        optimize_model(path, simple)
        model = onnx.shape_inference.infer_shapes(onnx.load(simple), strict_mode=True, data_prop=True)
    verdicts = {}
    for name, operators in ACCELERATORS.items():
        if operators:
            found = usability_checker.check_coreml_partitions(model, True, operators)
        else:
            found = usability_checker.check_nnapi_partitions(model, True)
        verdicts[name] = {
            "nodes": found.num_nodes,
            "supported": found.num_supported_nodes,
            "partitions": found.num_partitions,
            "unsupported": sorted(one.removeprefix("ai.onnx:") for one in found.unsupported_ops),
            "worth_trying": found.suitability().name.lower(),
        }
    return verdicts
