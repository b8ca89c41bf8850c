"""``edgecmd export`` and ``edgecmd infer``: step 4 and the exported file."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import one_thread, say
from edgecmd.config.schema import RunConfig
from edgecmd.core.text import counted
from edgecmd.data.problem import run_of, task_of

if TYPE_CHECKING:
    import numpy as np

    from edgecmd.models.students import Student
    from export.bundle import Options
    from export.device.infer import Prototypes
    from export.graph.folding import Folding
    from export.graph.spec import ExportSpec, LinearHead
    from export.trust.verify import Task


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Run folder, such as runs/demo.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Bundle folder; default <run>/export.")] = None,
    profiles: Annotated[
        str | None, typer.Option("--profiles", help="Such as w8,int8; the first becomes student.onnx.")
    ] = None,
    prototypes: Annotated[
        Path | None, typer.Option("--prototypes", help="A sub-folder of pictures a class: a head untrained.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="Ranges of int8: public or procedural pictures.")
    ] = None,
    floor: Annotated[
        float | None, typer.Option("--floor", help="Least retrieval R@1 through onnxruntime; else exit 6.")
    ] = None,
    fold_norm: Annotated[
        bool, typer.Option("--fold-norm", help="Fold GroupNorm away and learn the embedding back; for gn-*.")
    ] = False,
    fold_steps: Annotated[
        int | None, typer.Option("--fold-steps", min=0, help="Steps of that, on public pictures.")
    ] = None,
    web: Annotated[
        str | None, typer.Option("--web", help="single (demo.html in the bundle) or folder (<run>/web).")
    ] = None,
    ort_web: Annotated[
        Path | None, typer.Option("--ort-web", help="Folder of onnxruntime-web, for --web.")
    ] = None,
    sign: Annotated[Path | None, typer.Option("--sign", help="Private key (PEM) to sign with.")] = None,
    head: Annotated[
        bool | None,
        typer.Option(
            "--head/--no-head", help="Fit a head on the labelled examples, which the file tells of."
        ),
    ] = None,
) -> None:
    """Step 4: a bundle of checked ONNX files with preprocessing, student and head."""
    from edgecmd.cli.export_extras import add_page, check_extras, sign_bundle
    from edgecmd.cli.run import config_of

    one_thread()
    config, target = config_of(folder), out or folder / "export"
    given = {
        "profiles": profiles,
        "prototypes": None if prototypes is None else str(prototypes),
        "calibration": calibration,
        "floor": floor,
        "fold_norm": fold_norm or None,
        "fold_steps": fold_steps,
        "head": head,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config = replace(config, export=replace(config.export, **changes))
    check_extras(web=web, ort_web=ort_web, key=sign)
    say(f"Bundle: {target} ({export_run(config, folder, target)})")
    if web is not None:
        say(f"Page: {add_page(config, folder, target, mode=web, ort_web=ort_web)}")
    if sign is not None:
        say(f"Signature: {sign_bundle(target, sign)}")


def export_run(config: RunConfig, folder: Path, out: Path) -> str:
    """Export a run's student; a file that does not do what the student does is not left behind.

    The task metric that is measured again through onnxruntime is retrieval at rank 1 on the test split: of
    the own picture, or of one of its class where the pairs were matched by class.

    Returns:
        One line about the bundle.

    Raises:
        ExportError: An exported file differs from the student, or the metric is below the floor.
    """
    from edgecmd.data.problem import experiment
    from edgecmd.models.student_file import load_student
    from export.bundle import export_bundle

    student = load_student(folder / "student.safetensors", like=config.student.architecture)
    student, head = segmenting(config, student)
    images, task = experiment(config.data).test.pairs.target, test_task(config, segments=head is not None)
    student, folding = without_norm(config, student, task)
    spec, options = bundle_plan(config, folder, student, folding=folding)
    spec = replace(spec, head=head or spec.head)
    report = export_bundle(student, out, spec=spec, probe_images=images, task=task, options=options)
    parts = []
    if folding is not None:
        parts.append(
            f"GroupNorm folded away: cosine {folding.cosine_before:.4f}, after"
            f" {counted(folding.num_steps, 'step')}"
            f" {folding.cosine:.4f}; {task.name} {folding.metric_original:.3f}, now {folding.metric:.3f}"
        )
    for name, parity in report.parity.items():
        file = "student.onnx" if name == options.profiles[0] else f"student.{name}.onnx"
        parts.append(
            f"{name} {report.num_bytes[file] / 1000:.0f} kB, least cosine {parity.min_cosine:.5f},"
            f" {task.name} through onnxruntime {parity.metric_onnx:.3f}"
        )
    return "; ".join(parts)


def segmenting(config: RunConfig, student: "Student") -> "tuple[Student, LinearHead | None]":
    """A dense student fine-tuned on all masks of the pool, and its head; others as they are, without."""
    from edgecmd.evaluation import segmentation
    from edgecmd.models.students import is_dense
    from export.graph.spec import LinearHead

    wanted = is_dense(config.student.architecture) and config.export.head and not config.export.prototypes
    if not wanted or not segmentation.has_masks(run_of(config)):
        return student, None
    drawn = segmentation.draw_images(run_of(config), percent=100, draw=0)
    model = segmentation.segmenter_of(student, drawn, run_of(config), draw=0)
    weight, bias = model.linear_head()
    names = segmentation.masks_of(run_of(config))[0].names
    return model.student.cpu(), LinearHead(weight=weight, bias=bias, names=names)


def test_task(config: RunConfig, *, segments: bool) -> "Task":
    """Retrieval on the test split, as the set's pairs allow; mIoU for a student that segments."""
    from edgecmd.data.problem import experiment
    from edgecmd.evaluation.evaluate import CLASS_PAIRED
    from edgecmd.evaluation.metrics import class_recall, unit_rows
    from export.trust.verify import Task

    if segments:
        return segmentation_task(config)
    whole, teacher = experiment(config.data), task_of(config).held_out_features("test")
    shown = whole.test.shown
    task = retrieval_task(teacher, shown=shown)
    if whole.kind != CLASS_PAIRED:
        return task
    labels = whole.test.labelled.labels["group"].values
    if not class_recall(unit_rows(teacher), teacher, labels, shown=shown):
        return task
    return Task(
        name="class_recall@1",
        metric=lambda embedding: class_recall(embedding, teacher, labels, shown=shown)["class_recall@1"],
        answers=task.answers,
    )


