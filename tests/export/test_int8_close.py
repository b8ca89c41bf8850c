"""What brings int8 closer to the student: factors folded, channels alike, ranges, carried rounding."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from export.profiles.channels import Rewritten, equalise, fold_factors, streams, values_to_scale
from export.profiles.quantise import quantise_static
from export.profiles.ranges import MARGIN, Extremes, extremes_of
from export.profiles.rounding import MOST_WEIGHTS, Window, carried_steps, products, window_of

SIDE = 4


def residual(*, factor: float = 0.5) -> onnx.ModelProto:
    """``last(mean and max of (y + factor * second(y)))``, with ``y = relu(first(image))``."""
    coins = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(coins.normal(size=shape).astype(np.float32), name)

    def node(kind: str, inputs: list[str], output: str, **more: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"student.{output}.{kind}", **more)

    nodes = [
        node("Conv", ["image", "w1", "b1"], "a"),
        node("Relu", ["a"], "y"),
        node("Conv", ["y", "w2", "b2"], "c", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], "d"),
        node("Mul", ["factor", "d"], "e"),
        node("Add", ["y", "e"], "f"),
        node("ReduceMean", ["f", "axes"], "mean", keepdims=0),
        node("ReduceMax", ["f", "axes"], "max", keepdims=0),
        node("Concat", ["mean", "max"], "both", axis=1),
        node("Gemm", ["both", "w3", "b3"], "embedding", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2, SIDE, SIDE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3])],
        [
            *(
                weight("w1", 5, 2, 1, 1),
                numpy_helper.from_array(np.ones(5, np.float32), "b1"),
                weight("w2", 5, 5, 3, 3),
                weight("b2", 5),
            ),
            *(weight("w3", 3, 10), weight("b3", 3), numpy_helper.from_array(np.array([2, 3]), "axes")),
            numpy_helper.from_array(np.float32(factor), "factor"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def images(num: int = 6) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(num, 2, SIDE, SIDE)).astype(np.float32)


def answer(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0])


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_a_positive_factor_becomes_part_of_the_convolution_before_it():
    model = residual()
    folded = fold_factors(model)
    assert "Mul" in kinds(model)
    assert "Mul" not in kinds(folded)
    assert "factor" not in {one.name for one in folded.graph.initializer}
    np.testing.assert_allclose(answer(folded, images()), answer(model, images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [-0.5, 0.0])
def test_a_factor_that_would_turn_the_relu_around_stays(factor):
    assert fold_factors(residual(factor=factor)) == residual(factor=factor)


def test_values_that_are_added_share_the_factors_of_their_channels():
    (stream,) = streams(Rewritten(fold_factors(residual())))
    assert stream.values == {"a", "y", "c", "d", "f", "mean", "max"}
    assert {node.input[1] for node in stream.writers} == {"w1", "w2"}
    assert {(node.input[1], first) for node, first in stream.readers} == {("w2", 0), ("w3", 0), ("w3", 5)}
    # With the multiplication in between, nothing is known of it.
    assert not list(streams(Rewritten(residual())))


def test_channels_are_alike_after_and_the_answer_stays():
    model = fold_factors(residual())
    assert values_to_scale(model) == ["d", "f", "y"]
    tops = {name: one.high.max(axis=0) for name, one in extremes_of(model, images(), ["y"]).items()}
    equal = equalise(model, tops, strength=1.0)
    after = extremes_of(equal, images(), ["y"])["y"].high.max(axis=0)
    np.testing.assert_allclose(after, tops["y"].max(), rtol=1e-5)
    half = extremes_of(equalise(model, tops, strength=0.5), images(), ["y"])["y"].high.max(axis=0)
    np.testing.assert_allclose(half, np.sqrt(tops["y"] * tops["y"].max()), rtol=1e-5)
    np.testing.assert_allclose(answer(equal, images()), answer(model, images()), rtol=1e-4, atol=1e-4)
    assert equalise(model, tops, strength=0.0) == model


def test_a_value_that_leaves_the_graph_is_not_scaled():
    model = fold_factors(residual())
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5, SIDE, SIDE]))
    assert values_to_scale(model) == []


def test_ranges_leave_out_few_inputs_and_have_room():
    # 1,001 inputs: 0, 1, ..., 1000 in the first channel; the share of 0.995 ends at 995.
    high = np.stack([np.arange(1001.0), np.zeros(1001)], axis=1)
    extremes = Extremes(low=-high / 10, high=high)
    np.testing.assert_allclose(extremes.range(), (-99.5 * MARGIN, 995 * MARGIN), rtol=1e-6)
    np.testing.assert_allclose(extremes.tops(), [995, 0], rtol=1e-6)
    # 0 is inside, or padding could not be written.
    assert Extremes(low=high + 1, high=high + 2).range()[0] == 0


def test_the_products_of_a_window_tell_what_a_loss_of_weights_costs():
    coins = np.random.default_rng(2)
    inputs = coins.normal(size=(3, 4, 7, 6)).astype(np.float32)
    weight = coins.normal(size=(1, 4, 3, 2)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2])
    window = window_of(node, shape=weight.shape)
    assert window is not None
    found, num = products(inputs, window)
    padded = functional.pad(torch.from_numpy(inputs), (0, 1, 1, 2))
    given = functional.conv2d(padded, torch.from_numpy(weight), stride=(2, 1), dilation=(1, 2))
    row = weight.ravel().astype(np.float64)
    assert num == given.numel()
    assert row @ found @ row == pytest.approx(float(given.square().sum()), rel=1e-4)


@pytest.mark.parametrize("more", [{"group": 4}, {"auto_pad": "SAME_UPPER"}])
def test_other_convolutions_are_rounded_to_the_nearest(more):
    assert window_of(helper.make_node("Conv", ["x", "w"], ["y"], **more), shape=(4, 1, 3, 3)) is None
    assert window_of(helper.make_node("Gemm", ["x", "w"], ["y"]), shape=(4, 4)) is None
    assert window_of(helper.make_node("Conv", ["x", "w"], ["y"]), shape=(4, 1, 3, 3)) == Window(kernel=(3, 3))
    assert MOST_WEIGHTS >= 184 * 9  # the widest student of the table


def test_rounding_that_carries_on_loses_less_and_alone_is_to_the_nearest():
    coins = np.random.default_rng(3)
    weight = coins.normal(size=(16, 24)).astype(np.float32)
    scale = np.abs(weight).max(axis=1) / 127
    nearest = np.rint(weight / scale[:, None])
    # Inputs that have nothing to do with each other: no weight can make good what another lost.
    np.testing.assert_array_equal(carried_steps(weight, scale, np.eye(24)), nearest)
    inputs = coins.normal(size=(400, 6)) @ coins.normal(size=(6, 24)) + 0.3 * coins.normal(size=(400, 24))
    matrix = inputs.T @ inputs / len(inputs)
    carried = carried_steps(weight, scale, matrix)
    assert carried.dtype == np.int8
    assert np.abs(carried.astype(int)).max() <= 127

    def lost(steps: np.ndarray) -> float:
        loss = steps * scale[:, None] - weight
        return float(np.einsum("ok,kl,ol->", loss, matrix, loss))

    assert lost(carried) < 0.6 * lost(nearest)


def test_inputs_that_never_move_a_layer_leave_it_at_the_nearest():
    weight = np.random.default_rng(4).normal(size=(3, 8)).astype(np.float32)
    scale = np.abs(weight).max(axis=1) / 127
    np.testing.assert_array_equal(
        carried_steps(weight, scale, np.zeros((8, 8))), np.rint(weight / scale[:, None])
    )


def test_the_last_addition_is_not_rounded_and_answers_are_near():
    model = residual()
    inputs = images(64)
    made = quantise_static(model, inputs, leave_out=["student.a.Conv", "student.embedding.Gemm"])
    makers = {name: node for node in made.graph.node for name in node.output}
    (added,) = [node for node in made.graph.node if node.op_type == "Add"]
    assert {node.op_type for node in made.graph.node if added.output[0] in node.input} == {
        "ReduceMean",
        "ReduceMax",
    }
    assert {makers[name].op_type for name in added.input} == {"DequantizeLinear"}
    expected, found = answer(model, inputs), answer(made, inputs)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
