"""Peak memory: by hand for small graphs, against ONNX Runtime's figures, and against a measured process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecmd.core.errors import ExportError
from export.graph.front_graph import PREFIX
from export.targets.activation_memory import memory_of, peak_of
from export.targets.fitting import own_shape
from export.targets.fixed_shape import fix_shape, without_front

FLOAT, BYTE = TensorProto.FLOAT, TensorProto.UINT8
# Peak of a fresh process with N examples and with 1; VmHWM counts this program alone, not its parent.
MEASURE = """
import sys, numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.enable_cpu_mem_arena = options.enable_mem_pattern = False
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
(given,) = session.get_inputs()
kinds = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
session.run(None, {given.name: np.ones((int(sys.argv[2]), *map(int, sys.argv[3:])), kinds[given.type])})
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


def graph_of(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(
        nodes,
        "made-up",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture(scope="module")
def branches():
    """A value that waits for a branch: x 4, a 8, b 8, c 2, d 8 numbers."""
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["a"], name="a", axis=1),
        helper.make_node("Relu", ["a"], ["b"], name="b"),
        helper.make_node("ReduceMax", ["b", "axes"], ["c"], name="c", keepdims=1),
        helper.make_node("Add", ["a", "c"], ["d"], name="d"),
    ]
    return graph_of(
        nodes, [("x", FLOAT, ["batch", 4])], [("d", FLOAT)], [("axes", np.array([1], dtype=np.int64))]
    )


def test_by_hand(branches):
    # x+a = 12, a+b = 16, a+b+c = 17, a+c+d = 17 numbers of 4 bytes; the first of equals is named.
    peak = peak_of(fix_shape(branches, (1, 4)))
    assert (peak.num_bytes, peak.step) == (17 * 4, "c")
    assert peak_of(fix_shape(branches, (3, 4))).num_bytes == 3 * 17 * 4


def test_an_input_that_is_read_late_is_held_until_then():
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["a"], name="a", keepdims=1),
        helper.make_node("Exp", ["a"], ["b"], name="b"),
        helper.make_node("Add", ["x", "b"], ["c"], name="c"),
    ]
    model = graph_of(nodes, [("x", FLOAT, ["n", 10])], [("c", FLOAT)], [("axes", np.array([1]))])
    # x+a 11, x+a+b 12, x+b+c 21.
    assert peak_of(fix_shape(model, (1, 10))).num_bytes == 21 * 4


def test_an_output_is_held_to_the_end():
    nodes = [
        helper.make_node("Relu", ["x"], ["first"], name="first"),
        helper.make_node("Exp", ["x"], ["y"], name="y"),
        helper.make_node("Exp", ["y"], ["last"], name="last"),
    ]
    model = graph_of(nodes, [("x", FLOAT, ["n", 10])], [("first", FLOAT), ("last", FLOAT)])
    assert peak_of(fix_shape(model, (1, 10))).num_bytes == 30 * 4


def quantised(*, rounded_again: bool):
    """Two 1x1 convolutions of 4 channels at 2x2 in 8 bits, and without the last rounding a float result."""
    weights = [
        ("one", np.float32(0.1)),
        ("zero", np.uint8(3)),
        ("w8", np.ones((4, 4, 1, 1), dtype=np.int8)),
        ("signed", np.int8(0)),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "one", "signed"], ["w"], name="w"),
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"], name="xq"),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"], name="xd"),
        helper.make_node("Conv", ["xd", "w"], ["a"], name="a"),
        helper.make_node("QuantizeLinear", ["a", "one", "zero"], ["aq"], name="aq"),
        helper.make_node("DequantizeLinear", ["aq", "one", "zero"], ["ad"], name="ad"),
        helper.make_node("Conv", ["ad", "w"], ["b"], name="b"),
    ]
    if rounded_again:
        nodes += [
            helper.make_node("QuantizeLinear", ["b", "one", "zero"], ["bq"], name="bq"),
            helper.make_node("DequantizeLinear", ["bq", "one", "zero"], ["y"], name="y"),
        ]
    output = "y" if rounded_again else "b"
    return graph_of(nodes, [("x", FLOAT, ["n", 4, 2, 2])], [(output, FLOAT)], weights)


def test_in_8_bits_by_hand():
    memory = memory_of(quantised(rounded_again=True), (1, 4, 2, 2), student_alone=False)
    # 16 numbers a value. x+xq = 80 bytes, xq+aq = 32, aq+bq = 32, bq+y = 80.
    assert memory.activations == 80
    # Node by node: xd+a = 128 bytes in float32; a+aq = 80; no step holds more.
    assert memory.as_written == 128
    # 16 bytes of weights, read as they are stored, a scale and a zero for each rounding that is left.
    assert memory.expanded == 0
    assert memory.weights == 16 + 4 + 1


def test_a_result_that_is_not_rounded_is_in_float():
    memory = memory_of(quantised(rounded_again=False), (1, 4, 2, 2), student_alone=False)
    # The second convolution reads ad and makes b, both float32; its weights are made in RAM, the first's not.
    assert memory.activations == 128
    assert memory.expanded == 64
    assert memory.weights == 64 + 16 + 4 + 1