def segmentation_task(config: RunConfig) -> "Task":
    """Mean IoU of the test's masks, measured on logits (N, K, H, W)."""
    import numpy as np

    from edgecmd.evaluation.segmentation import masks_of
    from edgecmd.evaluation.segmentation_score import segmentation_scores
    from export.trust.verify import Task

    _, test = masks_of(run_of(config))

    def miou(logits: "np.ndarray") -> float:
        return segmentation_scores(logits.argmax(axis=1).astype(np.uint8), test, rare=()).miou

    return Task(name="mIoU", metric=miou, output="scores")


def retrieval_task(teacher: "np.ndarray", *, shown: "np.ndarray | None" = None) -> "Task":
    """Retrieval of what each target's own source shows among all of the split; copies are one thing.

    Where there is one thing alone, the mean cosine to the teacher's own feature stands in its place.
    """
    import numpy as np

    from edgecmd.evaluation.metrics import recall, things, unit_rows
    from export.trust.verify import Task

    gallery, codes = unit_rows(teacher), things(teacher, shown=shown)
    if len(np.unique(codes)) < 2:
        return Task(
            name="cosine to the teacher",
            metric=lambda embedding: float((embedding * gallery).sum(axis=1).mean()),
        )
    return Task(
        name="recall@1",
        metric=lambda embedding: recall(embedding, teacher, shown=shown)["recall@1"],
        answers=lambda embedding: codes[(embedding @ gallery.T).argmax(axis=1)],
    )


