"""``edgecmd bench``: ratios, with both sides measured in one run and interleaved."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgecmd.cli.app import bench_app
from edgecmd.cli.options import AsJson, ConfigFile, NumSeeds, Settings, one_thread, read_settings
from edgecmd.cli.output import print_json, print_table
from edgecmd.cli.progress import tell
from edgecmd.core.errors import ConfigError
from edgecmd.core.files import read_json
from edgecmd.core.text import counted

QUICK = ("data.image_size=32", "data.source_size=64", "student.architecture=ws-50k")


@bench_app.command()
def simulate(
    clients: Annotated[
        str, typer.Option("--clients", help="Numbers of clients, comma-separated.")
    ] = "10,100",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds timed on each side.")] = 10,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Interleaved repeats.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small images, few rounds: two minutes on a busy machine.")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option("--compare", help="JSON of an earlier measurement of the same clients.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Time of a federated simulation relative to a bare torch loop. Both make the same gradient steps."""
    from edgecmd.experiments.bench.simulation import earlier_ratios, measure

    one_thread()
    counts = _counts(clients)
    rounds, repeats = (min(rounds, 3), min(repeats, 3)) if quick else (rounds, repeats)
    earlier = earlier_ratios(read_json(compare), clients=counts, num_rounds=rounds) if compare else []
    resolved = read_settings(config, [*QUICK, *(settings or [])] if quick else settings)
    results = [measure(resolved, num_clients=num, num_rounds=rounds, num_repeats=repeats) for num in counts]
    for one, before in zip(results, earlier):
        one["against_old"] = one["ratio_median"] / before
    if as_json:
        print_json(results)
        return
    rows = [
        [
            str(one["clients"]),
            f"{one['ratio_median']:.3f}",
            f"{one['ratio_min']:.3f} to {one['ratio_max']:.3f}",
            f"{one['overhead_ms_median']:.2f}",
            f"{one['overhead_ms_min']:.2f} to {one['overhead_ms_max']:.2f}",
            f"{one['grid_cpu_s']:.2f}",
            f"{one['bare_cpu_s']:.2f}",
            f"{one['peak_mb']:.0f}",
            f"{one['bytes_ratio']:.4f}",
            *([f"{one['against_old']:.3f}"] if compare else []),
        ]
        for one in results
    ]
    print_table(
        f"Simulation / bare loop, {counted(rounds, 'round')}, {repeats} repeats, CPU time, one thread",
        [
            *("clients", "ratio (median)", "min to max", "ms a client", "min to max"),
            *("simulation s", "bare s", "peak MB", "bytes / (2x4xPxN)"),
            *(["ratio / old"] if compare else []),
        ],
        rows,
    )


def _counts(text: str) -> list[int]:
    """Numbers of clients, from 1.

    Raises:
        ConfigError: One is none.
    """
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if not word.isascii() or not word.isdigit() or int(word) < 1]
    if wrong:
        raise ConfigError(f"--clients has {wrong[0]!r}. Write whole numbers from 1, such as 10,100.")
    return [int(word) for word in words]


@bench_app.command()
def privacy(
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Interleaved repeats.")] = 7,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Time of a private gradient relative to a plain one, by engine. Same student, loss and batch."""
    from edgecmd.config.assemble import Assembly
    from edgecmd.experiments.bench.private_step import measure

    one_thread()
    resolved = read_settings(config, settings)
    results = measure(Assembly().run(resolved), num_repeats=repeats)
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
        f"{results['architecture']}, {results['size']}, batch {results['batch']}, {results['anchors']}"
        f" anchors; plain step {results['plain_ms']:.1f} ms; {repeats} interleaved repeats, CPU time",
        ["gradient", "ratio (median)", "min to max", "CPU ms"],
        rows,
    )


@bench_app.command()
def gpu(
    device: Annotated[
        str, typer.Option("--device", help="cuda; or cpu, which does the same at small sizes.")
    ] = "cuda",
    student: Annotated[
        str,
        typer.Option("--student", help="Default: MobileNetV3 small from timm or torchvision, else ws-200k."),
    ] = "",
    side: Annotated[
        int, typer.Option("--side", min=0, max=512, help="Input side in pixels; 0: 224 (cpu: 32).")
    ] = 0,
    batch: Annotated[
        int, typer.Option("--batch", min=0, max=65_536, help="Pairs per step; 0: 256 (cpu: 8).")
    ] = 0,
    repeats: Annotated[int, typer.Option("--repeats", min=0, help="Interleaved repeats; 0: 7 (cpu: 2).")] = 0,
    as_json: AsJson = False,
) -> None:
    """Steps per second on a GPU against a bare torch loop. Also bf16, private steps and teacher features."""
    from edgecmd.experiments.bench.gpu import measure, sizes_on

    one_thread()
    sizes = sizes_on(device, student=student, side=side, batch=batch, repeats=repeats)
    found = measure(device, sizes)
    if as_json:
        print_json(found)
        return
    counted_time = "CPU time" if device == "cpu" else "wall time"
    rows = [
        [
            one["name"],
            _figures(one, "per_s", ".4g") + f" {one['unit']}",
            f"{_figures(one, 'time_ratio', '.2f')} x {one['against']}" if "against" in one else "-",
            "-" if found["waits"][one["name"]] is None else f"{found['waits'][one['name']]:g}",
        ]
        for one in found["rows"]
    ]
    print_table(
        f"{found['device']}, torch {found['torch']}: {found['student']}, {found['side']} px, batch"
        f" {found['batch']}, {found['repeats']} interleaved repeats, {counted_time}; median (least to most)",
        ["case", "a second", "time", "waits a step"],
        rows,
    )


def _figures(row: dict[str, Any], name: str, form: str) -> str:
    median, least, most = (format(row[f"{name}_{one}"], form) for one in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


@bench_app.command()
def students(
    architectures: Annotated[
        str, typer.Option("--architectures", help="Students, comma-separated.")
    ] = "ws-200k,gn-200k",
    method: Annotated[str, typer.Option("--method", help="A loss, or <mechanism>@<epsilon>.")] = "cmc",
    seeds: NumSeeds = 3,
    warm_steps: Annotated[
        int, typer.Option("--warm-steps", min=0, help="Steps of a warm start on public images; 0 for none.")
    ] = 0,
    fold_steps: Annotated[
        int, typer.Option("--fold-steps", min=0, help="Recovery steps after folding.")
    ] = 200,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Compare norm-free, GroupNorm and folded GroupNorm students. Task metrics over seeds, and purity."""
    from edgecmd.config.assemble import Assembly
    from edgecmd.experiments.bench.students import measure

    one_thread()
    result = measure(
        read_settings(config, settings),
        Assembly(),
        architectures=[name.strip() for name in architectures.split(",")],
        method=method,
        num_seeds=seeds,
        warm_steps=warm_steps,
        fold_steps=fold_steps,
        tell=tell,
    )
    if as_json:
        print_json(result)
        return
    metrics = list(dict.fromkeys(name for row in result["rows"].values() for name in row))
    rows = [
        [name, *(_interval(row.get(metric)) for metric in metrics)] for name, row in result["rows"].items()
    ]
    title = f"{method}, {counted(seeds, 'seed')}, mean and (from three seeds) 95% t interval"
    print_table(title, ["student", *metrics], rows)


def _interval(row: dict[str, Any] | None) -> str:
    from edgecmd.core.statistics import interval_text

    return "-" if row is None else interval_text(row)
