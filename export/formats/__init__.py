"""Formats of phones: the files of a bundle for ONNX Runtime Mobile, LiteRT, ExecuTorch and Core ML."""
