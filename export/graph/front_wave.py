"""Recordings of any length, as a part of the exported graph; a log-mel image is the student's own part.

A user's own student may look at the samples themselves.

The Fourier basis is most of a log-mel front end: 264 kB of numbers that follow from one formula. In the file
is the formula instead, on a table of one period, and ONNX Runtime evaluates it once, when it loads.

Shapes: B batch, N inputs, T samples, K frequencies, W samples of a window.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from jaxtyping import Float, Int16
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edgecmd.core.errors import ExportError
from edgecmd.data.modalities.log_mel import (
    CENTRE,
    FILTERS_HZ,
    FLOOR,
    HOP_SAMPLES,
    LOWEST_HZ,
    NUM_MELS,
    RANGE_NEPER,
    SPREAD,
    WINDOW_SAMPLES,
)
from edgecmd.data.modalities.wave import FULL_SCALE
from edgecmd.models.students import student_row
from export.graph.spec import ExportSpec

NUM_GOLDEN = 4
# Pitches of the made-up chords are those heard at this rate.
REFERENCE_HZ = 8000
PREFIX = "basis"


class WaveFrontEnd(nn.Module):
    """Shares of full scale (float32) as a line of one pixel height, as `wave_input` does.

    Whole numbers of 16 bits are divided by full scale before, which changes no bit of them; the exported
    graph takes shares of full scale alone, and the bundle's program divides.

    Args:
        spec: Not used: any length will do.
    """

    def __init__(self, spec: ExportSpec) -> None:
        super().__init__()
        self.num_samples = spec.image_size

    def forward(
        self, wave_BT: Float[Tensor, "batch samples"] | Int16[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch 1 1 samples"]:
        """Add the axes that every student's input has."""
        if wave_BT.dtype == torch.int16:
            wave_BT = wave_BT.to(torch.float32) / FULL_SCALE
        return wave_BT[:, None, None]


def wave_tracing(spec: ExportSpec) -> tuple[Tensor, dict[int, Any]]:
    """Silence for tracing: two recordings, of a length that is a multiple of nothing, and the free axes."""
    return torch.zeros((2, 1, 1, spec.image_size + 37)), {0: "batch", 3: "samples"}


def wave_metadata(spec: ExportSpec) -> dict[str, object]:
    """What the graph does with the samples."""
    picture = {"log_mel": f"{NUM_MELS} bands, window {WINDOW_SAMPLES}, hop {HOP_SAMPLES}"}
    return {
        "dtype": "float32",
        "full_scale": FULL_SCALE,
        "input": "wave",
        "layout": "NT",
        "least_samples": WINDOW_SAMPLES,
        **(picture if _makes_picture(spec.architecture) else {}),
        "rate_hz": spec.rate_hz,
        "size": "any",
    }


def _makes_picture(architecture: str) -> bool:
    return student_row(architecture).front == "log-mel"


def wave_golden(spec: ExportSpec) -> tuple[np.ndarray, np.ndarray]:
    """Seeded chords in noise, float32: (N, T), and some of another length.

    The same samples at every rate: the student's bands scale with it, so pitches are shares of it.
    """
    generator, length = np.random.default_rng(0), spec.image_size
    place = np.arange(2 * length) / REFERENCE_HZ
    waves = []
    for _ in range(NUM_GOLDEN):
        pitch, size = generator.uniform(100.0, 3500.0, 3), generator.uniform(0.05, 0.2, 3)
        tone = (size[:, None] * np.sin(2 * np.pi * pitch[:, None] * place)).sum(axis=0)
        waves.append(tone * np.hanning(len(place)) + 0.01 * generator.standard_normal(len(place)))
    both = np.asarray(np.stack(waves), dtype=np.float32)
    return np.ascontiguousarray(both[:, :length]), np.ascontiguousarray(both[-2:, : _longer(length)])


def wave_variants(waves: np.ndarray, _: ExportSpec) -> dict[str, np.ndarray]:
    """``waves`` at their own length, repeated to a greater one, and cut."""
    return {str(waves.shape[1]): waves, **uneven_waves(waves)}


