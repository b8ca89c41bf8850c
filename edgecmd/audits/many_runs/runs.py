"""Many runs, in parallel and in pieces: what is finished stays, and a second call goes on from there.

The runs of an arm are cut into chunks of fixed size; each finished chunk is one file, complete or
absent. All coins and noise of a run follow from its index, so neither the number of processes nor an
interruption changes a result.

Shapes: N runs of each kind, P parameters.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from time import monotonic

import numpy as np

from edgecmd.audits.finding import Finding, epsilon_verdict
from edgecmd.audits.many_runs.certify import LEAST_RUNS, Certified, certify
from edgecmd.audits.many_runs.trainers import Arm, analytic_direction, claimed_epsilon, train
from edgecmd.audits.many_runs.worst_case import make_worst_case
from edgecmd.core.errors import DataError, PrivacyError
from edgecmd.core.files import read_json, write_bytes_atomically, write_json
from edgecmd.core.processes import Workers
from edgecmd.core.progress import Tick, silent, ticker
from edgecmd.data.user_files.decode import DecodeError, npy_array
from edgecmd.data.user_files.reading import most_array_bytes

CHUNK = 5
STUDENT = "a tiny stand-in, a perceptron of 808 parameters"
Job = tuple[Arm, int, Path]


def run_arms(
    arms: Sequence[Arm], *, num_runs: int, folder: Path, num_jobs: int = 1, tick: Tick = silent
) -> None:
    """Make the runs that ``folder`` lacks.

    Args:
        arms: Ways to train, with different keys.
        num_runs: Runs with the canary, and as many without, of each arm; whole chunks are made.
        folder: Holds a folder for each arm.
        num_jobs: Processes, each with one thread; 1 runs here.
        tick: Told how many chunks are finished, of how many.

    Raises:
        DataError: ``folder`` holds runs that were made with other settings.
        PrivacyError: Too few runs or jobs are asked for.

    Guarantees:
        The files do not depend on ``num_jobs`` or on interruptions. A run that was finished is not
        made again, also when more runs are asked for later.
    """
    if num_runs < LEAST_RUNS or num_jobs < 1:
        raise PrivacyError(
            f"--runs={num_runs} must be at least {LEAST_RUNS} and --jobs={num_jobs} at least 1."
        )
    for arm in arms:
        _claim_folder(arm, folder)
    jobs = [(arm, first, _file(folder, arm, first)) for first in range(0, num_runs, CHUNK) for arm in arms]
    missing = [job for job in jobs if not job[2].exists()]
    done = len(jobs) - len(missing)
    tick(done, len(jobs))
    with _workers(min(num_jobs, len(missing))) as finished:
        for num in finished(missing):
            done += num
            tick(done, len(jobs))


def measure(arms: Sequence[Arm], *, num_runs: int, folder: Path, num_jobs: int = 1) -> list[Finding]:
    """Make the runs that ``folder`` lacks, and judge each arm; arguments and errors as of `run_arms`."""
    started = monotonic()
    with ticker("runs") as tick:
        run_arms(arms, num_runs=num_runs, folder=folder, num_jobs=num_jobs, tick=tick)
    each = (monotonic() - started) / len(arms)
    return [judge(arm, num_runs=num_runs, folder=folder, seconds=each) for arm in arms]


def released(arm: Arm, *, num_runs: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Weights that the first ``num_runs`` runs released, with the canary and without, each (N, P).

    Raises:
        DataError: A file is missing or broken.
    """
    chunks = [_read(_file(folder, arm, first)) for first in range(0, num_runs, CHUNK)]
    together = np.concatenate(chunks)[:num_runs]
    return together[:, 1], together[:, 0]


