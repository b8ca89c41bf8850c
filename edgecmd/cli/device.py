"""``edgecmd export`` and ``edgecmd infer``: step 4 and the exported file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import one_thread, say
from edgecmd.config import RunConfig
from edgecmd.errors import ExportError

if TYPE_CHECKING:
    from edgecmd.models.students import Student
    from export.spec import LinearHead


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Run folder, such as runs/demo.")],
    out: Annotated[Path | None, typer.Option("--out", help="Bundle folder; default <run>/export.")] = None,
) -> None:
    """Step 4: one checked ONNX file with preprocessing, student and head."""
    from edgecmd.cli.run import config_of

    one_thread()
    target = out or folder / "export"
    summary = export_run(config_of(folder), folder, target)
    say(f"Bundle: {target} ({summary})")


def export_obstacle(config: RunConfig) -> str:
    """Why a run's student cannot be exported yet; empty where it can."""
    from edgecmd.data.clients import experiment
    from edgecmd.data.pairs import target_kind

    kind = target_kind(experiment(config.data).train.target)
    if kind == "image":
        return ""
    front = {"wave": "the log-mel front end of recordings", "depth": "depth maps"}[kind]
    return (
        f"No export: the exporter does not support {front} yet. The student itself is complete; load it with"
        " edgecmd.runs.load_student."
    )


def export_run(config: RunConfig, folder: Path, out: Path) -> str:
    """Export a run's student; a file that does not do what the student does is not left behind.

    The task metric that is measured again through onnxruntime is retrieval R@1 on the test split.

    Returns:
        One line about the bundle.

    Raises:
        ExportError: The exported file differs from the student, or there is an `export_obstacle`.
    """
    obstacle = export_obstacle(config)
    if obstacle:
        raise ExportError(obstacle)
    from edgecmd.assess import teacher_embedding
    from edgecmd.data.clients import experiment
    from edgecmd.evaluate import recall
    from edgecmd.runs import load_student
    from export.bundle import export_bundle
    from export.spec import ExportSpec
    from export.verify import ParityLimits

    student = load_student(folder / "student.safetensors")
    images = experiment(config.data).test.pairs.target
    spec = ExportSpec(
        architecture=config.student.architecture,
        image_size=images.shape[1],
        channels=images.shape[3],
        embedding_dim=student.projector.out_features,
        offset=config.data.target_offset,
        scale=config.data.target_scale,
        license=config.export.license,
        head=fit_head(config, student) if config.export.head else None,
    )
    report = export_bundle(
        student,
        out,
        spec=spec,
        probe_images=images,
        metric=lambda embedding: recall(embedding, teacher_embedding(config, "test"))["recall@1"],
        metric_name="recall@1",
        limits=ParityLimits(min_cosine=config.export.min_cosine),
    )
    parity, size = report.parity, report.num_bytes["student.onnx"]
    return (
        f"{size / 1000:.0f} kB, max difference to torch {parity.max_abs:.1e},"
        f" R@1 through onnxruntime {parity.metric_onnx:.3f}"
    )


def fit_head(config: RunConfig, student: "Student") -> "LinearHead | None":
    """Linear head on all labels of the pool, or None where the data has no such labels."""
    import numpy as np

    from edgecmd.assess import embedder
    from edgecmd.data.clients import experiment
    from edgecmd.evaluate import fit_linear, known
    from export.spec import LinearHead

    pool = experiment(config.data).validation
    labels = pool.labelled.labels.get(config.export.head_labels)
    if labels is None or len(np.unique(labels.values[known(labels)])) < 2:
        return None
    rows = known(labels)
    model = fit_linear(embedder(student, config)(pool.pairs.target[rows]), labels.values[rows])
    weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    names = tuple(labels.names[index] for index in model.classes_)
    return LinearHead(weight=weight.astype(np.float32), bias=bias.astype(np.float32), names=names)


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def infer(context: click.Context) -> None:
    """Embed or classify pictures with an exported file; the same words as the bundle's own infer.py."""
    from export.device.infer import main

    raise typer.Exit(main(context.args))
