"""What the structural gate allows: sizes, operators, inputs and outputs; and its error."""

from dataclasses import dataclass

from onnx import TensorProto

from edgecmd.core.errors import ExportError


class GateError(ExportError):
    """An ONNX file has a form that no student has; it was not loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateLimits:
    """Sizes of a student's file.

    Attributes:
        opsets: Versions of the default operator set.
        ir_versions: Versions of the file format.
        max_file_bytes: Size of the file.
        max_structure_bytes: Size of the file without the raw data of weights.
        max_nodes: Nodes of the graph.
        max_elements: Numbers in one weight, and in one value between nodes for one example.
        max_weights: Numbers in all weights.
        max_rank: Dimensions of a tensor.
        max_text_bytes: Length of one metadata value or name.
    """

    opsets: tuple[int, ...] = (18, 19, 20)
    ir_versions: tuple[int, ...] = (8, 9, 10, 11)
    max_file_bytes: int = 256 << 20
    max_structure_bytes: int = 2 << 20
    max_nodes: int = 5000
    max_elements: int = 64 << 20
    max_weights: int = 128 << 20
    max_rank: int = 8
    max_text_bytes: int = 1 << 20


# Why each operator is allowed. None of them runs a graph of its own, repeats itself, reads a file, draws
# random numbers or makes a tensor whose size is a number in the data, except Expand and Resize, whose
# constant sizes are checked.
OPERATORS = {
    "layers of the students": ("Conv", "Gemm", "MatMul"),
    "activations": ("Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu", "Softmax"),
    "norms": ("InstanceNormalization", "LayerNormalization"),
    "pooling and the unit length": (
        "GlobalAveragePool",
        "GlobalMaxPool",
        "AveragePool",
        "MaxPool",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceSum",
        "ReduceSumSquare",
        "ReduceL2",
    ),
    "arithmetic of preprocessing, scales and norms": (
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Sqrt",
        "Abs",
        "Neg",
        "Reciprocal",
        "Max",
        "Min",
        "Floor",
        "Ceil",
        "Round",
    ),
    "log-mel front end": ("Exp", "Log", "Mod", "Cos", "Sin"),
    "resize of pictures": ("Resize",),
    "types": ("Cast", "Identity", "Constant"),
    "shapes": (
        "Shape",
        "Gather",
        "Slice",
        "Split",
        "Concat",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Expand",
    ),
    "int8 with calibrated ranges": ("QuantizeLinear", "DequantizeLinear"),
    "int8 with ranges found at run time": ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"),
    "two 4-bit weights in a byte": ("BitwiseAnd", "BitShift"),
}
ALLOWED = frozenset(name for names in OPERATORS.values() for name in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """An input or output of the file: its element types and the number of its dimensions."""

    types: tuple[int, ...]
    rank: int


# The one input is one of these.
INPUTS = {
    "image": Port(types=(TensorProto.UINT8, TensorProto.UINT16), rank=4),
    "depth": Port(types=(TensorProto.UINT16,), rank=4),
    "wave": Port(types=(TensorProto.FLOAT, TensorProto.INT16), rank=2),
}
# The first is always there, one of the others only with a head.
OUTPUTS = {
    "embedding": Port(types=(TensorProto.FLOAT,), rank=2),
    "scores": Port(types=(TensorProto.FLOAT,), rank=2),
    "mask": Port(types=(TensorProto.FLOAT,), rank=4),
}
METADATA_PREFIX = "edgecmd."
