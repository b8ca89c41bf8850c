"""The ONNX file: what is in it, what is not, and that the same student always gives the same bytes."""

import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch

from edgecmd.core.errors import ExportError
from edgecmd.models.trunks.convolutions import RELU_GAIN
from export.documents.requirements import OPSET
from export.graph.deployable import Deployable
from export.graph.fold_standardised import fold
from export.graph.to_onnx import check_form, refuse_training, strip, to_onnx

ROOT = Path(__file__).parents[2]


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
    operators = Counter(node.op_type for node in model.graph.node if node.name.startswith("student."))
    assert operators["ReduceMean"] == 1  # the average pooling
    assert operators["Mul"] == 2  # the learnt scale of the two residual blocks: no gain beside a ReLU


def test_a_large_convolution_is_folded_as_well(make):
    """The exporter's own folding stops at 8,192 numbers; ws-200k has weights of 57,600."""
    model = onnx.load_from_string(
        to_onnx(Deployable(fold(make.student("ws-200k")), make.spec("ws-200k")).eval())
    )
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["Conv"] == 8
    assert operators["ReduceMean"] == 2  # the average pooling and the front end
    assert not operators.keys() & {"Sqrt", "Pow", "Reciprocal"}


def test_file_has_the_opset_names_and_shapes_that_were_asked_for(exported):
    model = onnx.load_from_string(exported)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert shapes(model.graph.input) == {"image": ["batch", "height", "width", 1]}
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


def test_nodes_are_named_after_the_modules_they_come_from(exported):
    names = [node.name for node in onnx.load_from_string(exported).graph.node]
    assert len(set(names)) == len(names)
    assert "student.trunk.3.first.0.Conv" in names
    assert "student.projector.Gemm" in names
    assert "front_end.large.Resize" in names
    # Beside front end and student: the L2 norm and the head.
    others = {name.split(".")[0] for name in names} - {"front_end", "student"}
    assert others == {"ReduceL2", "Clip", "Div", "Gemm", "Softmax"}


def test_file_tells_nothing_about_the_machine(exported):
    for secret in (str(ROOT), sys.prefix, torch.__version__, ".py", "site-packages", "stack_trace"):
        assert secret.encode() not in exported, secret
    model = onnx.load_from_string(exported)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert model.producer_version == ""
    for entry in model.graph.initializer:
        entry.ClearField("raw_data")  # a weight may hold any byte
    assert "/" not in str(model)  # as text: a length in the file may be that byte


def test_same_student_gives_the_same_bytes(make, exported):
    """In another process and folder as well: see the test of the whole bundle."""
    again = to_onnx(Deployable(fold(make.student("ws-50k")), make.spec("ws-50k", head=True)).eval())
    assert again == exported


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
    model.opset_import[0].version = 20
    with pytest.raises(ExportError, match=r"opsets=\{'ai.onnx': 20\}"):
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
