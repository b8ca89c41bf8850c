"""Tests of noise that ought to be N(0, 1) and fresh each time, with one level for all of them together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from scipy import stats

LEVEL = 1e-6
"""Probability that sound noise fails any of the tests of one audit, at most."""
FEWEST_DRAWS = 10_000
SHORTEST = 30  # draws of a correlation; of fewer, its normal approximation is poor

Draws = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """One test.

    Attributes:
        name: What was tested.
        kind: ``std``, ``mean``, ``shape`` or ``reuse``.
        value: Measured standard deviation, mean, Kolmogorov-Smirnov distance, or correlation.
        p_value: Two-sided.
        num: Draws.
    """

    __test__ = False

    name: str
    kind: str
    value: float
    p_value: float
    num: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All tests of an audit.

    Attributes:
        tests: Each test.
        failed: Those whose p-value is below ``LEVEL / len(tests)``.
    """

    tests: tuple[Test, ...]
    failed: tuple[Test, ...]

    @property
    def too_small(self) -> list[str]:
        """Where the noise is smaller than stated."""
        return [one.name for one in self.failed if one.kind == "std" and one.value < 1.0]

    @property
    def too_large(self) -> list[str]:
        """Where it is larger."""
        return [one.name for one in self.failed if one.kind == "std" and one.value > 1.0]

    @property
    def reused(self) -> list[str]:
        """What repeats noise that was seen before."""
        return [one.name for one in self.failed if one.kind == "reuse"]

    @property
    def misshapen(self) -> bool:
        """Whether it is not Gaussian, though its mean and standard deviation are as stated."""
        kinds = {one.kind for one in self.failed}
        return "shape" in kinds and not kinds & {"std", "mean"}

    @property
    def shifted(self) -> bool:
        """Whether its mean is not zero."""
        return any(one.kind == "mean" for one in self.failed)

    @property
    def std(self) -> float:
        """Measured standard deviation over the stated one."""
        return self.tests[0].value


def judge_noise(calls: Sequence[Draws], layers: Sequence[Draws]) -> Verdict:
    """Test noise that was divided by its stated standard deviation.

    Args:
        calls: Noise of independent calls as it reached the weights, by parameter.
        layers: Noise of independent steps, by parameter: every parameter, also those that weights show
            only through a map.

    Returns:
        Tests, in this order: chi-square of the variance, z-test of the mean and Kolmogorov-Smirnov of
        the distribution over all ``calls``; chi-square of each parameter over all ``layers``; correlations
        of each two calls, each two steps, and neighbouring parameters of one step.

    Guarantees:
        Sound noise fails with a probability of `LEVEL` at most (Bonferroni over all tests; rounding of
        float32 weights adds 1e-7 to a draw).
    """
    whole = [np.concatenate([value.ravel() for value in one.values()]) for one in calls]
    steps = [np.concatenate([value.ravel() for value in one.values()]) for one in layers]
    every = np.concatenate(whole)
    tests = [_std("all weights", every), _mean(every), _shape(every)]
    tests += [_std(name, np.concatenate([one[name].ravel() for one in layers])) for name in layers[0]]
    tests += _pairs("calls", whole) + _pairs("steps", steps)
    long = {name: value.ravel() for name, value in layers[0].items() if value.size >= SHORTEST}
    tests += [_same(f"{one} and {other}", long[one], long[other]) for one, other in pairwise(long)]
    level = LEVEL / len(tests)
    return Verdict(tests=tuple(tests), failed=tuple(one for one in tests if one.p_value < level))


def _std(name: str, draws: np.ndarray) -> Test:
    square = float(np.square(draws).sum())
    low = float(stats.chi2.cdf(square, len(draws)))
    p_value = min(1.0, 2.0 * min(low, float(stats.chi2.sf(square, len(draws)))))
    value = math.sqrt(square / len(draws))
    return Test(name=name, kind="std", value=value, p_value=p_value, num=len(draws))


def _mean(draws: np.ndarray) -> Test:
    mean = float(draws.mean())
    p_value = 2.0 * float(stats.norm.sf(abs(mean) * math.sqrt(len(draws))))
    return Test(name="mean", kind="mean", value=mean, p_value=p_value, num=len(draws))


def _shape(draws: np.ndarray) -> Test:
    found = stats.kstest(draws, "norm")
    return Test(
        name="shape", kind="shape", value=float(found.statistic), p_value=float(found.pvalue), num=len(draws)
    )


def _pairs(what: str, draws: Sequence[np.ndarray]) -> list[Test]:
    return [
        _same(f"{what} {one + 1} and {other + 1}", draws[one], draws[other])
        for one, other in combinations(range(len(draws)), 2)
    ]


def _same(name: str, one: np.ndarray, other: np.ndarray) -> Test:
    """Correlation of two pieces of noise, cut to the shorter one's length."""
    num = min(len(one), len(other))
    first, second = one[:num], other[:num]
    size = math.sqrt(float(np.square(first).sum()) * float(np.square(second).sum()))
    value = float(first @ second) / size if size > 0 else 0.0
    rate = stats.beta.sf((1.0 + abs(value)) / 2.0, (num - 1) / 2.0, (num - 1) / 2.0)
    return Test(name=name, kind="reuse", value=value, p_value=min(1.0, 2.0 * float(rate)), num=num)
