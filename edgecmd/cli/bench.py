"""``edgecmd bench``: ratios measured in one run, the two sides interleaved."""

from typing import Annotated

import typer

from edgecmd.cli.app import bench_app
from edgecmd.cli.common import (
    AsJson,
    ConfigFile,
    Settings,
    one_thread,
    print_json,
    print_table,
    read_settings,
)


@bench_app.command()
def simulate(
    clients: Annotated[
        str, typer.Option("--clients", help="Numbers of clients, comma separated.")
    ] = "10,100",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds timed on either side.")] = 10,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Repeats, interleaved.")] = 5,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Federated simulation divided by a bare torch loop that makes the same gradient steps."""
    from edgecmd.cli.simulation_bench import measure

    one_thread()
    resolved = read_settings(config, settings)
    results = [
        measure(resolved, num_clients=int(count), num_rounds=rounds, num_repeats=repeats)
        for count in clients.split(",")
    ]
    if as_json:
        print_json(results)
        return
    rows = [
        [
            str(one["clients"]),
            f"{one['ratio_median']:.3f}",
            f"{one['ratio_min']:.3f} to {one['ratio_max']:.3f}",
            f"{one['grid_cpu_s']:.2f}",
            f"{one['bare_cpu_s']:.2f}",
            f"{one['peak_mb']:.0f}",
            f"{one['bytes_ratio']:.4f}",
        ]
        for one in results
    ]
    print_table(
        f"Grid / bare loop, {rounds} rounds, {repeats} interleaved repeats, CPU time, 1 thread",
        ["clients", "ratio (median)", "min to max", "grid s", "bare s", "peak MB", "bytes / (2x4xPxN)"],
        rows,
    )


@bench_app.command()
def privacy(
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Repeats, interleaved.")] = 7,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """A private gradient divided by the plain gradient of the same student, loss and batch, by engine."""
    from edgecmd.cli.privacy_bench import measure

    one_thread()
    resolved = read_settings(config, settings)
    results = measure(resolved, num_repeats=repeats)
    if as_json:
        print_json(results)
        return
    rows = [
        [
            one["name"],
            f"{one['ratio_median']:.2f}",
            f"{one['ratio_min']:.2f} to {one['ratio_max']:.2f}",
            f"{one['cpu_ms']:.1f}",
        ]
        for one in results["engines"]
    ]
    print_table(
        f"{results['architecture']}, {results['side']} px, batch {results['batch']}, {results['anchors']}"
        f" anchors; plain step {results['plain_ms']:.1f} ms; {repeats} interleaved repeats, CPU time",
        ["gradient", "ratio (median)", "min to max", "CPU ms"],
        rows,
    )
