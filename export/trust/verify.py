"""Does the exported file reproduce the student? Measured through the device's own runtime.

Shapes: N inputs, D embedding dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from edgecmd.core.errors import ExportError
from edgecmd.core.progress import tracked
from edgecmd.data.pairs import Targets
from export.device.student import Prediction
from export.device.student import Student as DeviceStudent
from export.graph.deployable import Deployable
from export.graph.frontends import FRONT_ENDS

Embedding = Float[np.ndarray, "num dim"]
Metric = Callable[[np.ndarray], float]
Answers = Callable[[np.ndarray], Int[np.ndarray, " num"]]
# Raw inputs to outputs.
Device = Callable[[np.ndarray], Prediction]

BATCH_SIZES = (1, 2, 5, 32)
# The smaller batch sizes and the other input sizes are tried on this many images; the largest on all of them.
MAX_IMAGES_PER_BATCH_SIZE = 64
# A row shorter than this (a blank picture before training) has no direction to compare.
SHORTEST_ROW = 1e-6


class ParityError(ExportError):
    """A file is further from the student than its profile may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMetric:
    """What the student is for, measured on the unit embeddings of the held-out inputs, in their order.

    Attributes:
        name: Of the metric.
        metric: The metric; more is better.
        output: Field of `Prediction` that the metric is of.
        answers: Index of the first answer to each input, such as the nearest image of a gallery; by
            default the nearest other input.
    """

    name: str
    metric: Metric
    answers: Answers | None = None
    output: str = "embedding"

    def measure(self, prediction: Prediction) -> float:
        """The metric of some outputs."""
        return float(self.metric(getattr(prediction, self.output)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityLimits:
    """How far the exported file may be from the student.

    Attributes:
        max_abs: Largest difference of any number of embedding or scores at the student's own size; None for a
            profile that rounds.
        max_abs_resized: The same at any size. An image may come out of the resize of torch and of the file a
            grey level apart (`export.graph.front_image`), and each student makes of that what it makes.
        min_cosine: Smallest cosine between the two embeddings of an input.
        max_metric_gap: Largest difference of the task metric; one changed answer is always allowed.
    """

    max_abs: float | None = 1e-4
    max_abs_resized: float = 1e-3
    min_cosine: float = 0.9999
    max_metric_gap: float = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """What was measured; the worst over all batch sizes and input sizes.

    Attributes:
        batch_sizes: Batch sizes that were tried.
        input_sizes: Sizes of the input that were tried, the student's own first.
        num_images: Inputs given.
        max_abs: Largest difference of the embeddings.
        max_abs_own_size: The same at the student's own size; of the class probabilities too.
        min_cosine: Smallest cosine between the embeddings.
        mean_cosine: Mean cosine between the embeddings, at the student's own size.
        max_abs_scores: Largest difference of the class probabilities; None without a head.
        agreement: Share of the inputs with the same first answer as the student's.
        agreement_classes: Share of the inputs with the same likeliest class; None without a head.
        metric_name: Name of the task metric.
        metric_torch: Its value on the embeddings of torch.
        metric_onnx: Its value on the embeddings of ONNX Runtime.
    """

    batch_sizes: tuple[int, ...]
    input_sizes: tuple[str, ...]
    num_images: int
    max_abs: float
    max_abs_own_size: float
    min_cosine: float
    mean_cosine: float
    max_abs_scores: float | None
    agreement: float
    agreement_classes: float | None
    metric_name: str
    metric_torch: float
    metric_onnx: float


def verify(
    path: Path | Device,
    reference: Deployable,
    *,
    images: Targets,
    task: TaskMetric,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    takes: Callable[[np.ndarray], bool] = lambda _: True,
) -> ParityReport:
    """Compare an exported file with the student it came from.

    Args:
        path: The exported file, or what runs it.
        reference: The student in torch, in evaluation mode, not folded.
        images: Held-out inputs of the student's own size; fewer than a batch are repeated to fill it.
        task: What the student is for.
        batch_sizes: Batch sizes to try, each at every input size.
        takes: Whether the file is for inputs of such a size; the student's own always is.

    Raises:
        ExportError: There is no input, or an output is not finite.
    """
    if not len(images):
        raise ExportError("There is no held-out image for comparing torch and ONNX Runtime. Give at least 1.")
    device = DeviceStudent(path) if isinstance(path, Path) else path
    few, variants = images[:MAX_IMAGES_PER_BATCH_SIZE], variants_of(reference, images, takes=takes)
    sizes = sorted(batch_sizes)[: None if len(few) == len(images) else -1]
    figures = [
        _difference(device, inputs, run_torch(reference, inputs), batch_size=batch_size)
        for inputs in variants.values()
        for batch_size in sizes
    ]
    expected, found = run_torch(reference, images), run_device(device, images, batch_size=max(batch_sizes))
    figures.append(compare(expected, found))
    # The first variant is the student's own size.
    own = [*figures[: len(sizes)], figures[-1]]
    scores = [one.max_abs_scores for one in figures if one.max_abs_scores is not None]
    return ParityReport(
        batch_sizes=tuple(sorted(batch_sizes)),
        input_sizes=tuple(variants),
        num_images=len(images),
        max_abs=max(one.max_abs for one in figures),
        max_abs_own_size=max(max(one.max_abs, one.max_abs_scores or 0.0) for one in own),
        min_cosine=min(one.min_cosine for one in figures),
        mean_cosine=figures[-1].mean_cosine,
        max_abs_scores=max(scores) if scores else None,
        agreement=agreement(expected, found, task),
        agreement_classes=class_agreement(expected, found),
        metric_name=task.name,
        metric_torch=task.measure(expected),
        metric_onnx=task.measure(found),
    )


def variants_of(
    reference: Deployable, images: Targets, *, takes: Callable[[np.ndarray], bool] = lambda _: True
) -> dict[str, np.ndarray]:
    """The inputs that smaller batches are tried on, by their size, the student's own first."""
    front_end, few = FRONT_ENDS[reference.spec.front_end], images[:MAX_IMAGES_PER_BATCH_SIZE]
    variants = front_end.variants(few, reference.spec)
    return {name: inputs for name, inputs in variants.items() if takes(inputs)}


def _difference(device: Device, inputs: np.ndarray, expected: Prediction, *, batch_size: int) -> "Difference":
    """Difference on whole batches of exactly this size."""
    rows = np.arange(-(-len(inputs) // batch_size) * batch_size) % len(inputs)
    return compare(take(expected, rows), run_device(device, inputs[rows], batch_size=batch_size))


def agreement(expected: Prediction, found: Prediction, task: TaskMetric) -> float:
    """Share of the inputs with the same first answer."""
    if task.answers is not None:
        return float((task.answers(expected.embedding) == task.answers(found.embedding)).mean())
    nearest = [_nearest_other(one.embedding) for one in (expected, found)]
    return float((nearest[0] == nearest[1]).mean())


def _nearest_other(embedding: Embedding) -> Int[np.ndarray, " num"]:
    cosine = embedding @ embedding.T
    np.fill_diagonal(cosine, -np.inf)
    return np.asarray(cosine.argmax(axis=1))


def class_agreement(expected: Prediction, found: Prediction) -> float | None:
    """Share of the inputs with the same likeliest class; None without a head."""
    if expected.scores is None or found.scores is None:
        return None
    return float((expected.scores.argmax(axis=1) == found.scores.argmax(axis=1)).mean())


@torch.no_grad()
def run_torch(reference: Deployable, images: Targets, *, batch_size: int = 256) -> Prediction:
    """Outputs of torch."""
    chunks = [
        reference(torch.tensor(images[start : start + batch_size]))
        for start in tracked(range(0, len(images), batch_size), "checking the exported file")
    ]
    outputs = [torch.cat(parts).numpy() for parts in zip(*chunks, strict=True)]
    return Prediction(outputs[0], outputs[1] if len(outputs) > 1 else None)


def run_device(device: Device, images: Targets, *, batch_size: int) -> Prediction:
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
    mean_cosine: float
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
        min_cosine=float(cosines(expected.embedding, found.embedding).min()),
        mean_cosine=float(cosines(expected.embedding, found.embedding).mean()),
        max_abs_scores=scores_gap,
    )


def cosines(expected: Embedding, found: Embedding) -> Float[np.ndarray, " kept"]:
    """Cosine between rows, in float64; rows of zeros have none and are left out (a lone 1 if all are)."""
    left, right = expected.astype(np.float64), found.astype(np.float64)
    norms = np.linalg.norm(left, axis=1)
    kept = norms > SHORTEST_ROW
    if not kept.any():
        return np.ones(1)
    product = (left[kept] * right[kept]).sum(axis=1)
    lengths = norms[kept] * np.linalg.norm(right[kept], axis=1)
    return np.asarray(product / np.maximum(lengths, np.finfo(np.float64).tiny))


def refuse_mismatch(
    report: ParityReport, limits: ParityLimits, *, profile: str = "fp32", engine: str = "ONNX Runtime"
) -> None:
    """Refuse figures beyond their limits.

    Args:
        report: The figures.
        limits: How far the file may be from the student.
        profile: What the file is called.
        engine: What ran it.

    Raises:
        ParityError: The message names profile, figure and limit.
    """
    where = (
        f"Parity of profile {profile} over batch sizes {', '.join(map(str, report.batch_sizes))} and inputs"
        f" of {', '.join(report.input_sizes)} on {report.num_images} images"
    )
    figures = {
        "max_abs_own_size": (report.max_abs_own_size, limits.max_abs),
        "max_abs": (report.max_abs, limits.max_abs_resized),
        "max_abs_scores": (report.max_abs_scores or 0.0, limits.max_abs_resized),
    }
    for name, (value, limit) in figures.items():
        if limits.max_abs is not None and limit is not None and not value <= limit:
            raise ParityError(f"{where}: {name}={value:.3g} exceeds the limit {limit:g}.")
    if not report.min_cosine >= limits.min_cosine:
        raise ParityError(
            f"{where}: min_cosine={report.min_cosine:.6f} is below the limit {limits.min_cosine:g}."
            " Choose another profile, or lower export.min_cosine."
        )
    gap = abs(report.metric_torch - report.metric_onnx)
    # One changed answer is allowed: of a hundred inputs, each is worth a point already.
    allowed = max(limits.max_metric_gap, 1.0 / report.num_images)
    if not gap <= allowed + 1e-9:
        raise ParityError(
            f"{report.metric_name} is {report.metric_torch:.4f} in torch but {report.metric_onnx:.4f} in"
            f" {engine} with profile {profile}: the gap {gap:.4f} exceeds the limit {allowed:g}."
        )


def refuse_below(report: ParityReport, *, floor: float | None, profile: str) -> None:
    """Refuse a file whose task metric is below ``floor``.

    Raises:
        ParityError: The message names profile, metric and floor.
    """
    if floor is not None and not report.metric_onnx >= floor:
        raise ParityError(
            f"{report.metric_name} is {report.metric_onnx:.4f} through ONNX Runtime with profile {profile};"
            f" the floor is {floor:g}. Train longer, choose another profile, or lower the floor."
        )
