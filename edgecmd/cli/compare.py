"""``edgecmd compare`` and ``robustness``: losses, baselines and strategies over several seeds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from edgecmd.cli.app import app
from edgecmd.cli.options import AsJson, ConfigFile, NumJobs, NumSeeds, Settings, one_thread, read_settings
from edgecmd.cli.output import print_json, print_table, say
from edgecmd.cli.progress import tell
from edgecmd.core.text import counted


@app.command()
def compare(
    *,
    pair: Annotated[
        str, typer.Option("--pair", help="A preset: a data set with sizes, steps and the methods for it.")
    ] = "",
    fast: Annotated[
        bool, typer.Option("--fast/--full", help="With --pair: takes minutes; --full takes hours.")
    ] = False,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Losses, presimclr, <mechanism>@<epsilon>, <mechanism>:<loss>@<epsilon>, central:<method>,"
            " supervised, supervised-all, scratch, teacher, teacher-source, untrained. Empty: a selection, or"
            " all that suit --pair.",
        ),
    ] = "",
    federation: Annotated[
        str,
        typer.Option(
            "--federation",
            help="One table for each, such as central,iid:10,owner:10,dirichlet0.1:10,iid:50/10 (10 of 50"
            " clients are asked in each round). Empty: the federation in the settings.",
        ),
    ] = "",
    seeds: NumSeeds = 5,
    jobs: NumJobs = 1,
    tune: Annotated[
        bool | None,
        typer.Option(
            "--tune/--no-tune",
            help="Choose each method's learning rate from one grid on the validation split; the default with"
            " --pair.",
        ),
    ] = None,
    temperatures: Annotated[
        str,
        typer.Option(
            "--temperatures",
            help="Temperatures to try with each learning rate, such as 0.05,0.1,0.2; a method without a"
            " temperature tries as many learning rates instead.",
        ),
    ] = "",
    rates: Annotated[
        str,
        typer.Option("--rates", help="Learning rates to try for each method, such as 0.03,0.1,0.3."),
    ] = "",
    choose_by: Annotated[
        str,
        typer.Option(
            "--choose-by",
            help="Metric on the validation split that learning rates are chosen by, such as recall@10.",
        ),
    ] = "",
    work: Annotated[
        int, typer.Option("--work", min=0, help="Vary local steps; rounds x local steps equals this number.")
    ] = 0,
    local_steps: Annotated[
        str, typer.Option("--local-steps", help="With --work: local steps, one row each.")
    ] = "1,5,20,100",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Compare losses and baselines over several seeds. All have the same student, steps and labels."""
    from edgecmd.config.assemble import Assembly
    from edgecmd.core.jobs import quiet
    from edgecmd.experiments.compare import study
    from edgecmd.experiments.compare.equal_work import local_step_tables
    from edgecmd.experiments.compare.federations import parse_federations

    one_thread()
    specs, assembly = parse_federations(federation), Assembly()
    asked = study.read_request(
        pair,
        methods=methods,
        fast=fast,
        tune=tune,
        temperatures=temperatures,
        rates=rates,
        choose_by=choose_by,
        config=config,
        settings=settings,
    )
    asked = replace(asked, num_seeds=seeds, num_jobs=jobs, tell=quiet if as_json else tell)
    study.check_central(asked.methods, specs)
    show, found = show_work if work else show_methods, {}
    made = (
        local_step_tables(asked, specs, assembly, work=work, local_steps=local_steps)
        if work
        else study.method_tables(asked, specs, assembly)
    )
    for name, tables, folder in made:
        found[name] = tables
        if not as_json:
            show(tables, folder)
    if specs and not work:
        study.write_all(asked.config, found)
    if as_json:
        summaries = {name: tables["summary"] for name, tables in found.items()}
        print_json(summaries if work or specs else summaries[""])


def show_work(tables: Mapping[str, Any], folder: Path) -> None:
    """Print the rows of local steps, and where the files are."""
    from edgecmd.experiments.compare.equal_work import work_rows, work_title

    columns, *rows = work_rows(dict(tables))
    print_table(work_title(dict(tables)), columns, rows)
    say(f"All numbers: {folder / 'compare.json'}; table: {folder / 'compare.md'}")


