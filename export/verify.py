"""Does the exported file do what the student does? Measured through the device's own runtime.

Shapes: N images, D embedding dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from edgecmd.data.pairs import Images
from edgecmd.errors import ExportError
from export.device.infer import Prediction
from export.device.infer import Student as DeviceStudent
from export.graph import Deployable

Embedding = Float[np.ndarray, "num dim"]
Metric = Callable[[np.ndarray], float]

BATCH_SIZES = (1, 2, 5, 32)
# The smaller batch sizes are tried on this many images; the largest on all of them.
MAX_IMAGES_PER_BATCH_SIZE = 64
# A row shorter than this (a blank picture before training) has no direction to compare.
SHORTEST_ROW = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityLimits:
    """How far the exported file may be from the student.

    Attributes:
        max_abs: Largest difference of any number of embedding or scores.
        min_cosine: Smallest cosine between the two embeddings of an image.
        max_metric_gap: Largest difference of the task metric.
    """

    max_abs: float = 1e-4
    min_cosine: float = 0.9999
    max_metric_gap: float = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """What was measured; the worst over all batch sizes.

    Attributes:
        batch_sizes: Batch sizes that were tried.
        num_images: Images given.
        max_abs: Largest difference of the embeddings.
        min_cosine: Smallest cosine between the embeddings.
        max_abs_scores: Largest difference of the class probabilities; None without a head.
        metric_name: Name of the task metric.
        metric_torch: Its value on the embeddings of torch.
        metric_onnx: Its value on the embeddings of ONNX Runtime.
    """

    batch_sizes: tuple[int, ...]
    num_images: int
    max_abs: float
    min_cosine: float
    max_abs_scores: float | None
    metric_name: str
    metric_torch: float
    metric_onnx: float


def verify(
    path: Path,
    reference: Deployable,
    *,
    images: Images,
    metric: Metric,
    metric_name: str = "metric",
    limits: ParityLimits | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> ParityReport:
    """Compare an exported file with the student it came from.

    Args:
        path: The exported file.
        reference: The student in torch, in evaluation mode, not folded.
        images: Held-out inputs, uint8, (N, H, W, C); fewer than a batch are repeated to fill it.
        metric: Task metric of unit embeddings (N, D), in the order of ``images``.
        metric_name: Its name, for report and messages.
        limits: How far they may differ; `ParityLimits` by default.
        batch_sizes: Batch sizes to try.

    Raises:
        ExportError: A figure is beyond its limit or not a number; the message names both.
    """
    limits = limits or ParityLimits()
    if not len(images):
        raise ExportError("There is no held-out image to compare torch and ONNX Runtime on. Give at least 1.")
    device, largest = DeviceStudent(path), max(batch_sizes)
    expected = run_torch(reference, images)
    figures = []
    for batch_size in sorted(batch_sizes):
        num = len(images) if batch_size == largest else min(len(images), MAX_IMAGES_PER_BATCH_SIZE)
        # Filled up to whole batches, so that every run has exactly this batch size.
        rows = np.arange(-(-num // batch_size) * batch_size) % num
        found = run_device(device, images[rows], batch_size=batch_size)
        figures.append(compare(take(expected, rows), found))
    scores = [one.max_abs_scores for one in figures if one.max_abs_scores is not None]
    report = ParityReport(
        batch_sizes=tuple(sorted(batch_sizes)),
        num_images=len(images),
        max_abs=max(one.max_abs for one in figures),
        min_cosine=min(one.min_cosine for one in figures),
        max_abs_scores=max(scores) if scores else None,
        metric_name=metric_name,
        metric_torch=float(metric(expected.embedding)),
        metric_onnx=float(metric(found.embedding[: len(images)])),
    )
    refuse_mismatch(report, limits)
    return report


@torch.no_grad()
def run_torch(reference: Deployable, images: Images, *, batch_size: int = 256) -> Prediction:
    """Outputs of torch."""
    chunks = [
        reference(torch.tensor(images[start : start + batch_size]))
        for start in range(0, len(images), batch_size)
    ]
    outputs = [torch.cat(parts).numpy() for parts in zip(*chunks, strict=True)]
    return Prediction(outputs[0], outputs[1] if len(outputs) > 1 else None)


def run_device(device: DeviceStudent, images: Images, *, batch_size: int) -> Prediction:
    """Outputs of ONNX Runtime, in batches of ``batch_size``."""
    chunks = [device(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
    scores = [one.scores for one in chunks if one.scores is not None]
    return Prediction(
        np.concatenate([one.embedding for one in chunks]), np.concatenate(scores) if scores else None
    )


def take(prediction: Prediction, rows: np.ndarray) -> Prediction:
    """Outputs at ``rows``."""
    scores = None if prediction.scores is None else prediction.scores[rows]
    return Prediction(prediction.embedding[rows], scores)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How far two sets of outputs are apart; fields as in `ParityReport`."""

    max_abs: float
    min_cosine: float
    max_abs_scores: float | None


