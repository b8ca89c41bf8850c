"""The profiles of one tiny student: what each file holds, and what is refused."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgecmd.core.errors import ConfigError, ExportError
from export.graph.deployable import Deployable
from export.graph.to_onnx import to_onnx
from export.profiles.quantise import quantised_layers, tidy
from export.profiles.sensitivity import Quality, find_culprit
from export.profiles.table import (
    PROFILES,
    Calibration,
    choose_profiles,
    file_name,
    limits_of,
    make_profile,
    refuse_malformed,
)
from export.trust.gate import gate


@pytest.fixture
def data(bundle):
    """The float32 file of ws-50k."""
    return (bundle("ws-50k") / "student.onnx").read_bytes()


def operators(data):
    return Counter(node.op_type for node in onnx.load_from_string(data).graph.node)


@pytest.mark.parametrize("name", ["fp32", "w8", "w4", "int8"])
def test_each_profile_passes_the_gate_says_so_and_is_made_alike_twice(make, data, name):
    found = make_profile(data, name, calibration=make.calibration())
    refuse_malformed(found, name=name)
    properties = {entry.key: entry.value for entry in gate(found).metadata_props}
    assert properties["edgecmd.profile"] == name
    assert properties["edgecmd.architecture"] == "ws-50k"
    assert make_profile(data, name, calibration=make.calibration()) == found


def test_weights_are_stored_in_whole_numbers_and_nothing_else_changes(data):
    model = onnx.load_from_string(make_profile(data, "w8"))
    large = [entry for entry in model.graph.initializer if np.prod(entry.dims) >= 1000]
    assert {entry.data_type for entry in large} == {onnx.TensorProto.INT8}
    scales = [entry for entry in model.graph.initializer if entry.name.endswith("weight.scale")]
    assert {entry.data_type for entry in scales} == {onnx.TensorProto.FLOAT16}
    assert operators(make_profile(data, "w8")) - operators(data) == Counter(
        {"Cast": 16, "Mul": 8, "Reshape": 8}
    )
    assert operators(make_profile(data, "w4"))["BitShift"] > 0
    assert len(make_profile(data, "w4")) < len(make_profile(data, "w8")) < 0.5 * len(data)


def test_int8_computes_in_whole_numbers_inside_the_student_alone(make, data):
    model = onnx.load_from_string(make_profile(data, "int8", calibration=make.calibration()))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    made = {output: node for node in model.graph.node for output in node.output}

    def quantised(name):
        node = next(node for node in model.graph.node if node.name == name)
        return made[node.input[0]].op_type == "DequantizeLinear"

    layers = quantised_layers(onnx.load_from_string(data))
    assert [quantised(name) for name in layers] == [False, *[True] * 7, False]
    assert not any(quantised(name) for name in ("ReduceL2", "Softmax"))
    assert made["embedding"].op_type == "Div"


def test_groupnorm_is_left_in_float32(make, bundle):
    data = (bundle("gn-50k") / "student.onnx").read_bytes()
    calibration = Calibration(inputs=make.images(4, channels=3), description="noise")
    found = make_profile(data, "int8", calibration=calibration)
    assert operators(found)["InstanceNormalization"] == operators(data)["InstanceNormalization"] == 8
    refuse_malformed(found, name="gn")


def test_int8_needs_calibration_and_dyn8_no_convolutions(data):
    with pytest.raises(ExportError, match="int8 needs calibration inputs, public or procedural"):
        make_profile(data, "int8")
    with pytest.raises(ExportError, match=r"has 8 convolutions.*3\.8 times the latency.*Use int8"):
        make_profile(data, "dyn8")


def test_dyn8_quantises_the_matrix_products_of_a_student_without_convolutions(make):
    generator = torch.Generator().manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 32), nn.ReLU(), nn.Linear(32, 16))
    for layer in (student[1], student[3]):
        nn.init.normal_(layer.weight, generator=generator)
        nn.init.normal_(layer.bias, generator=generator)
    data = to_onnx(Deployable(student, make.spec("ws-50k")).eval())
    found = make_profile(data, "dyn8")
    refuse_malformed(found, name="dyn8")
    assert operators(found)["MatMulInteger"] == 2
    assert operators(found)["DynamicQuantizeLinear"] == 2
    with pytest.raises(ExportError, match="no matrix product"):
        make_profile(to_onnx(Deployable(_Plain(), make.spec("ws-50k")).eval()), "dyn8")


class _Plain(nn.Module):
    """A student without layers."""

    def forward(self, image):
        return image.flatten(1)[:, :16] + 1.0


def test_lists_of_profiles():
    assert choose_profiles("w8") == ("w8",)
    assert choose_profiles(" int8, w8,") == ("int8", "w8")
    assert [file_name(name, profiles=("int8", "w8")) for name in ("int8", "w8")] == [
        "student.onnx",
        "student.w8.onnx",
    ]
    with pytest.raises(ConfigError, match=r"'int9' is unknown.*Did you mean 'int8'"):
        choose_profiles("w8,int9")
    for wrong in ("", "w8,w8"):
        with pytest.raises(ConfigError, match="one or more profiles, each once"):
            choose_profiles(wrong)


def test_limits_by_profile():
    assert limits_of("fp32").max_abs == 1e-4
    assert (limits_of("fp32").min_cosine, limits_of("w8").min_cosine) == (0.9999, 0.9995)
    assert limits_of("w8", min_cosine=0.99).min_cosine == 0.99
    assert limits_of("int8", min_cosine=0.9999).min_cosine == PROFILES["int8"].limits.min_cosine
    assert limits_of("int8").max_metric_gap == 0.01


def test_tidying_removes_opsets_that_no_node_uses(data):
    model = onnx.load_from_string(data)
    model.opset_import.extend([onnx.helper.make_opsetid("com.microsoft", 1)])
    tidy(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]


def test_the_culprit_is_the_layer_whose_leaving_out_helps_most():
    figures = {(): (0.5, 0.9), ("a",): (0.6, 0.91), ("b",): (0.7, 0.92), ("c",): (0.7, 0.95)}
    culprit = find_culprit(["a", "b", "c"], quality=lambda names: Quality(*figures[tuple(names)]))
    assert culprit.layer == "c"  # the metric is equal to that of b, the cosine is better
    assert "takes the metric from 0.5000 to 0.7000 and the mean cosine from 0.90000 to 0.95000" in str(
        culprit
    )
