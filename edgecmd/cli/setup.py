"""``edgecmd init``, ``doctor`` and ``node``: what is created and checked before a run."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgecmd.cli.app import app
from edgecmd.cli.options import AsJson, ConfigFile, Settings, one_thread, read_settings
from edgecmd.cli.output import print_json, print_table, say
from edgecmd.core.errors import ConfigError
from edgecmd.core.text import counted, size_of


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("edgecmd.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a TOML file that lists every setting with its default and meaning."""
    from edgecmd.config.reader import template
    from edgecmd.core.files import write_text_atomically

    if path.exists() and not force:
        raise ConfigError(f"{path} already exists. Choose another name or add --force.")
    write_text_atomically(path, template())
    say(f"Wrote {path}. Run it with `edgecmd run --config {path}`.")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show versions, hardware, folders and optional parts, and report problems."""
    from edgecmd.experiments.doctor import machine_facts
    from edgecmd.models.devices import SLOW_BF16

    facts = machine_facts()
    if as_json:
        print_json(facts)
        return
    memory = facts["memory_bytes"]
    rows = [[name, version] for name, version in facts["packages"].items()]
    rows += [["python", facts["python"]], ["cores", str(facts["cores"])]]
    rows += [["memory", "unknown" if memory is None else size_of(memory)]]
    rows += [["OMP_NUM_THREADS", facts["omp_num_threads"]], ["cuda", str(facts["cuda"])]]
    rows += [["bf16", "yes" if facts["bf16"] else f"no: distill.precision=bf16 {SLOW_BF16}"]]
    rows += [[f"{name} (optional)", "yes" if found else "no"] for name, found in facts["optional"].items()]
    for name, one in facts["folders"].items():
        free = "unknown" if one["free_bytes"] is None else size_of(one["free_bytes"])
        rows.append([f"{name} folder", f"{one['path']}: {one['problem'] or f'{free} free'}"])
    print_table("edgecmd doctor", ["what", "found"], rows)
    for line in facts["advice"]:
        say(line)


@app.command()
def node(
    node_config: Annotated[
        str,
        typer.Argument(
            metavar="NODE_CONFIG",
            help='As for flower-supernode --node-config: \'data-dir="/srv/pairs" state-dir="/srv/state"\','
            " or the path of a .toml file.",
        ),
    ],
    new_ledger: Annotated[
        bool,
        typer.Option("--new-ledger", help="Start a ledger, for pairs that were never in a private run."),
    ] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Check a device: its pairs, ledger and budget. Also shows what is left out and what can be pinned."""
    from flwr.common.config import parse_config_args

    from clients.check import check_node

    one_thread()
    resolved = read_settings(config, settings)
    report = check_node(parse_config_args([node_config]), resolved, new_ledger=new_ledger)
    if as_json:
        epsilon = report.epsilon if math.isfinite(report.epsilon) else None
        print_json({**asdict(report), "epsilon": epsilon, "problems": report.problems()})
        return
    moved = ", started for another folder" if report.moved else ""
    rows = [
        ["pairs", f"{report.num_pairs} as {report.target_kind}, {len(report.skipped)} left out"],
        ["ledger", f"{report.ledger}{moved}" if report.ledger else "none"],
        [
            "spent",
            f"epsilon {report.epsilon:.4g} at delta {report.delta:g}, {counted(report.num_rounds, 'round')}",
        ],
        *[[name, value] for name, value in report.pins.items()],
    ]
    print_table("This device (for its owner only)", ["what", "found"], rows)
    for line in report.problems():
        say(line)
