"""Tests that noise is N(0, 1) and fresh each time, with one level for all tests together.

Steps are tested as they come: of each only sums and a sketch are kept, so a round may have any number.
"""

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
SKETCH = 16_384  # coordinates of a step that are kept, for its shape and for repeats
# Pairs in a sample, from so many on: noise may depend on whether there are any, and on how many.
SIZES = {"empty samples": 0, "small samples": 1, "large samples": 4}
FAR = (3.25, 4.25)  # standard deviations: what is cut off shows beyond, and the shape does not see it
NAMED = 4  # failed tests that a sentence names

Draws = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """One test.

    Attributes:
        name: What was tested.
        kind: ``std``, ``mean``, ``shape``, ``reuse`` or ``sum``.
        value: Measured standard deviation, mean, Kolmogorov-Smirnov distance, correlation, or what is left
            of the known sum, in standard deviations.
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
        """Where the noise is smaller than stated, and what share of it there is."""
        return [
            f"{one.name}: {one.value:.3g}" for one in self.failed if one.kind == "std" and one.value < 1.0
        ]

    @property
    def too_large(self) -> list[str]:
        """Where it is larger, and how large."""
        return [
            f"{one.name}: {one.value:.3g}" for one in self.failed if one.kind == "std" and one.value > 1.0
        ]

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
    def off_sum(self) -> list[str]:
        """Where noise alone does not explain what was released beside the known sum."""
        return [one.name for one in self.failed if one.kind == "sum"]

    @property
    def std(self) -> float:
        """Measured standard deviation over the stated one."""
        return self.tests[0].value

    @property
    def least(self) -> float:
        """Smallest standard deviation of the failed tests with many draws; that of all where none failed."""
        failed = [one for one in self.failed if one.kind == "std"]
        many = [one for one in failed if one.num >= FEWEST_DRAWS]
        return min((one.value for one in many or failed), default=self.std)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepNoise:
    """What is kept of one step's noise, in units of the stated standard deviation.

    Attributes:
        call: Round of the real code, from 1.
        index: Step of that round, from 1.
        rows: Pairs that were sampled.
        sizes: Coordinates of each parameter.
        squares: Sum of squares of each parameter.
        total: Sum over all coordinates.
        sketch: The noise at evenly spread coordinates.
        far: Coordinates beyond each of `FAR` standard deviations.
        own: Tests that the step alone allows: correlations of neighbouring parameters, and the known sum.
        coordinates: Sum of squares of each coordinate over all steps of a round; None but in its last.
    """

    call: int
    index: int
    rows: int
    sizes: Mapping[str, int]
    squares: Mapping[str, float]
    total: float
    sketch: np.ndarray
    far: tuple[int, ...]
    own: tuple[Test, ...]
    coordinates: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The step in words."""
        return f"call {self.call} step {self.index}"


def step_noise(
    draws: Draws,
    *,
    call: int,
    index: int,
    rows: int,
    along: float | None = None,
    more: Sequence[Test] = (),
) -> StepNoise:
    """What is kept of one step.

    Args:
        draws: Noise over its stated standard deviation, by parameter.
        call: Round, from 1.
        index: Step, from 1.
        rows: Pairs that were sampled.
        along: The noise along the known sum, which is N(0, 1) if the sum was released as it is; None where
            it is zero.
        more: Further tests of the step alone.
    """
    flat = {name: np.asarray(value, dtype=np.float64).ravel() for name, value in draws.items()}
    every = np.concatenate(list(flat.values()))
    chosen = np.linspace(0, len(every) - 1, min(len(every), SKETCH)).astype(np.int64)
    long = {name: value for name, value in flat.items() if value.size >= SHORTEST}
    own = [
        _same(f"{one} and {other} (call {call} step {index})", long[one], long[other])
        for one, other in pairwise(long)
    ]
    if along is not None:
        p_value = 2.0 * float(stats.norm.sf(abs(along)))
        own.append(Test(name=f"call {call} step {index}", kind="sum", value=along, p_value=p_value, num=1))
    return StepNoise(
        call=call,
        index=index,
        rows=rows,
        sizes={name: value.size for name, value in flat.items()},
        squares={name: float(value @ value) for name, value in flat.items()},
        total=float(every.sum()),
        sketch=every[chosen],
        far=tuple(int((np.abs(every) > each).sum()) for each in FAR),
        own=(*own, *more),
    )


