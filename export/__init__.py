"""Step 4: preprocessing, student and head as one checked ONNX file, and what a device needs besides.

This package knows ONNX and imports `edgecmd`; nothing below `device` imports anything of edgecmd.
"""

import os

# ONNX Runtime 1.32 counts its use where nobody forbids it before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
