"""Reference pages that are made from the code when the site is built, so that they cannot be stale."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[1]))

import edgecmd
from edgecmd.cli.app import app, register
from edgecmd.config.reader import defaults, meanings
from edgecmd.core.artefacts import ARTEFACTS


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"settings": settings, "command-line": command_line, "api": api, "run-folder": run_folder}
    for name, page in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    return files


def settings() -> str:
    """Each setting with its default and meaning, a table a section."""
    texts, lines = (
        meanings(),
        ["# Settings", "", "Set one with `--set a.b=c`, or in TOML. `edgecmd init` writes them all."],
    )
    opened = None
    for key, value in defaults().items():
        section = key.rpartition(".")[0]
        if section != opened:
            opened = section
            heading = f"[{section}]" if section else "Top level"
            lines += [
                "",
                f"## {heading}",
                "",
                texts.get(section, ""),
                "",
                "| setting | default | meaning |",
                "|---|---|---|",
            ]
        lines.append(f"| `{key}` | `{value}` | {cell(texts[key])} |")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text of a docstring as one cell of a table."""
    return re.sub(r"\s+", " ", text).replace("``", "`").replace("|", "\\|")


def command_line() -> str:
    """Each command with its arguments and options."""
    register()
    lines = ["# Command line", "", "`edgecmd COMMAND --help` prints the same in the terminal."]
    for path, command in commands(typer.main.get_command(app), "edgecmd"):
        lines += ["", f"## `{path}`", "", (command.help or "").strip(), ""]
        rows = [row(one, click.Context(command)) for one in command.params if one.name != "help"]
        if rows:
            lines += ["| argument or option | meaning |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, with the words that call it."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from commands(command.commands[name], f"{path} {name}")
    else:
        yield path, command


def row(parameter: click.Parameter, context: click.Context) -> str:
    """One argument or option as a row of a table."""
    record = parameter.get_help_record(context)
    if record is None:
        return f"| `{parameter.make_metavar(context)}` | |"
    return f"| `{record[0]}` | {cell(record[1])} |"


def api() -> str:
    """What ``import edgecmd as ec`` offers, in the order in which it is met."""
    lines = ["# Python API", "", "`import edgecmd as ec`. Start with [edgecmd in Python](../library.md)."]
    for name in edgecmd.__all__:
        if name == "__version__":
            continue
        found = getattr(edgecmd, name)
        home = found.__name__ if name == "losses" else f"{found.__module__}.{found.__qualname__}"
        lines += ["", f"::: {home}", "    options:", f"      heading: ec.{name}"]
    return "\n".join(lines) + "\n"


def run_folder() -> str:
    """Every file of a run folder, and whether it may leave its owner."""
    intro = (
        "`runs/<name>/` holds everything about a run. A killed run continues from it: `edgecmd resume`.",
        "The third column is about runs under a privacy mechanism: may the file leave its owner? Without a"
        " mechanism nothing bounds what a file tells of the pairs. `privacy.json` of a run says the same.",
    )
    rows = [
        f"| `{one.name}` | {cell(one.holds)} | {'yes' if one.may_leave else 'no'} | {cell(one.why)} |"
        for one in sorted(ARTEFACTS, key=lambda one: (one.place != "run", one.place, one.name))
    ]
    table = "\n".join(["| file | content | may leave? | why |", "|---|---|---|---|", *rows])
    return "\n\n".join(["# Run folder", *intro, table]) + "\n"
