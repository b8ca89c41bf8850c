"""Teachers made up for tests: a package ``timm`` with two networks, files of weights, and ONNX graphs."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

# Published numbers of the made-up networks; each colour's mean times a weight is their feature.
MEAN, STD, SIDE, CROP = (0.5, 0.25, 0.0), (0.5, 0.25, 2.0), 24, 0.5
TIMM = f"""
from types import SimpleNamespace
import torch
from torch import nn

CFG = {{"input_size": (3, {SIDE}, {SIDE}), "mean": {MEAN}, "std": {STD}, "crop_pct": {CROP}}}
MADE = []


class Means(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))
        self.pretrained_cfg = dict(CFG)

    def forward(self, image):
        MADE.append(tuple(image.shape[1:]))
        return image.mean(dim=(2, 3)) * self.weight


def list_models():
    return ["means", "other_means"]


def get_pretrained_cfg(name):
    return SimpleNamespace(fixed_input_size=False, **CFG)


def create_model(name, *, pretrained, num_classes, in_chans, **more):
    assert not pretrained and not num_classes and in_chans == 3 and not more
    return Means()
"""


@contextmanager
def made_up_timm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package ``timm`` that can be imported inside."""
    (folder / "timm.py").write_text(TIMM)
    monkeypatch.syspath_prepend(str(folder))
    before = sys.modules.pop("timm", None)
    yield
    sys.modules.pop("timm", None)
    if before is not None:
        sys.modules["timm"] = before


def weights_file(path: Path, numbers: Sequence[float] = (1.0, 2.0, 3.0)) -> Path:
    """Weights of the made-up networks, as safetensors or as torch.save writes them."""
    state = {"weight": torch.tensor(numbers), "fc.weight": torch.ones(5, 3)}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def onnx_file(
    path: Path,
    *,
    shape: Sequence[int | str] = ("batch", 3, "height", "width"),
    factor: Sequence[float] = (1.0, 2.0, 3.0),
    kind: int = TensorProto.FLOAT,
    more_inputs: Sequence[str] = (),
    outputs: Sequence[str] = ("feature",),
    nodes: Sequence[onnx.NodeProto] | None = None,
    width: int = 3,
    domains: Sequence[str] = (),
    outside: str = "",
) -> Path:
    """An ONNX file; without ``nodes`` its feature is the mean of each colour times ``factor``.

    Args:
        path: Where it is written.
        shape: Of the input ``image``.
        factor: Three numbers.
        kind: Element type of the input.
        more_inputs: Names of further inputs.
        outputs: Names of outputs, (batch, width) each.
        nodes: The graph, from ``image`` and ``factor`` to ``feature``.
        width: Of the feature.
        domains: Of operators that are nobody's.
        outside: File that the factors lie in, as the graph names it.
    """
    made = nodes or [
        helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "factor"], ["feature"]),
        *(helper.make_node("Identity", ["feature"], [one]) for one in outputs if one != "feature"),
    ]
    initialisers = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("factor", TensorProto.FLOAT, [1, 3], list(factor)),
    ]
    names = ["image", *more_inputs]
    graph = helper.make_graph(
        made,
        "teacher",
        [helper.make_tensor_value_info(one, kind, list(shape)) for one in names],
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, ["batch", width]) for one in outputs],
        initialisers,
    )
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(one, 1) for one in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    if outside:
        tensor = model.graph.initializer[1]
        if not Path(outside).is_absolute():
            (path.parent / outside).parent.mkdir(parents=True, exist_ok=True)
            (path.parent / outside).write_bytes(torch.tensor(factor).numpy().tobytes())
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=outside))
    path.write_bytes(model.SerializeToString())
    return path
