"""``edgecmd web``: the student in a browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.app import web_app
from edgecmd.cli.common import one_thread, say
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, ExportError

if TYPE_CHECKING:
    from export.web.gallery import Gallery
    from export.web.page import WebReport

MODES = ("single", "folder")
OrtWebFolder = Annotated[
    Path | None, typer.Option("--ort-web", help="Folder of onnxruntime-web, or its dist.")
]
Pictures = Annotated[Path | None, typer.Option("--gallery", help="Folder of pictures to find instead.")]


@web_app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="Run folder, such as runs/demo, or a bundle.")],
    mode: Annotated[
        str, typer.Option("--mode", help="single (one file) or folder (to be served).")
    ] = "single",
    out: Annotated[
        Path | None, typer.Option("--out", help="Default: demo.html or web/ in the run folder.")
    ] = None,
    ort_web: OrtWebFolder = None,
    gallery: Pictures = None,
    num_pictures: Annotated[int, typer.Option("--num-pictures", min=1, max=5000, help="At most.")] = 640,
    credit: Annotated[str, typer.Option("--credit", help="Authors and licence of the gallery.")] = "",
    title: Annotated[str, typer.Option("--title", help="Heading of the page.")] = "",
) -> None:
    """Make a page: draw, and see what the student finds. It asks nothing of any server."""
    one_thread()
    run, bundle = locate(folder)
    config = None
    if run is not None:
        from edgecmd.cli.run import config_of

        config = config_of(run)
    report = build_page(
        bundle,
        out or (run or bundle.parent) / ("demo.html" if mode == "single" else "web"),
        mode=mode,
        ort_web=ort_web,
        pictures=pictures_of(config, folder=gallery, num_pictures=num_pictures, credit=credit),
        title=title,
    )
    say(f"Page: {report.path} ({report.total_bytes / 1e6:.2f} MB)")
    if mode == "folder":
        say(f"Look at it: edgecmd web serve {report.path.parent}")


def locate(folder: Path) -> tuple[Path | None, Path]:
    """Run folder, where there is one, and bundle folder.

    Raises:
        ExportError: There is no exported student.
    """
    from export.web.page import MODEL

    if (folder / MODEL).is_file():
        return (folder.parent if (folder.parent / "config.toml").is_file() else None), folder
    if not (folder / "export" / MODEL).is_file():
        raise ExportError(
            f"{folder} has no exported student ({MODEL} or export/{MODEL}). Make one with"
            f" `edgecmd export {folder}`."
        )
    return (folder if (folder / "config.toml").is_file() else None), folder / "export"


def pictures_of(
    config: RunConfig | None, *, folder: Path | None, num_pictures: int, credit: str = ""
) -> "Gallery | None":
    """Pictures that the page may find; None for a bundle alone, whose teacher is not known.

    Raises:
        ConfigError: ``folder`` is given but there is no run.
    """
    from export.web.gallery import gallery_of_folder, gallery_of_run

    if config is None:
        if folder is not None:
            raise ConfigError(
                f"--gallery={folder} needs the run's teacher, and a bundle does not have it."
                " Name the run folder."
            )
        return None
    if folder is not None:
        return gallery_of_folder(config, folder, num_pictures=num_pictures, credit=credit)
    return gallery_of_run(config, num_pictures=num_pictures)


def build_page(
    bundle: Path,
    out: Path,
    *,
    mode: str,
    ort_web: Path | None = None,
    pictures: "Gallery | None" = None,
    title: str = "",
) -> "WebReport":
    """Find the runtime and build the page.

    Raises:
        ConfigError: ``mode`` is unknown.
        ExportError: The runtime is missing, or the page cannot be built.
    """
    from edgecmd.core.errors import nearest
    from export.web.ortweb import find_ort_web
    from export.web.page import DEFAULT_TITLE, build_web

    if mode not in MODES:
        raise ConfigError(f"mode={mode!r} is unknown. {nearest(mode, MODES)}")
    runtime = find_ort_web(ort_web)
    return build_web(bundle, out, mode=mode, runtime=runtime, gallery=pictures, title=title or DEFAULT_TITLE)


@web_app.command()
def fetch(
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default edgecmd's cache.")] = None,
    npm_dir: Annotated[Path | None, typer.Option("--npm-dir", help="Folder with the npm tarball.")] = None,
) -> None:
    """Fetch onnxruntime-web with npm (33 MB), check it, and keep the two files needed."""
    from export.web.ortweb import PACKAGE, fetch_ort_web

    say(f"Reading {PACKAGE.name}@{PACKAGE.version}")
    say(f"Runtime: {fetch_ort_web(out, npm_dir=npm_dir)} (MIT licence beside it)")


@web_app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="Folder that `web build --mode folder` made.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any that is free.")] = 8000,
) -> None:
    """Serve a page folder on this machine alone."""
    from export.web.serve import HOST, make_server

    with make_server(folder, port=port) as server:
        say(f"http://{HOST}:{server.server_port}/ - stop with Ctrl-C")
        server.serve_forever()
