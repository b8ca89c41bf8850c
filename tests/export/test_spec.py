"""What an `ExportSpec` refuses, and the metadata it becomes."""

import dataclasses
import json

import numpy as np
import pytest

from edgecmd.core.errors import ExportError
from export.graph.spec import LinearHead
from export.graph.to_onnx import metadata


def test_metadata_says_everything_a_device_needs(make):
    found = metadata(make.spec("ws-50k", head=True))
    assert list(found) == sorted(found)
    assert found["edgecmd.format"] == "1"
    assert found["edgecmd.image_size"] == "32"
    assert found["edgecmd.channels"] == "1"
    assert found["edgecmd.embedding_dim"] == "16"
    assert found["edgecmd.architecture"] == "ws-50k"
    assert found["edgecmd.license"] == "Apache-2.0"
    assert found["edgecmd.front_end"] == "image"
    assert found["edgecmd.profile"] == "fp32"
    versions = {"numpy": "1.21", "onnxruntime": "1.14", "python": "3.8"}
    assert json.loads(found["edgecmd.requires"]) == versions
    assert json.loads(found["edgecmd.classes"]) == ["house", "tree", "fish"]
    assert json.loads(found["edgecmd.preprocess"]) == {
        "channel_order": "L",
        "dtype": "uint8",
        "input": "image",
        "layout": "NHWC",
        "offset": 1.0,
        "resize": "box-or-bilinear",
        "scale": -0.5,
        "size": "any",
    }


def test_without_a_head_there_are_no_classes_and_no_scores(make):
    spec = make.spec("gn-50k", channels=3)
    assert json.loads(metadata(spec)["edgecmd.classes"]) == []
    assert json.loads(metadata(spec)["edgecmd.preprocess"])["channel_order"] == "RGB"
    assert spec.output_names == ("embedding",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size=0 must be at least 1"),
        ({"scale": 0.0}, "scale not 0"),
        ({"offset": float("nan")}, "offset=nan"),
        ({"embedding_dim": 8}, "The head takes 16 numbers but embedding_dim=8"),
    ],
)
def test_settings_out_of_range_are_refused(make, change, message):
    with pytest.raises(ExportError, match=message):
        dataclasses.replace(make.spec("ws-50k", head=True), **change)


@pytest.mark.parametrize(
    ("weight", "bias", "names", "message"),
    [
        (np.zeros((1, 4)), np.zeros(1), ("a", "b"), r"weight.shape=\(1, 4\)"),
        (np.zeros((3, 4)), np.zeros(3), ("a", "b"), r"bias.shape=\(3,\), 2 names"),
        (np.zeros((1, 4)), np.zeros(1), ("a",), "K >= 2"),
        (np.zeros((2, 4)), np.zeros(2), ("a", "a"), "not all different"),
        (np.full((2, 4), np.nan), np.zeros(2), ("a", "b"), "not finite"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(weight, bias, names, message):
    with pytest.raises(ExportError, match=message):
        LinearHead(weight=weight, bias=bias, names=names)
