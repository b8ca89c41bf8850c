"""The files beside the models in a bundle: program, labels, prototypes, golden values, report, card, bill.

Shapes: N inputs.
"""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import ExportError
from edgecmd.core.files import sha256_file
from edgecmd.evaluation.metrics import Embedding
from edgecmd.training.environment import versions
from export.device.assemble import program
from export.device.classes import Prototypes
from export.device.student import Student as DeviceStudent
from export.documents.model_card import model_card
from export.documents.provenance import Provenance
from export.documents.requirements import OPSET, requirements
from export.documents.sbom import bill_of_materials
from export.formats.conversion import Converted
from export.graph.folding import Folding
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import EXAMPLES, FORMAT_VERSION, LINEAR, MASKS, ExportSpec
from export.profiles.mobile import mobile_verdict
from export.profiles.table import PROFILES, summary_of
from export.targets.fitting import record_of
from export.trust.core_student import CoreStudent
from export.trust.listing import (
    BOM,
    CARD,
    CORE_SPEC,
    GOLDEN,
    LABELS,
    PROGRAM,
    PROTOTYPES,
    REPORT,
    SIGNATURE,
    SUMS,
)
from export.trust.raw_golden import core_record, golden_cases
from export.trust.verify import ParityLimits, ParityReport

PACKAGES = ("edgecmd", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """One model of a bundle.

    Attributes:
        file: Its name.
        parity: How far it is from the student.
        limits: How far it may be.
        core: What runs it, where it is a core.
        gap: Of a core, the largest difference from the whole graph on golden inputs and held-out ones.
    """

    file: str
    parity: ParityReport
    limits: ParityLimits
    core: CoreStudent | None = None
    gap: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """All that a bundle is made of beside the files of its models.

    Attributes:
        spec: What the student is.
        models: Models by profile; the first is student.onnx.
        prototypes: Classes by example, where the head is made of them.
        calibration: What the calibration inputs were; empty where none were needed.
        provenance: Where the student comes from.
        folding: Where GroupNorm was folded away before, what that changed.
        formats: Files for phones.
    """

    spec: ExportSpec
    models: Mapping[str, Built]
    prototypes: Prototypes | None = None
    calibration: str = ""
    provenance: Provenance = field(default_factory=Provenance)
    folding: Folding | None = None
    formats: tuple[Converted, ...] = ()


def write_contents(folder: Path, contents: Contents) -> None:
    """Write everything but the models, which are there.

    Raises:
        PrivacyError: The run has a privacy mechanism, and a file would reveal what no guarantee covers.
    """
    spec, source = contents.spec, contents.provenance
    private = source.private or bool(source.privacy)
    write = partial(write_artefact, folder, may_leave=True, place="bundle", private=private)
    write(PROGRAM, program())
    if spec.head is not None:
        write(LABELS, list(spec.head.names))
    if contents.prototypes is not None:
        write(PROTOTYPES, _npz(prototype_arrays(contents.prototypes)))
    write(GOLDEN, _npz(golden(folder, contents)))
    for built in contents.models.values():
        if built.core is not None:
            record, files = core_record(golden_cases(built.core, spec), spec)
            for name, numbers in {**files, CORE_SPEC: record}.items():
                write(name, numbers)
    report = report_record(folder, contents)
    write(REPORT, report)
    write(CARD, model_card(report, source))
    write(BOM, bill_of_materials(report, source))
    write_sums(folder)


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` of all files of a bundle; a signature lists it, and not the other way round."""
    files = [path.name for path in folder.iterdir() if path.is_file()]
    names = sorted(name for name in files if name not in (SUMS, SIGNATURE))
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in names]
    write_artefact(folder, SUMS, "".join(lines), may_leave=True, place="bundle")


def prototype_arrays(prototypes: Prototypes) -> dict[str, Any]:
    """Arrays of ``prototypes.npz``: names (K), vectors (K, D), scale."""
    return {
        "names": np.array(prototypes.names),
        "vectors": prototypes.vectors,
        "scale": np.float64(prototypes.scale),
    }


def golden(folder: Path, contents: Contents) -> dict[str, Any]:
    """Made-up inputs and what each model of the bundle gives for them here.

    Keys: ``image`` uint8 (N, S, S, C) and ``image/resized`` of another size; for each profile such as w8
    ``embedding/w8``, with a head ``scores/w8``, the same with ``/resized`` behind, and ``tolerance/w8``, the
    largest difference that another machine may show. Held-out inputs may be private, so none is among them.

    Raises:
        ExportError: An output is not finite, or the embeddings are alike.
    """
    own, other = FRONT_ENDS[contents.spec.front_end].golden(contents.spec)
    arrays: dict[str, Any] = {}
    for size, inputs in (("", own), ("/resized", other)):
        arrays[f"{FRONT_ENDS[contents.spec.front_end].input_name}{size}"] = inputs
        for name, built in contents.models.items():
            if built.core is not None:
                continue
            student = DeviceStudent(folder / built.file)
            for output, values in zip(student.outputs, student(inputs), strict=False):
                if values is None or not np.isfinite(values).all():
                    raise ExportError(f"{built.file}: {output} of the golden inputs is not finite.")
                arrays[f"{output}/{name}{size}"] = values
            refuse_alike(arrays[f"embedding/{name}{size}"], profile=name)
            arrays[f"tolerance/{name}"] = np.float64(PROFILES[name].tolerance)
    return arrays


def refuse_alike(embedding: Embedding, *, profile: str) -> None:
    """Refuse a student that cannot tell inputs apart: a wrong file could not be told from it.

    Args:
        embedding: Of made-up inputs, (N, D).
        profile: Whose tolerance counts.

    Raises:
        ExportError: No number differs by more than that tolerance.
    """
    most, tolerance = float(np.abs(embedding - embedding[:1]).max()), PROFILES[profile].tolerance
    if most <= tolerance:
        raise ExportError(
            f"The student gives nearly the same embedding for every input: no number differs by more than"
            f" {most:.1g}, and {profile} is checked to {tolerance:g}, so any file would pass for it. It has"
            " learnt too little: train it longer, or with another learning rate, and export it then."
        )


def _npz(arrays: Mapping[str, Any]) -> bytes:
    """Bytes of an .npz file; numpy writes the same date into each."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def report_record(folder: Path, contents: Contents) -> dict[str, Any]:
    """What ``report.json`` holds: nothing about the machine but versions of packages, and no time.

    ``parity`` is that of student.onnx.
    """
    spec = contents.spec
    return {
        "format": FORMAT_VERSION,
        "opset": OPSET,
        "requires": requirements(OPSET),
        "preprocess": FRONT_ENDS[spec.front_end].metadata(spec),
        "architecture": spec.architecture,
        "front_end": spec.front_end,
        "image_size": spec.image_size,
        **({"rate_hz": spec.rate_hz} if spec.rate_hz else {}),
        "channels": spec.channels,
        "embedding_dim": spec.embedding_dim,
        "num_classes": 0 if spec.head is None else len(spec.head.names),
        "classes": [] if spec.head is None else list(spec.head.names),
        "classes_by": _classes_by(contents),
        "license": spec.license,
        "calibration": contents.calibration,
        "folding": None if contents.folding is None else asdict(contents.folding),
        "parity": asdict(next(iter(contents.models.values())).parity),
        "profiles": {
            name: {
                "file": built.file,
                "summary": summary_of(name, folder / built.file),
                "bytes": (folder / built.file).stat().st_size,
                "tolerance": PROFILES[name].tolerance,
                "parity": asdict(built.parity),
                "limits": asdict(built.limits),
                **({} if built.gap is None else {"difference_from_whole": built.gap}),
                "phones": mobile_verdict(folder / built.file),
                **record_of((folder / built.file).read_bytes()),
            }
            for name, built in contents.models.items()
        },
        "formats": {one.file: one.record((folder / one.file).stat().st_size) for one in contents.formats},
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(folder.iterdir())
        },
        "versions": versions(PACKAGES),
    }


def _classes_by(contents: Contents) -> str:
    if contents.spec.head is None:
        return ""
    if "mask" in contents.spec.output_names:
        return MASKS
    return LINEAR if contents.prototypes is None else EXAMPLES
