"""What ``edgecmd bench export`` measures: a run's student in each profile, or a finished bundle.

Shapes: N inputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecmd.core.errors import ConfigError, DataError, EdgecmdError
from edgecmd.data.modalities.table import input_shape
from edgecmd.data.user_files.reading import reading
from edgecmd.run import Run
from edgecmd.settings import ExportConfig
from export.bench.footprint import Footprint, device_command, footprints, torch_command
from export.bench.measure import Subject
from export.device.assemble import program
from export.device.reading import InferError
from export.device.student import Student as DeviceStudent
from export.from_run import STUDENT, prepare
from export.graph.deployable import Deployable, rebuild
from export.graph.fold_standardised import fold
from export.graph.to_onnx import to_onnx
from export.profiles.calibration import calibration_of
from export.profiles.slow_variants import SLOWER, make_slower
from export.profiles.table import PROFILES, Calibration, choose_profiles, make_profile, need_calibration
from export.trust.listing import GOLDEN, MODEL, PROGRAM, profile_file

# Files that take no raw inputs, as all that is measured does.
NOT_RAW = {profile_file(name) for name, profile in PROFILES.items() if not profile.raw}


def of_run(run: Run, settings: ExportConfig, *, warnings: bool, folder: Path) -> Subject:
    """Files of a run's student in ``folder``, with the held-out targets and the task of the run.

    Args:
        run: Its folder holds the trained student.
        settings: ``profiles`` are made; head and folding are as in an export.
        warnings: Whether the usual choices that are slower than fp32 are made as well.
        folder: Where the files go.

    Raises:
        ConfigError: A profile is unknown.
    """
    names = choose_profiles(settings.profiles)
    found = prepare(run, settings, segments=False)
    plain = rebuild(found.student, found.spec)
    calibration = None
    if warnings or need_calibration(names):
        calibration = calibration_of(run.task, settings.calibration, seed=run.seed)
    data = to_onnx(Deployable(fold(plain), found.spec).eval())
    slower = SLOWER if warnings else ()
    made, notes = make_files(data, [*names, *slower], calibration=calibration, folder=folder)
    return Subject(
        files=made,
        inputs=found.inputs,
        front_end=found.spec.front_end,
        reference=Deployable(plain, found.spec).eval(),
        task=found.metric,
        notes=notes,
    )


def make_files(
    data: bytes, names: Sequence[str], *, calibration: Calibration | None, folder: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    """Profiles of the float32 file ``data``, and slower choices; what cannot be made, and why."""
    made: dict[str, Path] = {}
    notes: dict[str, str] = {}
    for name in names:
        path = folder / f"{name}.onnx"
        try:
            if name in PROFILES:
                path.write_bytes(make_profile(data, name, calibration=calibration))
            else:
                assert calibration is not None
                path.write_bytes(make_slower(data, name, inputs=calibration.inputs))
            # What onnxruntime cannot load is a note, not a row.
            DeviceStudent(path)
            made[name] = path
        except (EdgecmdError, InferError) as error:
            notes[name] = str(error)
    return made, notes


def of_bundle(target: Path, *, warnings: bool) -> Subject:
    """Files of a bundle with its golden inputs; there is no student in torch to compare with.

    Raises:
        ConfigError: ``--warnings`` was asked for, which needs a run.
        DataError: The folder is neither a run nor a bundle.
    """
    if warnings:
        raise ConfigError("--warnings needs the run that the bundle was made from; give its folder instead.")
    files = bundle_files(target)
    front_end = DeviceStudent(target / MODEL).front_end
    return Subject(files=files, inputs=golden_inputs(target), front_end=front_end)


def bundle_files(target: Path) -> dict[str, Path]:
    """ONNX files of a bundle by profile.

    Raises:
        DataError: The folder is not a bundle.
    """
    if not (target / MODEL).is_file():
        raise DataError(
            f"{target} has neither {STUDENT} nor {MODEL}. Give a run folder, or a bundle that `edgecmd"
            " export` made from one."
        )
    try:
        paths = sorted(path for path in target.glob("student*.onnx") if path.name not in NOT_RAW)
        return {DeviceStudent(path).profile: path for path in paths}
    except InferError as error:
        raise DataError(str(error)) from error


def golden_inputs(target: Path) -> np.ndarray:
    """Made-up inputs of a bundle, of the student's own size, (N, ...).

    Raises:
        DataError: They are missing or broken.
    """
    path, way_out = target / GOLDEN, "Export again."
    with reading(path, what="golden values", way_out=way_out), np.load(path, allow_pickle=False) as file:
        return np.asarray(file[next(one for one in file.files if "/" not in one)])


def with_others(subject: Subject, bundles: Sequence[Path]) -> Subject:
    """The subject with the files of other bundles, named after their folders."""
    files = dict(subject.files)
    for bundle in bundles:
        label = bundle.resolve().parent.name if bundle.name == "export" else bundle.name
        files |= {f"{label}:{name}": path for name, path in bundle_files(bundle).items()}
    return replace(subject, files=files)


def fresh_starts(
    subject: Subject, weights: Path | None, *, folder: Path, num: int
) -> Mapping[str, Footprint]:
    """Fresh processes with ONNX Runtime, a kind for each profile, and with torch.

    Args:
        subject: What is measured.
        weights: The student's file for torch; None where there is a bundle alone.
        folder: Where what the processes need is written.
        num: Processes of each kind; 0 for none.
    """
    if not num:
        return {}
    (folder / PROGRAM).write_text(program(), encoding="utf-8")
    one = folder / "one.npy"
    np.save(one, subject.inputs[:1])
    commands = {
        name: device_command(folder, path, one) for name, path in subject.files.items() if name in PROFILES
    }
    if weights is not None and subject.reference is not None:
        shape = (1, *input_shape(subject.inputs))
        commands["torch"] = torch_command(weights, subject.reference.spec.architecture, shape)
    with _quiet_folder(folder):
        return footprints(commands, num=num)


@contextmanager
def _quiet_folder(folder: Path) -> Iterator[None]:
    """Removes what Python compiled beside infer.py, so that a folder can be used again."""
    try:
        yield
    finally:
        for path in folder.glob("__pycache__/*"):
            path.unlink()
