"""The ONNX file: what is in it, what is not, and that the same student always gives the same bytes."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch

from edgecmd.errors import ExportError
from edgecmd.models.students import RELU_GAIN
from export.fold import fold
from export.graph import Deployable
from export.to_onnx import OPSET, check_form, refuse_training, strip, to_onnx

ROOT = Path(__file__).parents[2]
EXPORT_ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import export
from conftest import make_spec, make_student
from export.fold import fold
from export.graph import Deployable
from export.to_onnx import to_onnx
assert export.__file__.startswith(sys.argv[1])
torch.set_num_threads(1)
deployable = Deployable(fold(make_student("ws-50k")), make_spec("ws-50k", head=True)).eval()
sys.stdout.buffer.write(to_onnx(deployable))
"""


@pytest.fixture(scope="module")
def exported(make):
    """Bytes of a ws-50k export with a head."""
    return to_onnx(Deployable(fold(make.student("ws-50k")), make.spec("ws-50k", head=True)).eval())


def test_standardised_convolutions_are_plain_with_constant_weights(exported):
    model = onnx.load_from_string(exported)
    operators = Counter(node.op_type for node in model.graph.node)
    constants = {entry.name for entry in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 8
    assert all({*node.input[1:]} <= constants for node in convolutions)
    assert not operators.keys() & {"Sqrt", "Pow", "Reciprocal", "InstanceNormalization"}
    assert operators["ReduceMean"] == 1  # the average pooling
    assert operators["Mul"] == 2  # the learnt scale of the two residual blocks: no gain beside a ReLU


def test_a_large_convolution_is_folded_as_well(make):
    """The exporter's own folding stops at 8,192 numbers; ws-200k has weights of 57,600."""
    model = onnx.load_from_string(
        to_onnx(Deployable(fold(make.student("ws-200k")), make.spec("ws-200k")).eval())
    )
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["Conv"] == 8
    assert operators["ReduceMean"] == 1
    assert not operators.keys() & {"Sqrt", "Pow", "Reciprocal"}


def test_file_has_the_opset_names_and_shapes_that_were_asked_for(exported):
    model = onnx.load_from_string(exported)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert shapes(model.graph.input) == {"image": ["batch", 32, 32, 1]}
    assert shapes(model.graph.output) == {"embedding": ["batch", 16], "scores": ["batch", 3]}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert all(key.startswith("edgecmd.") for key in properties)
    assert properties["edgecmd.format"] == "1"


def shapes(values):
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_file_tells_nothing_about_the_machine(exported):
    for secret in (str(ROOT), sys.prefix, torch.__version__, ".py", "site-packages", "stack_trace"):
        assert secret.encode() not in exported, secret
    model = onnx.load_from_string(exported)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert model.producer_version == ""
    for entry in model.graph.initializer:
        entry.ClearField("raw_data")  # a weight may hold any byte
    assert b"/" not in model.SerializeToString()


def test_same_student_gives_the_same_bytes_in_another_process_and_checkout(make, exported, tmp_path):
    again = to_onnx(Deployable(fold(make.student("ws-50k")), make.spec("ws-50k", head=True)).eval())
    assert again == exported
    checkout = tmp_path / "another-checkout"
    for package in ("edgecmd", "export"):
        unneeded = shutil.ignore_patterns("__pycache__", "*.npz", "*.safetensors")
        shutil.copytree(ROOT / package, checkout / package, ignore=unneeded)
    shutil.copy(Path(__file__).parent / "conftest.py", checkout)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXPORT_ELSEWHERE, checkout],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    assert b"another-checkout" not in done.stdout
    assert done.stdout == exported


def test_a_student_in_training_mode_is_refused(make):
    deployable = Deployable(make.student("gn-50k").eval(), make.spec("gn-50k")).eval()
    deployable.student.trunk[1].train()
    with pytest.raises(ExportError, match=r"Module 'student.trunk.1' is in training mode. Call .eval\(\)"):
        to_onnx(deployable)


def test_refusing_names_the_whole_module_when_it_is_that():
    with pytest.raises(ExportError, match=r"\(the whole\)"):
        refuse_training(torch.nn.Linear(1, 1))


def test_what_the_exporter_cannot_translate_is_an_export_error(make):
    class Distance(torch.nn.Module):
        def forward(self, image):
            rows = image.flatten(1)
            return torch.cdist(rows, rows)

    with pytest.raises(ExportError, match="torch cannot export architecture='ws-50k'"):
        to_onnx(Deployable(Distance(), make.spec("ws-50k")).eval())


def test_another_opset_functions_and_outside_data_are_refused(exported):
    model = onnx.load_from_string(exported)
    model.opset_import[0].version = 18
    with pytest.raises(ExportError, match=r"opsets=\{'ai.onnx': 18\}"):
        check_form(model)
    model = onnx.load_from_string(exported)
    model.functions.add(name="f")
    with pytest.raises(ExportError, match="1 functions"):
        check_form(model)
    model = onnx.load_from_string(exported)
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(ExportError, match="outside the file"):
        check_form(model)


def test_strip_removes_what_the_exporter_writes():
    node = onnx.helper.make_node("Relu", ["image"], ["embedding"], doc_string="/a/b.py")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File /a/b.py, line 3")
    values = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("image", "embedding")]
    for value in values:
        value.metadata_props.add(key="source", value="/a/b.py")
    graph = onnx.helper.make_graph(
        [node], "/a/g", values[:1], values[1:], doc_string="/a", value_info=values[:1]
    )
    model = onnx.helper.make_model(
        graph, producer_name="pytorch", producer_version="2.13/cpu", doc_string="/a"
    )
    model.metadata_props.add(key="where", value="/a")
    graph.metadata_props.add(key="where", value="/a")
    strip(model)
    assert b"/" not in model.SerializeToString()


def test_gain_of_the_activation_is_in_the_weights(make, exported):
    first = onnx.numpy_helper.to_array(
        next(
            entry
            for entry in onnx.load_from_string(exported).graph.initializer
            if entry.dims == [12, 1, 3, 3]
        )
    )
    student = make.student("ws-50k")
    expected = student.trunk[0][0].standardised_weight().detach().numpy() * RELU_GAIN
    assert abs(first - expected).max() <= 1e-6
