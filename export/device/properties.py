"""What a model says of itself, checked: a damaged file is refused before it answers.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgecmd.data.user_files.decode import reason_of
from export.device.reading import InferError
from export.device.sensors import SENSORS, Sensor

FORMAT_VERSION = "1"
# Outputs of a model: the embedding, and one of these where it has classes.
MASK, SCORES = "mask", "scores"
# The profile whose files take no raw inputs.
CORE = "core"


class Properties(NamedTuple):
    """The properties of a model; the meaning of each is that of the attribute of `Student`."""

    profile: str
    image_size: int
    channels: int
    embedding_dim: int
    classes: tuple[str, ...]
    preprocess: dict[str, Any]
    front_end: str
    sensor: Sensor
    rate_hz: int | float | None


def read_properties(
    path: Path, properties: Mapping[str, str], *, inputs: Sequence[Any], outputs: Sequence[Any]
) -> Properties:
    """Properties of the model in ``path``, which agree with each other and with its graph.

    Args:
        path: The .onnx file, for messages.
        properties: As the file has them.
        inputs: Of onnxruntime: each has a ``name`` and a ``shape``.
        outputs: Likewise.

    Raises:
        InferError: It was not made by edgecmd, has another format, or they are damaged.
    """
    _refuse_foreign(path, properties)
    if properties.get("edgecmd.profile") == CORE:
        raise InferError(
            f"{path} is the student without its front end, for other engines: it takes no raw inputs."
            " ONNX Runtime runs the whole: use student.onnx.",
            exit_code=6,
        )
    try:
        found = _read(properties)
        _compare(found, inputs=inputs, outputs=outputs)
    except KeyError as error:
        raise _broken(path, f"{error.args[0]} is missing") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _broken(path, reason_of(error)) from error
    return found


def _broken(path: Path, why: str) -> InferError:
    return InferError(f"{path} has broken edgecmd properties ({why}). Export it again.", exit_code=6)


def _refuse_foreign(path: Path, properties: Mapping[str, str]) -> None:
    """Refuse a model of another maker or of another format."""
    version = properties.get("edgecmd.format")
    if version is None:
        raise InferError(
            f"{path} is not an edgecmd model: it has no property edgecmd.format."
            " Make one with `edgecmd export`.",
            exit_code=6,
        )
    if version != FORMAT_VERSION or properties.get("edgecmd.front_end", "image") not in SENSORS:
        raise InferError(
            f"{path} has edgecmd.format={version}, edgecmd.front_end={properties.get('edgecmd.front_end')};"
            f" this program reads {FORMAT_VERSION} and {', '.join(SENSORS)}."
            " Use the infer.py that lies beside the model.",
            exit_code=6,
        )


def _read(properties: Mapping[str, str]) -> Properties:
    """Each of the kind that it must be."""
    counts = {
        name: int(properties[f"edgecmd.{name}"]) for name in ("image_size", "channels", "embedding_dim")
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} is below 1")
    classes, preprocess = (json.loads(properties[f"edgecmd.{name}"]) for name in ("classes", "preprocess"))
    if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
        raise ValueError("classes is no list of names")
    if len(set(classes)) < len(classes):
        raise ValueError("two classes have one name")
    if not isinstance(preprocess, dict):
        raise ValueError("preprocess is no table")
    front_end = properties.get("edgecmd.front_end", "image")
    sensor = SENSORS[front_end]
    for name in sensor.needs:
        if not _is_above_zero(preprocess[name]):
            raise ValueError(f"{name}={preprocess[name]!r} is no number above 0")
    return Properties(
        profile=properties.get("edgecmd.profile", "fp32"),
        classes=tuple(classes),
        preprocess=preprocess,
        front_end=front_end,
        sensor=sensor,
        rate_hz=preprocess.get("rate_hz"),
        **counts,
    )


def _is_above_zero(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0  # type: ignore[arg-type, operator]


def _compare(found: Properties, *, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """What the properties say against what the graph takes and gives; unknown sizes fit all."""
    names = [one.name for one in outputs]
    if [one.name for one in inputs] != [found.sensor.input_name]:
        raise ValueError(f"the model does not take {found.sensor.input_name}")
    if names not in (["embedding"], ["embedding", SCORES], ["embedding", MASK]):
        raise ValueError(f"the model gives {', '.join(names)}")
    if (len(names) > 1) != bool(found.classes):
        raise ValueError(f"{len(found.classes)} classes do not go with the outputs {', '.join(names)}")
    expected = [("embedding_dim", found.embedding_dim), ("classes", len(found.classes))]
    for (what, size), output in zip(expected, outputs):
        given = _size(output.shape, 1)
        if given not in (None, size):
            raise ValueError(f"{what}={size}, but the output {output.name} has {given}")
    given = _size(inputs[0].shape, 3)
    # A student of depth sees a mask beside the one channel that is given.
    if given not in (None, 1 if found.sensor.one_channel else found.channels):
        raise ValueError(f"channels={found.channels}, but the model takes {given}")


def _size(shape: Sequence[Any], axis: int) -> int | None:
    """The size of an axis, or None where the graph leaves it open or has no such axis."""
    if len(shape) > axis and isinstance(shape[axis], int):
        return int(shape[axis])
    return None
