"""``edgecmd theory`` and ``distance``: the quantities of the theory, measured with and without training."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecmd.cli.app import app
from edgecmd.cli.options import AsJson, ConfigFile, NumJobs, NumSeeds, Settings, one_thread, read_settings
from edgecmd.cli.output import print_json, print_table, say
from edgecmd.cli.progress import tell

if TYPE_CHECKING:
    from edgecmd.experiments.theory.measured import Measured

PairName = Annotated[
    str,
    typer.Option("--pair", help="emoji, digits, objects, rooms or words: the data and a suitable student."),
]


@app.command()
def theory(
    *,
    pair: PairName = "",
    levels: Annotated[int, typer.Option("--levels", min=4, help="Levels of each gap, including no gap.")] = 8,
    gaps: Annotated[
        str, typer.Option("--gaps", help="Degradations, comma-separated; empty: all of the modality.")
    ] = "",
    seeds: NumSeeds = 2,
    fast: Annotated[bool, typer.Option("--fast", help="A small student and few steps: minutes.")] = False,
    jobs: NumJobs = 1,
    rotation: Annotated[
        bool, typer.Option("--rotation", help="Instead measure whether clients' embeddings rotate apart.")
    ] = False,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of --rotation.")] = 5,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Measure modality distance and target error as the gap widens. Finished points are kept."""
    from edgecmd.config.assemble import Assembly, run_folder
    from edgecmd.core.jobs import quiet
    from edgecmd.core.seeding import repeats_of
    from edgecmd.experiments.presets import pair_settings
    from edgecmd.experiments.theory import study
    from edgecmd.experiments.theory.sweep import cheap, plan_sweep, sweep_points

    one_thread()
    name, assembly, watcher = (
        f"theory-{pair}" + ("-fast" if fast else ""),
        Assembly(),
        quiet if as_json else tell,
    )
    resolved = read_settings(config, pair_settings(pair, run=name, settings=settings))
    resolved = cheap(resolved, assembly.experiment(resolved.data)) if fast else resolved
    if rotation:
        table = study.run_rotation(
            resolved, assembly, num_rounds=rounds, num_seeds=seeds, num_jobs=jobs, tell=watcher
        )
    else:
        run = assembly.run(resolved)
        plan, names = plan_sweep(run, fast=fast), study.check_gaps(run.task.data.train.target, gaps)
        points = sweep_points(plan, gaps=names, num_levels=levels, seeds=repeats_of(resolved.seed, seeds))
        table = study.run_sweep(resolved, assembly, plan, points, num_jobs=jobs, tell=watcher)
    if as_json:
        print_json(table)
    elif rotation:
        show_rotation(table)
        say(f"All rounds: {run_folder(resolved) / 'rotation.json'}")
    else:
        show_theory(table)
        folder = run_folder(resolved)
        say(f"All numbers: {folder / 'theory.json'}; chart: {folder / 'theory.png'}")


def show_theory(table: Mapping[str, Any]) -> None:
    """Print distance and error by gap, the correlations, the exponents and the terms of the bound."""
    from edgecmd.experiments.theory.study import correlation_rows, exponent_rows, gap_rows, term_rows

    what = "to public anchors" if table["form"] == "anchors" else "within the batch"
    print_table(
        f"Distance (relations {what}) and target error",
        ["gap", "level", "distance", "bound by CMD", "within the batch", "error"],
        gap_rows(table),
    )
    columns = ["gap", "rho", "95% interval", "rho within the batch", "95% interval"]
    print_table("Spearman's rho of distance and error", columns, correlation_rows(table))
    print_table(
        "Error = floor + scale * size^exponent",
        ["size", "exponent", "95% interval", "bound's rate", "floor"],
        exponent_rows(table),
    )
    print_table("Terms of the bound (docs/theory.md)", ["term", "estimate", "meaning"], term_rows(table))


def show_rotation(table: Mapping[str, Any]) -> None:
    """Print the first and the last round of each method."""
    from edgecmd.experiments.theory.study import NAMES, rotation_rows

    print_table(
        f"Clients before averaging: {table['num_clients']} clients, {table['partition']},"
        f" {table['local_steps']} local steps, {table['num_seeds']} seeds",
        ["method", "round", *NAMES],
        rotation_rows(table),
    )
    say(
        "Intervals are Student's t over seeds, clipped to possible values; none with fewer than three seeds."
        " apart = 2 - 2 cosine; residual: what is left after the best rotation; rotated: the share of apart"
        " that the rotation removes."
    )


@app.command()
def distance(
    *,
    student: Annotated[
        Path | None, typer.Option("--student", help="File of a trained student; without it a probe is used.")
    ] = None,
    probe: Annotated[
        str, typer.Option("--probe", help="linear (fitted in closed form) or untrained (first weights).")
    ] = "linear",
    part: Annotated[str, typer.Option("--part", help="Held-out part: validation or test.")] = "validation",
    pair: PairName = "",
    relations: Annotated[
        str, typer.Option("--relations", help="batch (to the other pairs) or anchors (to public images).")
    ] = "batch",
    pairs: Annotated[int, typer.Option("--pairs", min=0, help="Number of held-out pairs; 0 for all.")] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=3, help="Pairs whose relations are compared at a time.")
    ] = 32,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", min=20, help="Bootstrap draws for the interval.")
    ] = 200,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit-temperature/--given-temperature",
            help="Student's temperature: the one with the smallest distance, or distill.temperature.",
        ),
    ] = True,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Measure how far the student's relations are from the teacher's: total variation on held-out pairs."""
    from edgecmd.config.assemble import Assembly
    from edgecmd.experiments.presets import pair_settings
    from edgecmd.experiments.theory.measured import Asked, measure_distance

    one_thread()
    resolved = read_settings(config, pair_settings(pair, run=f"distance-{pair}", settings=settings))
    asked = Asked(
        student=student,
        probe=probe,
        part=part,
        relations=relations,
        num_pairs=pairs,
        batch_size=batch_size,
        num_resamples=bootstrap,
        fit=fit,
    )
    found = measure_distance(Assembly().run(resolved), asked)
    if as_json:
        print_json(found.table())
        return
    show_distance(found, part=part)
    say(f"A student that cannot tell anything apart is at {found.ceiling:.3f}.")
    say(f"All numbers: {found.path}")


def show_distance(found: "Measured", *, part: str) -> None:
    """Print the distance, what it is based on and how it converges with more pairs."""
    from edgecmd.experiments.theory.measured import step_rows

    answer = found.steps[-1]
    within = answer.form == "batch"
    where = f"in batches of {answer.batch_size}" if within else "to public anchors"
    print_table(
        f"Total variation of relations {where}, by number of held-out pairs",
        ["pairs", "variation", "95% interval", "bound by CMD"],
        step_rows(found.steps),
    )
    say(
        f"Distance {answer.variation:.3f} [{answer.low:.3f}, {answer.high:.3f}] on {answer.num_pairs} {part}"
        f" pairs; 0: identical relations, 1: disjoint relations. Student: {found.text}."
    )
    say(f"Temperature of the student's relations: {answer.temperature:.3g}.")
    what = "masked diagonal" if within else "nearest anchor"
    say(f"Mass on the {what}: {answer.diagonal:.3f} (above 0.99 no distance is reported).")
