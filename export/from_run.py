"""A run's student as a bundle: what its settings ask for, measured on its own test split.

Shapes: N examples, D embedding dimension, K classes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import nn

from edgecmd.core.errors import DataError, ExportError
from edgecmd.data.labelled import Labels
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import Targets
from edgecmd.evaluation import segmentation
from edgecmd.evaluation.evaluate import CLASS_PAIRED, Embed, embedder
from edgecmd.evaluation.metrics import class_recall, known, linear_head, recall, things, unit_rows
from edgecmd.evaluation.segmentation_score import segmentation_scores
from edgecmd.models.student_file import load_student
from edgecmd.models.students import Student, is_dense
from edgecmd.recipes.standins import public_inputs
from edgecmd.run import Run
from edgecmd.settings import ExportConfig
from edgecmd.training.task import Task
from export.bundle import BundleReport, Options, export_bundle
from export.device.classes import Prototypes
from export.documents.prototypes import head_of, prototypes_of
from export.documents.provenance import provenance_of
from export.formats.format_table import choose_formats, refuse_missing, with_core
from export.graph.deployable import Deployable, rebuild
from export.graph.folding import Folding, fold_for_export, refuse_loss
from export.graph.front_graph import KINDS
from export.graph.frontends import front_end_of
from export.graph.spec import ExportSpec, LinearHead
from export.profiles.calibration import calibration_of
from export.profiles.table import choose_profiles, need_calibration
from export.trust.verify import TaskMetric

STUDENT = "student.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prepared:
    """A run's student as it is exported, and what it is measured with.

    Attributes:
        student: With GroupNorm folded away, where that was asked for.
        spec: Its shapes, preprocessing and head.
        inputs: Targets of the test split as they are stored, (N, ...).
        metric: What it is for, measured on these.
        folding: Where GroupNorm was folded away, what that changed.
        prototypes: Where the head is made of example images, these.
    """

    student: Student
    spec: ExportSpec
    inputs: Targets
    metric: TaskMetric
    folding: Folding | None
    prototypes: Prototypes | None


def export_run(run: Run, out: Path, *, settings: ExportConfig) -> BundleReport:
    """Export a run's student; a file that does not do what the student does is not left behind.

    The task metric that is measured again through ONNX Runtime is retrieval at rank 1 on the test split: of
    the own image, or of one of its class where the pairs were matched by class; of a student that segments,
    mean IoU.

    Args:
        run: Its folder holds the trained student.
        out: Folder of the bundle. An older bundle there is replaced.
        settings: Profiles, head, limits.

    Raises:
        ExportError: An exported file differs from the student, or the metric is below the floor.
        ConfigError: A profile, a format or the kind of calibration is unknown.
        DataError: The student or the images of prototypes are missing or damaged.
    """
    formats = choose_formats(settings.formats)
    profiles = with_core(choose_profiles(settings.profiles), formats)
    refuse_missing(formats)
    found = prepare(run, settings)
    calibrated = need_calibration(profiles)
    options = Options(
        profiles=profiles,
        min_cosine=settings.min_cosine or None,
        floor=settings.floor or None,
        calibration=calibration_of(run.task, settings.calibration, seed=run.seed) if calibrated else None,
        prototypes=found.prototypes,
        provenance=provenance_of(run),
        folding=found.folding,
        formats=formats,
    )
    return export_bundle(
        found.student,
        out,
        spec=found.spec,
        probe_images=found.inputs,
        task=found.metric,
        options=options,
    )


def prepare(run: Run, settings: ExportConfig, *, segments: bool = True) -> Prepared:
    """The student of a run, with the head that ``settings`` ask for.

    Args:
        run: Its folder holds the trained student.
        settings: ``head``, ``prototypes``, ``fold_norm``.
        segments: Whether a dense student is fine-tuned on the masks of the pool, where there are some.

    Raises:
        ExportError: GroupNorm was to be folded away and there is none, or that costs too much.
        DataError: The student or the images of prototypes are missing or damaged.
    """
    student, head = load_student(run.folder / STUDENT, like=run.student.architecture), None
    if segments and segments_at_export(run, settings):
        student, head = segmenting(run, student)
    metric = metric_of(run, segments=head is not None)
    student, folding = without_norm(run, student, settings, metric=metric)
    architecture = run.student.architecture if folding is None else folding.architecture
    spec = spec_of(run.task, student, architecture=architecture, license=settings.license)
    prototypes: Prototypes | None = None
    if settings.prototypes:
        reference = Deployable(rebuild(student, spec), spec).eval()
        scale = 1.0 / run.distill.temperature
        prototypes = prototypes_of(Path(settings.prototypes), reference, scale=scale)
        head = head_of(prototypes)
    elif settings.head and not is_dense(architecture):
        head = head_of_pool(student, run.task, labelling=settings.head_labels)
    return Prepared(
        student=student,
        spec=replace(spec, head=head),
        inputs=run.task.data.test.pairs.target,
        metric=metric,
        folding=folding,
        prototypes=prototypes,
    )


def spec_of(task: Task, student: Student, *, architecture: str, license: str) -> ExportSpec:  # noqa: A002
    """Shapes and scaling of a task's student, without a head.

    Args:
        task: What the student takes, and how that is scaled.
        student: The student.
        architecture: Its name, which a folded student does not share with the one that was trained.
        license: Licence of the weights, an SPDX name.

    Raises:
        ExportError: Images are not square.
    """
    channels, height, width = task.input_shape
    modality = modality_of(task.data.train.target)
    front_end = front_end_of(modality, dense=is_dense(architecture))
    if height != width and not KINDS[front_end].is_line:
        raise ExportError(
            f"The task's targets are {height} x {width} pixels, but a file for a device takes squares. Make"
            " them square, and distil again."
        )
    return ExportSpec(
        architecture=architecture,
        image_size=width,
        channels=channels,
        embedding_dim=student.embedding_dim,
        offset=task.target_offset,
        scale=task.target_scale,
        license=license,
        front_end=front_end,
        fit=task.fit,
        rate_hz=task.sampling_rate_hz if KINDS[front_end].has_rate else 0,
    )


def without_norm(
    run: Run, student: Student, settings: ExportConfig, *, metric: TaskMetric
) -> tuple[Student, Folding | None]:
    """The student as it is, or with ``export.fold_norm`` its folded form and what that changed.

    Raises:
        ExportError: It has no GroupNorm, or the folded one is more than a point or below the floor worse.
    """
    if not settings.fold_norm:
        return student, None
    folded, folding = fold_for_export(
        student,
        spec_of(run.task, student, architecture=run.student.architecture, license=settings.license),
        sampler=public_inputs(run, purpose="fold-norm"),
        num_steps=settings.fold_steps,
        images=run.task.data.test.pairs.target,
        task=metric,
    )
    refuse_loss(folding, floor=settings.floor or None)
    return folded, folding


def segments_at_export(run: Run, settings: ExportConfig) -> bool:
    """Whether the student is dense and there are masks to fine-tune it on."""
    wanted = is_dense(run.student.architecture) and settings.head and not settings.prototypes
    return wanted and segmentation.has_masks(run)


def segmenting(run: Run, student: Student) -> tuple[Student, LinearHead]:
    """A dense student fine-tuned on all masks of the pool, and its head."""
    drawn = segmentation.draw_images(run, percent=100, draw=0)
    model = segmentation.segmenter_of(student, drawn, run, draw=0)
    weight, bias = model.linear_head()
    names = segmentation.masks_of(run)[0].names
    return model.student.cpu(), LinearHead(weight=weight, bias=bias, names=names)


def head_of_pool(student: nn.Module, task: Task, *, labelling: str) -> LinearHead | None:
    """Linear head on all labels of the pool, or None where the data has no such labels."""
    pool = task.data.validation
    labels = pool.labelled.labels.get(labelling)
    if labels is None or len(np.unique(labels.values[known(labels)])) < 2:
        return None
    return fit_head(embedder(student, task), pool.pairs.target, labels)


def fit_head(embed: Embed, target: Targets, labels: Labels) -> LinearHead:
    """Logistic regression on unit embeddings; rows without a label are left out.

    Args:
        embed: Maps targets as they are stored to unit rows (N, D).
        target: (N, ...).
        labels: At least two classes among N examples.

    Returns:
        A head of the K classes that the labels hold, in the order of their names.

    Raises:
        DataError: There are fewer than two classes.
    """
    rows = known(labels)
    num = len(np.unique(labels.values[rows]))
    if num < 2:
        raise DataError(f"A head needs examples of at least 2 classes; given are {num}. Leave the head out.")
    weight, bias, names = linear_head(embed(target[rows]), labels.take(rows))
    return LinearHead(weight=weight, bias=bias, names=names)


def metric_of(run: Run, *, segments: bool) -> TaskMetric:
    """Retrieval on the test split, as the set's pairs allow; mean IoU for a student that segments."""
    if segments:
        return segmentation_metric(run)
    held, teacher = run.task.data.test, run.task.gallery_features("test")
    metric = retrieval_metric(teacher, shown=held.shown, right=held.right)
    if run.task.data.kind != CLASS_PAIRED:
        return metric
    labels = held.labelled.labels["group"].values
    if not class_recall(unit_rows(teacher), teacher, labels, shown=held.shown):
        return metric
    return TaskMetric(
        name="class_recall@1",
        metric=lambda found: class_recall(found, teacher, labels, shown=held.shown)["class_recall@1"],
        answers=metric.answers,
    )


