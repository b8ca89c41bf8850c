"""A student as an object, exported: one of a table, or any module that torch exports.

Shapes: N inputs, B batch, C channels, H height, W width, F features, D embedding dimension.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgecmd.arguments import refuse_licence
from edgecmd.core.errors import DataError, choose
from edgecmd.data.labelled import LabelledTarget
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import Targets
from edgecmd.evaluation.evaluate import embedder
from edgecmd.models.devices import place
from edgecmd.models.students import Projected, Student, is_dense
from edgecmd.models.trial import try_out
from edgecmd.training.task import Task
from export.bundle import Options, export_bundle
from export.documents.provenance import Provenance
from export.formats.format_table import choose_formats, refuse_missing
from export.from_run import cosine_metric, fit_head, spec_of
from export.graph.deployable import unwrap
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import ExportSpec
from export.loaded import Bundle, load_bundle
from export.profiles.calibration import KINDS as CALIBRATIONS
from export.profiles.calibration import calibration_of
from export.profiles.table import DEFAULT, choose_profiles, need_calibration

MOST_INT16 = np.iinfo(np.int16).max


def export_student(  # noqa: PLR0913 - what a bundle is made of
    student: nn.Module,
    folder: str | Path,
    *,
    task: Task,
    examples: LabelledTarget | None = None,
    labelling: str = "group",
    profiles: Sequence[str] = (DEFAULT,),
    formats: Sequence[str] = (),
    calibration: str = "public",
    min_cosine: float | None = None,
    license: str = "unspecified",  # noqa: A002 - what the file calls it
    provenance: Provenance | None = None,
    seed: int = 0,
) -> Bundle:
    """Export a student as checked ONNX files for a device.

    Args:
        student: (B, C, H, W) to (B, D), trained; a `Student` or any module. It is not changed.
        folder: Folder of the bundle; an older bundle there is replaced.
        task: What the student takes, and how that is scaled.
        examples: Held-out inputs of the task's kind and size, (N, ...), with labels: the files are measured
            on the inputs, and a linear head is fitted on the labels, which the files then reveal. None:
            measured on made-up inputs, no head.
        labelling: Which of the labellings the head predicts.
        profiles: Keys of `export.profiles.table.PROFILES`; the first becomes student.onnx.
        formats: Keys of `export.formats.format_table.FORMATS`: files for phones, such as ``ort``.
        calibration: What int8 takes ranges from: ``public`` images, or ``procedural`` ones; never pairs.
        min_cosine: Smallest cosine between torch and ONNX Runtime of the exact profiles; None for their own.
        license: Licence of the weights, an SPDX name.
        provenance: For the card; of a run see `export.documents.provenance.provenance_of`.
        seed: Of the calibration and of made-up inputs.

    Returns:
        The bundle, read again as a device reads it.

    Guarantees:
        No pair of ``task`` is looked at. When this raises, nothing new is left on the disk.

    Raises:
        ExportError: A file does not do what the student does, or the student is made of what torch does not
            export or a device does not take; the message names it.
        ConfigError: The student is not an encoder of the task's inputs, or a profile is unknown.
        DataError: The examples are of another kind than the task's targets, or hold one class alone.
    """
    refuse_licence("license", license)
    choose("export.calibration", calibration, CALIBRATIONS)
    chosen, phones = choose_profiles(",".join(map(str, profiles))), choose_formats(",".join(formats))
    refuse_missing(phones)
    plain = as_student(student, task)
    spec = spec_of(task, plain, architecture=plain.architecture, license=license)
    embed = embedder(plain, task)
    if examples is None:
        inputs = made_up_inputs(task, spec, seed=seed)
    else:
        _refuse_examples(examples, task, labelling=labelling, architecture=plain.architecture)
        inputs = examples.target
        spec = replace(spec, head=fit_head(embed, inputs, examples.labels[labelling]))
    ranges = calibration_of(task, calibration, seed=seed) if need_calibration(chosen) else None
    source = provenance or Provenance()
    options = Options(
        profiles=chosen, min_cosine=min_cosine, calibration=ranges, provenance=source, formats=phones
    )
    metric = cosine_metric(embed(inputs), name="cosine to the student")
    export_bundle(plain, Path(folder), spec=spec, probe_images=inputs, task=metric, options=options)
    return load_bundle(folder)


def as_student(module: nn.Module, task: Task) -> Student:
    """A copy of a trained module as a student of its own width, on the CPU and in evaluation mode.

    Args:
        module: (B, C, H, W) to (B, F), also compiled or wrapped for per-example gradients.
        task: What it takes.

    Raises:
        ConfigError: It is not an encoder of such inputs; the message has what is wrong with it.
    """
    inner = unwrap(module)
    if isinstance(inner, Student):
        return place(copy.deepcopy(inner), torch.device("cpu")).eval()
    channels, height, width = task.input_shape
    name = f"<{type(inner).__name__}>"
    dim = try_out(
        inner, (channels, height, width), what=f"The student {name}", wanted="inputs of the data's shape"
    )
    made = Projected(
        copy.deepcopy(inner), num_features=dim, in_channels=channels, embedding_dim=dim, size=(height, width)
    )
    made.architecture = name
    return place(made, torch.device("cpu")).eval()


def made_up_inputs(task: Task, spec: ExportSpec, *, seed: int) -> Targets:
    """Inputs that depend on no pair: drawings, where the modality has such, else a front end's own.

    Args:
        task: Says of which modality they are.
        spec: What the front end takes.
        seed: Of the drawings.

    Returns:
        (N, ...), of the student's own size, at least 4.
    """
    if modality_of(task.data.train.target).is_drawn:
        return calibration_of(task, "procedural", seed=seed).inputs
    front_end = FRONT_ENDS[spec.front_end]
    own, _ = front_end.golden(spec)
    # Shares of full scale, where inputs are stored as whole numbers.
    is_share = own.dtype != front_end.dtype
    return np.rint(own.clip(-1, 1) * MOST_INT16).astype(front_end.dtype) if is_share else own


def _refuse_examples(examples: LabelledTarget, task: Task, *, labelling: str, architecture: str) -> None:
    """Refuse examples that the student does not take, or that give no head."""
    own, given = task.data.train.target, examples.target
    if (given.dtype, given.shape[1:]) != (own.dtype, own.shape[1:]):
        raise DataError(
            f"examples has {given.dtype} inputs of shape {given.shape[1:]}, but the task's targets are"
            f" {own.dtype} of shape {own.shape[1:]}. Read both with the same sizes."
        )
    if is_dense(architecture):
        raise DataError(
            f"examples has one label per input, but {architecture!r} predicts a class for each pixel. Export"
            " it without examples; to export it with masks, use `edgecmd export` on its run."
        )
    if labelling not in examples.labels:
        raise DataError(
            f"labelling={labelling!r} is not a labelling of the examples; allowed are"
            f" {', '.join(examples.labels)}."
        )
