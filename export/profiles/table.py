"""The ways to store and compute a student, each with its own limits: smaller or faster, and checked.

| profile | weights | arithmetic | needs | for |
|---|---|---|---|---|
| `w8` | 8 bits | float32 | nothing | everything; the default |
| `fp32` | float32 | float32 | nothing | comparing; devices with room |
| `w4` | 4 bits where they may | float32 | nothing | the smallest file |
| `int8` | 8 bits | 8-bit convolutions | public calibration images | speed on x86 with VNNI and on ARM |
| `dyn8` | 8 bits | 8-bit matrix products | nothing | transformers on x86 |
| `core` | float32 | float32 | a front end of one's own | engines that fail at the whole graph |
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from edgecmd.core.errors import ConfigError, ExportError, choose
from export.device.properties import CORE
from export.documents.requirements import LOWEST_OPSET, OPSET, PROPERTY, requirements
from export.graph.to_onnx import check_form
from export.profiles.core import core_of
from export.profiles.quantise import (
    layers_in_8_bits,
    paying_layers,
    quantise_dynamic,
    quantise_static,
    quantised_layers,
)
from export.profiles.weight_compression import store, store_tables
from export.trust.gate import gate, is_core
from export.trust.listing import MODEL, profile_file
from export.trust.verify import ParityLimits

# The student as it is traced, which the others are made from and compared with; and the one to begin with.
BASE, DEFAULT, INT8 = "fp32", "w8", "int8"
# The default student is above 0.9999; the smallest one, hardly trained, was seen at 0.99989.
W8_COSINE = 0.9995
# What a file that was just made is refused with: only a student of anyone's own can be the reason.
OTHER_LAYERS = "Build that part of the student from other layers: devices support no others."
PROFILE_KEY = "edgecmd.profile"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """Public or made-up inputs whose ranges int8 takes.

    Attributes:
        inputs: Raw inputs, first axis the examples.
        description: What they are and that they are not private, for the card.
    """

    inputs: np.ndarray
    description: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """One way to store and compute a student.

    Attributes:
        make: From the float32 file; the calibration is None where none was given, and the names are those of
            layers to leave in float32.
        limits: How far its outputs may be from the student's.
        tolerance: Largest difference that another machine may show on the golden inputs.
        summary: Weights and arithmetic in a few words, for the card.
        calibrated: Whether it needs a calibration.
        integer: Whether it computes in 8 bits, which processors do not all do alike.
        exact: Whether it computes as the student does but for rounding of stored weights: then
            ``export.min_cosine`` is its limit, and it is advised for machines where nothing was measured.
        in_openvino: Whether ``bench export`` measures its file in OpenVINO as well.
        raw: Whether its file takes what a device gives; else what the student sees, and it is never the first
            of a bundle.
    """

    make: Callable[[onnx.ModelProto, Calibration | None, Sequence[str]], onnx.ModelProto]
    limits: ParityLimits
    tolerance: float
    summary: str
    calibrated: bool = False
    integer: bool = False
    exact: bool = False
    in_openvino: bool = False
    raw: bool = True


def _int8(
    model: onnx.ModelProto, calibration: Calibration | None, leave_out: Sequence[str]
) -> onnx.ModelProto:
    """Static 8-bit arithmetic but for the first and the last layer, whose weights are stored in 8 bits.

    Those two in float32 were measured to be closer to the student (mean cosine 0.9999 for 0.9997) and no
    slower: the first has few channels, the last one position.
    """
    assert calibration is not None
    layers, paying = quantised_layers(model), paying_layers(model)
    ends = [layers[0], layers[-1]] if len(layers) > 2 else []
    left = [*ends, *leave_out, *(name for name in layers if paying is not None and name not in paying)]
    made = quantise_static(model, calibration.inputs, leave_out=left, alone=paying is not None)
    return store(made, bits=8)


def _dyn8(model: onnx.ModelProto, _: Calibration | None, leave_out: Sequence[str]) -> onnx.ModelProto:
    made = quantise_dynamic(model, leave_out=leave_out)
    store_tables(made, bits=8)
    return made


ROUNDED = ParityLimits(max_abs=None, min_cosine=0.9, max_metric_gap=0.01)
PROFILES: dict[str, Profile] = {
    "fp32": Profile(
        make=lambda model, _, __: model,
        limits=ParityLimits(),
        tolerance=1e-4,
        summary="float32 weights, float32 arithmetic",
        exact=True,
        in_openvino=True,
    ),
    "w8": Profile(
        make=lambda model, _, __: store(model, bits=8),
        limits=ParityLimits(max_abs=None, min_cosine=W8_COSINE),
        tolerance=1e-4,
        summary="8-bit weights with scales for a few inputs of each output channel, float32 arithmetic",
        exact=True,
    ),
    "w4": Profile(
        make=lambda model, _, __: store(model, bits=4),
        limits=ROUNDED,
        tolerance=1e-4,
        summary="4-bit weights of large convolutions, 8-bit weights elsewhere, float32 arithmetic",
    ),
    INT8: Profile(
        make=_int8,
        limits=ROUNDED,
        tolerance=2e-2,
        summary="8-bit weights, 8-bit arithmetic but in the first and last layer, calibrated ranges",
        calibrated=True,
        integer=True,
        in_openvino=True,
    ),
    "dyn8": Profile(
        make=_dyn8,
        limits=ROUNDED,
        tolerance=2e-2,
        summary="8-bit weights and arithmetic in matrix products, ranges found at run time",
        integer=True,
    ),
    CORE: Profile(
        make=lambda model, _, __: core_of(model),
        limits=ParityLimits(),
        tolerance=1e-4,
        summary="the student without its front end, for other engines: float32, one input of fixed size",
        raw=False,
    ),
}


def choose_profiles(names: str) -> tuple[str, ...]:
    """Profiles of a list such as ``w8,int8``, in order; the first becomes student.onnx.

    Raises:
        ConfigError: A name is unknown or twice, or there is none.
    """
    chosen = tuple(name.strip() for name in names.split(",") if name.strip())
    for name in chosen:
        choose("export.profiles", name, PROFILES)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(
            f"export.profiles={names!r} must name one or more profiles, each once: {', '.join(PROFILES)},"
            " such as w8,int8."
        )
    if not PROFILES[chosen[0]].raw:
        raise ConfigError(
            f"export.profiles={names!r} begins with {chosen[0]}, which takes no raw inputs, as"
            f" student.onnx must. Put another first: {DEFAULT},{','.join(chosen)}."
        )
    return chosen


def limits_of(name: str, *, min_cosine: float | None = None) -> ParityLimits:
    """Limits of a profile; ``min_cosine`` replaces that of the exact ones."""
    profile = PROFILES[name]
    if min_cosine is None or not profile.exact:
        return profile.limits
    return replace(profile.limits, min_cosine=min_cosine)


def need_calibration(names: Iterable[str]) -> bool:
    """Whether any of the profiles needs a calibration."""
    return any(PROFILES[name].calibrated for name in names)


def computes_in_integers(name: str) -> bool:
    """Whether a profile computes in 8 bits; of one that is unknown here, no."""
    return name in PROFILES and PROFILES[name].integer


def summary_of(name: str, path: Path) -> str:
    """Weights and arithmetic of the file of a profile: its summary, or how many layers are in 8 bits."""
    if name != INT8:
        return PROFILES[name].summary
    model = onnx.load(path)
    num, among = len(layers_in_8_bits(model)), len(quantised_layers(model))
    if num >= among - 2:
        return PROFILES[name].summary
    return (
        f"8-bit weights, 8-bit arithmetic in the {num} of {among} layers that it pays for, calibrated ranges"
    )


def file_name(name: str, *, profiles: Sequence[str]) -> str:
    """File of a profile in a bundle of ``profiles``."""
    return MODEL if name == profiles[0] else profile_file(name)


def make_profile(
    data: bytes, name: str, *, calibration: Calibration | None = None, leave_out: Sequence[str] = ()
) -> bytes:
    """The file of a profile, made from the float32 file and checked.

    Args:
        data: The float32 file, as `export.graph.to_onnx.to_onnx` makes it.
        name: A key of `PROFILES`.
        calibration: For a profile that needs one.
        leave_out: Layers to leave in float32.

    Raises:
        ExportError: The calibration is missing, or the profile is not for this student.
        ConfigError: The profile is unknown.
    """
    profile = choose("export.profiles", name, PROFILES)
    if profile.calibrated and (calibration is None or not len(calibration.inputs)):
        raise ExportError(f"Profile {name} needs calibration inputs, public or procedural; give at least 1.")
    source = gate(data, name="The exported file", way_out=OTHER_LAYERS)
    properties = {entry.key: entry.value for entry in source.metadata_props}
    model = profile.make(source, calibration, leave_out)
    del model.metadata_props[:]
    needed = json.dumps(requirements(model.opset_import[0].version), sort_keys=True)
    for key, value in sorted({**properties, PROFILE_KEY: name, PROPERTY: needed}.items()):
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString(deterministic=True))


def refuse_malformed(data: bytes, *, name: str) -> None:
    """Refuse what is not a plain file of the opset that was asked for, or what no device may load.

    Raises:
        ExportError: The message names the fault.
    """
    model = gate(data, name=name, way_out=OTHER_LAYERS)
    check_form(model, opsets=range(LOWEST_OPSET, OPSET + 1) if is_core(model) else (OPSET,))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{name} is an invalid file: {error}") from error
