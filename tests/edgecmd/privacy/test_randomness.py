"""The secret source is what its docstring says; each statistical test fails by chance once in a million."""

import numpy as np
import pytest
import torch
from scipy import stats

from edgecmd.privacy.step.randomness import (
    IN_CACHE,
    DeterministicSource,
    SystemSource,
    generator,
    integers,
    make_source,
    normal,
    uniform,
)
from edgecmd.privacy.step.sampling import bins, poisson_rows, step_rows

FALSE_ALARM = 1e-6


def test_normals_are_standard() -> None:
    assert stats.kstest(normal(SystemSource(), 100_000), "norm").pvalue > FALSE_ALARM


def test_uniforms_are_uniform_and_never_zero_or_one() -> None:
    values = uniform(SystemSource(), 100_000)
    assert stats.kstest(values, "uniform").pvalue > FALSE_ALARM
    assert values.min() > 0
    assert values.max() < 1


def test_noise_that_is_drawn_in_pieces_is_new_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece asks the system, for as many words as it has numbers, four each."""
    asked: list[int] = []
    system = SystemSource.words
    monkeypatch.setattr(
        SystemSource, "words", lambda self, count: (asked.append(count), system(self, count))[1]
    )
    drawn = normal(SystemSource(), 2 * IN_CACHE + 3)
    assert asked == [4 * IN_CACHE, 4 * IN_CACHE, 4 * 3]
    assert len(np.unique(drawn)) == 2 * IN_CACHE + 3
    assert stats.kstest(drawn, "norm").pvalue > FALSE_ALARM


def test_deterministic_noise_is_four_draws_a_number_of_one_sequence() -> None:
    """What a seed gave once it gives for ever: word i of each of four runs makes number i."""
    num = IN_CACHE + 5
    words = DeterministicSource(3).words(4 * num).reshape(4, num)
    share = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    wanted = stats.norm.ppf(share).sum(axis=0) / 2.0
    np.testing.assert_allclose(normal(DeterministicSource(3), num), wanted, rtol=1e-9, atol=1e-12)


class Fixed:
    private = False

    def __init__(self, word: int) -> None:
        self.word = word

    def words(self, count: int) -> np.ndarray:
        return np.full(count, self.word, dtype=np.uint64)


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_the_extreme_words_give_finite_noise(word: int) -> None:
    assert 0 < uniform(Fixed(word), 1)[0] < 1
    assert np.isfinite(normal(Fixed(word), 1)[0])


def test_two_system_sources_differ_and_the_deterministic_one_repeats() -> None:
    assert not np.array_equal(normal(SystemSource(), 8), normal(SystemSource(), 8))
    same = [normal(DeterministicSource(3, round_index=2, client=1), 8) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    other = normal(DeterministicSource(3, round_index=2, client=2), 8)
    assert not np.array_equal(same[0], other)


def test_only_the_deterministic_source_says_that_it_is_not_private() -> None:
    assert make_source(deterministic=False, seed=0, round_index=1, client=0).private
    assert not make_source(deterministic=True, seed=0, round_index=1, client=0).private


def test_generators_of_the_system_differ() -> None:
    one, other = (torch.rand(8, generator=generator(SystemSource())) for _ in range(2))
    assert not torch.equal(one, other)


def test_a_generator_is_a_mersenne_twister_whose_whole_state_is_secret() -> None:
    """The same words in numpy's twister give the same numbers; a seed would fill 32 bits alone."""
    words = DeterministicSource(5).words(624) & np.uint64(2**32 - 1)
    oracle = np.random.MT19937()
    oracle.state = {**oracle.state, "state": {"key": words.astype(np.uint32), "pos": 624}}
    low_halves = oracle.random_raw(2 * 700)[1::2]
    found = torch.randint(0, 2**31, (700,), generator=generator(DeterministicSource(5)))
    assert found.tolist() == (low_halves % 2**31).tolist()


def test_integers_are_uniform() -> None:
    counts = np.bincount(integers(SystemSource(), 100_000, high=7), minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_a_poisson_sample_takes_each_row_with_its_rate() -> None:
    rows = poisson_rows(100_000, rate=0.03, source=SystemSource())
    assert stats.binomtest(len(rows), 100_000, 0.03).pvalue > FALSE_ALARM
    assert len(np.unique(rows)) == len(rows)
    assert len(poisson_rows(0, rate=0.5, source=SystemSource())) == 0
    assert len(poisson_rows(50, rate=1.0, source=SystemSource())) == 50


def test_the_bins_of_an_epoch_hold_each_row_once() -> None:
    found = bins(1000, num_bins=6, source=SystemSource())
    assert sorted(np.concatenate(found)) == list(range(1000))
    assert stats.chisquare([len(one) for one in found]).pvalue > FALSE_ALARM


def test_one_more_row_moves_no_other_row() -> None:
    """With the coins of the others fixed; the last row's coin is drawn last."""
    more = bins(21, num_bins=4, source=DeterministicSource(0))
    fewer = bins(20, num_bins=4, source=DeterministicSource(0))
    assert [list(one[one < 20]) for one in more] == [list(one) for one in fewer]


@pytest.mark.parametrize("num", [0, 1, 30])
def test_a_round_has_its_steps_whatever_the_number_of_pairs(num: int) -> None:
    for sampling in ("poisson", "none"):
        steps = list(
            step_rows(num, sampling=sampling, rate=0.3, num_bins=3, num_steps=7, source=SystemSource())
        )
        assert len(steps) == 7


def test_without_amplification_a_row_is_in_one_step_of_an_epoch() -> None:
    steps = list(step_rows(40, sampling="none", rate=0.25, num_bins=4, num_steps=6, source=SystemSource()))
    assert sorted(np.concatenate(steps[:4])) == list(range(40))
    assert max(np.bincount(np.concatenate(steps), minlength=40)) <= 2
