"""``edgecmd export`` and the commands that use a bundle: infer, verify, sign, web, bench export."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from edgecmd.cli.app import app, bench_app, web_app
from edgecmd.cli.fits import TargetNames, show_fits, target_names
from edgecmd.cli.options import AsJson, one_thread
from edgecmd.cli.output import print_json, print_table, say
from edgecmd.core.errors import ConfigError, choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from export.bench.measure import Result, Row
    from export.engines.engine_check import Tried
    from export.trust.checks import Verdict
    from export.web.ortweb import OrtWeb

Bundle = Annotated[Path, typer.Argument(help="Bundle folder, such as runs/demo/export.")]
OrtWebFolder = Annotated[
    Path | None, typer.Option("--ort-web", help="Folder of onnxruntime-web, or its dist folder.")
]
Pictures = Annotated[
    Path | None, typer.Option("--gallery", help="Folder of images to search instead of the run's.")
]


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Run folder, such as runs/demo.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Bundle folder; default: <run>/export.")] = None,
    profiles: Annotated[
        str | None, typer.Option("--profiles", help="Such as w8,int8; the first becomes student.onnx.")
    ] = None,
    formats: Annotated[
        str | None, typer.Option("--formats", help="For phones: ort, litert, executorch, coreml.")
    ] = None,
    prototypes: Annotated[
        Path | None, typer.Option("--prototypes", help="Folder of images per class, for an untrained head.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="Images for int8 ranges: public or procedural.")
    ] = None,
    floor: Annotated[
        float | None, typer.Option("--floor", help="Lowest retrieval R@1 through onnxruntime; below: exit 6.")
    ] = None,
    fold_norm: Annotated[
        bool, typer.Option("--fold-norm", help="Fold GroupNorm away, then recover the embedding; for gn-*.")
    ] = False,
    fold_steps: Annotated[
        int | None, typer.Option("--fold-steps", min=0, help="Recovery steps, on public images.")
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
            "--head/--no-head", help="Fit a head on the labelled examples; the file then reveals them."
        ),
    ] = None,
    target: TargetNames = "",
) -> None:
    """Step 4: write a bundle of checked ONNX files. They hold preprocessing, student and head."""
    from edgecmd.cli.run import config_of
    from edgecmd.config.assemble import Assembly
    from export.documents.sign import sign_bundle
    from export.from_run import export_run
    from export.profiles.core import SAMPLES
    from export.targets.asked_for import files_of
    from export.targets.fitting import fits_of, refuse_unfit
    from export.trust.listing import CORE_SPEC
    from export.web.page import add_page

    one_thread()
    config, bundle = config_of(folder), out or folder / "export"
    given = {
        "profiles": profiles,
        "formats": formats,
        "prototypes": None if prototypes is None else str(prototypes),
        "calibration": calibration,
        "floor": floor,
        "fold_norm": fold_norm or None,
        "fold_steps": fold_steps,
        "head": head,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings, run = replace(config.export, **changes), Assembly().run(config)
    runtime, targets = check_extras(web=web, ort_web=ort_web, key=sign), target_names(target)
    say(f"Bundle: {bundle} ({export_run(run, bundle, settings=settings)})")
    if (bundle / CORE_SPEC).is_file():
        say(f"Samples that read its core, in C++, JavaScript, Kotlin, Swift and Python: {SAMPLES}")
    if web is not None and runtime is not None:
        say(f"Page: {add_page(run, bundle, beside=folder, mode=web, runtime=runtime)}")
    if sign is not None:
        say(f"Signature: {sign_bundle(bundle, sign)}")
    if targets:
        files = {name: fits_of(data, targets=targets) for name, data in files_of(str(bundle)).items()}
        show_fits(str(bundle), files)
        refuse_unfit(files, targets=targets)


def check_extras(*, web: str | None, ort_web: Path | None, key: Path | None) -> "OrtWeb | None":
    """Refuse extras that cannot be made, before anything is exported.

    Returns:
        The runtime for the page, if one is requested.

    Raises:
        ConfigError: The mode is unknown, or the key is missing.
        ExportError: onnxruntime-web, which a page needs, is missing.
    """
    from export.web.ortweb import find_ort_web
    from export.web.page import MODES

    if web is not None:
        choose("--web", web, MODES)
    runtime = None if web is None else find_ort_web(ort_web)
    if key is not None and not key.is_file():
        raise ConfigError(
            f"--sign={key} does not exist or is not a file. Make a key with `openssl ecparam -name prime256v1"
            f" -genkey -noout -out {key}`."
        )
    return runtime


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def infer(context: click.Context) -> None:
    """Embed or classify images with a bundle. Takes the same arguments as the bundle's own infer.py."""
    from export.device.infer import main

    raise typer.Exit(main(context.args, prog="edgecmd infer"))