def segmentation_metric(run: Run) -> TaskMetric:
    """Mean IoU of the test's masks, measured on logits (N, K, H, W)."""
    _, test = segmentation.masks_of(run)

    def miou(logits: np.ndarray) -> float:
        return segmentation_scores([logits.argmax(axis=1).astype(np.uint8)], test, rare=()).miou

    return TaskMetric(name="mIoU", metric=miou, output="scores")


def retrieval_metric(
    teacher: Float[np.ndarray, "num dim"], *, shown: np.ndarray | None = None, right: csr_array | None = None
) -> TaskMetric:
    """Retrieval of what each target's own source shows among all of a split; copies are one thing.

    If there is only one thing, it is the mean cosine to the teacher's own feature instead.

    Args:
        teacher: Features of the sources, (N, D).
        shown: What each source shows, (N,), where several show the same; None: what the features say.
        right: Which of the sources, then those of a gallery, are right for each target, (targets, N).
    """
    gallery, codes = unit_rows(teacher), things(teacher, shown=shown)
    if right is None and len(np.unique(codes)) < 2:
        return cosine_metric(gallery, name="cosine to the teacher")
    return TaskMetric(
        name="recall@1",
        metric=lambda found: recall(found, teacher, shown=shown, right=right)["recall@1"],
        answers=lambda found: codes[(found @ gallery.T).argmax(axis=1)],
    )


def cosine_metric(wanted: Float[np.ndarray, "num dim"], *, name: str) -> TaskMetric:
    """Mean cosine of each embedding to its own row of ``wanted``, which are of length 1."""
    return TaskMetric(name=name, metric=lambda found: float((found * wanted).sum(axis=1).mean()))
