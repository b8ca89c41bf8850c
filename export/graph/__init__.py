"""The module that is exported, and its ONNX file."""
