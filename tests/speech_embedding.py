"""Google's speech embedding behind the recordings of `digits` and `stamps`, by hand.

``OPENWAKEWORD=FOLDER python -m tests.speech_embedding data.name=digits ...`` measures it; FOLDER holds
``melspectrogram.onnx`` and ``embedding_model.onnx`` of the package openwakeword 0.4.0. A table is in
`docs/results-audio.md`. `fixed` and `trained` make students of it, for ``student.architecture``.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.data.modalities.wave import wave_input
from edgecmd.evaluation.evaluate import assess, headline
from edgecmd.evaluation.metrics import unit_rows
from edgecmd.losses import CMC
from edgecmd.run import Run
from edgecmd.training.distill import LocalData, Place, distil, make_optimizer

WIDTH = 192
STEPS, BATCH, RATE = 400, 256, 1e-2


class Speech(nn.Module):
    """Recordings of 8 kHz as shares of full scale, (B, 1, 1, T), to (B, 192): mean and maximum over time.

    The network looks at 76 frames of 10 ms, so T is at least 6,360. It wants 16 kHz; samples between those
    that there are lie on straight lines.

    Args:
        trained: Whether the embedding's weights are parameters, or constants.
    """

    def __init__(self, *, trained: bool) -> None:
        super().__init__()
        front, body = (
            {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in read(name).initializer}
            for name in ("melspectrogram", "embedding_model")
        )
        (mel,) = (value for value in front.values() if value.shape == (257, 32))
        for name, value in zip(
            ("real", "imaginary"), (v for v in front.values() if v.ndim == 3), strict=True
        ):
            self.register_buffer(name, value)
        self.register_buffer("mel", mel)
        self.layers = nn.ModuleList()
        for node in read("embedding_model").node:
            if node.op_type not in ("Pad", "Reshape"):
                numbers = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
                self.layers.append(layer(node.op_type, numbers, [body[n] for n in node.input if n in body]))
        if not trained:
            for part in self.layers:
                for name, value in list(part.named_parameters()):
                    delattr(part, name)
                    part.register_buffer(name, value.detach())

    def forward(self, wave: Tensor) -> Tensor:
        sound = functional.interpolate(wave.flatten(1)[:, None], scale_factor=2, mode="linear") * 32768.0
        power = sum(functional.conv1d(sound, one, stride=160).square() for one in (self.real, self.imaginary))
        level = 10.0 * (power.transpose(1, 2) @ self.mel).clamp_min(1e-10).log10()
        level = torch.maximum(level, level.amax(dim=(1, 2), keepdim=True) - 80.0)
        x = functional.pad((level / 10.0 + 2.0)[:, None], (1, 1))
        for one in self.layers:
            x = one(x)
        return torch.cat([x.flatten(2).mean(dim=2), x.flatten(2).amax(dim=2)], dim=1)


class Affine(nn.Module):
    """A batch normalisation as it is in use."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale[:, None, None]), nn.Parameter(shift[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def layer(kind: str, numbers: Mapping[str, object], arrays: list[Tensor]) -> nn.Module:
    """One node of the embedding's graph."""
    if kind == "Conv":
        weight, *bias = arrays
        out, into, *kernel = weight.shape
        pads = tuple(numbers.get("pads", (0, 0))[:2])  # type: ignore[index]
        made = nn.Conv2d(into, out, tuple(kernel), padding=pads, bias=bool(bias))
        made.weight.data = weight
        if bias:
            made.bias.data = bias[0]
        return made
    if kind == "BatchNormalization":
        scale, shift, mean, variance = arrays
        scale = scale / (variance + numbers["epsilon"]).sqrt()
        return Affine(scale, shift - mean * scale)
    if kind == "Max":
        return nn.Threshold(float(arrays[0]), float(arrays[0]))
    if kind == "MaxPool":
        return nn.MaxPool2d(tuple(numbers["kernel_shape"]), tuple(numbers["strides"]))  # type: ignore[arg-type]
    return {"LeakyRelu": lambda: nn.LeakyReLU(float(numbers["alpha"])), "Relu": nn.ReLU}[kind]()  # type: ignore[operator]


def read(name: str) -> onnx.GraphProto:
    """Graph of a file of the package."""
    return onnx.load(Path(os.environ["OPENWAKEWORD"]) / f"{name}.onnx").graph


def fixed() -> nn.Module:
    """The embedding as it is; a scale of each number and the projector behind it are trained."""
    return nn.Sequential(Speech(trained=False), nn.LayerNorm(WIDTH))


def trained() -> nn.Module:
    """The embedding as first weights."""
    return Speech(trained=True)


class Kept:
    """Numbers of the embedding for recordings, each made once."""

    def __init__(self) -> None:
        self.body, self.rows = Speech(trained=False).eval(), dict[bytes, np.ndarray]()

    def __call__(self, waves: np.ndarray) -> Tensor:
        new = [wave for wave in waves if wave.tobytes() not in self.rows]
        with torch.no_grad():
            for start in range(0, len(new), 64):
                part = np.stack(new[start : start + 64])
                for wave, row in zip(part, self.body(wave_input(part)).numpy(), strict=True):
                    self.rows[wave.tobytes()] = row
        return torch.from_numpy(np.stack([self.rows[wave.tobytes()] for wave in waves]))


def head(run: Run, kept: Kept) -> nn.Module:
    """A linear layer behind the fixed embedding: `cmc` on all training pairs in one place, without views."""
    train = run.task.data.train
    local = run.task.local_data(np.arange(len(train)))
    data = LocalData(target=kept(train.target[:])[:, :, None, None], teacher=local.features)
    torch.manual_seed(0)
    made = nn.Sequential(nn.Flatten(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, data.features.shape[1]))
    settings = load_config(None, [f"distill.batch_size={BATCH}", "distill.augment=0"]).distill
    distil(
        made,
        data,
        run.anchors,
        settings,
        loss=CMC(),
        num_steps=STEPS,
        place=Place(seed=0, round_index=1, client=0, first_step=0, total_steps=STEPS),
        optimizer=make_optimizer(made, settings),
    )
    return made.eval()


def measure(run: Run, kept: Kept) -> dict[str, dict[str, float]]:
    """The embedding as it is, and with a layer that was distilled."""
    layer_of = head(run, kept)

    def behind(waves: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return unit_rows(layer_of(kept(waves[:])).numpy())

    return {
        "as it is": headline(assess(lambda waves: unit_rows(kept(waves[:]).numpy()), run, cross_modal=False)),
        "with a distilled layer": headline(assess(behind, run)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    run = Assembly().run(load_config(None, sys.argv[1:]))
    for name, row in measure(run, Kept()).items():
        told = " ".join(f"{key} {value:.3f}" for key, value in row.items())
        sys.stdout.write(f"{name}: {told}\n")
