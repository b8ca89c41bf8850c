"""The folder that goes to a device: models, program, labels, golden values, figures and checksums.

Shapes: N images, S side of the student's input, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import ExportError, choose
from edgecmd.core.files import folder_in_one_piece
from edgecmd.core.machine import explain
from edgecmd.core.text import counted
from edgecmd.data.pairs import Targets
from export.device.classes import Prototypes
from export.device.reading import InferError
from export.device.student import Student as DeviceStudent
from export.documents.bundle_files import Built, Contents, refuse_alike, write_contents
from export.documents.provenance import Provenance
from export.formats.conversion import Converted, Source, Subject, convert_all
from export.formats.format_table import refuse_missing, with_core
from export.graph.deployable import Deployable, rebuild
from export.graph.fold_standardised import fold
from export.graph.folding import Folding
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import ExportSpec
from export.graph.to_onnx import to_onnx
from export.profiles.quantise import layers_in_8_bits
from export.profiles.sensitivity import Culprit, Quality, find_culprit
from export.profiles.table import (
    DEFAULT,
    PROFILES,
    Calibration,
    file_name,
    limits_of,
    make_profile,
    need_calibration,
    refuse_malformed,
)
from export.trust.core_student import CoreStudent, refuse_gap
from export.trust.listing import CACHE, RAW_FILE, RULES, is_format, profile_file
from export.trust.verify import (
    ParityError,
    ParityReport,
    TaskMetric,
    compare,
    refuse_below,
    refuse_mismatch,
    run_device,
    run_torch,
    verify,
)

# Leaving out one layer at a time takes ranges anew for each, and there may be dozens.
RANGES_OF_SEARCH, BATCH_OF_SEARCH = 16, 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a bundle is to hold, and how good it must be.

    Attributes:
        profiles: Keys of `export.profiles.PROFILES`; the first becomes student.onnx.
        min_cosine: Smallest cosine for fp32 and w8; None for 0.9999 and 0.9995.
        floor: Least task metric through ONNX Runtime, or None.
        calibration: Public or made-up inputs, for the profiles that need them.
        prototypes: Where the head is made of them, they are written beside it.
        provenance: For the card.
        folding: Where GroupNorm was folded away before, what that changed.
        formats: Keys of `export.formats.format_table.FORMATS`; for most of them the core comes along.
    """

    profiles: tuple[str, ...] = (DEFAULT,)
    min_cosine: float | None = None
    floor: float | None = None
    calibration: Calibration | None = None
    prototypes: Prototypes | None = None
    provenance: Provenance = field(default_factory=Provenance)
    folding: Folding | None = None
    formats: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleReport:
    """What was exported.

    Attributes:
        folder: Where the bundle is.
        parity: How far each profile is from the student.
        num_bytes: Size of each file.
        folding: Where GroupNorm was folded away before, what that changed.
        formats: Files for phones.
    """

    folder: Path
    parity: Mapping[str, ParityReport]
    num_bytes: Mapping[str, int]
    folding: Folding | None = None
    formats: tuple[Converted, ...] = ()

    def __str__(self) -> str:
        parts, names = [], tuple(self.parity)
        if self.folding is not None:
            folding = self.folding
            parts.append(
                f"GroupNorm folded away: cosine {folding.cosine_before:.4f}, after"
                f" {counted(folding.num_steps, 'step')} {folding.cosine:.4f};"
                f" {folding.metric_name} {folding.metric_original:.3f}, now {folding.metric:.3f}"
            )
        for name, parity in self.parity.items():
            parts.append(
                f"{name} {self.num_bytes[file_name(name, profiles=names)] / 1000:.0f} kB,"
                f" least cosine {parity.min_cosine:.5f},"
                f" {parity.metric_name} through onnxruntime {parity.metric_onnx:.3f}"
            )
        for one in self.formats:
            told = one.state if one.parity is None else f"least cosine {one.parity.min_cosine:.5f}"
            parts.append(f"{one.file} {self.num_bytes[one.file] / 1000:.0f} kB, {told}")
        return "; ".join(parts)


