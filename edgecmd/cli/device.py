"""``edgecmd export`` and ``edgecmd infer``: step 4 and the exported file."""

from pathlib import Path
from typing import Annotated

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import one_thread, say
from edgecmd.config import RunConfig


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


def export_run(config: RunConfig, folder: Path, out: Path) -> str:
    """Export a run's student; a file that does not do what the student does is not left behind.

    Returns:
        One line about the bundle.
    """
    raise NotImplementedError


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def infer(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="student.onnx of a bundle.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures of the target modality.")],
) -> None:
    """Embed or classify pictures with an exported file (the bundle's own infer.py)."""
    from export.device.infer import main

    code = main([str(model), *map(str, images), *context.args])
    raise typer.Exit(code)
