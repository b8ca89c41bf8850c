"""Weights in fewer bits: what is stored, how far it is off, and that ONNX Runtime computes with it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.profiles.weight_compression import (
    MIN_SIZE_4_BITS,
    StoredWeight,
    balanced_steps,
    clipped_scale,
    group_scale,
    large_weights,
    pack_nibbles,
    store,
)


def layer(op, weight, **attributes):
    """A file with one layer of that weight."""
    shape = [1, weight.shape[1], 5, 5] if op == "Conv" else [1, weight.shape[0]]
    if op == "Gemm" and attributes.get("transB"):
        shape = [1, weight.shape[1]]
    node = helper.make_node(op, ["image", "weight"], ["embedding"], name=f"student.{op}", **attributes)
    graph = helper.make_graph(
        [node],
        "student",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def outputs(model, image):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": image})[0]


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("op", "shape", "attributes"),
    [
        ("Conv", (24, 16, 3, 3), {}),  # enough for 4 bits
        ("Conv", (7, 15, 3, 3), {}),  # an odd number of weights, 8 bits
        ("Conv", (25, 9, 3, 3), {}),  # an odd number of weights, 4 bits
        ("Gemm", (24, 40), {"transB": 1}),
        ("Gemm", (40, 24), {}),
        ("MatMul", (40, 24), {}),
    ],
)
def test_stored_layer_computes_nearly_the_same(op, shape, attributes, bits):
    model = layer(op, draw(*shape), **attributes)
    small = store(model, bits=bits)
    onnx.checker.check_model(small, full_check=True)
    image = draw(*[one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim])
    expected, found = outputs(model, image), outputs(small, image)
    four = bits == 4 and op == "Conv" and np.prod(shape) >= MIN_SIZE_4_BITS
    gap = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 0 < gap <= (0.2 if four else 0.015)
    assert model.graph.initializer[0].name == "weight"  # the original is as it was
    assert small.ByteSize() < model.ByteSize()


def test_every_group_of_inputs_has_its_own_scale():
    values = np.ones((2, 8, 3, 3), np.float32)
    values[0, :4], values[0, 4:], values[1] = 127.0, 63.5, 254.0
    one = StoredWeight(name="w", values=values, axis=0)
    assert one.groups().shape == (2, 2, 36)
    scale = group_scale(one.groups(), largest=127)
    assert scale.squeeze().tolist() == [[1.0, 0.5], [2.0, 2.0]]
    assert (balanced_steps(one.groups(), scale, largest=127, kernel=one.kernel) == 127).all()


def test_groups_are_cut_along_the_inputs_wherever_they_stand():
    values = np.arange(64 * 3, dtype=np.float32).reshape(64, 3)  # a MatMul's weight: inputs first
    groups = StoredWeight(name="w", values=values, axis=1).groups()
    assert groups.shape == (3, 2, 32)
    np.testing.assert_array_equal(groups[1, 0], values[:32, 1])


def test_zeros_stay_zero():
    groups = np.zeros((2, 3, 36), np.float32)
    for scale in (group_scale(groups, largest=127), clipped_scale(groups, largest=7)):
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
        assert (balanced_steps(groups, scale, largest=7) == 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 9]), st.sampled_from([1e-3, 1.0, 30.0]))
def test_rounding_is_balanced_and_off_by_at_most_a_step(seed, kernel, size):
    groups = (size * np.random.default_rng(seed).normal(size=(6, 4, 36))).astype(np.float32)
    scale = group_scale(groups, largest=127)
    assert (scale == scale.astype(np.float16)).all()
    error = groups / scale - balanced_steps(groups, scale, largest=127, kernel=kernel)
    assert np.abs(error).max() <= 1.0 + 1e-3
    sums = error.reshape(-1, kernel or 36).sum(axis=1)
    # The sum of a kernel is rounded too, unless a number was at its limit already.
    assert np.abs(sums).max() <= 1.5 + 1e-3
    assert np.median(np.abs(sums)) <= 0.5


def test_clipping_lowers_the_error():
    groups = draw(10, 4, 100)

    def error(scale):
        return np.square(groups - np.clip(np.rint(groups / scale), -7, 7) * scale).sum()

    assert error(clipped_scale(groups, largest=7)) < 0.95 * error(group_scale(groups, largest=7))


def test_nibbles_by_hand():
    # -7..7 plus 8; the first half low, the second high; an odd number is filled up with a zero (8).
    assert pack_nibbles(np.array([-7, 0, 7, 1])).tolist() == [1 | 15 << 4, 8 | 9 << 4]
    assert pack_nibbles(np.array([1, 2, 3])).tolist() == [9 | 11 << 4, 10 | 8 << 4]


def test_small_weights_biases_and_scales_stay_as_they_are():
    model = layer("Conv", draw(4, 4, 3, 3))
    assert list(large_weights(model)) == []
    assert store(model, bits=8).SerializeToString() == model.SerializeToString()


def mobile(*, depthwise: bool, wide: int = 2000) -> onnx.ModelProto:
    """A small convolution, a depthwise or plain one, and a wide one in a row."""
    coins = np.random.default_rng(2)
    shapes = {"small": (32, 16, 1, 1), "middle": (32, 1 if depthwise else 32, 3, 3), "wide": (wide, 32, 1, 1)}
    weights = {name: coins.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    ends = ["image", "first", "second", "embedding"]
    nodes = [
        helper.make_node(
            "Conv",
            [ends[place], name],
            [ends[place + 1]],
            name=f"student.{name}",
            group=32 if depthwise and name == "middle" else 1,
        )
        for place, name in enumerate(shapes)
    ]
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 16, 5, 5])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def stored(model: onnx.ModelProto, *, bits: int = 8) -> set[str]:
    return {entry.name for entry in store(model, bits=bits).graph.initializer}


@pytest.mark.parametrize("bits", [8, 4])
def test_narrow_layers_beside_depthwise_ones_have_sixteen_bits(bits: int) -> None:
    model = mobile(depthwise=True)
    names = stored(model, bits=bits)
    assert {"small.half", "middle.half"} <= names
    assert not any(name.startswith("wide.half") for name in names)
    for entry in store(model, bits=bits).graph.initializer:
        if entry.name.endswith(".half"):
            own = next(one for one in model.graph.initializer if f"{one.name}.half" == entry.name)
            expected = numpy_helper.to_array(own).astype(np.float16)
            np.testing.assert_array_equal(numpy_helper.to_array(entry), expected)
    image = np.random.default_rng(3).normal(size=(1, 16, 5, 5)).astype(np.float32)
    before, after = outputs(model, image), outputs(store(model, bits=8), image)
    np.testing.assert_allclose(after, before, atol=0.01 * np.abs(before).max())


def test_without_depthwise_layers_nothing_is_narrow() -> None:
    assert not any(name.endswith(".half") for name in stored(mobile(depthwise=False)))


def test_a_weight_beyond_float16_keeps_its_scales() -> None:
    model = mobile(depthwise=True)
    huge = numpy_helper.to_array(model.graph.initializer[0]) * 1e6
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(huge.astype(np.float32), "small"))
    assert "small.half" not in stored(model)


def looked_up(table, **attributes):
    """A file that finds rows 1, 0 and 1 of a table for any input."""
    nodes = [
        helper.make_node("Cast", ["image"], ["rows"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "rows"], ["embedding"], name="student.Gather", **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("bits", "width", "largest"), [(8, 64, 127), (4, 64, 7), (4, 63, 127)])
def test_rows_of_a_table_have_a_scale_each_and_are_turned_back_once_found(bits, width, largest):
    table = draw(1100, width)
    table[1] *= 1000
    model = looked_up(table)
    small = store(model, bits=bits)
    onnx.checker.check_model(small, full_check=True)
    # Numbers with a sign of 8 bits, or two of 4 in a byte, and a float16 a row.
    assert small.ByteSize() <= 1100 * (width * (1 if largest == 127 else 0.5) + 2) + 1000
    found, wanted = outputs(small, np.array([1, 0, 1], np.float32)), table[[1, 0, 1]]
    step = np.abs(wanted).max(axis=1, keepdims=True) / largest
    # At most half a step, of 4 bits more where the largest are clipped; a step is rounded up to a float16.
    near = np.abs(found - wanted) <= step * (0.501 if largest == 127 else 0.51)
    assert near.all() if largest == 127 else near.mean() > 0.9


def test_tables_that_are_small_shared_or_looked_up_along_another_axis_stay_as_they_are():
    twice = looked_up(draw(1100, 64))
    twice.graph.node.add().CopyFrom(helper.make_node("Relu", ["table"], ["other"], name="student.Relu"))
    for model in (looked_up(draw(256, 32)), looked_up(draw(1100, 64), axis=1), twice):
        assert store(model, bits=8).SerializeToString() == model.SerializeToString()
