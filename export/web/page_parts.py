"""What a page has beside its student: golden values, a second file, strangers, readable names.

Shapes: N golden inputs, M strangers, S side of the student's input, C channels, D embedding dimension.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecmd.core.errors import ExportError
from edgecmd.data.pairs import Targets
from edgecmd.data.user_files.decode import DecodeError, npz_arrays
from export.device.properties import CORE
from export.device.saved_embeddings import MAX_NPZ_BYTES
from export.device.student import Student
from export.graph.front_graph import KINDS
from export.profiles.table import PROFILES
from export.trust.listing import CORE_SPEC, GOLDEN, MODEL, profile_file, raw_file
from export.web.gallery import emoji_name, fixed_point

CORE_MODEL = profile_file(CORE)
GOLDEN_INPUTS, STRANGERS, SECOND = "golden.bin", "strangers.bin", "second.onnx"
COMPARED = ("fp32", "w8")
# As many digits as a number of 32 bits has.
NUM_DIGITS = 9
# Groups of emoji, as Unicode's list has them.
GROUPS = (
    "animals-nature",
    "food-drink",
    "people-body",
    "smileys-emotion",
    "travel-places",
)
CODE_POINTS = re.compile(r"1f[0-9a-f]{3}(-[0-9a-f]{4,5})*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Files of a page, and what it must know of them.

    Attributes:
        files: By name.
        info: For the page's program.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def add(self, other: "Parts") -> None:
        """Take over what ``other`` has."""
        self.files.update(other.files)
        self.info.update(other.info)


def readable_names(names: Sequence[str]) -> list[str]:
    """Names as people read them: ``alarm_clock`` is alarm clock, ``1f600`` grinning face.

    Guarantees:
        Different names stay different.
    """
    words = [_readable(name.rsplit("/", 1)[-1]) for name in names]
    num = {word: words.count(word) for word in words}
    return [word if word and num[word] == 1 else name for name, word in zip(names, words, strict=True)]


def _readable(name: str) -> str:
    if CODE_POINTS.fullmatch(name):
        return emoji_name(name)
    return name.replace("-", " & ") if name in GROUPS else name.replace("_", " ").strip()


def golden_part(student: Student) -> Parts:
    """Golden inputs of the student's own size and what they must give; nothing where there is no golden.npz.

    Raises:
        ExportError: The golden values cannot be used.
    """
    path = student.path.with_name(GOLDEN)
    if not path.is_file():
        return Parts()
    try:
        found = npz_arrays(path, most_bytes=MAX_NPZ_BYTES)
        inputs, profile = found[student.sensor.input_name], student.profile
        values = {name: found[f"{name}/{profile}"] for name in student.outputs}
        told = {MODEL: _expected(values, tolerance=float(found[f"tolerance/{profile}"]))}
    except (DecodeError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{path} cannot be used ({error}). Export the bundle again, or build the page from the .onnx file"
            " in another folder, without golden values."
        ) from error
    side = student.image_size
    own = (side,) if KINDS[student.front_end].is_line else (side, side, student.channels)
    if inputs.shape[1:] != own:
        raise ExportError(f"{path} has inputs of shape {inputs.shape}, which are not of the student's size.")
    return Parts(
        files={GOLDEN_INPUTS: inputs.astype(np.uint8).tobytes()}, info={"golden": told, "golden_shape": own}
    )


def core_part(student: Student) -> Parts:
    """The core of the bundle with its own golden outputs, where it has one: WebGPU lacks the front end.

    Raises:
        ExportError: Its golden values are not those of the bundle's golden inputs.
    """
    folder = student.path.parent
    if not (folder / CORE_MODEL).is_file() or not (folder / CORE_SPEC).is_file():
        return Parts()
    shapes = {"embedding": student.embedding_dim, "scores": len(student.classes)}
    values = {
        name: np.fromfile(folder / raw_file("own", name), dtype="<f4").reshape(-1, shapes[name])
        for name in student.outputs
    }
    golden = golden_part(student).files.get(GOLDEN_INPUTS, b"")
    if (folder / raw_file("own", "image")).read_bytes() != golden:
        raise ExportError(
            f"{folder} has other golden inputs for the core than for the rest. Export it again."
        )
    expected = _expected(values, tolerance=PROFILES[CORE].tolerance)
    preprocess = student.preprocess
    return Parts(
        files={CORE_MODEL: (folder / CORE_MODEL).read_bytes()},
        info={
            "core_golden": expected,
            "offset": float(preprocess["offset"]),
            "scale": float(preprocess["scale"]),
        },
    )


def _expected(values: dict[str, np.ndarray], *, tolerance: float) -> dict[str, Any]:
    rows = {name: np.round(found.astype(np.float64), NUM_DIGITS).tolist() for name, found in values.items()}
    return {**rows, "tolerance": tolerance}


def second_part(student: Student) -> Parts:
    """Another file of the bundle, to compare with: the first of `COMPARED` that is not what the page runs.

    Args:
        student: What the page runs.
    """
    for profile in COMPARED:
        path = student.path.with_name(profile_file(profile))
        if profile != student.profile and path.is_file():
            data = path.read_bytes()
            return Parts(files={SECOND: data}, info={"second": {"profile": profile, "num_bytes": len(data)}})
    return Parts()


def strangers_part(student: Student, strangers: Targets | None) -> Parts:
    """Embeddings of inputs of no class of a user's, which tell when a drawing is none of them.

    Args:
        student: What the page runs; it embeds them.
        strangers: Public inputs, uint8 (M, S, S, C), in an order that has nothing to do with what they show.
    """
    if strangers is None or not len(strangers):
        return Parts()
    rows = np.concatenate([student(strangers[at : at + 1]).embedding for at in range(len(strangers))])
    return Parts(files={STRANGERS: fixed_point(rows)}, info={"num_strangers": len(rows)})


def classes_info(classes: str) -> dict[str, Any]:
    """Names of the trained classes as the model has them, and as people read them."""
    names = json.loads(classes)
    return {"classes": names, "labels": readable_names(names)}
