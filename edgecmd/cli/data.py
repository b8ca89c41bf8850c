"""``edgecmd data``: list, show, check; ``build`` is in `edgecmd.cli.data_build`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.app import data_app
from edgecmd.cli.common import (
    AsJson,
    ConfigFile,
    Settings,
    one_thread,
    print_json,
    print_table,
    read_settings,
    say,
)
from edgecmd.core.errors import EdgecmdError

if TYPE_CHECKING:
    from edgecmd.data.experiment import Experiment


@data_app.command("list")
def list_sets() -> None:
    """Show data sets and shipped teachers, their kind, their licences, and what a run needs to use them."""
    from edgecmd.catalogue.data_files import status
    from edgecmd.catalogue.data_sets import DATA_SETS
    from edgecmd.models.teachers import TEACHERS

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
    num: Annotated[int, typer.Option("--num", min=1, max=200, help="Pairs a row of the sheet.")] = 16,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Draw a contact sheet of the pairs and count them."""
    from edgecmd.catalogue.data_sets import data_set
    from edgecmd.core.files import require_writable
    from edgecmd.data.problem import experiment
    from edgecmd.data.show import contact_sheet, data_table

    resolved = read_settings(config, settings)
    require_writable(out)
    whole = experiment(resolved.data)
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
def check(
    path: Annotated[Path, typer.Argument(help="Your folder or .npz of pairs, or where a public set lies.")],
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List all that would refuse a run with these settings, what is read and how it is split."""
    from edgecmd.core.text import counted
    from edgecmd.data.findings import by_kind
    from edgecmd.experiments.run_checks import collect, settings_for

    one_thread()
    resolved = settings_for(read_settings(config, settings), path)
    found = collect(resolved)
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
            print_table(f"What is read of {path}", ["what", "value"], [list(row) for row in rows])
        for note in found.notes:
            say(f"note: {note}")
        for text in by_kind(text for text, _ in found.problems):
            say(text)
    if found.problems:
        raise RefusedError(
            f"{path}: {counted(len(found.problems), 'problem')}, listed above.", code=found.problems[0][1]
        )
    if not as_json:
        say(f"{path}: no problem found.")


class RefusedError(EdgecmdError):
    """What was listed would refuse a run; the exit code is that of the run."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        # A class has one code; here the run's own decides.
        self.exit_code = code  # type: ignore[misc]


def overview(whole: "Experiment") -> list[tuple[str, str]]:
    """What a run would use: pairs, sizes and kinds, labellings, the public set, the split."""
    from edgecmd.core.text import counted
    from edgecmd.data.modalities.table import input_shape, kind_of, modality_of

    parts = {"training": whole.train, "validation": whole.validation.pairs, "test": whole.test.pairs}
    total = sum(len(part) for part in parts.values())
    halves = {"source": whole.train.source, "target": whole.train.target}
    names: dict[str, set[str]] = {"owners": set(), "concepts": set(), "labels": set()}
    for key, column, own in (
        ("owners", "owner", whole.train_owner),
        ("concepts", "concept", whole.train_concept),
        ("labels", "group", whole.train_labels),
    ):
        for one in (own, *(part.labelled.labels.get(column) for part in (whole.validation, whole.test))):
            names[key] |= set(one.names) if one else set()
    rows = [("pairs", f"{total:,}")]
    for half, array in halves.items():
        size = modality_of(array).size(input_shape(array))
        rows.append((half, f"{kind_of(array)}, {size}"))
    rows += [(key, f"{len(found):,}" if found else "none given") for key, found in names.items()]
    masked = whole.test.labelled.masks
    rows.append(("masks", f"{counted(len(masked.names), 'class', 'classes')}" if masked else "none given"))
    rows.append(("public set", f"{whole.public.name}, {counted(len(whole.public), 'image')}"))
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    rows.append(("split", f"{sizes}; the test has unseen {whole.unseen}"))
    # Where it is the test itself, no stricter one is asked.
    if whole.test_strict is not whole.test:
        told = f"{counted(len(whole.test_strict), 'pair')} of the test look like no training pair"
        rows.append(("strict test", told))
    return rows
