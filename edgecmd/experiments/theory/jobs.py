"""Work of ``edgecmd theory`` in one process or several: finished pieces are kept, the order is fixed."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecmd.cli.common import one_thread
from edgecmd.cli.progress import hide_progress
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.processes import Workers
from edgecmd.core.progress import tracked

Table = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One piece of work.

    Attributes:
        kind: A key of `WORK`.
        flat: Settings of the run, flat.
        place: What tells it from the others, as plain values.
        path: File that keeps its table.
    """

    kind: str
    flat: Mapping[str, Any]
    place: Mapping[str, Any]
    path: Path


def run_jobs(jobs: Sequence[Job], *, num_jobs: int, told: Callable[[Table, int], None]) -> list[Table]:
    """Tables of all jobs in their order, whatever the number of processes, each of one thread.

    Args:
        jobs: The work; what is finished already is read from its file.
        num_jobs: Processes; 1 for this one alone.
        told: Called with each table and how many are there, as they come.

    Raises:
        ConfigError: A file was made with other settings.
        KeyboardInterrupt: The user stopped it; running jobs are ended, finished ones stay.
    """
    if num_jobs == 1:
        found = []
        for job in tracked(jobs, "points"):
            found.append(run_job(job))
            hide_progress()
            told(found[-1], len(found))
        return found
    by_place: dict[int, Table] = {}
    with Workers(num_jobs) as pool:
        futures = {pool.submit(run_job, job): index for index, job in enumerate(jobs)}
        for future in tracked(as_completed(futures), "points", num=len(jobs)):
            by_place[futures[future]] = future.result()
            hide_progress()
            told(by_place[futures[future]], len(by_place))
    return [by_place[index] for index in range(len(jobs))]


def run_job(job: Job) -> Table:
    """One piece, in whatever process; a finished one is read from its file.

    Raises:
        ConfigError: The file was made with other settings.
    """
    from edgecmd.config.reader import unflatten
    from edgecmd.core.files import read_json, write_json

    one_thread()
    config = unflatten(job.flat)
    # As JSON gives it back: tuples become lists.
    made = {"settings": settings_of(config), "place": json.loads(json.dumps(job.place))}
    if job.path.exists():
        saved = read_json(job.path)
        if {name: saved.get(name) for name in made} == made:
            return dict(saved["table"])
        raise ConfigError(f"{job.path} was made with other settings. Choose another name with --set name=...")
    table = WORK[job.kind](config, job.place)
    write_json(job.path, {**made, "table": table})
    return table


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Settings that a piece depends on: all but where it is written and the seed, which is its own."""
    from edgecmd.config.reader import flatten

    apart = ("name", "out", "seed", "federation.num_workers")
    return {key: value for key, value in flatten(config).items() if key not in apart}


def _point(config: RunConfig, place: Mapping[str, Any]) -> Table:
    from edgecmd.experiments.theory.sweep import Point, SweepPlan, measure_point

    return measure_point(config, SweepPlan(**place["plan"]), Point(**place["point"]))


def _rotation(config: RunConfig, place: Mapping[str, Any]) -> Table:
    from dataclasses import replace

    from edgecmd.experiments.theory.alignment import rotation

    seeded = replace(config, seed=place["seed"])
    return {**place, "rows": rotation(seeded, place["method"], num_rounds=place["num_rounds"])}


WORK: dict[str, Callable[[RunConfig, Mapping[str, Any]], Table]] = {"point": _point, "rotation": _rotation}
