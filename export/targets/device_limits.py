"""What devices have: room for the file, memory for values and weights, operators. One row a target.

A limit is what is left for a model, not what the device has; where it is our choice, its row says so.
"""

from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20
# ONNX operators for which TensorFlow Lite Micro has a kernel. ReduceL2 stands for its L2_NORMALIZATION, which
# is what a student uses it for. Its Resize knows no antialiasing and is left out; InstanceNormalization has
# no kernel.
KERNELS = (
    "Abs Add AveragePool Cast Ceil Clip Concat Conv ConvTranspose Cos DequantizeLinear Div Elu Exp "
    "Flatten Floor Gather Gemm GlobalAveragePool GlobalMaxPool HardSwish Identity LeakyRelu Log "
    "MatMul Max MaxPool Min Mul Neg PRelu Pad QuantizeLinear ReduceL2 ReduceMax ReduceMean ReduceSum "
    "Relu Reshape Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze"
)
MICRO = frozenset(KERNELS.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a kind of device leaves for a student.

    Attributes:
        flash_bytes: Most bytes of the file.
        ram_bytes: Most bytes of values, and of weights where they are held in RAM.
        weights_in_flash: Whether weights are read where they lie; then only those that the file holds in
            another form take RAM.
        student_alone: Whether the front end is the firmware's own code and not counted.
        operators: Those that may occur; None for all that ONNX Runtime has, which is what the exporter is
            held to.
        source: Where the limits come from.
    """

    flash_bytes: int
    ram_bytes: int
    weights_in_flash: bool = False
    student_alone: bool = False
    operators: frozenset[str] | None = None
    source: str


TARGETS: dict[str, Target] = {
    "cortex-m7": Target(
        flash_bytes=1 * MIB,
        ram_bytes=512 * KIB,
        weights_in_flash=True,
        student_alone=True,
        operators=MICRO,
        source=(
            "STM32H743 (ST datasheet DS12110): 2 MB of flash, of which we leave 1 for the program; 1 MB of"
            " RAM, of which 512 KB are in one piece (AXI SRAM). Operators: kernels of TensorFlow Lite Micro"
            " (micro_mutable_op_resolver.h)"
        ),
    ),
    "phone": Target(
        flash_bytes=50 * MIB,
        ram_bytes=80 * MIB,
        source=(
            "Android Compatibility Definition 3.7: an app has at least 80 MB at 320 dpi; that counts the heap"
            " of Java alone, so it is on the safe side. The 50 MiB of a file are our choice"
        ),
    ),
    "browser": Target(
        flash_bytes=20 * MIB,
        ram_bytes=256 * MIB,
        source="Our choice: a download of 20 MiB, and a sixteenth of the 4 GiB that WebAssembly can address",
    ),
    "pi": Target(
        flash_bytes=256 * MIB,
        ram_bytes=256 * MIB,
        source=(
            "Raspberry Pi Zero 2 W (product brief): 512 MB of RAM. Half of it for the system, Python and ONNX"
            " Runtime (65 MB measured on x86) and as much of the card are our choice"
        ),
    ),
}
