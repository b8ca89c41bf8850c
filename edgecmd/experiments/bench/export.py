"""``edgecmd bench export``: a run's student, or a finished bundle, in every engine."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.app import bench_app
from edgecmd.cli.common import AsJson, one_thread, print_json, print_table, say
from edgecmd.core.errors import ConfigError, DataError, EdgecmdError, choose

if TYPE_CHECKING:
    import numpy as np

    from edgecmd.config.schema import RunConfig
    from export.bench.footprint import Footprint
    from export.bench.measure import Result, Row, Subject

STUDENT, MODEL = "student.safetensors", "student.onnx"


@bench_app.command("export")
def export_bench(
    target: Annotated[Path, typer.Argument(help="A run folder, or a bundle.")],
    *,
    against: Annotated[
        str, typer.Option("--against", help="torch, folded, compile, openvino; empty for none.")
    ] = "torch,folded,compile,openvino",
    profiles: Annotated[
        str, typer.Option("--profiles", help="For a run; of a bundle all are measured.")
    ] = "fp32,w8,w4,int8",
    beside: Annotated[
        list[Path] | None, typer.Option("--with", help="Another bundle, timed in turns with it; repeatable.")
    ] = None,
    warnings: Annotated[
        bool, typer.Option("--warnings", help="Also the usual choices that are slower than fp32.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each engine.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", min=2, help="Blocks of 10 calls of each.")] = 30,
    starts: Annotated[
        int, typer.Option("--starts", min=0, help="Fresh processes of each kind; 0 for none.")
    ] = 5,
    picture: Annotated[Path | None, typer.Option("--picture", help="PNG file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Latency, throughput, size, start, memory, parity and metric of every engine and profile, in one run."""
    from export.bench.engines import AGAINST
    from export.bench.measure import measure

    one_thread()
    names = [name.strip() for name in against.split(",") if name.strip()]
    for name in names:
        choose("--against", name, AGAINST)
    with tempfile.TemporaryDirectory(prefix="edgecmd-bench-") as name:
        folder = Path(name)
        if (target / STUDENT).is_file():
            subject, weights = of_run(target, profiles=profiles, warnings=warnings, folder=folder)
        else:
            subject, weights = of_bundle(target, warnings=warnings), None
        subject = with_others(subject, beside or [])
        fresh = fresh_starts(subject, weights, folder=folder, num=starts)
        result = measure(subject, against=names, num_threads=threads, num_blocks=repeats, starts=fresh)
    if picture is not None:
        from edgecmd.core.files import write_bytes_atomically
        from export.bench.chart import latency_picture

        write_bytes_atomically(picture, latency_picture(result))
    if as_json:
        print_json(result.record())
    else:
        show(result)


def of_run(target: Path, *, profiles: str, warnings: bool, folder: Path) -> "tuple[Subject, Path]":
    """Files of a run's student in ``folder``, with the held-out targets and the task of the run.

    Raises:
        ConfigError: A profile is unknown.
    """
    from edgecmd.cli.device import bundle_plan, test_task, without_norm
    from edgecmd.cli.run import config_of
    from edgecmd.data.problem import experiment
    from edgecmd.models.student_file import load_student
    from export.bench.measure import Subject
    from export.graph.deployable import Deployable, rebuild
    from export.graph.fold_standardised import fold
    from export.graph.to_onnx import to_onnx
    from export.profiles.table import choose_profiles

    config, names = config_of(target), choose_profiles(profiles)
    student = load_student(target / STUDENT, like=config.student.architecture)
    task = test_task(config, segments=False)
    student, folding = without_norm(config, student, task)
    spec, _ = bundle_plan(config, target, student, folding=folding)
    plain = rebuild(student, spec)
    data = to_onnx(Deployable(fold(plain), spec).eval())
    made, notes = make_files(data, names, warnings=warnings, config=config, folder=folder)
    subject = Subject(
        files=made,
        inputs=experiment(config.data).test.pairs.target,
        reference=Deployable(plain, spec).eval(),
        task=task,
        notes=notes,
    )
    return subject, target / STUDENT


