"""Golden inputs and outputs of a core as plain numbers, and what is done to a picture before it.

`core.json` says what the front end does, in words and numbers, and lists files of raw numbers: rows first,
little-endian, nothing before and nothing behind them. Any language reads these, so a preprocessing of one's
own and the student can be checked apart: from the raw input to ``scaled``, and from there to the outputs.

Shapes: N inputs, C channels, H height, W width of what the student sees, D embedding dimension, K classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgecmd.core.errors import ExportError
from edgecmd.models.students import ANY_FRONT, FRONTS, student_row
from export.device.properties import CORE
from export.graph.front_graph import SCALED
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import FORMAT_VERSION, ExportSpec
from export.profiles.table import PROFILES
from export.trust.contents import Card, read_json, spec_of
from export.trust.core_student import CoreStudent
from export.trust.errors import AGAIN, TrustError
from export.trust.golden import Golden, refuse_weak
from export.trust.listing import CORE_SPEC, profile_file, raw_file

DTYPES = {"uint8": "<u1", "uint16": "<u2", "float32": "<f4"}
OWN, UNEVEN = "own", "uneven"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """Golden inputs of one size.

    Attributes:
        name: `OWN` or `UNEVEN`.
        arrays: The raw input under its name, `SCALED` (N, C, H, W), ``embedding`` (N, D) and, with a head,
            ``scores`` (N, K).
    """

    name: str
    arrays: Mapping[str, np.ndarray]


def golden_cases(student: CoreStudent, spec: ExportSpec) -> list[Case]:
    """Made-up inputs, what the front end makes of them, and what the core makes of that, here."""
    cases = []
    outputs = spec.output_names
    for name, raw in zip((OWN, UNEVEN), FRONT_ENDS[spec.front_end].golden(spec), strict=True):
        if student.takes(raw):
            seen = student.see(raw)
            found = {key: one for key, one in zip(outputs, student.embed(seen)) if one is not None}
            cases.append(
                Case(name=name, arrays={FRONT_ENDS[spec.front_end].input_name: raw, SCALED: seen, **found})
            )
    for case in cases:
        for key, values in case.arrays.items():
            if not np.isfinite(values).all():
                raise ExportError(f"{profile_file(CORE)}: {key} of the golden inputs is not finite.")
    return cases


def core_record(cases: list[Case], spec: ExportSpec) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What ``core.json`` holds, and the raw files by name."""
    files = {raw_file(case.name, key): _raw(values) for case in cases for key, values in case.arrays.items()}
    first, names = cases[0].arrays, (SCALED, *spec.output_names)
    ports = [{"name": name, "dtype": "float32", "shape": [1, *first[name].shape[1:]]} for name in names]
    record = {
        "format": FORMAT_VERSION,
        "model": profile_file(CORE),
        "front_end": front_record(spec),
        "input": ports[0],
        "outputs": ports[1:],
        "tolerance": {
            SCALED: FRONT_ENDS[spec.front_end].scaled_tolerance(spec),
            "outputs": PROFILES[CORE].tolerance,
        },
        "cases": [
            {
                "name": case.name,
                "arrays": [
                    {
                        "name": key,
                        "file": raw_file(case.name, key),
                        "dtype": values.dtype.name,
                        "shape": [*values.shape],
                        "byte_order": "little",
                    }
                    for key, values in case.arrays.items()
                ],
            }
            for case in cases
        ],
    }
    return record, files


def _raw(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, dtype=DTYPES[values.dtype.name]).tobytes()


def front_record(spec: ExportSpec) -> dict[str, Any]:
    """What happens between a raw input and the core's input: its steps in words, and every number in them."""
    front_end = FRONT_ENDS[spec.front_end]
    return {
        "name": spec.front_end,
        "steps": list(front_end.steps(spec)),
        "numbers": {"image_size": spec.image_size, "channels": spec.channels, **front_end.metadata(spec)},
    }


def read_raw_golden(folder: Path, card: Card) -> list[Golden]:
    """Golden values of a core out of its raw files.

    Args:
        folder: Our copy of the bundle, whose files are those of `SHA256SUMS`.
        card: Of the core.

    Returns:
        For each case the inputs `SCALED`, and the outputs.

    Raises:
        TrustError: A file is missing or superfluous, an array is not what its header says or not the core's,
            or ``scaled`` is not what the front end makes of the raw input.
    """
    spec, record = spec_of(card), read_json(folder / CORE_SPEC)
    if not isinstance(record, dict) or record.get("model") != card.file:
        raise TrustError(f"{CORE_SPEC} is not a JSON object whose model is {card.file}. {AGAIN}")
    expected = front_record(spec)
    front = record.get("front_end")
    if not isinstance(front, dict) or any(front.get(key) != expected[key] for key in ("name", "numbers")):
        raise TrustError(f"{CORE_SPEC} has front_end={front!r:.200}; {card.file} has {expected}. {AGAIN}")
    cases, used = record.get("cases"), set[str]()
    if not isinstance(cases, list) or not cases:
        raise TrustError(f"{CORE_SPEC} has cases={cases!r:.80}; allowed is a list of one or two. {AGAIN}")
    found = [_golden(folder, case, card, spec, used=used) for case in cases]
    superfluous = sorted({path.name for path in folder.glob("core.*.raw")} - used)
    if superfluous:
        raise TrustError(f"{superfluous[0]} is not listed in {CORE_SPEC}. {AGAIN}")
    return found


