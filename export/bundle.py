"""The folder that goes to a device: model, program, labels, golden values, figures and checksums.

Shapes: N images, H height, W width, C channels.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import nn

from edgecmd.data.pairs import Images
from edgecmd.errors import ExportError
from edgecmd.files import sha256_file, write_bytes_atomically, write_json, write_text_atomically
from export.device.infer import InferError
from export.fold import fold
from export.graph import Deployable, rebuild
from export.spec import FORMAT_VERSION, ExportSpec
from export.to_onnx import OPSET, to_onnx
from export.verify import Metric, ParityLimits, ParityReport, run_torch, verify

MODEL, PROGRAM, LABELS, GOLDEN = "student.onnx", "infer.py", "labels.json", "golden.npz"
REPORT, SUMS = "report.json", "SHA256SUMS"
BUNDLE_FILES = frozenset({MODEL, PROGRAM, LABELS, GOLDEN, REPORT, SUMS})
PACKAGES = ("edgecmd", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")
NUM_GOLDEN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleReport:
    """What was exported.

    Attributes:
        folder: Where the bundle lies.
        parity: How far it is from the student.
        num_bytes: Size of each file.
        export_s: Seconds that the exporter took.
    """

    folder: Path
    parity: ParityReport
    num_bytes: Mapping[str, int]
    export_s: float


def export_bundle(
    student: nn.Module,
    out_dir: Path,
    *,
    spec: ExportSpec,
    probe_images: Images,
    metric: Metric,
    metric_name: str = "metric",
    limits: ParityLimits | None = None,
) -> BundleReport:
    """Export a student, check the file against it, and only then put the folder in place.

    Args:
        student: The trained student, in any mode, also compiled or wrapped for per-example gradients; it is
            not changed.
        out_dir: Folder of the bundle. An older bundle there is replaced.
        spec: Shapes, preprocessing and head.
        probe_images: Held-out inputs, uint8, (N, H, W, C), at least 1.
        metric: Task metric of unit embeddings of ``probe_images``.
        metric_name: Its name.
        limits: How far the file may be from the student; `ParityLimits` by default.

    Guarantees:
        When this raises, nothing new is left on the disk and an older bundle is as it was. Equal weights
        and settings give equal bytes in every file. No probe image is written into the bundle.

    Raises:
        ExportError: The weights do not fit ``spec`` or are not finite, the file does not do what the student
            does, or ``out_dir`` holds something else or cannot be written.
        ConfigError: ``spec.architecture`` is unknown.
    """
    out_dir, limits = Path(out_dir).resolve(), limits or ParityLimits()
    refuse_foreign(out_dir)
    if probe_images.shape[1:] != spec.image_shape or probe_images.dtype != np.uint8:
        raise ExportError(
            f"probe_images has dtype={probe_images.dtype} and shape={probe_images.shape};"
            f" allowed is uint8 of shape (num, {', '.join(map(str, spec.image_shape))})."
        )
    plain = rebuild(student, spec)
    reference = Deployable(plain, spec).eval()
    started = time.perf_counter()
    model = to_onnx(Deployable(fold(plain), spec).eval())
    export_s = time.perf_counter() - started
    try:
        with _staging(out_dir.parent) as staging:
            built = staging / "bundle"
            write_bytes_atomically(built / MODEL, model)
            parity = verify(
                built / MODEL,
                reference,
                images=probe_images,
                metric=metric,
                metric_name=metric_name,
                limits=limits,
            )
            write_contents(built, reference, parity=parity, limits=limits)
            num_bytes = {path.name: path.stat().st_size for path in sorted(built.iterdir())}
            _place(built, out_dir, attic=staging / "older")
    except InferError as error:
        raise ExportError(f"The exported file does not load on a device: {error}") from error
    except OSError as error:
        raise ExportError(
            f"{out_dir} cannot be written: {error.strerror or error}. Check the folder."
        ) from error
    return BundleReport(folder=out_dir, parity=parity, num_bytes=num_bytes, export_s=export_s)


def refuse_foreign(out_dir: Path) -> None:
    """Refuse to replace anything but a bundle.

    Raises:
        ExportError: The message names what lies there.
    """
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise ExportError(f"{out_dir} is a file. Choose another folder for the bundle.")
    names = {path.name for path in out_dir.iterdir()} - {"__pycache__"}
    foreign = sorted(names - BUNDLE_FILES)
    if foreign:
        raise ExportError(
            f"{out_dir} holds things that are no part of a bundle, such as {foreign[0]}; they would be lost."
            " Move them away or choose another folder."
        )


@contextlib.contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """Temporary folder beside the bundle, so that a rename suffices; a failure takes new parents along."""
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".export-") as name:
            yield Path(name)
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _place(built: Path, out_dir: Path, *, attic: Path) -> None:
    """Rename the bundle into place; an older one goes to ``attic``, and back if that fails."""
    replaced = out_dir.exists()
    if replaced:
        out_dir.rename(attic)
    try:
        built.rename(out_dir)
    except BaseException:
        if replaced:
            attic.rename(out_dir)
        raise


def write_contents(
    folder: Path, reference: Deployable, *, parity: ParityReport, limits: ParityLimits
) -> None:
    """Write everything but the model, which is there: program, labels, golden values, report, checksums."""
    spec = reference.spec
    write_bytes_atomically(folder / PROGRAM, files("export.device").joinpath(PROGRAM).read_bytes())
    if spec.head is not None:
        write_json(folder / LABELS, list(spec.head.names))
    write_bytes_atomically(folder / GOLDEN, golden(reference, tolerance=limits.max_abs))
    write_json(folder / REPORT, report_record(folder, spec, parity=parity, limits=limits))
    names = sorted(path.name for path in folder.iterdir())
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in names]
    write_text_atomically(folder / SUMS, "".join(lines))


def golden(reference: Deployable, *, tolerance: float) -> bytes:
    """Made-up inputs with the outputs that a device must reproduce, as the bytes of an .npz file.

    Keys: ``image`` uint8 (N, H, W, C), ``embedding``, with a head ``scores``, and ``tolerance``, the largest
    difference that is allowed.
    """
    images = golden_images(reference.spec)
    expected = run_torch(reference, images)
    arrays: dict[str, Any] = {
        "image": images,
        "embedding": expected.embedding,
        "tolerance": np.float64(tolerance),
    }
    if expected.scores is not None:
        arrays["scores"] = expected.scores
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def golden_images(spec: ExportSpec) -> UInt8[np.ndarray, "num height width channels"]:
    """Seeded noise, from fine to coarse; held-out images may be private, so none is used."""
    generator, images = np.random.default_rng(0), []
    for index in range(NUM_GOLDEN):
        block = 2**index
        side = -(-spec.image_size // block)
        small = generator.integers(0, 256, (side, side, spec.channels), dtype=np.uint8)
        large = small.repeat(block, axis=0).repeat(block, axis=1)
        images.append(large[: spec.image_size, : spec.image_size])
    return np.stack(images)


def report_record(
    folder: Path, spec: ExportSpec, *, parity: ParityReport, limits: ParityLimits
) -> dict[str, object]:
    """What ``report.json`` holds: nothing about the machine but versions of packages."""
    return {
        "format": FORMAT_VERSION,
        "opset": OPSET,
        "architecture": spec.architecture,
        "image_size": spec.image_size,
        "channels": spec.channels,
        "embedding_dim": spec.embedding_dim,
        "num_classes": 0 if spec.head is None else len(spec.head.names),
        "license": spec.license,
        "parity": asdict(parity),
        "limits": asdict(limits),
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(folder.iterdir())
        },
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