def export_bundle(
    student: nn.Module,
    out_dir: Path,
    *,
    spec: ExportSpec,
    probe_images: Targets,
    task: TaskMetric,
    options: Options | None = None,
) -> BundleReport:
    """Export a student, check every file against it, and only then put the folder in place.

    Args:
        student: The trained student, in any mode, also compiled or wrapped for per-example gradients; it is
            not changed.
        out_dir: Folder of the bundle. An older bundle there is replaced.
        spec: Shapes, preprocessing and head.
        probe_images: Held-out inputs, such as uint8 (N, S, S, C); at least 1.
        task: What the student is for, measured on ``probe_images``.
        options: Profiles and limits; `Options` by default.

    Guarantees:
        When this raises, Ctrl-C included, nothing new is left on the disk and an older bundle is as it was.
        Equal weights and settings give equal bytes in every file but .ort, in which ONNX Runtime lists the
        operators in another order each time. No probe image is written into the bundle.

    Raises:
        ExportError: The weights do not fit ``spec`` or are not finite, the student tells no inputs apart, a
            file does not do what the student does, or ``out_dir`` holds something else.
        MachineError: ``out_dir`` cannot be written.
        ConfigError: ``spec.architecture`` or a profile is unknown.
    """
    out_dir, options = Path(out_dir).resolve(), options or Options()
    options = replace(options, profiles=with_core(options.profiles, options.formats))
    refuse_missing(options.formats)
    refuse_foreign(out_dir)
    _refuse_inputs(probe_images, spec)
    plain = rebuild(student, spec)
    bench = Bench(reference=Deployable(plain, spec).eval(), images=probe_images, task=task)
    embedding = run_torch(bench.reference, FRONT_ENDS[spec.front_end].golden(spec)[0]).embedding
    for name in options.profiles:
        refuse_alike(embedding, profile=name)
    data = to_onnx(Deployable(fold(plain), spec).eval())
    try:
        with folder_in_one_piece(out_dir) as built:
            models = {name: bench.build(data, built, name, options=options) for name in options.profiles}
            formats = bench.convert(models, built, options=options)
            calibrated = options.calibration and need_calibration(models)
            contents = Contents(
                spec=spec,
                models=models,
                prototypes=options.prototypes,
                calibration=options.calibration.description if options.calibration and calibrated else "",
                provenance=options.provenance,
                folding=options.folding,
                formats=formats,
            )
            write_contents(built, contents)
            num_bytes = {path.name: path.stat().st_size for path in sorted(built.iterdir())}
    except InferError as error:
        raise ExportError(f"The exported file does not load on a device: {error}") from error
    except OSError as error:
        raise explain(error, doing=f"The bundle {out_dir} cannot be written") from error
    parity = {name: one.parity for name, one in models.items()}
    return BundleReport(
        folder=out_dir, parity=parity, num_bytes=num_bytes, folding=options.folding, formats=formats
    )


