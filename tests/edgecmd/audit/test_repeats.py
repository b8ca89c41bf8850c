"""Noise that repeats within a step or from the step before is seen at any distance; fresh noise is not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from edgecmd.audits.step.noise import LEVEL, judge_steps, step_noise
from edgecmd.audits.step.repeats import repeats

NUM = 6000
Noise = np.ndarray
# A call of a step has some hundred tests, which share the level.
SHARE = LEVEL / 1000


def half(first: Noise) -> Noise:
    return first[: NUM // 2]


@pytest.mark.parametrize(
    "made",
    [
        lambda first, _: np.concatenate([half(first), half(first)]),
        lambda first, _: np.concatenate([half(first), -half(first)]),
        lambda first, _: np.concatenate([half(first), half(first)[::-1]]),
        lambda first, before: np.roll(before, 1),
        lambda first, before: -np.roll(before, -777),
        lambda first, before: 0.9 * first + 0.44 * np.roll(before, 5),
        lambda first, before: before[np.argsort(first)],
        lambda first, _: np.concatenate([first[:-4], first[:4]]),
    ],
    ids=["tiled", "negated", "reversed", "rolled", "rolled-back", "mixed", "shuffled", "four-again"],
)
def test_a_repeat_is_seen(made: Callable[[Noise, Noise], Noise]) -> None:
    coins = np.random.default_rng(0)
    before, first = coins.normal(size=NUM), coins.normal(size=NUM)
    assert min(one.p_value for one in repeats(made(first, before), before, name="s")) < SHARE


def test_fresh_noise_repeats_nothing() -> None:
    coins = np.random.default_rng(1)
    for _ in range(200):
        found = repeats(coins.normal(size=700), coins.normal(size=700), name="s")
        assert min(one.p_value for one in found) > 1e-4


def test_the_bound_lies_above_the_exact_tail() -> None:
    """Of a coordinate of a random direction, which scipy knows."""
    for num, value in ((50, 0.5), (1000, 0.2), (50_000, 0.03)):
        exact = stats.beta.sf((1.0 + value) / 2.0, (num - 1) / 2.0, (num - 1) / 2.0)
        assert exact < (1.0 - value**2) ** (num / 2.0) < 40 * exact


def judged(noise: Noise) -> list[str]:
    """What fails of steps by coordinates, the last of which closes the round."""
    steps = [step_noise({"w": one}, call=1, index=index, rows=2) for index, one in enumerate(noise, start=1)]
    steps[-1] = replace(steps[-1], coordinates=np.square(noise).sum(axis=0))
    return [one.name for one in judge_steps(steps).failed]


def test_a_coordinate_without_noise_and_cut_tails_are_seen() -> None:
    noise = np.random.default_rng(2).normal(size=(24, 60_000))
    assert judged(noise) == []
    assert judged(np.clip(noise, -4.0, 4.0)) == ["beyond 4.25"]
    bare = noise.copy()
    bare[:, 41_234] *= 0.01
    assert judged(bare) == ["coordinate 41234"]
