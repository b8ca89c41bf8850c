"""``edgecmd data``: list, show, check; ``build`` is in `edgecmd.cli.data_build`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.app import data_app
from edgecmd.cli.common import ConfigFile, Settings, print_table, read_settings, say
from edgecmd.errors import DataError

if TYPE_CHECKING:
    from edgecmd.config_data import DataConfig


@data_app.command("list")
def list_sets() -> None:
    """Show data sets and shipped teachers, their kind, their licences, and what a run needs to use them."""
    from edgecmd.data.sets import SETS, SHIPPED_TEACHERS, status

    rows = [[name, one.kind, one.pair, one.licence, status(name)] for name, one in SETS.items()]
    print_table("Data sets", ["name", "kind", "pair", "licence", "ready"], rows)
    for name, one in SETS.items():
        if name != "folder":
            say(f"{name}: {one.provenance}. Attributions: {one.attribution}.")
    teachers = [[name, one.trained_on, one.labels, one.licence] for name, one in SHIPPED_TEACHERS.items()]
    print_table("Teachers that ship (teacher.name)", ["name", "trained on", "labels", "licence"], teachers)
    for name, info in SHIPPED_TEACHERS.items():
        say(f"{name}: attributions {info.attribution}.")


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
    for line in _on_copies(replace(resolved, path=str(path))):
        say(f"note: {line}")
    say(f"{path}: no problem found.")


def _on_copies(config: "DataConfig") -> list[str]:
    """Copies, leaks and suspicious halves of a set that has no problem."""
    from dataclasses import replace

    from edgecmd.data.duplicates import duplicate_report
    from edgecmd.data.experiment import load_experiment
    from edgecmd.data.layouts.load import LAYOUTS

    named = config if config.name in LAYOUTS else replace(config, name="folder")
    return duplicate_report(load_experiment(named))