@app.command()
def verify(
    bundle: Bundle,
    pub: Annotated[
        Path | None, typer.Option("--pub", help="Public key of the maker; requires a signature by it.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds allowed per model.")] = 60.0,
    memory: Annotated[int, typer.Option("--memory", help="MiB of address space allowed per model.")] = 1024,
    any_program: Annotated[
        bool, typer.Option("--any-program", help="Accept an infer.py that this edgecmd did not write.")
    ] = False,
    engines: Annotated[
        bool, typer.Option("--engines", help="Then run it in every engine that is installed; needs no fault.")
    ] = False,
    only: Annotated[
        str, typer.Option("--only", help="Engines and files for --engines, such as openvino,mnn:core.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Check a bundle before anything in it is loaded or run. Exits with code 6 at a fault and names it."""
    from export.engines.engine_check import check_engines, choose_engines, refuse_engines
    from export.trust.checks import SandboxLimits, verify_bundle

    choose_engines(only)
    sandbox = SandboxLimits(timeout_s=timeout, memory_mb=memory)
    verdict = verify_bundle(bundle, pub=pub, sandbox=sandbox, any_program=any_program)
    tried = []
    if (engines or only) and verdict.passed:
        tried = check_engines(bundle, only=only, timeout_s=timeout)
    if as_json:
        told = {"engines": [one.record() for one in tried]} if tried else {}
        print_json({**verdict.record(), **told})
    else:
        _show_verdict(verdict)
        _show_engines(tried)
    if verdict.error is not None:
        raise verdict.error
    refuse_engines(tried)


@app.command()
def sign(
    bundle: Bundle,
    key: Annotated[Path, typer.Option("--key", help="Private elliptic-curve key, a PEM file.")],
) -> None:
    """Sign a bundle offline with your own key. It must pass `edgecmd verify`."""
    from export.documents.sign import sign_bundle
    from export.trust.checks import verify_bundle

    verdict = verify_bundle(bundle, any_program=True, older_signature=True)
    if verdict.error is not None:
        raise verdict.error
    say(f"Signed: {sign_bundle(bundle, key)}")


def _show_verdict(verdict: "Verdict") -> None:
    """Print one line a check, and the verdict."""
    rows = [
        [check.name, check.state, "see below" if check.state == "fault" else check.detail]
        for check in verdict.checks
    ]
    print_table(f"edgecmd verify {verdict.folder}", ["check", "state", "found"], rows)
    say("Verdict: " + ("no fault found." if verdict.passed else "refused."))


def _show_engines(tried: "Sequence[Tried]") -> None:
    """Print one line an engine and file."""
    if not tried:
        return
    rows = [
        [
            one.title,
            one.version or "-",
            one.file,
            "-" if one.largest is None else f"{one.largest:.2g}",
            one.verdict,
            one.detail,
        ]
        for one in tried
    ]
    titles = ["engine", "version", "file", "largest difference", "verdict", "tried, or what to do"]
    print_table("Engines, each in a process of its own", titles, rows)


@web_app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="Run folder, such as runs/demo, or a bundle.")],
    *,
    mode: Annotated[
        str, typer.Option("--mode", help="single (one file) or folder (to be served).")
    ] = "single",
    out: Annotated[
        Path | None, typer.Option("--out", help="Default: demo.html or web/ in the run folder.")
    ] = None,
    ort_web: OrtWebFolder = None,
    gallery: Pictures = None,
    num_pictures: Annotated[
        int | None,
        typer.Option(
            "--num-pictures",
            min=1,
            max=5000,
            help="Most images in the gallery; default: 640, or all where strings look for them.",
        ),
    ] = None,
    credit: Annotated[str, typer.Option("--credit", help="Authors and licence of the gallery.")] = "",
    title: Annotated[str, typer.Option("--title", help="Heading of the page.")] = "",
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Also the bundle's fp32 (or w8) file, to compare.")
    ] = True,
    webgpu: Annotated[
        bool, typer.Option("--webgpu", help="Compute with WebGPU where its answers are right; larger.")
    ] = False,
) -> None:
    """Make a web page: draw or type, and see what the student finds. It sends no requests to any server."""
    from edgecmd.cli.run import config_of
    from edgecmd.config.assemble import Assembly
    from export.web.gallery import gallery_of_folder, gallery_of_run
    from export.web.ortweb import find_ort_web
    from export.web.page import MODES, build_web, locate
    from export.web.page_parts import SECOND

    one_thread()
    run_folder, bundle = locate(folder)
    choose("mode", mode, MODES)
    run = None if run_folder is None else Assembly().run(config_of(run_folder))
    if run is None and gallery is not None:
        raise ConfigError(
            f"--gallery={gallery} needs the run's teacher, which a bundle does not contain. Give the run"
            " folder instead."
        )
    pictures = None
    if run is not None and gallery is not None:
        pictures = gallery_of_folder(run, gallery, num_pictures=num_pictures, credit=credit)
    elif run is not None:
        pictures = gallery_of_run(run, num_pictures=num_pictures)
    report = build_web(
        bundle,
        out or (run_folder or bundle.parent) / ("demo.html" if mode == "single" else "web"),
        mode=mode,
        runtime=find_ort_web(ort_web, webgpu=webgpu),
        gallery=pictures,
        title=title,
        compare=compare,
    )
    say(f"Page: {report.path} ({report.total_bytes / 1e6:.2f} MB)")
    if SECOND in report.num_bytes:
        say(f"  of it to compare with: {report.num_bytes[SECOND] / 1e6:.2f} MB (--no-compare leaves it out)")
    if mode == "folder":
        say(f"Open it: edgecmd web serve {report.path.parent}")