def compare(expected: Prediction, found: Prediction) -> Difference:
    """Measure how far two sets of outputs are apart.

    Raises:
        ExportError: An output is not finite, or only one of the two has scores.
    """
    for engine, prediction in (("torch", expected), ("ONNX Runtime", found)):
        for name, output in zip(("embedding", "scores"), prediction, strict=True):
            num_bad = 0 if output is None else int((~np.isfinite(output)).sum())
            if num_bad:
                raise ExportError(
                    f"{name} of {engine} has {num_bad} numbers that are not finite; allowed are none."
                )
    if (expected.scores is None) != (found.scores is None):
        raise ExportError(
            "Only one of torch and ONNX Runtime returns scores. Export the head with the student."
        )
    scores_gap = None
    if expected.scores is not None and found.scores is not None:
        scores_gap = float(np.abs(expected.scores - found.scores).max())
    return Difference(
        max_abs=float(np.abs(expected.embedding - found.embedding).max()),
        min_cosine=smallest_cosine(expected.embedding, found.embedding),
        max_abs_scores=scores_gap,
    )


def smallest_cosine(expected: Embedding, found: Embedding) -> float:
    """Smallest cosine between rows, in float64; rows of zeros have none and are left out (1 if all are)."""
    left, right = expected.astype(np.float64), found.astype(np.float64)
    norms = np.linalg.norm(left, axis=1)
    kept = norms > SHORTEST_ROW
    if not kept.any():
        return 1.0
    product = (left[kept] * right[kept]).sum(axis=1)
    lengths = norms[kept] * np.linalg.norm(right[kept], axis=1)
    return float((product / np.maximum(lengths, np.finfo(np.float64).tiny)).min())


def refuse_mismatch(report: ParityReport, limits: ParityLimits) -> None:
    """Refuse figures beyond their limits.

    Raises:
        ExportError: The message names figure and limit.
    """
    where = f"over batch sizes {', '.join(map(str, report.batch_sizes))} on {report.num_images} images"
    figures = {"max_abs": report.max_abs, "max_abs_scores": report.max_abs_scores or 0.0}
    for name, value in figures.items():
        if not value <= limits.max_abs:
            raise ExportError(f"Parity {where}: {name}={value:.3g} exceeds the limit {limits.max_abs:g}.")
    if not report.min_cosine >= limits.min_cosine:
        raise ExportError(
            f"Parity {where}: min_cosine={report.min_cosine:.6f} is below the limit {limits.min_cosine:g}."
        )
    gap = abs(report.metric_torch - report.metric_onnx)
    if not gap <= limits.max_metric_gap:
        raise ExportError(
            f"{report.metric_name} is {report.metric_torch:.4f} in torch but {report.metric_onnx:.4f} in ONNX"
            f" Runtime: the gap {gap:.4f} exceeds the limit {limits.max_metric_gap:g}."
        )
