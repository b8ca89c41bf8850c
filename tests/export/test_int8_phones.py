"""Networks for phones in 8 bits: which layers are worth it, which stay, and what is said where none is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

import export.bundle
from edgecmd.models.any_student import student
from export.bundle import Options, export_bundle
from export.profiles.quantise import layers_in_8_bits, paying_layers, quantised_layers
from export.profiles.table import INT8, PROFILES, Calibration, summary_of
from export.trust.checks import verify_bundle
from export.trust.verify import ParityError

# Weights (output channels, input channels of a group, height, width) by hand:
# expand 96 * 24 / (96 + 24) = 19.2 a channel, depthwise 96 * 9 / (96 + 96) = 4.5, squeeze and excite
# 24 * 96 / (24 + 96) = 19.2, project 192 * 96 / (192 + 96) = 64, last 24 * 192 / (24 + 192) = 21.3.
SHAPES = {
    "expand": (96, 24, 1, 1),
    "depthwise": (96, 1, 3, 3),
    "squeeze": (24, 96, 1, 1),
    "excite": (96, 24, 1, 1),
    "project": (192, 96, 1, 1),
    "last": (24, 192, 1, 1),
}
SIDE = 5


def network(
    activation: str, *, gate: str = "HardSigmoid", group: int = 96, **shapes: tuple[int, ...]
) -> bytes:
    """A block with squeeze-and-excitation and a residual sum, as a file of the exporter would have it."""
    coins, sizes = np.random.default_rng(2), SHAPES | shapes
    if group == 1:
        sizes["depthwise"] = (96, 96, 3, 3)
    weights = {
        name: (coins.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in sizes.items()
    }

    def conv(name: str, source: str, target: str, **more: object) -> onnx.NodeProto:
        return helper.make_node(
            "Conv", [source, f"{name}.weight"], [target], name=f"student.{name}.Conv", **more
        )

    def other(kind: str, sources: list[str], target: str, **more: object) -> onnx.NodeProto:
        return helper.make_node(kind, sources, [target], name=f"student.{target}.{kind}", **more)

    nodes = [
        conv("expand", "image", "a"),
        other(activation, ["a"], "b"),
        conv("depthwise", "b", "c", group=group, pads=[1, 1, 1, 1]),
        other(activation, ["c"], "d"),
        other("ReduceMean", ["d", "axes"], "mean", keepdims=1),
        conv("squeeze", "mean", "few"),
        other("Relu", ["few"], "some"),
        conv("excite", "some", "many"),
        other(gate, ["many"], "gate"),
        other("Mul", ["d", "gate"], "e"),
        conv("project", "e", "f"),
        conv("last", "f", "g"),
        other("Add", ["g", "image"], "embedding"),
    ]
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 24, SIDE, SIDE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 24, SIDE, SIDE])],
        [numpy_helper.from_array(value, f"{name}.weight") for name, value in weights.items()]
        + [numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def paying(data: bytes) -> list[str] | None:
    return paying_layers(onnx.load_from_string(data))


def calibration() -> Calibration:
    inputs = np.random.default_rng(3).normal(size=(8, 24, SIDE, SIDE)).astype(np.float32)
    return Calibration(inputs=inputs, description="noise")


def in_8_bits(data: bytes) -> bytes:
    """The file of the profile; the gate, which takes pictures and sound alone, stands before it else."""
    model = PROFILES[INT8].make(onnx.load_from_string(data), calibration(), ())
    return bytes(model.SerializeToString(deterministic=True))


@pytest.mark.parametrize("activation", ["HardSwish", "Relu"])
@pytest.mark.parametrize("gate", ["HardSigmoid", "Sigmoid"])
def test_layers_with_much_to_compute_for_each_channel_pay(activation: str, gate: str) -> None:
    assert paying(network(activation, gate=gate)) == ["student.project.Conv"]


def test_without_depthwise_layers_and_gates_values_pass_in_8_bits() -> None:
    assert paying(network("Relu", gate="Relu", group=1)) is None
    # 96 * 96 * 9 / 192 = 432 weights a channel.
    assert paying(network("HardSwish", group=1)) == ["student.depthwise.Conv", "student.project.Conv"]


@pytest.mark.parametrize("activation", ["Relu", "HardSwish"])
def test_thin_layers_are_all_in_8_bits(activation: str) -> None:
    thin = {"project": (24, 96, 1, 1), "last": (24, 24, 1, 1)}
    assert paying(network(activation, **thin)) is None
    assert len(in_8_bits(network(activation, **thin))) >= 4


def outputs(data: bytes, inputs: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": inputs})[0])


def test_only_these_layers_are_in_8_bits_and_the_answer_stays() -> None:
    data = network("HardSwish")
    found = in_8_bits(data)
    model = onnx.load_from_string(found)
    assert layers_in_8_bits(model) == ["student.project.Conv"]
    # Around that layer values are rounded once each; no addition, gate or squeeze is.
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 2
    inputs = calibration().inputs
    expected, answer = (outputs(one, inputs).reshape(len(inputs), -1) for one in (data, found))
    cosine = (
        (expected * answer).sum(axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(answer, axis=1)
    )
    assert cosine.min() > 0.999
    assert in_8_bits(data) == found


class Phone(nn.Module):
    """An encoder of one's own: HardSwish, a depthwise convolution, squeeze-and-excitation, a wide layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(1, 24, 3, stride=2, padding=1), nn.Conv2d(24, 160, 1)
        self.depthwise = nn.Conv2d(160, 160, 3, padding=1, groups=160)
        self.squeeze, self.excite = nn.Conv2d(160, 24, 1), nn.Conv2d(24, 160, 1)
        self.project, self.last = nn.Conv2d(160, 320, 1), nn.Conv2d(320, 48, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 1, 32, 32) to (B, 192)."""
        found = functional.hardswish(self.depthwise(functional.hardswish(self.expand(self.stem(image)))))
        mean = found.mean((2, 3), keepdim=True)
        gate = functional.hardsigmoid(self.excite(functional.relu(self.squeeze(mean))))
        maps = self.last(functional.hardswish(self.project(found * gate)))
        return functional.avg_pool2d(maps, 8).flatten(1)


def test_a_module_of_ones_own_for_phones_passes_every_check_of_a_bundle(make, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(4)
        made = student(Phone(), dim=16, in_channels=1, size=32)
    # Without biases inputs are less alike, and int8 has something to be checked on.
    for name, value in made.named_parameters():
        value.data *= not name.endswith("bias")
    report = export_bundle(
        made,
        tmp_path / "bundle",
        spec=replace(make.spec("ws-50k", head=True), architecture=made.architecture),
        probe_images=make.images(40),
        task=make.task,
        options=Options(profiles=("w8", INT8), calibration=make.calibration()),
    )
    assert report.parity["w8"].min_cosine >= 0.9995
    # Golden values, shapes and digests, as whoever receives the bundle checks them.
    assert verify_bundle(tmp_path / "bundle").error is None
    file = tmp_path / "bundle" / "student.int8.onnx"
    assert layers_in_8_bits(onnx.load(file)) == ["student.backbone.project.Conv"]
    told = json.loads((tmp_path / "bundle" / "report.json").read_text(encoding="utf-8"))["profiles"][INT8]
    assert "in the 1 of 8 layers that it pays for" in told["summary"]


def test_a_file_says_how_many_of_its_layers_are_in_8_bits(make, bundle, tmp_path: Path) -> None:
    path = tmp_path / "phone.onnx"
    path.write_bytes(in_8_bits(network("HardSwish")))
    assert "8-bit arithmetic in the 1 of 6 layers that it pays for" in summary_of(INT8, path)
    own = bundle("ws-50k") / "student.int8.onnx"
    assert summary_of(INT8, own) == PROFILES[INT8].summary
    layers = quantised_layers(onnx.load(bundle("ws-50k") / "student.onnx"))
    assert layers_in_8_bits(onnx.load(own)) == layers[1:-1]


def test_the_layer_that_hurts_most_is_found_without_checking_each_file_whole(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    check = export.bundle.verify

    def spied(path: Path, *rest: object, **more: object) -> object:
        calls.append(path)
        return check(path, *rest, **more)

    limits = replace(PROFILES[INT8].limits, min_cosine=0.999999)
    monkeypatch.setitem(PROFILES, INT8, replace(PROFILES[INT8], limits=limits))
    monkeypatch.setattr(export.bundle, "verify", spied)
    with pytest.raises(
        ParityError, match=r"is below the limit .*The layer that hurts most is student\..* Use w8"
    ):
        export_bundle(
            make.student("ws-50k"),
            tmp_path / "bundle",
            spec=make.spec("ws-50k"),
            probe_images=make.images(40),
            task=make.task,
            options=Options(profiles=(INT8,), calibration=make.calibration()),
        )
    assert len(calls) == 1
    assert not (tmp_path / "bundle").exists()
