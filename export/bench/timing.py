"""CPU time of calls that take turns, so that other load on the machine affects them all alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

BLOCK = 10
NUM_WARM_UP = 3
CLOCKS: dict[str, Callable[[], int]] = {
    "thread": time.thread_time_ns,
    "process": time.process_time_ns,
    "wall": time.perf_counter_ns,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """Something to be timed.

    Attributes:
        run: Does it once.
        clock: A key of `CLOCKS`: ``thread`` where the work is done in the calling thread, ``process`` where
            the engine has a thread of its own, ``wall`` where several threads share the work.
    """

    run: Callable[[], object]
    clock: str = "thread"


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Time of one call, in milliseconds.

    Attributes:
        num: Calls that were timed.
        p50_ms: Median.
        p95_ms: 95th percentile.
        min_ms: The least; the one that other work on the machine disturbs least, so ratios are taken of it.
    """

    num: int
    p50_ms: float
    p95_ms: float
    min_ms: float


def interleaved(
    subjects: Mapping[str, Timed], *, num_blocks: int, block: int = BLOCK, num_warm_up: int = NUM_WARM_UP
) -> dict[str, Timing]:
    """Time each subject in blocks: one block of each, then the next block of each, and so on.

    Args:
        subjects: What is timed, by name.
        num_blocks: Blocks of each.
        block: Calls in a block.
        num_warm_up: Calls of each before, which are not timed.
    """
    samples: dict[str, list[int]] = {name: [] for name in subjects}
    for subject in subjects.values():
        for _ in range(num_warm_up):
            subject.run()
    for _ in range(num_blocks):
        for name, subject in subjects.items():
            samples[name] += _block(subject, num=block)
    return {name: summarise(found) for name, found in samples.items()}


def _block(subject: Timed, *, num: int) -> list[int]:
    clock, run, found = CLOCKS[subject.clock], subject.run, []
    for _ in range(num):
        started = clock()
        run()
        found.append(clock() - started)
    return found


def summarise(samples_ns: list[int]) -> Timing:
    """Median, 95th percentile and minimum of times in nanoseconds."""
    sample = np.asarray(samples_ns, dtype=np.float64) / 1e6
    return Timing(
        num=len(sample),
        p50_ms=float(np.percentile(sample, 50)),
        p95_ms=float(np.percentile(sample, 95)),
        min_ms=float(sample.min()),
    )