def make_files(
    data: bytes, names: Sequence[str], *, warnings: bool, config: "RunConfig", folder: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    """Profiles of the float32 file ``data``, and the slower choices; what cannot be made, and why."""
    from edgecmd.data.problem import task_of
    from export.device.reading import InferError
    from export.profiles.calibration import calibration_of
    from export.profiles.slow_variants import SLOWER, make_slower
    from export.profiles.table import PROFILES, make_profile

    calibration = None
    if warnings or any(PROFILES[name].calibrated for name in names):
        calibration = calibration_of(task_of(config), config.export.calibration, seed=config.seed)
    made: dict[str, Path] = {}
    notes: dict[str, str] = {}
    for name in [*names, *(SLOWER if warnings else ())]:
        path = folder / f"{name}.onnx"
        try:
            if name in PROFILES:
                path.write_bytes(make_profile(data, name, calibration=calibration))
            else:
                assert calibration is not None
                path.write_bytes(make_slower(data, name, inputs=calibration.inputs))
            _refuse_unusable(path)
            made[name] = path
        except (EdgecmdError, InferError) as error:
            notes[name] = str(error)
    return made, notes


def _refuse_unusable(path: Path) -> None:
    """Open a file once: what onnxruntime cannot load is a note, not a row."""
    from export.device.infer import Student

    Student(path)


def of_bundle(target: Path, *, warnings: bool) -> "Subject":
    """Files of a bundle with its golden inputs; there is no student in torch to compare with.

    Raises:
        ConfigError: ``--warnings`` was asked for, which needs a run.
        DataError: The folder is neither a run nor a bundle.
    """
    from export.bench.measure import Subject

    if warnings:
        raise ConfigError("--warnings needs the run that the bundle was made of; give its folder instead.")
    files = bundle_files(target)
    return Subject(files=files, inputs=golden_inputs(target))


def bundle_files(target: Path) -> dict[str, Path]:
    """ONNX files of a bundle by profile.

    Raises:
        DataError: The folder is no bundle.
    """
    from export.device.infer import Student
    from export.device.reading import InferError

    if not (target / MODEL).is_file():
        raise DataError(
            f"{target} has neither {STUDENT} nor {MODEL}. Give a run folder, or the bundle that"
            " `edgecmd export` made of one."
        )
    try:
        return {Student(path).profile: path for path in sorted(target.glob("student*.onnx"))}
    except InferError as error:
        raise DataError(str(error)) from error


def golden_inputs(target: Path) -> "np.ndarray":
    """Made-up inputs of a bundle, of the student's own size.

    Raises:
        DataError: They are missing or broken.
    """
    import numpy as np

    from edgecmd.data.user_files.reading import reading

    path, way_out = target / "golden.npz", "Export again."
    with reading(path, what="golden values", way_out=way_out), np.load(path, allow_pickle=False) as file:
        return np.asarray(file[next(one for one in file.files if "/" not in one)])


def with_others(subject: "Subject", bundles: Sequence[Path]) -> "Subject":
    """The subject with the files of other bundles, named after their folders."""
    from dataclasses import replace

    files = dict(subject.files)
    for bundle in bundles:
        label = bundle.resolve().parent.name if bundle.name == "export" else bundle.name
        files |= {f"{label}:{name}": path for name, path in bundle_files(bundle).items()}
    return replace(subject, files=files)


def fresh_starts(
    subject: "Subject", weights: Path | None, *, folder: Path, num: int
) -> "Mapping[str, Footprint]":
    """Fresh processes with ONNX Runtime, a kind for each profile, and with torch."""
    import numpy as np

    from edgecmd.data.modalities.table import input_shape
    from export.bench.footprint import device_command, footprints, torch_command
    from export.device.assemble import program
    from export.profiles.table import PROFILES

    if not num:
        return {}
    (folder / "infer.py").write_text(program(), encoding="utf-8")
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


def show(result: "Result") -> None:
    """Print the tables and the advice."""
    from export.profiles.advice import ratios

    times = result.times()
    by_torch, by_fp32 = ratios(times, base="torch"), ratios(times, base="fp32")
    rows = [_cells(row, by_torch.get(row.name), by_fp32.get(row.name)) for row in result.rows]
    clock = "CPU" if result.num_threads == 1 else "wall"
    metric = result.metric_name or "metric"
    titles = ["engine", "kB", "load ms", "p50 ms", "p95 ms", "min ms", "x torch", "x fp32", "a second"]
    num = result.rows[0].latency.num
    print_table(
        f"One input, {result.num_threads} thread(s), {clock} time of {num} calls in turns; batches of 32;"
        f" compared with {result.reference}",
        [*titles, "cosine, least", "same answer", "same class", metric],
        rows,
    )
    if result.metric_reference is not None:
        say(f"{metric} of {result.reference}: {result.metric_reference:.4f}")
    if result.starts:
        print_table(
            "Fresh process to first answer",
            ["engine", "wall s, least", "CPU s, least", "CPU s, median", "peak MB"],
            [
                [name, f"{s.wall_s:.2f}", f"{s.cpu_s:.2f}", f"{s.cpu_s_median:.2f}", f"{s.peak_mb:.1f}"]
                for name, s in result.starts.items()
            ],
        )
    for name, note in result.notes.items():
        say(f"{name}: {note}")
    for advice in result.advice:
        say(f"For {advice.target}: {advice.profile or 'none'} ({advice.reason})")


def _cells(row: "Row", by_torch: float | None, by_fp32: float | None) -> list[str]:
    near, time = row.closeness, row.latency
    return [
        row.name,
        f"{row.num_bytes / 1000:.0f}",
        f"{row.load_ms:.0f}" if row.load_ms else "-",
        f"{time.p50_ms:.3f}",
        f"{time.p95_ms:.3f}",
        f"{time.min_ms:.3f}",
        *("-" if ratio is None else f"{ratio:.2f}" for ratio in (by_torch, by_fp32)),
        f"{row.per_second:.0f}",
        "-" if near is None else f"{near.min_cosine:.6f}",
        "-" if near is None or near.agreement is None else f"{near.agreement:.4f}",
        "-" if near is None or near.agreement_classes is None else f"{near.agreement_classes:.4f}",
        "-" if near is None or near.metric is None else f"{near.metric:.4f}",
    ]
