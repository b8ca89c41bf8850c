"""``edgecmd node``: a device's own configuration, looked at by its owner before a server asks."""

import math
from dataclasses import asdict
from typing import Annotated

import typer

from edgecmd.cli.app import app
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
from edgecmd.core.text import counted


@app.command()
def node(
    node_config: Annotated[
        str,
        typer.Argument(
            metavar="NODE_CONFIG",
            help='As for flower-supernode --node-config: \'data-dir="/srv/pairs" state-dir="/srv/state"\','
            " or a .toml file.",
        ),
    ],
    new_ledger: Annotated[
        bool,
        typer.Option("--new-ledger", help="Begin the ledger of pairs that never took part in a private run."),
    ] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Check a device: its pairs, what is left out, its ledger and budget, and what can be pinned."""
    from flwr.common.config import parse_config_args

    from clients.check import check_node

    one_thread()
    resolved = read_settings(config, settings)
    report = check_node(parse_config_args([node_config]), resolved, new_ledger=new_ledger)
    if as_json:
        epsilon = report.epsilon if math.isfinite(report.epsilon) else None
        print_json({**asdict(report), "epsilon": epsilon, "problems": report.problems()})
        return
    moved = ", begun for another folder" if report.moved else ""
    rows = [
        ["pairs", f"{report.num_pairs} as {report.target_kind}, {len(report.skipped)} left out"],
        ["ledger", f"{report.ledger}{moved}" if report.ledger else "none"],
        [
            "spent",
            f"epsilon {report.epsilon:.4g} at delta {report.delta:g}, {counted(report.num_rounds, 'round')}",
        ],
        *[[name, value] for name, value in report.pins.items()],
    ]
    print_table("This device (for its owner alone)", ["what", "found"], rows)
    for line in report.problems():
        say(line)
