"""A bundle's files for phones: converted, run in the format's own engine, and kept only if they are equal.

Shapes: N inputs, C channels, H height, W width of what the student sees.
"""

import copy
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import ExportError
from edgecmd.data.pairs import Targets
from export.device.student import Prediction
from export.engines.engine_process import run_engine, run_process
from export.engines.engine_table import ENGINES
from export.formats.format_table import FORMATS, python_of
from export.formats.ort_format import to_ort
from export.graph.deployable import Behind, Deployable
from export.graph.fold_standardised import fold
from export.graph.front_graph import SCALED
from export.graph.spec import ExportSpec
from export.trust.core_student import CoreStudent
from export.trust.verify import (
    Device,
    ParityLimits,
    ParityReport,
    TaskMetric,
    refuse_below,
    refuse_mismatch,
    variants_of,
    verify,
)

RUN, NOT_RUN = "run", "converted, not run"
# A converter is loaded in seconds; a busy machine takes minutes.
TIMEOUT_S = 1800.0
# As many inputs go to an engine at once.
MOST_BYTES = 64 << 20
WORKER = Path(__file__).with_name("format_worker.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """One file of a format.

    Attributes:
        file: Its name.
        format: A key of `FORMATS`.
        profile: Whose file it is made of.
        state: `RUN` or `NOT_RUN`.
        versions: Of the converter and, where it was run, of the engine.
        found: What stands in the file, as far as its converter reads it again.
        parity: How far it is from the student; None where it was not run.
        limits: How far it may be.
    """

    file: str
    format: str
    profile: str
    state: str
    versions: Mapping[str, str]
    found: Mapping[str, Any] = field(default_factory=dict)
    parity: ParityReport | None = None
    limits: ParityLimits | None = None

    def record(self, num_bytes: int) -> dict[str, Any]:
        """As ``report.json`` has it."""
        return {**asdict(self), "title": FORMATS[self.format].title, "bytes": num_bytes}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One ONNX file of the bundle, which has passed the gate.

    Attributes:
        profile: Its profile.
        file: Its name.
        limits: How far a file made of it may be from the student.
        core: What runs it, where it is a core.
    """

    profile: str
    file: str
    limits: ParityLimits
    core: CoreStudent | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What the files are made of and measured with.

    Attributes:
        reference: The student in torch, in evaluation mode, not folded.
        images: Held-out inputs.
        task: What the student is for.
        floor: Least task metric, or None.
    """

    reference: Deployable
    images: Targets
    task: TaskMetric
    floor: float | None = None


def convert_all(
    formats: Sequence[str], folder: Path, *, sources: Sequence[Source], subject: Subject
) -> Iterator[Converted]:
    """Write the files of some formats into a bundle that is being made.

    Args:
        formats: Keys of `FORMATS`, whose packages are here.
        folder: It has the ONNX files.
        sources: These.
        subject: What is converted, and the held-out inputs.

    Yields:
        One entry for each file, which has passed.

    Raises:
        ExportError: A converter or an engine fails, or a file does not do what the student does.
    """
    for name in formats:
        for source in sources:
            if not FORMATS[name].of_core:
                yield _ort(name, folder, source, subject)
            elif source.core is not None:
                yield _of_core(name, folder, source, source.core, subject)


def _ort(name: str, folder: Path, source: Source, subject: Subject) -> Converted:
    file = FORMATS[name].file(source.file)
    _write(folder, file, to_ort(folder / source.file))
    device = folder / file if source.core is None else source.core.with_core(folder / file)
    takes = source.core.takes if source.core is not None else lambda _: True
    parity = _measured(device, name, source, subject, takes=takes)
    import onnxruntime

    return Converted(
        file=file,
        format=name,
        profile=source.profile,
        state=RUN,
        versions={"onnxruntime": onnxruntime.__version__},
        parity=parity,
        limits=source.limits,
    )


def _write(folder: Path, file: str, data: bytes) -> None:
    write_artefact(folder, file, data, may_leave=True, place="bundle")


def _measured(
    device: Path | Device,
    name: str,
    source: Source,
    subject: Subject,
    *,
    takes: Callable[[np.ndarray], bool],
) -> ParityReport:
    """How far a file is from the student; refused where that is further than its profile may be."""
    parity = verify(device, subject.reference, images=subject.images, task=subject.task, takes=takes)
    called = f"{source.profile} as {name}"
    refuse_mismatch(parity, source.limits, profile=called, engine=FORMATS[name].title)
    refuse_below(parity, floor=subject.floor, profile=called)
    return parity


def _of_core(name: str, folder: Path, source: Source, core: CoreStudent, subject: Subject) -> Converted:
    file = FORMATS[name].file(source.file)
    spec, ports = subject.reference.spec, core.ports()
    data, told = converted(subject.reference.student, name, spec=spec, ports=ports)
    start, begins = FORMATS[name].begins
    if data[start : start + len(begins)] != begins:
        raise ExportError(f"The converter of {name} wrote no {FORMATS[name].suffix} file: {data[:12]!r}.")
    _write(folder, file, data)
    versions, found = dict(told["versions"]), told["facts"]
    if not FORMATS[name].engine:
        return Converted(
            file=file, format=name, profile=source.profile, state=NOT_RUN, versions=versions, found=found
        )
    device = _Told(core)
    variants = variants_of(subject.reference, subject.images, takes=core.takes)
    for raw in (*variants.values(), subject.images):
        version = device.ask(raw, folder / file, name, outputs=spec.output_names)
    parity = _measured(device, name, source, subject, takes=core.takes)
    return Converted(
        file=file,
        format=name,
        profile=source.profile,
        state=RUN,
        versions={**versions, "engine": version},
        found=found,
        parity=parity,
        limits=source.limits,
    )


class _Told:
    """A core whose outputs another engine has given, by raw input; each row was computed alone."""

    def __init__(self, core: CoreStudent) -> None:
        self.core = core
        self.rows: dict[bytes, list[np.ndarray]] = {}

    def ask(self, raw: Targets, model: Path, name: str, *, outputs: Sequence[str]) -> str:
        """Let the engine of a format compute inputs that it has not seen; its version.

        Raises:
            ExportError: It does not run the file.
        """
        row = FORMATS[name]
        found = ENGINES[row.engine].find(model.parent)
        if found is None:
            raise ExportError(f"{row.title} is not here: {ENGINES[row.engine].install}.")
        size = int(np.prod(self.core.ports()[0]["shape"])) * 4
        step, version = max(1, MOST_BYTES // size), ""
        for start in range(0, len(raw), step):
            part = np.asarray(raw[start : start + step])
            seen = [self.core.see(one[None]) for one in part]
            answers = run_engine(found, model, seen, port=SCALED, outputs=outputs, timeout_s=TIMEOUT_S)
            failed = [one for one in answers.cases if isinstance(one, str)]
            if answers.reason or failed:
                raise ExportError(f"{row.title} does not run {model.name}: {answers.reason or failed[0]}.")
            version = answers.version
            for one, answer in zip(part, answers.cases, strict=True):
                assert not isinstance(answer, str)
                self.rows[_key(one)] = [answer[key].astype(np.float32) for key in outputs]
        return version

    def __call__(self, raw: np.ndarray) -> Prediction:
        """What was told of raw inputs."""
        parts = zip(*(self.rows[_key(one)] for one in raw), strict=True)
        outputs = [np.concatenate(one) for one in parts]
        return Prediction(outputs[0], outputs[1] if len(outputs) > 1 else None)


def _key(raw: np.ndarray) -> bytes:
    return str(raw.shape).encode() + np.ascontiguousarray(raw).tobytes()


def converted(
    student: nn.Module, name: str, *, spec: ExportSpec, ports: Sequence[Mapping[str, Any]]
) -> tuple[bytes, dict[str, Any]]:
    """A student in a format, as the converter gives it: nothing is measured yet.

    Args:
        student: In evaluation mode, not folded.
        name: A key of `FORMATS` that is made of the core.
        spec: What the student is.
        ports: Name and shape of the core's input, and of each output.

    Returns:
        The file, and what the converter's process told: ``versions`` and ``facts``.

    Raises:
        ExportError: torch or the converter fails; the message has the reason.
    """
    with tempfile.TemporaryDirectory(prefix="edgecmd-format-") as place:
        folder = Path(place)
        _save_program(student, spec, ports[0]["shape"], folder / "student.pt2")
        job = {
            "format": name,
            "program": str(folder / "student.pt2"),
            "input": SCALED,
            "outputs": list(spec.output_names),
            "ports": list(ports),
            "out": str(folder / "out"),
            "folder": str(folder),
        }
        reason = run_process(
            [python_of(name), "-I", str(WORKER), json.dumps(job)], folder, timeout_s=TIMEOUT_S
        )
        if reason:
            raise ExportError(
                f"{FORMATS[name].title} cannot be made of this student: {reason.replace(place, '...')}."
                f" Leave {name} out of export.formats."
            )
        told: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return (folder / "out").read_bytes(), told


def _save_program(student: nn.Module, spec: ExportSpec, shape: Sequence[int], path: Path) -> None:
    """The core in torch, for one size and one input: what follows the front end, a log-mel image included."""
    plain = copy.deepcopy(fold(student))
    if isinstance(getattr(plain, "front", None), nn.Module):
        plain.front = nn.Identity()
    module = Behind(plain, spec).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        program = torch.export.export(module, (torch.zeros(tuple(shape)),))
        torch.export.save(program, path)
