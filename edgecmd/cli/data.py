"""``edgecmd data``: list, show, check, build."""

from pathlib import Path
from typing import Annotated

import typer

from edgecmd.cli.app import data_app
from edgecmd.cli.common import ConfigFile, Settings, print_table, read_settings, say
from edgecmd.errors import DataError


@data_app.command("list")
def list_sets() -> None:
    """Show the data sets, their kind and their licences."""
    print_table(
        "Data sets",
        ["name", "kind", "pair", "licence"],
        [
            [
                "emoji",
                "real",
                "image -> line drawing, 2,951 pairs",
                "MIT (Fluent); Apache-2.0, OFL-1.1 (Noto)",
            ],
            [
                "",
                "public source",
                "colour pictures of other houses",
                "CC BY 4.0 (Twemoji, FxEmoji; FxEmoji files also Apache-2.0)",
            ],
            ["folder", "yours", "source/<id>.png, target/<id>.png or .npz", "yours"],
        ],
    )
    notice = Path(__file__).parent.parent / "data" / "files" / "NOTICE"
    say(f"Attributions: {notice.name} in the package folder edgecmd/data/files")


@data_app.command()
def show(
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("contact-sheet.png"),
    num: Annotated[int, typer.Option("--num", min=1, max=200, help="Pairs a row of the sheet.")] = 16,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Draw a contact sheet of the pairs and count them."""
    from edgecmd.data.clients import experiment
    from edgecmd.data.show import contact_sheet, data_table

    resolved = read_settings(config, settings)
    whole = experiment(resolved.data)
    rows = data_table(whole)
    print_table(
        f"{whole.name} ({whole.kind})",
        [str(key) for key in rows[0]],
        [[str(v) for v in row.values()] for row in rows],
    )
    contact_sheet(whole, out, num=num, seed=resolved.seed)
    say(f"Wrote {out}.")


@data_app.command()
def check(path: Annotated[Path, typer.Argument(help="Your folder or .npz of pairs.")]) -> None:
    """List everything that is wrong with a folder of pairs."""
    from edgecmd.data.folder import check_folder

    problems = check_folder(path)
    for problem in problems:
        say(problem)
    if problems:
        raise DataError(f"{path}: {len(problems)} problems, listed above.")
    say(f"{path}: no problem found.")


@data_app.command()
def build(
    name: Annotated[str, typer.Argument(help="Data set to build: emoji.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("built"),
    npm_dir: Annotated[Path | None, typer.Option("--npm-dir", help="Folder with the npm tarballs.")] = None,
) -> None:
    """Make a built-in set again from its pinned packages (fetches them from the npm registry)."""
    from edgecmd.data.emoji_build import build_emoji
    from edgecmd.errors import choose

    builder = choose("name", name, {"emoji": build_emoji})
    report = builder(out, npm_dir=npm_dir, say=say)
    say(str(report))
