"""``edgecmd compare --work``: local steps against rounds, as many optimiser steps in every row."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from edgecmd.config.assemble import Assembly, run_folder
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import repeats_of
from edgecmd.core.statistics import interval_text
from edgecmd.core.text import counted
from edgecmd.experiments.compare.federations import FederationSpec
from edgecmd.experiments.compare.jobs import make_job, run_jobs
from edgecmd.experiments.compare.markdown import comparison_markdown, little, title_of
from edgecmd.experiments.compare.methods import CENTRAL, is_alone
from edgecmd.experiments.compare.study import Asked, Tables, about, items_of, write_comparison
from edgecmd.experiments.compare.summary import paired_with_reference, summarise, verdict


def parse_local_steps(text: str, *, work: int) -> list[int]:
    """Local steps of ``--local-steps``, each of which divides ``work``.

    Raises:
        ConfigError: One is not a number, or does not divide it.
    """
    try:
        counts = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"--local-steps={text!r} must be whole numbers such as 1,5,20,100.") from None
    wrong = [count for count in counts if count < 1 or work % count]
    if wrong or not counts:
        raise ConfigError(
            f"--local-steps={text!r} must divide --work {work}, so that every row takes the same number of"
            " steps."
        )
    return list(dict.fromkeys(counts))


def local_step_tables(
    asked: Asked, specs: Sequence[FederationSpec], assembly: Assembly, *, work: int, local_steps: str
) -> Iterator[tuple[str, Tables, Path]]:
    """Train each method with each number of local steps, rounds times local steps kept.

    Args:
        asked: What is to be done.
        specs: Federations; none for that of the settings.
        assembly: Makes runs.
        work: Rounds times local steps.
        local_steps: Numbers of them, comma separated.

    Yields:
        Name of the federation, its tables, and the folder that they were written into.

    Raises:
        ConfigError: A number of local steps does not divide the work, or a method is in no federation.
    """
    if asked.temperatures:
        raise ConfigError(
            "--work trains each row once, so it cannot try --temperatures. Set distill.temperature."
        )
    counts = parse_local_steps(local_steps, work=work)
    wrong = [name for name in asked.methods if is_alone(name) or name.startswith(CENTRAL)]
    if wrong or any(spec.central for spec in specs):
        raise ConfigError(
            f"--work compares federations; {wrong[0] if wrong else 'central'!r} does not send weights. Leave"
            " it out, for example with --methods cmc,cmc+cmd."
        )
    chosen: list[FederationSpec | None] = [*specs] or [None]
    for spec in chosen:
        own = run_folder(asked.config) / (f"{spec.folder}-work" if spec else "work")
        config = spec.applied(asked.config) if spec else asked.config
        of_one, title = replace(asked, config=config), spec.title if spec else ""
        found = _one_federation(of_one, counts, assembly, work=work, folder=own, title=title)
        yield spec.name if spec else config.federation.partition, found, own


def _one_federation(
    asked: Asked, counts: Sequence[int], assembly: Assembly, *, work: int, folder: Path, title: str
) -> Tables:
    """All rows of one federation, written into ``folder``."""
    jobs = [
        make_job(
            _with_local_steps(asked.config, count, work=work),
            method,
            seed=seed,
            folder=folder,
            label=f"{method} {count} local",
        )
        for seed in repeats_of(asked.config.seed, asked.num_seeds)
        for method in asked.methods
        for count in counts
    ]
    found = run_jobs(jobs, num_jobs=asked.num_jobs, assembly=assembly, tell=asked.tell)
    lines: dict[str, list[dict[str, float]]] = {job.label: [] for job in jobs}
    for job, result in zip(jobs, found, strict=True):
        lines[job.label].append({**result["headline"], "megabytes": result["bytes"] / 1e6})
    first = jobs[0].label
    shortest = _with_local_steps(asked.config, counts[0], work=work)
    facts = about(shortest, assembly, title=title, headline=asked.headline)
    items = items_of(facts)
    tables: Tables = {
        "summary": summarise(lines, items=items),
        "paired": paired_with_reference(lines, reference=first, items=items),
        "verdict": verdict({}, asked.headline),
        "results": lines,
    }
    tables["about"] = facts | {
        "title": f"{facts['title']}: {counted(work, 'step')} in rounds of this many local steps",
        "work": f"{counted(work, 'optimiser step')} of {counted(asked.config.distill.batch_size, 'pair')} per"
        " client",
        "reference": first,
        "num_seeds": asked.num_seeds,
        "rates": {},
        "grid": [],
        "cpu_seconds": sum(one["cpu_seconds"] for one in found),
    }
    tables["markdown"] = comparison_markdown(tables)
    write_comparison(folder, tables)
    return tables


def _with_local_steps(config: RunConfig, count: int, *, work: int) -> RunConfig:
    """``config`` with ``count`` local steps, and the rounds that make ``work``."""
    federation = replace(config.federation, local_steps=count, num_rounds=work // count)
    return replace(config, federation=federation)


def work_rows(tables: Tables) -> list[list[str]]:
    """Titles, then a row a method and number of local steps, for a person."""
    wanted = ("recall@1", "class_recall@1", tables["about"]["headline"], "megabytes")
    columns = [name for name in wanted if any(name in line for line in tables["summary"].values())]
    rows = [
        [label, *(interval_text(line[c]) if c in line else "-" for c in columns)]
        for label, line in tables["summary"].items()
    ]
    return [["row", *map(title_of, columns)], *rows]


def work_title(tables: Tables) -> str:
    """Heading of that table."""
    return "; ".join([tables["about"]["title"], *little(tables["about"])])
