"""Coins of different rows and steps are independent; each test fails by chance about once in a million."""

import os

import numpy as np
import pytest
from scipy import stats

from edgecmd.privacy.step.randomness import DeterministicSource, SystemSource
from edgecmd.privacy.step.sampling import bins, poisson_rows, step_rows

FALSE_ALARM = 1e-6
NUM, STEPS, RATE = 40, 5000, 0.3


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    """Which row was in which step, (steps, rows)."""
    found = np.zeros((STEPS, NUM), dtype=bool)
    steps = step_rows(NUM, sampling="poisson", rate=RATE, num_bins=3, num_steps=STEPS, source=SystemSource())
    for step, rows in enumerate(steps):
        found[step, rows] = True
    return found


def fits(count: int, trials: int, rate: float, *, tests: int = 1) -> bool:
    return stats.binomtest(count, trials, rate).pvalue > FALSE_ALARM / tests


def test_each_row_has_the_rate(table: np.ndarray) -> None:
    assert all(fits(int(count), STEPS, RATE, tests=NUM) for count in table.sum(axis=0))


def test_rows_are_drawn_without_regard_to_each_other(table: np.ndarray) -> None:
    """Any two rows meet in a step with probability rate squared."""
    together = table.T.astype(int) @ table.astype(int)
    pairs = [(i, j) for i in range(NUM) for j in range(i)]
    assert all(fits(int(together[i, j]), STEPS, RATE**2, tests=len(pairs)) for i, j in pairs)


def test_a_row_is_drawn_without_regard_to_the_step_before(table: np.ndarray) -> None:
    again = int((table[:-1:2] & table[1::2]).sum())
    assert fits(again, STEPS // 2 * NUM, RATE**2)


def test_the_size_of_a_sample_is_binomial(table: np.ndarray) -> None:
    """A fixed batch size would have no variance, and no amplification for add or remove."""
    sizes = table.sum(axis=1)
    spread = ((sizes - NUM * RATE) ** 2).sum() / (NUM * RATE * (1 - RATE))
    tail = stats.chi2.cdf(spread, STEPS)
    assert 1e-9 < tail < 1 - 1e-9


def test_a_new_row_moves_no_other_row() -> None:
    """Given the coins of the others; the new row's coin is drawn last."""
    for num in (0, 1, 17):
        more = poisson_rows(num + 1, rate=RATE, source=DeterministicSource(4))
        fewer = poisson_rows(num, rate=RATE, source=DeterministicSource(4))
        np.testing.assert_array_equal(more[more < num], fewer)


def test_bins_put_two_rows_together_as_often_as_chance_does() -> None:
    source, met = SystemSource(), 0
    for _ in range(2000):
        found = bins(2, num_bins=4, source=source)
        met += any(len(one) == 2 for one in found)
    assert fits(met, 2000, 0.25)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_draws_other_coins() -> None:
    """The generator's state is copied by a fork; fresh entropy of the system must part the two."""
    source = SystemSource()
    source.words(1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, source.words(8).tobytes())
        os._exit(0)
    mine = source.words(8).tobytes()
    os.waitpid(child, 0)
    assert os.read(read, 64) != mine
    os.close(read)
    os.close(write)
