"""Work of ``edgecmd theory`` in pieces: points of the sweep, and clients of one method with one seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgecmd.config.assemble import WORKER, Assembly
from edgecmd.config.reader import flatten
from edgecmd.config.schema import RunConfig
from edgecmd.core import jobs
from edgecmd.core.jobs import finish
from edgecmd.core.seeding import repeats_of
from edgecmd.experiments.theory.sweep import Point, SweepPlan

Table = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One piece of work.

    Attributes:
        kind: A key of `WORK`.
        config: Settings of the run.
        place: What tells it from the others, as plain values.
        path: File that keeps its table.
    """

    kind: str
    config: RunConfig
    place: Mapping[str, Any]
    path: Path

    @property
    def made_of(self) -> dict[str, Any]:
        """What its table depends on."""
        return {"settings": settings_of(self.config), "place": self.place}


def run_jobs(
    work: Sequence[Job], *, num_jobs: int, assembly: Assembly, told: Callable[[Table, int], None]
) -> list[Table]:
    """Tables of all jobs in their order, whatever the number of processes.

    Args:
        work: The work; what is finished already is read from its file.
        num_jobs: Processes; 1 for this one alone.
        assembly: Makes runs where this process does the work alone; each worker process has one of its own.
        told: Called with each table and how many are there, as they come.

    Raises:
        ConfigError: A file was made with other settings.
        KeyboardInterrupt: The user stopped it; running jobs are ended, finished ones stay.
    """
    num_done = 0

    def done(_: Job, result: Table) -> None:
        nonlocal num_done
        num_done += 1
        told(result["table"], num_done)

    do = partial(run_job, assembly=assembly) if num_jobs == 1 else run_job
    found = jobs.run_jobs(work, do, num_processes=num_jobs, what="points", done=done)
    return [one["table"] for one in found]


def run_job(job: Job, assembly: Assembly = WORKER) -> Table:
    """One piece with its ``table``, in whatever process; a finished one is read from its file.

    Raises:
        ConfigError: The file was made with other settings.
    """
    return finish(job, lambda: {"table": WORK[job.kind](job.config, job.place, assembly)})


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Settings that a piece depends on: all but where it is written and the seed, which is its own."""
    apart = ("name", "out", "seed", "federation.num_workers")
    return {key: value for key, value in flatten(config).items() if key not in apart}


def _point(config: RunConfig, place: Mapping[str, Any], assembly: Assembly) -> Table:
    from edgecmd.experiments.theory.sweep import measure_point

    point = Point(**place["point"])
    return measure_point(assembly.run(replace(config, seed=point.seed)), SweepPlan(**place["plan"]), point)


def _rotation(config: RunConfig, place: Mapping[str, Any], assembly: Assembly) -> Table:
    from edgecmd.experiments.theory.alignment import rotation, with_method

    run = assembly.run(replace(with_method(config, place["method"]), seed=place["seed"]))
    return {**place, "rows": rotation(run, num_rounds=place["num_rounds"])}


WORK: dict[str, Callable[[RunConfig, Mapping[str, Any], Assembly], Table]] = {
    "point": _point,
    "rotation": _rotation,
}


def point_jobs(config: RunConfig, plan: SweepPlan, points: Sequence[Point], *, folder: Path) -> list[Job]:
    """A job for each point of the sweep."""
    return [
        Job(
            kind="point",
            config=config,
            place={"plan": asdict(plan), "point": asdict(point)},
            path=folder / "theory" / f"{point.name}.json",
        )
        for point in points
    ]


def rotation_jobs(config: RunConfig, *, num_rounds: int, num_seeds: int, folder: Path) -> list[Job]:
    """A job for each method and seed."""
    from edgecmd.experiments.theory.alignment import METHODS

    return [
        Job(
            kind="rotation",
            config=config,
            place={"method": method, "seed": seed, "num_rounds": num_rounds},
            path=folder / "rotation" / f"{method.replace(', ', '-').replace(' ', '-')}-seed-{seed}.json",
        )
        for seed in repeats_of(config.seed, num_seeds)
        for method in METHODS
    ]