def judge(arm: Arm, *, num_runs: int, folder: Path, seconds: float = 0.0) -> Finding:
    """Certify what the runs of an arm show and hold it against what was claimed.

    Args:
        arm: How the runs were made; an arm whose plan is not private claims nothing.
        num_runs: Runs of each kind, all of them in ``folder``.
        folder: As given to `run_arms`.
        seconds: Wall time that the runs took.
    """
    started = monotonic()
    case = make_worst_case(seed=arm.seed, num_pairs=arm.num_pairs)
    found = certify(
        *released(arm, num_runs=num_runs, folder=folder),
        delta=arm.plan.delta,
        directions={"analytic": analytic_direction(arm, case)},
    )
    claimed = claimed_epsilon(arm, case) if arm.plan.private else None
    return _finding(arm, found, claimed=claimed, num_runs=num_runs, seconds=seconds + monotonic() - started)


def _finding(arm: Arm, found: Certified, *, claimed: float | None, num_runs: int, seconds: float) -> Finding:
    verdict, text = epsilon_verdict(lower=found.epsilon, claimed=claimed, ceiling=found.ceiling)
    return Finding(
        level="many-runs",
        name=arm.title,
        attacker="device",
        verdict=verdict,
        text=f"{text} AUC {found.auc:.3f} ({found.auc_low:.3f} to {found.auc_high:.3f}); student: {STUDENT}.",
        quantity="epsilon",
        claimed=claimed,
        measured=found.epsilon,
        ceiling=found.ceiling,
        confidence=found.confidence,
        counts={"runs_with": num_runs, "runs_without": num_runs, "held_out": found.num_held_out},
        seeds=(arm.seed,),
        seconds=seconds,
        details={
            **asdict(found),
            "trainer": arm.trainer,
            "loss": arm.loss,
            "delta": arm.plan.delta,
            "noise_multiplier": arm.plan.noise_multiplier,
            "sampling_rate": arm.plan.sampling_rate,
            "clip": arm.plan.clip,
            "num_steps": arm.num_steps,
            "num_pairs": arm.num_pairs,
            "student": STUDENT,
        },
    )


def _chunk(job: Job) -> int:
    """Make one chunk and write it: float32 (CHUNK, 2, P), without the canary before with it."""
    arm, first, path = job
    case = make_worst_case(seed=arm.seed, num_pairs=arm.num_pairs)
    runs = [
        [train(arm, case, included=included, run=run) for included in (False, True)]
        for run in range(first, first + CHUNK)
    ]
    buffer = BytesIO()
    np.save(buffer, np.array(runs, dtype=np.float32))
    write_bytes_atomically(path, buffer.getvalue())
    return 1


@contextmanager
def _workers(num: int) -> Iterator[Callable[[Sequence[Job]], Iterator[int]]]:
    """A function that makes chunks and yields 1 after each, in this process or in ``num`` others."""
    if num <= 1:
        yield lambda jobs: (_chunk(job) for job in jobs)
        return
    # A chunk is a file or none, so that the workers can be ended at any time.
    with Workers(num) as pool:
        yield lambda jobs: (one.result() for one in as_completed([pool.submit(_chunk, job) for job in jobs]))


def _claim_folder(arm: Arm, folder: Path) -> None:
    path = folder / arm.key / "arm.json"
    settings = {"chunk": CHUNK, **arm.table()}
    if not path.exists():
        write_json(path, settings)
    elif read_json(path) != settings:
        raise DataError(
            f"{path.parent} holds runs that were made with other settings; they do not mix. Delete it, or"
            " name another folder (--out, where the command has it)."
        )


def _file(folder: Path, arm: Arm, first: int) -> Path:
    return folder / arm.key / f"runs-{first:06d}.npy"


def _read(path: Path) -> np.ndarray:
    try:
        found = npy_array(path, most_bytes=most_array_bytes())
    except DecodeError as error:
        raise DataError(f"{path} cannot be read ({error}). Delete it and audit again.") from error
    if found.ndim != 3 or found.shape[:2] != (CHUNK, 2):
        raise DataError(f"{path} has shape {found.shape}, not ({CHUNK}, 2, P). Delete it and audit again.")
    return found.astype(np.float64)
