"""From what a sensor gives to what a student takes, as a part of the exported graph.

A front end is chosen by ``ExportSpec.front_end``. Everything that differs from one kind of input to another
is in its row of `FRONT_ENDS`: the module, the free axes, an example, the metadata, and inputs of several
sizes for the checks.

Shapes: B batch, C channels, S side of the student's input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.row import Modality
from export.graph import front_dense, front_depth, front_image, front_text, front_wave
from export.graph.spec import ExportSpec


def square_tracing(spec: ExportSpec) -> tuple[Tensor, dict[int, Any]]:
    """Two blank inputs of the student's own size; only their number is free."""
    return torch.zeros((2, spec.channels, spec.image_size, spec.image_size)), {0: "batch"}


def uneven_pictures(raw: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures and depth maps of twice the size, and of three that are no multiples of it."""
    length = raw.shape[1]
    short, long = length // 2 + 1, 2 * length + length // 2 + 1
    sizes = ((2 * length, 2 * length), (3 * length + 4, long - 1), (short, long), (long, short))
    return {f"{height}x{width}": front_depth.nearest(raw, height, width) for height, width in sizes}


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontEnd:
    """One kind of input.

    Attributes:
        input_name: Name of the graph's input.
        module: Raw batch to scaled batch (B, C, S, S).
        tracing: A batch of what the student sees, for tracing, and its free axes.
        metadata: What ``edgecmd.preprocess`` says.
        golden: Made-up inputs of the student's own size, and of another.
        variants: Held-out inputs at three sizes by name, the student's own first.
        takes: Of ``report.json``, what the card says that it takes.
        example: File that the card runs.
        dtype: Of stored inputs.
        steps: What happens between a raw input and what the student sees, a sentence a step, so that it can
            be written in another language; empty where there is no profile `core`.
        scaled_tolerance: Largest difference of what two such programs make of one raw input.
        shape: Of one stored input of the student's own size.
        uneven: Raw inputs of the student's own size at others, by name, see `at_uneven_sizes`.
        rewrite: Changes the traced file in place, where the exporter cannot write what is wanted.
    """

    input_name: str
    module: Callable[[ExportSpec], nn.Module]
    metadata: Callable[[ExportSpec], dict[str, object]]
    golden: Callable[[ExportSpec], tuple[np.ndarray, np.ndarray]]
    variants: Callable[[np.ndarray, ExportSpec], dict[str, np.ndarray]]
    takes: Callable[[Mapping[str, Any]], str]
    example: str
    tracing: Callable[[ExportSpec], tuple[Tensor, dict[int, Any]]] = square_tracing
    dtype: type = np.uint8
    steps: Callable[[ExportSpec], Sequence[str]] = lambda _: ()
    scaled_tolerance: Callable[[ExportSpec], float] = lambda _: 1e-4
    shape: Callable[[ExportSpec], tuple[int, ...]] = lambda spec: spec.image_shape
    uneven: Callable[[np.ndarray], dict[str, np.ndarray]] = uneven_pictures
    rewrite: Callable[[onnx.ModelProto], None] = lambda _: None


FRONT_ENDS: dict[str, FrontEnd] = {
    "image": FrontEnd(
        input_name="image",
        module=front_image.ImageFrontEnd,
        metadata=front_image.image_metadata,
        golden=front_image.image_golden,
        variants=front_image.image_variants,
        takes=front_image.image_takes,
        example="picture.png",
        steps=front_image.image_steps,
        scaled_tolerance=front_image.grey_level,
    ),
    "depth16": FrontEnd(
        input_name="depth",
        module=front_depth.DepthFrontEnd,
        metadata=front_depth.depth_metadata,
        golden=front_depth.depth_golden,
        variants=front_depth.depth_variants,
        takes=front_depth.depth_takes,
        example="depth.png",
        steps=front_depth.depth_steps,
        dtype=np.uint16,
        shape=lambda spec: (spec.image_size, spec.image_size, 1),
    ),
    "image-dense": FrontEnd(
        input_name="image",
        module=front_dense.DenseImageFrontEnd,
        tracing=front_dense.dense_tracing,
        metadata=front_dense.dense_image_metadata,
        golden=front_image.image_golden,
        variants=front_dense.dense_variants,
        takes=front_dense.dense_image_takes,
        example="picture.png",
    ),
    "depth16-dense": FrontEnd(
        input_name="depth",
        module=front_dense.DenseDepthFrontEnd,
        tracing=front_dense.dense_tracing,
        metadata=front_dense.dense_depth_metadata,
        golden=front_depth.depth_golden,
        variants=front_dense.dense_variants,
        takes=front_dense.dense_depth_takes,
        example="depth.png",
        dtype=np.uint16,
        shape=lambda spec: (spec.image_size, spec.image_size, 1),
    ),
    "wave": FrontEnd(
        input_name="wave",
        module=front_wave.WaveFrontEnd,
        tracing=front_wave.wave_tracing,
        metadata=front_wave.wave_metadata,
        golden=front_wave.wave_golden,
        variants=front_wave.wave_variants,
        takes=front_wave.wave_takes,
        example="recording.wav",
        steps=front_wave.wave_steps,
        dtype=np.int16,
        shape=lambda spec: (spec.image_size,),
        uneven=front_wave.uneven_waves,
        rewrite=front_wave.generate_basis,
    ),
    "text": FrontEnd(
        input_name="text",
        module=front_text.TextFrontEnd,
        tracing=front_text.text_tracing,
        metadata=front_text.text_metadata,
        golden=front_text.text_golden,
        variants=front_text.text_variants,
        takes=front_text.text_takes,
        example='"dog"',
        steps=front_text.text_steps,
        shape=lambda spec: (spec.image_size,),
        uneven=front_text.uneven_text,
    ),
}


def at_uneven_sizes(raw: np.ndarray, front_end: str) -> dict[str, np.ndarray]:
    """The first of some raw inputs of the student's own size at others, by name.

    Pictures and depth maps: twice the size, and three that are no multiples of it; recordings and strings: a
    longer and a shorter one. Engines that are right at the own size were seen to be wrong at these.
    """
    return FRONT_ENDS[front_end].uneven(raw[:1])


def front_end_of(modality: Modality, *, dense: bool) -> str:
    """Key of `FRONT_ENDS` for a student of a modality.

    Raises:
        ConfigError: It has none.
    """
    found = modality.dense_front_end if dense else modality.front_end
    if not found:
        name = "dense_front_end" if dense else "front_end"
        raise ConfigError(
            f"Students of {modality.nouns} cannot be exported: the modality {modality.name!r} has {name}=''."
            f" Allowed: {', '.join(FRONT_ENDS)}. Add one to export.graph.frontends.FRONT_ENDS and name it in"
            " the row of the modality."
        )
    return found
