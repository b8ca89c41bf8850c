"""The oldest Python, numpy and ONNX Runtime that a bundle runs with; its files state and check them."""

from collections.abc import Mapping

import onnx

from edgecmd.core.errors import ExportError

# The lowest that knows the antialiased Resize of the front end, and the lowest that the exporter writes: ONNX
# Runtime reads it since 1.14. Up to opset 20 GroupNorm becomes InstanceNormalization, which it has a fast
# kernel for.
OPSET = 18
# The profile `core` has fewer operators, and goes as low as they let it.
LOWEST_OPSET = 11
# First ONNX Runtime that reads an operator set, and the oldest numpy that it goes with. Of the lower sets
# that is the oldest that was tried.
ONNXRUNTIME_OF_OPSET = {**dict.fromkeys(range(LOWEST_OPSET, OPSET + 1), "1.14"), 19: "1.15", 20: "1.17"}
NUMPY, PYTHON = "1.21", "3.8"
PROPERTY = "edgecmd.requires"


def requirements(opset: int) -> dict[str, str]:
    """Least version of each thing that a device needs for a file of that operator set.

    Raises:
        ExportError: No file of a student has that operator set.
    """
    if opset not in ONNXRUNTIME_OF_OPSET:
        raise ExportError(f"opset={opset}; allowed are {', '.join(map(str, ONNXRUNTIME_OF_OPSET))}.")
    return {"numpy": NUMPY, "onnxruntime": ONNXRUNTIME_OF_OPSET[opset], "python": PYTHON}


def requirements_text(requires: Mapping[str, str]) -> str:
    """The same in a sentence's words."""
    return (
        f"Python {requires['python']}, numpy {requires['numpy']} and ONNX Runtime {requires['onnxruntime']}"
        " or newer"
    )


def lowest_ir_version(model: onnx.ModelProto) -> int:
    """Lowest version of the file format that goes with the model's operator sets."""
    return int(onnx.helper.find_min_ir_version_for(list(model.opset_import)))
