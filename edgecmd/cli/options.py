"""Options that several commands share, and what every command does first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgecmd.config.schema import RunConfig

Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one setting; repeatable.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file, see `edgecmd init`.")]
NumSeeds = Annotated[
    int, typer.Option("--seeds", min=1, help="Number of seeds, from that of the settings (0).")
]
NumJobs = Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
DryRunJson = Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON instead.")]


def read_settings(config: Path | None, settings: Sequence[str] | None) -> RunConfig:
    """Settings from the file and ``--set``."""
    from edgecmd.config.reader import load_config

    return load_config(config, settings or ())


def one_thread() -> None:
    """Use one torch thread: two were measured 16 times slower on busy cores."""
    import torch

    torch.set_num_threads(1)
