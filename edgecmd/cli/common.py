"""Options and output that several commands share."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgecmd.config import RunConfig

Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one setting; repeat for more.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file, see `edgecmd init`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def read_settings(config: Path | None, settings: Sequence[str] | None) -> RunConfig:
    """Settings from the file and ``--set``."""
    from edgecmd.settings import load_config

    return load_config(config, settings or ())


def say(text: str = "") -> None:
    """Print one line for a person, at once."""
    print(text, flush=True)


def print_json(value: object) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; plain columns when the output is not a terminal."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        _rich_table(title, columns, rows)
        return
    table = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    say(title)
    for row in table:
        say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def one_thread() -> None:
    """Use one torch thread: two were measured 16 times slower on busy cores."""
    import torch

    torch.set_num_threads(1)
