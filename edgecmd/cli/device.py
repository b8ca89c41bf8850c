"""``edgecmd export`` and ``edgecmd infer``: step 4 and the exported file."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import one_thread, say
from edgecmd.config import RunConfig
from edgecmd.errors import ExportError

if TYPE_CHECKING:
    import numpy as np

    from edgecmd.models.students import Student
    from export.bundle import Options
    from export.device.infer import Prototypes
    from export.spec import ExportSpec, LinearHead
    from export.verify import Task


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Run folder, such as runs/demo.")],
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
) -> None:
    """Step 4: a bundle of checked ONNX files with preprocessing, student and head."""
    from edgecmd.cli.run import config_of

    one_thread()
    config, target = config_of(folder), out or folder / "export"
    given = {
        "profiles": profiles,
        "prototypes": None if prototypes is None else str(prototypes),
        "calibration": calibration,
        "floor": floor,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config = replace(config, export=replace(config.export, **changes))
    say(f"Bundle: {target} ({export_run(config, folder, target)})")


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
        ExportError: An exported file differs from the student, the metric is below the floor, or there is
            an `export_obstacle`.
    """
    obstacle = export_obstacle(config)
    if obstacle:
        raise ExportError(obstacle)
    from edgecmd.assess import teacher_embedding
    from edgecmd.data.clients import experiment
    from edgecmd.runs import load_student
    from export.bundle import export_bundle

    student = load_student(folder / "student.safetensors")
    spec, options = bundle_plan(config, folder, student)
    report = export_bundle(
        student,
        out,
        spec=spec,
        probe_images=experiment(config.data).test.pairs.target,
        task=retrieval_task(teacher_embedding(config, "test")),
        options=options,
    )
    parts = []
    for name, parity in report.parity.items():
        file = "student.onnx" if name == options.profiles[0] else f"student.{name}.onnx"
        parts.append(
            f"{name} {report.num_bytes[file] / 1000:.0f} kB, least cosine {parity.min_cosine:.5f},"
            f" R@1 through onnxruntime {parity.metric_onnx:.3f}"
        )
    return "; ".join(parts)


def retrieval_task(teacher: "np.ndarray") -> "Task":
    """Retrieval of each target's own source picture among all of the split."""
    from edgecmd.evaluate import recall, unit_rows
    from export.verify import Task

    gallery = unit_rows(teacher)
    return Task(
        name="recall@1",
        metric=lambda embedding: recall(embedding, teacher)["recall@1"],
        answers=lambda embedding: (embedding @ gallery.T).argmax(axis=1),
    )


def bundle_plan(config: RunConfig, folder: Path, student: "Student") -> "tuple[ExportSpec, Options]":
    """What is exported and how: shapes, head, profiles, calibration, provenance."""
    from edgecmd.data.clients import experiment
    from export.bundle import Options
    from export.calibration import calibration_of
    from export.graph import Deployable, rebuild
    from export.profiles import PROFILES, choose_profiles
    from export.prototypes import head_of, prototypes_of
    from export.provenance import provenance_of
    from export.spec import ExportSpec

    settings, profiles = config.export, choose_profiles(config.export.profiles)
    _, height, _, channels = experiment(config.data).test.pairs.target.shape
    spec = ExportSpec(
        architecture=config.student.architecture,
        image_size=height,
        channels=channels,
        embedding_dim=student.projector.out_features,
        offset=config.data.target_offset,
        scale=config.data.target_scale,
        license=settings.license,
    )
    prototypes: Prototypes | None = None
    head: LinearHead | None = None
    if settings.prototypes:
        embedder = Deployable(rebuild(student, spec), spec).eval()
        scale = 1.0 / config.distill.temperature
        prototypes = prototypes_of(Path(settings.prototypes), embedder, scale=scale)
        head = head_of(prototypes)
    elif settings.head:
        head = fit_head(config, student)
    calibrated = any(PROFILES[name].calibrated for name in profiles)
    options = Options(
        profiles=profiles,
        min_cosine=settings.min_cosine,
        floor=settings.floor or None,
        calibration=calibration_of(config) if calibrated else None,
        prototypes=prototypes,
        provenance=provenance_of(config, folder),
    )
    return replace(spec, head=head), options


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
    """Embed or classify pictures with a bundle; the same words as the bundle's own infer.py."""
    from export.device.infer import main

    raise typer.Exit(main(context.args))
