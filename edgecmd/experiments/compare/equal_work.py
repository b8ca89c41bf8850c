"""``edgecmd compare --work``: local steps against rounds, as many optimiser steps in every row."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecmd.cli.common import print_table, say
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.text import counted

if TYPE_CHECKING:
    from edgecmd.cli.compare import Asked
    from edgecmd.experiments.compare.federations import FederationSpec


def parse_local_steps(text: str, *, work: int) -> list[int]:
    """Local steps of ``--local-steps``, each of which divides ``work``.

    Raises:
        ConfigError: One is no number, or does not divide it.
    """
    try:
        counts = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"--local-steps={text!r} must be whole numbers such as 1,5,20,100.") from None
    wrong = [count for count in counts if count < 1 or work % count]
    if wrong or not counts:
        raise ConfigError(
            f"--local-steps={text!r} must divide --work {work}, so that every row makes as many steps."
        )
    return list(dict.fromkeys(counts))


def compare_local_steps(
    asked: "Asked", specs: "Sequence[FederationSpec]", *, work: int, local_steps: str
) -> dict[str, Any]:
    """Train each method with each number of local steps, rounds times local steps kept.

    Returns:
        The rows by federation.

    Raises:
        ConfigError: A number of local steps does not divide the work, or a method is in no federation.
    """
    from edgecmd.config.assemble import run_folder
    from edgecmd.experiments.compare.methods import CENTRAL, is_alone

    counts = parse_local_steps(local_steps, work=work)
    wrong = [name for name in asked.methods if is_alone(name) or name.startswith(CENTRAL)]
    if wrong or any(spec.central for spec in specs):
        raise ConfigError(
            f"--work compares federations; {wrong[0] if wrong else 'central'!r} sends no weights."
            " Leave it out, such as with --methods cmc,cmc+cmd."
        )
    folder = run_folder(asked.config)
    tables = {}
    chosen: list[FederationSpec | None] = [*specs] or [None]
    for spec in chosen:
        own = folder / (f"{spec.folder}-work" if spec else "work")
        config = spec.applied(asked.config) if spec else asked.config
        tables[spec.name if spec else config.federation.partition] = _one_federation(
            replace(asked, config=config), counts, work=work, folder=own, title=spec.title if spec else ""
        )
    return tables


def _one_federation(
    asked: "Asked", counts: Sequence[int], *, work: int, folder: Path, title: str
) -> dict[str, Any]:
    """All rows of one federation, written into ``folder`` and shown."""
    from edgecmd.cli.compare_show import about, items_of, write_comparison
    from edgecmd.experiments.compare.jobs import make_job, run_jobs
    from edgecmd.experiments.compare.markdown import comparison_markdown
    from edgecmd.experiments.compare.summary import paired_with_reference, summarise, verdict

    jobs = [
        make_job(
            _with_local_steps(asked.config, count, work=work),
            method,
            seed=seed,
            folder=folder,
            label=f"{method} {count} local",
        )
        for seed in range(asked.num_seeds)
        for method in asked.methods
        for count in counts
    ]
    found = run_jobs(jobs, num_jobs=asked.num_jobs, quiet=asked.quiet)
    lines: dict[str, list[dict[str, float]]] = {job.label: [] for job in jobs}
    for job, result in zip(jobs, found, strict=True):
        lines[job.label].append({**result["headline"], "megabytes": result["bytes"] / 1e6})
    first = jobs[0].label
    facts = about(_with_local_steps(asked.config, counts[0], work=work), title=title, headline=asked.headline)
    items = items_of(facts)
    tables: dict[str, Any] = {
        "summary": summarise(lines, items=items),
        "paired": paired_with_reference(lines, reference=first, items=items),
        "verdict": verdict({}, asked.headline),
        "results": lines,
    }
    tables["about"] = facts | {
        "title": f"{facts['title']}: {counted(work, 'step')} in rounds of so many local steps",
        "work": f"{counted(work, 'optimiser step')} of"
        f" {counted(asked.config.distill.batch_size, 'pair')} a client",
        "reference": first,
        "num_seeds": asked.num_seeds,
        "rates": {},
        "grid": [],
        "cpu_seconds": sum(one["cpu_seconds"] for one in found),
    }
    tables["markdown"] = comparison_markdown(tables)
    write_comparison(folder, tables)
    if not asked.quiet:
        _show(tables, folder)
    return dict(tables["summary"])


def _with_local_steps(config: RunConfig, count: int, *, work: int) -> RunConfig:
    """``config`` with ``count`` local steps, and the rounds that make ``work``."""
    federation = replace(config.federation, local_steps=count, num_rounds=work // count)
    return replace(config, federation=federation)


def _show(tables: dict[str, Any], folder: Path) -> None:
    from edgecmd.core.statistics import interval_text
    from edgecmd.experiments.compare.markdown import little, title_of

    wanted = ("recall@1", "class_recall@1", tables["about"]["headline"], "megabytes")
    columns = [name for name in wanted if any(name in line for line in tables["summary"].values())]
    rows = [
        [
            label,
            *(interval_text(line[c]) if c in line else "-" for c in columns),
        ]
        for label, line in tables["summary"].items()
    ]
    title = "; ".join([tables["about"]["title"], *little(tables["about"])])
    print_table(title, ["row", *map(title_of, columns)], rows)
    say(f"All numbers: {folder / 'compare.json'}; table: {folder / 'compare.md'}")