def uneven_waves(waves: np.ndarray) -> dict[str, np.ndarray]:
    """``waves`` repeated to a greater length, and cut."""
    length = waves.shape[1]
    sizes = (_longer(length), max(length - length // 4 - 1, WINDOW_SAMPLES))
    return {str(size): np.ascontiguousarray(waves[:, np.arange(size) % length]) for size in sizes}


def _longer(length: int) -> int:
    return length + length // 2 + 1


def generate_basis(model: onnx.ModelProto) -> None:
    """Replace the stored Fourier basis by the formula that makes it, in place; an own student may have none.

    ``basis[k, n] = table[k n mod W] window[n]`` with one period of cosine and negative sine in the table,
    in float64, rounded to float32 at the end, as `edgecmd.data.modalities.log_mel.fourier_basis` is.

    Raises:
        ExportError: The model has several that might be it.
    """
    num_frequencies = WINDOW_SAMPLES // 2 + 1
    shape = [2 * num_frequencies, 1, WINDOW_SAMPLES]
    graph = model.graph
    found = [one for one in graph.initializer if list(one.dims) == shape]
    if not found:
        return
    if len(found) != 1:
        raise ExportError(f"The file has {len(found)} weights of shape {shape}; the Fourier basis is one.")
    place = np.arange(WINDOW_SAMPLES)
    angle = 2.0 * np.pi * place / WINDOW_SAMPLES
    constants = {
        "k": np.arange(num_frequencies)[:, None],
        "n": place[None],
        "period": np.array(WINDOW_SAMPLES),
        "table": np.stack([np.cos(angle), -np.sin(angle)]),
        "window": 0.5 - 0.5 * np.cos(angle),
        "shape": np.array(shape),
    }
    name = found[0].name
    nodes = [
        _node("Mul", ["k", "n"], "product"),
        _node("Mod", ["product", "period"], "place"),
        _node("Gather", ["table", "place"], "waves", axis=1),
        _node("Mul", ["waves", "window"], "windowed"),
        _node("Reshape", ["windowed", "shape"], "double"),
        _node("Cast", ["double"], name, to=onnx.TensorProto.FLOAT),
    ]
    graph.initializer.remove(found[0])
    graph.initializer.extend(
        numpy_helper.from_array(values, f"{PREFIX}.{key}") for key, values in constants.items()
    )
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])


def _node(operator: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
    """A node whose inputs and output are named within the basis, but for the basis itself."""
    target = output if operator == "Cast" else f"{PREFIX}.{output}"
    return helper.make_node(
        operator,
        [f"{PREFIX}.{one}" for one in inputs],
        [target],
        name=f"{PREFIX}.{output if operator != 'Cast' else 'float'}.{operator}",
        **attributes,  # type: ignore[arg-type]  # onnx types them as its own names only
    )


def wave_takes(report: Mapping[str, Any]) -> str:
    """What the card says of recordings, out of ``report.json``."""
    return (
        "recordings of any length, float32 shares of full scale as (batch, samples), at"
        f" {report['rate_hz']:,} Hz and no other rate (trained on {report['image_size']:,} samples)"
        + (", makes their log-mel picture" if _makes_picture(report["architecture"]) else "")
    )


def wave_steps(spec: ExportSpec) -> list[str]:
    """What a recording goes through before the first layer, so that it can be written in another language."""
    num = spec.image_size
    take = (
        f"Take exactly {num} samples at {spec.rate_hz} Hz, float32 shares of full scale (16-bit samples"
        f" divided by {FULL_SCALE:g}); cut or repeat a recording of another length."
    )
    if not _makes_picture(spec.architecture):
        return [take, f"Give the core (1, 1, 1, {num})."]
    frames, bins = 1 + (num - WINDOW_SAMPLES) // HOP_SAMPLES, WINDOW_SAMPLES // 2 + 1
    return [
        take,
        f"Cut them into {frames} windows of {WINDOW_SAMPLES} samples, one every {HOP_SAMPLES}, the first at"
        " sample 0; nothing is added at the ends.",
        f"Multiply sample n of each window by 0.5 - 0.5 * cos(2 * pi * n / {WINDOW_SAMPLES}) and take the"
        f" discrete Fourier transform; the power of frequency k (0 to {bins - 1}) is its real part squared"
        " plus its imaginary part squared.",
        f"The {NUM_MELS} bands: take {NUM_MELS + 2} edges equally spaced in mel from that of {LOWEST_HZ:g} Hz"
        f" to that of {FILTERS_HZ // 2} Hz, with mel(f) = 2595 * log10(1 + f / 700), as frequencies in Hz."
        f" Frequency k is f = k * {FILTERS_HZ} / {WINDOW_SAMPLES} Hz, whatever the sampling rate. Band m"
        " weighs it by max(0, min((f - low) / (centre - low), (high - f) / (high - centre))), where low,"
        " centre and high are edges m, m + 1 and m + 2. Its power is the weighted sum.",
        f"Loudness is ln(power + {FLOOR:g}), in float32. Subtract the largest loudness of the recording.",
        f"Compute (max(0, loudness / {RANGE_NEPER!r} + 1) - {CENTRE}) / {SPREAD}.",
        f"Give the core (1, 1, {NUM_MELS}, {frames}): bands from low to high, then windows in time.",
    ]