def _refuse_inputs(inputs: Targets, spec: ExportSpec) -> None:
    """Refuse inputs of another kind or size than the student's own."""
    front_end = choose("front_end", spec.front_end, FRONT_ENDS)
    shape, dtype = front_end.shape(spec), np.dtype(front_end.dtype)
    if inputs.shape[1:] != shape or inputs.dtype != dtype:
        raise ExportError(
            f"probe_images has dtype={inputs.dtype} and shape={inputs.shape};"
            f" allowed is {dtype} of shape (num, {', '.join(map(str, shape))})."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What every file of a bundle is measured with.

    Attributes:
        reference: The student in torch, in evaluation mode, not folded.
        images: Held-out inputs.
        task: What the student is for.
    """

    reference: Deployable
    images: Targets
    task: TaskMetric

    def build(self, data: bytes, folder: Path, name: str, *, options: Options) -> Built:
        """Write the file of a profile and check it.

        Args:
            data: The float32 file.
            folder: Where it is written.
            name: The profile.
            options: Limits and calibration.

        Raises:
            ExportError: The file is malformed or beyond a limit of its profile.
        """
        file = file_name(name, profiles=options.profiles)
        model = make_profile(data, name, calibration=options.calibration)
        write_artefact(folder, file, model, may_leave=True, place="bundle")
        refuse_malformed((folder / file).read_bytes(), name=file)
        core = None if PROFILES[name].raw else CoreStudent(folder / file, data)
        parity = self.parity(folder / file if core is None else core)
        limits = limits_of(name, min_cosine=options.min_cosine)
        try:
            refuse_mismatch(parity, limits, profile=name)
        except ParityError as error:
            if not PROFILES[name].calibrated or options.calibration is None:
                raise
            culprit = self.culprit(data, folder, name, calibration=options.calibration)
            raise ParityError(f"{error} {culprit} Use w8, or train with a larger student.") from error
        refuse_below(parity, floor=options.floor, profile=name)
        gap = None if core is None else self.gap(core)
        return Built(file=file, parity=parity, limits=limits, core=core, gap=gap)

    def convert(
        self, models: Mapping[str, Built], folder: Path, *, options: Options
    ) -> tuple[Converted, ...]:
        """Write the files for phones, each checked as the file that it is made of.

        Raises:
            ExportError: A file cannot be made, or is beyond a limit.
        """
        sources = [
            Source(profile=name, file=one.file, limits=one.limits, core=one.core)
            for name, one in models.items()
        ]
        subject = Subject(reference=self.reference, images=self.images, task=self.task, floor=options.floor)
        return tuple(convert_all(options.formats, folder, sources=sources, subject=subject))

    def parity(self, device: Path | CoreStudent) -> ParityReport:
        """How far a file, or a core behind its front end, is from the student."""
        takes = device.takes if isinstance(device, CoreStudent) else lambda _: True
        return verify(device, self.reference, images=self.images, task=self.task, takes=takes)

    def gap(self, core: CoreStudent) -> float:
        """How far a core is from the whole graph.

        Raises:
            ParityError: Further than rounding explains.
        """
        spec = self.reference.spec
        golden = [one for one in FRONT_ENDS[spec.front_end].golden(spec) if core.takes(one)]
        gap = max(core.gap(one) for one in (*golden, self.images[:BATCH_OF_SEARCH]))
        refuse_gap(gap)
        return gap

    def culprit(self, data: bytes, folder: Path, name: str, *, calibration: Calibration) -> Culprit:
        """Layer whose leaving out makes the file of a profile best, with few inputs to take ranges from."""
        few = replace(calibration, inputs=calibration.inputs[:RANGES_OF_SEARCH])
        expected, path = run_torch(self.reference, self.images), folder / "search.onnx"

        def quality(leave_out: Sequence[str]) -> Quality:
            path.write_bytes(make_profile(data, name, calibration=few, leave_out=leave_out))
            found = run_device(DeviceStudent(path), self.images, batch_size=BATCH_OF_SEARCH)
            return Quality(self.task.measure(found), compare(expected, found).mean_cosine)

        made = onnx.load_from_string(make_profile(data, name, calibration=few))
        return find_culprit(layers_in_8_bits(made), quality=quality)


def refuse_foreign(out_dir: Path) -> None:
    """Refuse to replace anything but a bundle.

    Raises:
        ExportError: The message names what is there.
    """
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise ExportError(f"{out_dir} is a file. Choose another folder for the bundle.")
    names = {path.name for path in out_dir.iterdir()} - {CACHE, *RULES, *map(profile_file, PROFILES)}
    foreign = sorted(name for name in names if not (RAW_FILE.fullmatch(name) or is_format(name)))
    if foreign:
        raise ExportError(
            f"{out_dir} contains things that are not part of a bundle, such as {foreign[0]}; they would be"
            " lost. Move them away or choose another folder."
        )