def judge_steps(steps: Sequence[StepNoise]) -> Verdict:
    """Test the noise of the steps of some rounds.

    Returns:
        Tests, in this order: chi-square of the variance, z-test of the mean and Kolmogorov-Smirnov of the
        distribution over all steps; how many are far out; chi-square of the coordinate that has least over
        all steps; chi-square of each step of a round, of samples that are empty, small
        and large, of each parameter, and of each parameter at each step of a round; correlations of each
        two steps and of neighbouring parameters; what is left of the known sums.

    Guarantees:
        Sound noise fails with a probability of `LEVEL` at most (Bonferroni over all tests).
    """
    names, indices = list(steps[0].sizes), sorted({one.index for one in steps})
    num = sum(_num(one, names) for one in steps)
    mean = sum(one.total for one in steps) / num
    tests = [_std_of("all", steps, names), _mean_of(mean, num)]
    tests.append(_shape(np.concatenate([one.sketch for one in steps])))
    tests += [_tail(sum(one.far[at] for one in steps), num, FAR[at]) for at in range(len(FAR))]
    tests += _coordinates(steps)
    by_index = {index: [one for one in steps if one.index == index] for index in indices}
    tests += [_std_of(f"step {index}", by_index[index], names) for index in indices]
    tests += [_std_of(size, found, names) for size, found in _by_size(steps).items() if found]
    tests += [_std_of(name, steps, [name]) for name in names]
    tests += [
        _std_of(f"{name} at step {index}", by_index[index], [name]) for name in names for index in indices
    ]
    couples = combinations(steps, 2)
    tests += [_same(f"{one.name} and {two.name}", one.sketch, two.sketch) for one, two in couples]
    tests += [test for one in steps for test in one.own]
    return _judged(tests)


def _tail(found: int, num: int, beyond: float) -> Test:
    """Exact binomial test of how many draws are far out."""
    rate = 2.0 * float(stats.norm.sf(beyond))
    p_value = 2.0 * min(
        float(stats.binom.cdf(found, num, rate)), float(stats.binom.sf(found - 1, num, rate)), 0.5
    )
    return Test(name=f"beyond {beyond:g}", kind="shape", value=found / num, p_value=p_value, num=num)


def _coordinates(steps: Sequence[StepNoise]) -> list[Test]:
    """Chi-square of the coordinate with the least noise over all steps, for as many as there are."""
    rounds = [one.coordinates for one in steps if one.coordinates is not None]
    if not rounds:
        return []
    square = np.sum(rounds, axis=0)
    least, num = int(square.argmin()), len(steps)
    p_value = min(1.0, len(square) * float(stats.chi2.cdf(square[least], num)))
    value = math.sqrt(square[least] / num)
    return [Test(name=f"coordinate {least}", kind="std", value=value, p_value=p_value, num=num)]


def _by_size(steps: Sequence[StepNoise]) -> dict[str, list[StepNoise]]:
    found: dict[str, list[StepNoise]] = {name: [] for name in SIZES}
    for one in steps:
        found[max((name for name in SIZES if one.rows >= SIZES[name]), key=SIZES.__getitem__)].append(one)
    return found


def _num(step: StepNoise, names: Sequence[str]) -> int:
    return sum(step.sizes[name] for name in names)


def _std_of(name: str, steps: Sequence[StepNoise], names: Sequence[str]) -> Test:
    square = sum(one.squares[each] for one in steps for each in names)
    return _variance(name, square, sum(_num(one, names) for one in steps))


def named(found: Sequence[str]) -> str:
    """The first few of ``found`` in words, and how many more there are."""
    more = len(found) - NAMED
    return ", ".join(found[:NAMED]) + (f" and {more} more" if more > 0 else "")


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
    tests = [_std("all weights", every), _mean_of(float(every.mean()), len(every)), _shape(every)]
    tests += [_std(name, np.concatenate([one[name].ravel() for one in layers])) for name in layers[0]]
    tests += _pairs("calls", whole) + _pairs("steps", steps)
    long = {name: value.ravel() for name, value in layers[0].items() if value.size >= SHORTEST}
    tests += [_same(f"{one} and {other}", long[one], long[other]) for one, other in pairwise(long)]
    return _judged(tests)


def _judged(tests: Sequence[Test]) -> Verdict:
    level = LEVEL / len(tests)
    return Verdict(tests=tuple(tests), failed=tuple(one for one in tests if one.p_value < level))


def _std(name: str, draws: np.ndarray) -> Test:
    return _variance(name, float(np.square(draws).sum()), len(draws))


def _variance(name: str, square: float, num: int) -> Test:
    low = float(stats.chi2.cdf(square, num))
    p_value = min(1.0, 2.0 * min(low, float(stats.chi2.sf(square, num))))
    return Test(name=name, kind="std", value=math.sqrt(square / num), p_value=p_value, num=num)


def _mean_of(mean: float, num: int) -> Test:
    p_value = 2.0 * float(stats.norm.sf(abs(mean) * math.sqrt(num)))
    return Test(name="mean", kind="mean", value=mean, p_value=p_value, num=num)


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
