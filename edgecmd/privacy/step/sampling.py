"""Which pairs enter a step: each by its own coins, so that one more pair moves none of the others."""

from collections.abc import Iterator

import numpy as np

from edgecmd.privacy.step.randomness import Source, integers, uniform


def poisson_rows(num: int, *, rate: float, source: Source) -> np.ndarray:
    """Rows of a Poisson sample: each of ``num`` rows enters with probability ``rate``, independently."""
    return np.flatnonzero(uniform(source, num) < rate)


def bins(num: int, *, num_bins: int, source: Source) -> list[np.ndarray]:
    """Deal ``num`` rows into bins, each row into a uniformly drawn one, independently of the others.

    Unlike slices of a permutation, a bin's other rows stay where they are when a row is added.
    """
    place = integers(source, num, high=num_bins)
    return [np.flatnonzero(place == index) for index in range(num_bins)]


def step_rows(
    num: int, *, sampling: str, rate: float, num_bins: int, num_steps: int, source: Source
) -> Iterator[np.ndarray]:
    """Rows of each of ``num_steps`` steps.

    Args:
        num: Pairs that the client holds; 0 gives empty steps.
        sampling: ``poisson``, or ``none``: epochs of ``num_bins`` bins, each row in one bin of an epoch.
        rate: Probability of a row in a step; only for ``poisson``.
        num_bins: Bins of an epoch; only for ``none``.
        num_steps: Steps; an epoch never goes on in a later round.
        source: Secret coins.
    """
    if sampling == "poisson":
        for _ in range(num_steps):
            yield poisson_rows(num, rate=rate, source=source)
        return
    for first in range(0, num_steps, num_bins):
        yield from bins(num, num_bins=num_bins, source=source)[: num_steps - first]