@web_app.command()
def fetch(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to; default: edgecmd's cache.")
    ] = None,
    npm_dir: Annotated[Path | None, typer.Option("--npm-dir", help="Folder with the npm tarball.")] = None,
    webgpu: Annotated[bool, typer.Option("--webgpu", help="Also keep the files for WebGPU, 27 MB.")] = False,
) -> None:
    """Download onnxruntime-web with npm and check it. Of 33 MB the two files that are needed are kept."""
    from export.web.ortweb import PACKAGE, fetch_ort_web

    say(f"Reading {PACKAGE.name}@{PACKAGE.version}")
    say(f"Runtime: {fetch_ort_web(out, npm_dir=npm_dir, webgpu=webgpu)} (with its MIT licence)")


@web_app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="Folder that `web build --mode folder` made.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any free port.")] = 8000,
) -> None:
    """Serve a page folder on this machine only."""
    from export.web.serve import HOST, make_server

    with make_server(folder, port=port) as server:
        say(f"http://{HOST}:{server.server_port}/ - stop with Ctrl-C")
        server.serve_forever()


@bench_app.command("export")
def export_bench(
    target: Annotated[Path, typer.Argument(help="A run folder, or a bundle.")],
    *,
    against: Annotated[
        str, typer.Option("--against", help="torch, folded, compile, openvino; empty for none.")
    ] = "torch,folded,compile,openvino",
    profiles: Annotated[
        str, typer.Option("--profiles", help="For a run; for a bundle all its profiles are measured.")
    ] = "fp32,w8,w4,int8",
    beside: Annotated[
        list[Path] | None, typer.Option("--with", help="Another bundle to time in turns; repeatable.")
    ] = None,
    warnings: Annotated[
        bool, typer.Option("--warnings", help="Also measure common choices that are slower than fp32.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads per engine.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", min=2, help="Blocks of 10 calls per engine.")] = 30,
    starts: Annotated[
        int, typer.Option("--starts", min=0, help="Fresh processes per engine; 0 for none.")
    ] = 5,
    picture: Annotated[Path | None, typer.Option("--picture", help="PNG file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare engines and profiles: latency, size, memory, parity. Also throughput, start-up, task metric."""
    from edgecmd.cli.run import config_of
    from edgecmd.config.assemble import Assembly
    from export.bench.engines import AGAINST
    from export.bench.measure import measure
    from export.bench.subject import fresh_starts, of_bundle, of_run, with_others
    from export.from_run import STUDENT

    one_thread()
    names = [name.strip() for name in against.split(",") if name.strip()]
    for name in names:
        choose("--against", name, AGAINST)
    with tempfile.TemporaryDirectory(prefix="edgecmd-bench-") as name:
        folder, weights = Path(name), None
        if (target / STUDENT).is_file():
            config, weights = config_of(target), target / STUDENT
            settings = replace(config.export, profiles=profiles)
            subject = of_run(Assembly().run(config), settings, warnings=warnings, folder=folder)
        else:
            subject = of_bundle(target, warnings=warnings)
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
        _show_bench(result)


def _show_bench(result: "Result") -> None:
    """Print the tables and the advice."""
    from export.profiles.advice import ratios

    times = result.times()
    by_torch, by_fp32 = ratios(times, base="torch"), ratios(times, base="fp32")
    rows = [_cells(row, by_torch.get(row.name), by_fp32.get(row.name)) for row in result.rows]
    clock = "CPU" if result.num_threads == 1 else "wall"
    metric = result.metric_name or "metric"
    titles = ["engine", "kB", "load ms", "p50 ms", "p95 ms", "min ms", "x torch", "x fp32", "per second"]
    num = result.rows[0].latency.num
    print_table(
        f"One input, {result.num_threads} thread(s), {clock} time of {num} calls in turns; batches of 32;"
        f" compared with {result.reference}; uneven sizes: largest difference at other sizes of the input",
        [*titles, "lowest cosine", "same answer", "same class", metric, "uneven sizes"],
        rows,
    )
    if result.metric_reference is not None:
        say(f"{metric} of {result.reference}: {result.metric_reference:.4f}")
    if result.starts:
        print_table(
            "Fresh process to first answer",
            ["engine", "wall s, min", "CPU s, min", "CPU s, median", "peak MB"],
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
        "-" if row.max_abs_uneven is None else f"{row.max_abs_uneven:.1e}",
    ]