def run_profile(path: Path, inputs: np.ndarray, folder: Path) -> dict[str, int]:
    """Bytes that ONNX Runtime says each node made."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: inputs})
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [one for one in events if one["name"].endswith("_kernel_time")]
    return {one["name"].removesuffix("_kernel_time"): int(one["args"]["output_size"]) for one in kernels}


@pytest.mark.parametrize("file", ["student.onnx", "student.w8.onnx", "student.int8.onnx"])
def test_each_step_makes_as_many_bytes_as_in_onnxruntime(bundle, make, tmp_path, file):
    """The sizes that are summed are exact; which of them are held together, the other tests look at."""
    path = bundle("ws-50k") / file
    graph, found = fix_shape(onnx.load(path), (1, 32, 32, 1)), run_profile(path, make.images(1), tmp_path)
    assert {step.name for step in graph.steps} <= found.keys()
    for step in graph.steps:
        assert sum(graph.num_bytes[name] for name in step.outputs) == found[step.name], step.name


def measured(path: Path, *shape: int) -> int:
    """Bytes by which the peak of a fresh process grows from 1 example to ``shape[0]``."""
    peaks = []
    for num in (shape[0], 1):
        words = [sys.executable, "-c", MEASURE, path, num, *shape[1:]]
        # Freed blocks go back to the system at once.
        done = subprocess.run(
            list(map(str, words)),
            capture_output=True,
            text=True,
            check=True,
            env={"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"},
        )
        peaks.append(int(done.stdout) * 1024)
    return peaks[0] - peaks[1]


needs_linux = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="reads the peak of a process from /proc"
)


@needs_linux
def test_a_process_grows_by_the_peak(tmp_path):
    """Where nothing can be put in the place of an operand, the process holds what was computed, to 5%.

    Compared is the growth of a whole process from 1 to 8 examples, so what the engine itself takes drops out.
    """
    nodes = [
        helper.make_node("Concat", ["x", "x", "x"], ["a"], name="a", axis=1),
        helper.make_node("Concat", ["a", "x"], ["b"], name="b", axis=1),
        helper.make_node("ReduceMax", ["b", "axes"], ["c"], name="c", keepdims=1),
    ]
    axes = [("axes", np.array([1], dtype=np.int64))]
    model = graph_of(nodes, [("x", FLOAT, ["n", 1 << 20])], [("c", FLOAT)], axes)
    path = tmp_path / "made-up.onnx"
    onnx.save(model, path)
    expected = [peak_of(fix_shape(model, (num, 1 << 20))).num_bytes for num in (8, 1)]
    # x + a + b.
    assert expected[0] == 8 * 8 * (4 << 20)
    assert measured(path, 8, 1 << 20) == pytest.approx(expected[0] - expected[1], rel=0.05)


@needs_linux
def test_a_student_takes_no_more_than_computed(bundle):
    """ONNX Runtime puts some results in the place of operands, so it stays below; scratch is within 10%."""
    path, shape = bundle("ws-50k") / "student.onnx", (1500, 32, 32, 1)
    model = onnx.load(path)
    expected = (
        peak_of(fix_shape(model, shape)).num_bytes - peak_of(fix_shape(model, (1, *shape[1:]))).num_bytes
    )
    assert 0.4 * expected <= measured(path, *shape) <= 1.1 * expected


def test_without_the_front_end_the_student_reads_what_it_hands_on(bundle):
    model = onnx.load(bundle("ws-50k") / "student.onnx")
    whole = fix_shape(model, own_shape(model))
    alone = without_front(whole)
    assert len(alone.inputs) == 1
    assert alone.num_bytes[alone.inputs[0]] == 32 * 32 * 4
    assert not any(step.name.startswith(PREFIX) for step in alone.steps)
    assert "Resize" in whole.operators
    assert "Resize" not in alone.operators


def test_weights_of_w8_are_made_in_ram_and_those_of_fp32_are_not(bundle):
    exact, small = (
        memory_of(onnx.load(bundle("ws-50k") / file), (1, 32, 32, 1), student_alone=True)
        for file in ("student.onnx", "student.w8.onnx")
    )
    assert exact.weights == small.weights
    assert exact.expanded == 0
    assert small.expanded > 0.9 * exact.weights
    assert exact.activations == small.activations


def test_a_shape_that_does_not_fit_is_refused(branches):
    with pytest.raises(ExportError, match="the input, which has 2 axes"):
        fix_shape(branches, (1, 4, 4))


def test_a_size_that_depends_on_values_is_named():
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"], name="where"),
        helper.make_node("Cast", ["where"], ["y"], name="y", to=FLOAT),
    ]
    model = graph_of(nodes, [("x", FLOAT, ["n", 4])], [("y", FLOAT)])
    with pytest.raises(ExportError, match="size of 'where'"):
        fix_shape(model, (1, 4))