def show_methods(tables: Mapping[str, Any], folder: Path) -> None:
    """Print the means, the differences from ``cmc``, the verdict, and where the files are."""
    from edgecmd.experiments.compare.markdown import paired_rows, verdict_lines

    facts = tables["about"]
    say(f"{facts['title']}; {facts['data']}, kind {facts['kind']}")
    show_summary(tables["summary"], facts, best=tables["best"])
    if tables["paired"]:
        columns, *rows = paired_rows(tables["paired"])
        print_table(
            "Difference from cmc with the same seed, 95% interval of the paired t test (* excludes zero; no"
            " interval: too few seeds or test items)",
            columns,
            rows,
        )
    for line in verdict_lines(tables["verdict"]):
        say(line.replace("**", ""))
    say(
        f"All numbers: {folder / 'compare.json'}; chart: {folder / 'compare.png'};"
        f" table: {folder / 'compare.md'}"
    )


def show_summary(
    summary: Mapping[str, Mapping[str, Mapping[str, Any]]],
    facts: Mapping[str, Any],
    *,
    best: Mapping[str, str],
) -> None:
    """Print the mean of each method with its interval, and what a star means."""
    from edgecmd.core.statistics import MIN_ITEMS, MIN_REPEATS
    from edgecmd.experiments.compare.markdown import little, summary_rows

    columns, *rows = summary_rows(summary, best=best)
    told = "; ".join([f"{counted(facts['num_seeds'], 'seed')}, mean and 95% interval", *little(facts)])
    print_table(told, columns, rows)
    say(
        "* better than every other method in the column by the paired t test over seeds. There is no interval"
        f" with fewer than {MIN_REPEATS} seeds or {MIN_ITEMS} test items, or where all seeds agree."
    )


@app.command()
def robustness(
    *,
    strategies: Annotated[
        str, typer.Option("--strategies", help="Values of federation.strategy, each under every attack.")
    ] = "fedavg,fedmedian,fedtrimmedavg,krum,multikrum",
    attacks: Annotated[
        str,
        typer.Option(
            "--attacks",
            help="What Byzantine clients do: sign-flip, scaled-update, backdoor, model-replacement;"
            " sign-flip:2 with a strength of your own. Empty for none.",
        ),
    ] = "sign-flip,scaled-update,backdoor,model-replacement",
    shares: Annotated[
        str, typer.Option("--shares", help="Percentages of the clients that attack; 0 is always measured.")
    ] = "10,20,30",
    drop_outs: Annotated[
        str,
        typer.Option(
            "--drop-outs",
            help="Percentages of the clients asked in a round that do not answer, such as 10,30,50. Under"
            " federation.strategy, without an attack.",
        ),
    ] = "",
    seeds: NumSeeds = 5,
    num_jobs: NumJobs = 1,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Compare strategies under Byzantine clients, and measure drop-outs. Finished runs are kept."""
    from edgecmd.config.assemble import Assembly, run_folder
    from edgecmd.core.jobs import quiet
    from edgecmd.experiments.robustness.attack_tables import shown_tables
    from edgecmd.experiments.robustness.attacked_runs import measure_all
    from edgecmd.experiments.robustness.cases import read_request

    one_thread()
    asked = read_request(
        read_settings(config, settings),
        strategies=strategies,
        attacks=attacks,
        shares=shares,
        drop_outs=drop_outs,
        num_seeds=seeds,
        num_jobs=num_jobs,
    )
    table = measure_all(asked, Assembly(), tell=quiet if as_json else tell)
    if as_json:
        print_json(table)
        return
    for title, columns, rows in shown_tables(table):
        print_table(title, columns, rows)
    files = run_folder(asked.config) / "robustness"
    say(f"{counted(seeds, 'seed')}, mean and 95% t interval. Files: {files}.json, .md and .png")
