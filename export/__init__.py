"""Step 4: preprocessing, student and head as one checked ONNX file, with what a device needs beside it.

This room knows ONNX and imports `edgecmd`; nothing below `device` imports anything of edgecmd.
"""