def without_norm(config: RunConfig, student: "Student", task: "Task") -> "tuple[Student, Folding | None]":
    """The student as it is, or with ``export.fold_norm`` its folded form and what that changed.

    Raises:
        ExportError: It has no GroupNorm, or the folded one is more than a point or below the floor worse.
    """
    from edgecmd.data.problem import experiment
    from edgecmd.recipes.standins import public_inputs
    from export.graph.folding import fold_for_export, refuse_loss

    settings = config.export
    if not settings.fold_norm:
        return student, None
    folded, folding = fold_for_export(
        student,
        plain_spec(config, student, architecture=config.student.architecture),
        sampler=public_inputs(run_of(config), purpose="fold-norm"),
        num_steps=settings.fold_steps,
        images=experiment(config.data).test.pairs.target,
        task=task,
    )
    refuse_loss(folding, floor=settings.floor or None)
    return folded, folding


def plain_spec(config: RunConfig, student: "Student", *, architecture: str) -> "ExportSpec":
    """Shapes and scaling of a run's student, without a head."""
    from edgecmd.data.modalities.table import input_shape, modality_of
    from edgecmd.data.problem import experiment
    from edgecmd.models.students import is_dense
    from export.graph.frontends import front_end_of
    from export.graph.spec import ExportSpec

    target = experiment(config.data).test.pairs.target
    modality, (channels, _, width) = modality_of(target), input_shape(target)
    return ExportSpec(
        architecture=architecture,
        image_size=width,
        channels=channels,
        embedding_dim=student.embedding_dim,
        offset=config.data.target_offset,
        scale=config.data.target_scale,
        license=config.export.license,
        front_end=front_end_of(modality, dense=is_dense(architecture)),
        rate_hz=config.data.sampling_rate_hz if modality.has_rate else 0,
    )


def bundle_plan(
    config: RunConfig, folder: Path, student: "Student", *, folding: "Folding | None" = None
) -> "tuple[ExportSpec, Options]":
    """What is exported and how: shapes, head, profiles, calibration, provenance."""
    from edgecmd.models.students import is_dense
    from export.bundle import Options
    from export.documents.prototypes import head_of, prototypes_of
    from export.documents.provenance import provenance_of
    from export.graph.deployable import Deployable, rebuild
    from export.profiles.calibration import calibration_of
    from export.profiles.table import PROFILES, choose_profiles

    settings, profiles = config.export, choose_profiles(config.export.profiles)
    architecture = config.student.architecture if folding is None else folding.architecture
    spec = plain_spec(config, student, architecture=architecture)
    prototypes: Prototypes | None = None
    head: LinearHead | None = None
    if settings.prototypes:
        embedder = Deployable(rebuild(student, spec), spec).eval()
        scale = 1.0 / config.distill.temperature
        prototypes = prototypes_of(Path(settings.prototypes), embedder, scale=scale)
        head = head_of(prototypes)
    elif settings.head and not is_dense(architecture):
        head = fit_head(config, student)
    calibrated = any(PROFILES[name].calibrated for name in profiles)
    options = Options(
        profiles=profiles,
        min_cosine=settings.min_cosine or None,
        floor=settings.floor or None,
        calibration=calibration_of(task_of(config), settings.calibration, seed=config.seed)
        if calibrated
        else None,
        prototypes=prototypes,
        provenance=provenance_of(config, folder),
        folding=folding,
    )
    return replace(spec, head=head), options


def fit_head(config: RunConfig, student: "Student") -> "LinearHead | None":
    """Linear head on all labels of the pool, or None where the data has no such labels."""
    import numpy as np

    from edgecmd.data.problem import experiment
    from edgecmd.evaluation.evaluate import embedder
    from edgecmd.evaluation.metrics import fit_linear, known
    from export.graph.spec import LinearHead

    pool = experiment(config.data).validation
    labels = pool.labelled.labels.get(config.export.head_labels)
    if labels is None or len(np.unique(labels.values[known(labels)])) < 2:
        return None
    rows = known(labels)
    model = fit_linear(embedder(student, task_of(config))(pool.pairs.target[rows]), labels.values[rows])
    weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    names = tuple(labels.names[index] for index in model.classes_)
    return LinearHead(weight=weight.astype(np.float32), bias=bias.astype(np.float32), names=names)


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def infer(context: click.Context) -> None:
    """Embed or classify pictures with a bundle; the same words as the bundle's own infer.py."""
    from export.device.infer import main

    raise typer.Exit(main(context.args, prog="edgecmd infer"))