def _golden(folder: Path, case: object, card: Card, spec: ExportSpec, *, used: set[str]) -> Golden:
    arrays = case.get("arrays") if isinstance(case, dict) else None
    if not isinstance(arrays, list) or not all(isinstance(one, dict) for one in arrays):
        raise TrustError(f"{CORE_SPEC} has the case {case!r:.120}; allowed are a name and arrays. {AGAIN}")
    values = {str(one.get("name")): _array(folder, one, used=used) for one in arrays}
    raw_name = FRONT_ENDS[spec.front_end].input_name
    needed = [raw_name, SCALED, *card.outputs]
    if sorted(values) != sorted(needed):
        raise TrustError(f"{CORE_SPEC} has the arrays {sorted(values)}; allowed are {needed}. {AGAIN}")
    golden = Golden(
        inputs=values[SCALED],
        outputs={name: values[name] for name in card.outputs},
        tolerance=PROFILES[CORE].tolerance,
    )
    refuse_weak(golden, card, key=SCALED)
    _refuse_other_front(values[raw_name], values[SCALED], spec)
    return golden


def _array(folder: Path, header: Mapping[str, Any], *, used: set[str]) -> np.ndarray:
    """Numbers of one raw file, of exactly the size that the header says."""
    name, dtype, shape = (header.get(key) for key in ("file", "dtype", "shape"))
    path = folder / str(name)
    if path.name != name or not path.is_file() or not name.endswith(".raw"):
        raise TrustError(f"{CORE_SPEC} names the file {name!r:.80}, which is none of the bundle's. {AGAIN}")
    sizes = shape if isinstance(shape, list) and all(type(one) is int and one > 0 for one in shape) else None
    if dtype not in DTYPES or sizes is None or header.get("byte_order") != "little":
        raise TrustError(
            f"{CORE_SPEC} has dtype={dtype!r:.40}, shape={shape!r:.80}, byte_order="
            f"{header.get('byte_order')!r:.20} of {name}; allowed are {', '.join(DTYPES)}, whole numbers"
            f" above 0, and little. {AGAIN}"
        )
    used.add(name)
    expected = math.prod(sizes) * np.dtype(DTYPES[dtype]).itemsize
    if path.stat().st_size != expected:
        raise TrustError(
            f"{name} has {path.stat().st_size:,} bytes; {dtype} of {sizes} needs {expected:,}. {AGAIN}"
        )
    return (
        np.fromfile(path, dtype=DTYPES[dtype])
        .reshape(sizes)
        .astype(np.dtype(DTYPES[dtype]).newbyteorder("="))
    )


@torch.no_grad()
def seen_by_torch(raw: np.ndarray, spec: ExportSpec) -> np.ndarray:
    """What the student sees of raw inputs, by the front end in torch."""
    front = student_row(spec.architecture).front
    image = FRONTS[front]() if front != ANY_FRONT else torch.nn.Identity()
    return np.asarray(image(FRONT_ENDS[spec.front_end].module(spec)(torch.from_numpy(raw))).numpy())


def _refuse_other_front(raw: np.ndarray, scaled: np.ndarray, spec: ExportSpec) -> None:
    """Two numbers a thousand may be one grey level apart, see `ImageFrontEnd`; none further."""
    allowed = FRONT_ENDS[spec.front_end].scaled_tolerance(spec)
    try:
        expected = seen_by_torch(raw, spec)
    except (RuntimeError, ValueError, TypeError) as error:
        raise TrustError(f"{CORE_SPEC}: the front end takes no input such as {raw.shape}. {AGAIN}") from error
    same = expected.shape == scaled.shape
    gap = float(np.abs(expected - scaled).max()) if same else math.inf
    if not gap <= allowed:
        raise TrustError(
            f"{CORE_SPEC}: {SCALED} differs by {gap:.3g} from what the front end makes of the raw input;"
            f" allowed are {allowed:.3g}. {AGAIN}"
        )
