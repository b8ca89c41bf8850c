"""Weights in fewer bits: what is stored, how far it is off, and that ONNX Runtime computes with it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.store import (
    MIN_SIZE_4_BITS,
    StoredWeight,
    balanced_steps,
    channel_scale,
    clipped_scale,
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


def test_every_channel_has_its_own_scale():
    weight = np.stack([np.full((16, 4, 4), 127.0), np.full((16, 4, 4), 0.127)]).astype(np.float32)
    one = StoredWeight(name="w", values=weight, axis=0)
    np.testing.assert_allclose(channel_scale(one, largest=127).ravel(), [1.0, 0.001], rtol=1e-6)
    steps = balanced_steps(one, channel_scale(one, largest=127), largest=127)
    assert (steps == 127).all()


def test_a_channel_of_zeros_stays_zero():
    one = StoredWeight(name="w", values=np.zeros((2, 300), np.float32), axis=0)
    for scale in (channel_scale(one, largest=127), clipped_scale(one, largest=7)):
        assert np.isfinite(scale).all()
        assert (balanced_steps(one, scale, largest=7) == 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(6, 5, 3, 3), (8, 70)]))
def test_rounding_is_balanced_and_off_by_at_most_a_step(seed, shape):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    one = StoredWeight(name="w", values=values, axis=0)
    scale = channel_scale(one, largest=127)
    error = values / scale - balanced_steps(one, scale, largest=127)
    assert np.abs(error).max() <= 1.0 + 1e-4
    groups = error.reshape(shape[0], shape[1], -1) if len(shape) == 4 else error[:, :64].reshape(8, 2, 32)
    # The sum of a group is rounded too, unless a number was at its limit already.
    assert np.abs(groups.sum(axis=-1)).max() <= 1.5
    assert np.median(np.abs(groups.sum(axis=-1))) <= 0.5


def test_clipping_lowers_the_error():
    values = draw(10, 400)
    one = StoredWeight(name="w", values=values, axis=0)

    def error(scale):
        return np.square(values - np.clip(np.rint(values / scale), -7, 7) * scale).sum()

    assert error(clipped_scale(one, largest=7)) < 0.9 * error(channel_scale(one, largest=7))


def test_nibbles_by_hand():
    # -7..7 plus 8; the first half low, the second high; an odd number is filled up with a zero (8).
    assert pack_nibbles(np.array([-7, 0, 7, 1])).tolist() == [1 | 15 << 4, 8 | 9 << 4]
    assert pack_nibbles(np.array([1, 2, 3])).tolist() == [9 | 11 << 4, 10 | 8 << 4]


def test_small_weights_biases_and_scales_stay_as_they_are():
    model = layer("Conv", draw(4, 4, 3, 3))
    assert list(large_weights(model)) == []
    assert store(model, bits=8).SerializeToString() == model.SerializeToString()
