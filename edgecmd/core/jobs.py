"""Pieces of long work: each keeps its result in its own file, so finished work is not done again."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from edgecmd.core.errors import ConfigError
from edgecmd.core.files import read_json, write_json
from edgecmd.core.processes import Workers
from edgecmd.core.progress import tracked

Result = dict[str, Any]
Tell = Callable[[str], None]
"""Takes a line for a person who waits."""


def quiet(_line: str) -> None:
    """A `Tell` that nobody reads."""


@runtime_checkable
class Job(Protocol):
    """One piece."""

    @property
    def path(self) -> Path:
        """File that keeps its result."""

    @property
    def made_of(self) -> Mapping[str, Any]:
        """All that its result depends on, as plain values; it is in the file beside the result."""


AnyJob = TypeVar("AnyJob", bound=Job)


def finish(job: Job, work: Callable[[], Mapping[str, Any]]) -> Result:
    """The result of a piece with what it is made of: read where it is finished, else made and written.

    Args:
        job: The piece.
        work: Makes its result, of plain values.

    Raises:
        ConfigError: The file was made of something else.

    Guarantees:
        The file is written whole or not at all.
    """
    # As JSON gives it back: tuples become lists.
    made_of = json.loads(json.dumps(dict(job.made_of)))
    if job.path.exists():
        saved = read_json(job.path)
        if isinstance(saved, dict) and {name: saved.get(name) for name in made_of} == made_of:
            return saved
        raise ConfigError(f"{job.path} was made with other settings. Choose another name with --set name=...")
    result = {**made_of, **work()}
    write_json(job.path, result)
    return result


def run_jobs(
    jobs: Sequence[AnyJob],
    do: Callable[[AnyJob], Result],
    *,
    num_processes: int,
    what: str,
    done: Callable[[AnyJob, Result], None],
) -> list[Result]:
    """Results of all pieces in their order, whatever the number of processes, each of one thread.

    Args:
        jobs: The pieces.
        do: Does one (`finish`); for more than one process a function that can be pickled.
        num_processes: 1 for this process alone.
        what: What they are called where it is shown how many are done.
        done: Told of each piece as it comes.

    Raises:
        ConfigError: A file was made of something else.
        KeyboardInterrupt: The user stopped it; what runs is ended, what is finished stays.
    """
    found: dict[int, Result] = {}

    def take(index: int, result: Result) -> None:
        found[index] = result
        done(jobs[index], result)

    if num_processes == 1 or not jobs:
        for index, job in enumerate(tracked(jobs, what)):
            take(index, do(job))
        return list(found.values())
    with Workers(num_processes) as pool:
        futures = {pool.submit(do, job): index for index, job in enumerate(jobs)}
        for future in tracked(as_completed(futures), what, num=len(jobs)):
            take(futures[future], future.result())
    return [found[index] for index in range(len(jobs))]
