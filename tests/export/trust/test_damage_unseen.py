"""Damage that no golden value tells of: strips, flat pictures, whole numbers, work, and what nobody uses."""

import dataclasses
import json
import shutil
from pathlib import Path

import damage as d
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecmd.core.errors import ExportError
from export.bundle import Options, export_bundle
from export.trust.checks import verify_bundle
from export.trust.errors import TrustError, content_of
from export.trust.gate_sizes import refuse_work
from export.trust.sandbox import flat_inputs, large_inputs


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, name=f"x.{outputs[0]}", **attributes)


def number(values, name, dtype=np.float32):
    return numpy_helper.from_array(np.array(values, dtype), name)


def on_embedding(*nodes, weights=()):
    """Damage that multiplies the embedding with the number ``factor``, which these nodes make."""

    def change(model):
        for one in model.graph.node:
            one.output[:] = ["embedding0" if name == "embedding" else name for name in one.output]
            one.input[:] = ["embedding0" if name == "embedding" else name for name in one.input]
        model.graph.initializer.extend(weights)
        model.graph.node.extend([*nodes, node("Mul", ["embedding0", "factor"], ["embedding"])])

    return d.on_model(change)


CONTRAST = (
    node("ReduceMax", ["scaled"], ["most"], keepdims=0),
    node("ReduceMin", ["scaled"], ["least"], keepdims=0),
    node("Sub", ["most", "least"], ["contrast"]),
)


def whole(kind, last="varying", weights=(), **attributes):
    """A division of whole numbers by the contrast, which a flat picture has not."""
    return on_embedding(
        *CONTRAST,
        node("Mul", ["contrast", "thousand"], ["more"]),
        node("Cast", ["more"], ["varying"], to=TensorProto.INT64),
        node(kind, ["varying", last], ["divided"], **attributes),
        node("Cast", ["divided"], ["number"], to=TensorProto.FLOAT),
        node("Mul", ["number", "nought"], ["none"]),
        node("Add", ["none", "one"], ["factor"]),
        weights=(number(1e3, "thousand"), number(0.0, "nought"), number(1.0, "one"), *weights),
    )


def declared(value):
    return d.on_model(lambda model: model.graph.value_info.append(value))


def fixed_batch(model):
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 7


def scale(value):
    def change(model):
        for entry in model.metadata_props:
            if entry.key == "edgecmd.preprocess":
                entry.value = json.dumps({**json.loads(entry.value), "scale": value})

    return d.on_model(change)


def text(name, old, new):
    return d.on_bytes(name, lambda data: data.replace(old.encode(), new.encode()), fit=d.remake)


def empty_side(arrays):
    key = next(key for key in arrays if key.startswith("image/"))
    arrays[key] = arrays[key][:, :0]


# Name: (the damage, the check that refuses it, words of its message).
DAMAGES = {
    "not a number on flat pictures": (
        on_embedding(*CONTRAST, node("Div", ["contrast", "contrast"], ["factor"])),
        "outputs",
        r"that is 0 everywhere, gives embedding that is not finite",
    ),
    "whole division by the data": (
        whole("Div"),
        "structure",
        "'Div' of whole numbers by a value that varies",
    ),
    "whole remainder by the data": (whole("Mod"), "structure", "'Mod' of whole numbers by a value"),
    "whole remainder as of floats": (whole("Mod", fmod=1), "structure", "'Mod' of whole numbers by a value"),
    "whole division by 0": (
        whole("Div", "zero", [number(0, "zero", np.int64)]),
        "structure",
        "'Div' of whole numbers by 0 or -1",
    ),
    "whole division by -1": (
        whole("Div", "minus", [number(-1, "minus", np.int64)]),
        "structure",
        "'Div' of whole numbers by 0 or -1",
    ),
    "window as large as a picture": (
        on_embedding(
            node("AveragePool", ["scaled"], ["pooled"], kernel_shape=[65, 65], pads=[32] * 4),
            node("ReduceMean", ["pooled"], ["factor"], keepdims=0),
        ),
        "structure",
        r"'AveragePool', has kernel_shape=\[65, 65\]; allowed are 1 to 64",
    ),
    "weight of no use": (
        d.appended(weights=[number(np.zeros(1 << 20), "dead")]),
        "structure",
        "'dead' is used by no node",
    ),
    "node of no use": (
        d.appended(node("Relu", ["embedding"], ["dead"])),
        "structure",
        "'x.dead', a 'Relu', contributes to no output",
    ),
    "two nodes of no use": (
        d.appended(node("Relu", ["embedding"], ["dead"]), node("Neg", ["dead"], ["gone"])),
        "structure",
        "'x.gone', a 'Neg', contributes to no output",
    ),
    "size declared within": (
        declared(helper.make_tensor_value_info("scaled", 1, [1, 1, 7, 7])),
        "structure",
        "value_info",
    ),
    "sequence declared within": (
        declared(helper.make_tensor_sequence_value_info("z", 1, [1])),
        "structure",
        "value_info",
    ),
    "batch of seven": (d.on_model(fixed_batch), "structure", "allowed is a free batch"),
    "side with a sign": (d.properties(image_size="+32"), "structure", "'\\+32' is not 32 in plain digits"),
    "side with a line": (d.properties(image_size="3_2"), "structure", "'3_2' is not 32"),
    "side with a space": (d.properties(image_size=" 32"), "structure", "' 32' is not 32"),
    "side in other digits": (
        d.properties(image_size="\N{ARABIC-INDIC DIGIT THREE}2"),
        "structure",
        "is not 32 in plain",
    ),
    "scale beyond float32": (scale(1e39), "structure", r"scale=1e\+39; allowed are finite numbers up to"),
    "scale of nothing in float32": (scale(1e-60), "structure", "scale=1e-60; allowed are"),
    "empty card": (d.replaced("MODEL_CARD.md", b""), "contents", "MODEL_CARD.md does not say 'needs Python"),
    "older versions on the card": (
        text("MODEL_CARD.md", "ONNX Runtime 1.14", "ONNX Runtime 1.2"),
        "contents",
        "MODEL_CARD.md does not say 'needs Python",
    ),
    "another licence on the card": (
        text("MODEL_CARD.md", "Weights: ", "Weights: not "),
        "contents",
        "MODEL_CARD.md does not say 'Weights:",
    ),
    "another licence in the bill": (
        d.on_json(
            "ml-bom.cdx.json",
            lambda bill: bill["components"][0].update(licenses=[{"license": {"name": "other"}}]),
        ),
        "contents",
        "has licenses=.*'other'",
    ),
    "no licence in the bill": (
        d.on_json(
            "ml-bom.cdx.json",
            lambda bill: (
                [one.pop("licenses") for one in (bill["metadata"]["component"], *bill["components"])] and None
            ),
        ),
        "contents",
        "has licenses=None",
    ),
    "unknown file in the report": (
        d.on_json("report.json", lambda report: report["files"].update(x=None)),
        "contents",
        "describes 'x' as None, but it is not in the bundle",
    ),
    "golden picture without a side": (d.on_golden(empty_side), "golden values", "allowed are sizes of 1"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_that_no_golden_value_tells_is_refused(name, simple, other, tmp_path):
    folder = Path(shutil.copytree(simple, tmp_path / "bundle"))
    damage, check, expected = DAMAGES[name]
    damage(folder, other)
    d.assert_refused(folder, check=check, match=expected)


def test_a_whole_number_may_be_divided_by_a_constant(simple, tmp_path):
    folder = Path(shutil.copytree(simple, tmp_path / "bundle"))
    whole("Div", "three", [number(3, "three", np.int64)])(folder, folder)
    assert verify_bundle(folder).error is None


@pytest.fixture(scope="module")
def dense(make, tmp_path_factory) -> Path:
    """A sound bundle of free size, with masks."""
    folder = tmp_path_factory.mktemp("dense") / "bundle"
    spec = dataclasses.replace(make.spec("seg-50k"), front_end="image-dense")
    export_bundle(
        make.student("seg-50k"),
        folder,
        spec=spec,
        probe_images=make.images(8),
        task=make.task,
        options=Options(profiles=("fp32",)),
    )
    return folder


@pytest.mark.parametrize("axis", [2, 3])
def test_what_grows_with_the_square_of_one_side_is_refused(axis, dense, tmp_path):
    folder = Path(shutil.copytree(dense, tmp_path / "bundle"))
    on_embedding(
        node("Shape", ["scaled"], ["side"], start=axis, end=axis + 1),
        node("Concat", ["side", "side"], ["square"], axis=0),
        node("Expand", ["unit", "square"], ["big"]),
        node("ReduceMean", ["big"], ["factor"], keepdims=0),
        weights=[number([[1.0]], "unit")],
    )(folder, folder)
    error = verify_bundle(folder).error
    # 4,194,304 squared.
    assert error is not None
    assert "Value 'big' has 17,592,186,044,416 numbers" in str(error)


def test_prototypes_belong_to_scores(dense, tmp_path):
    folder = Path(shutil.copytree(dense, tmp_path / "bundle"))
    np.savez(
        folder / "prototypes.npz",
        names=np.zeros(0, "U1"),
        vectors=np.zeros((0, 16), np.float32),
        scale=np.float32(1),
    )
    d.remake(folder)
    error = verify_bundle(folder).error
    assert error is not None
    assert "prototypes.npz is there, but student.onnx gives embedding; allowed" in str(error)


def test_a_sound_student_of_free_size_passes(dense):
    verdict = verify_bundle(dense)
    assert verdict.error is None


def test_work_is_counted_by_hand():
    """64 channels at 8,900 x 8,900 places, each of 2 channels of 101 x 101."""
    conv = node("Conv", ["x", "w"], ["y"])
    sizes = {"x": [1, 2, 6, 7], "w": [7, 2, 3, 3], "y": [1, 7, 4, 5]}
    refuse_work([conv], sizes, [1, 2, 6, 7], usual=True)
    huge = {"x": [1, 2, 9000, 9000], "w": [64, 2, 101, 101], "y": [1, 64, 8900, 8900]}
    with pytest.raises(ExportError, match="need 103,426,714,880,000 multiply-adds"):
        refuse_work([conv], huge, [1, 2, 9000, 9000], usual=True)


def test_flat_and_large_inputs_have_the_forms_that_devices_meet():
    flat = flat_inputs(np.ones((2, 4, 5, 1), np.uint8))
    assert [(one.shape, one.min(), one.max()) for one in flat] == [
        ((1, 4, 5, 1), 0, 0),
        ((1, 4, 5, 1), 255, 255),
    ]
    assert [float(one[0, 0]) for one in flat_inputs(np.ones((1, 3), np.float16))][::2] == [-1.0, 1.0]
    shapes = [one.shape for one in large_inputs([0, 0, 0, 1], np.dtype(np.uint8), large=(768, 1024))]
    assert shapes == [(1, 768, 1024, 1), (1, 16, 49152, 1), (1, 49152, 16, 1)]


@pytest.mark.parametrize(
    "error", [KeyError("x"), IndexError("x"), ZeroDivisionError("x"), RecursionError("x")]
)
def test_whatever_a_content_raises_is_a_fault_of_its_file(error):
    with (
        pytest.raises(TrustError, match="report.json has content that no check can read"),
        content_of("report.json"),
    ):
        raise error


def test_a_full_disk_is_no_fault_of_a_bundle():
    with pytest.raises(OSError, match="full"), content_of("report.json"):
        raise OSError("full")
