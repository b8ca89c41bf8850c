"""Noise that repeats at any distance: within a step, and from one step of a round to the next.

Shapes: N coordinates of a step, laid end to end in the order of its parameters.
"""

import numpy as np
from scipy import fft, stats

from edgecmd.audits.step.noise import Test

# Two sizes that lie this near are one number: what is left of a draw once the sum was taken off again.
ONE_NUMBER = 2e-14
# Integral of the squared density of |z|, z ~ N(0, 1): the rate at which two of them meet.
MEETING = 1.0 / np.sqrt(np.pi)


def repeats(flat_N: np.ndarray, before_N: np.ndarray | None, *, name: str) -> list[Test]:
    """Whether a step's noise holds some of it twice, or some of the noise of the step before.

    Args:
        flat_N: Noise over its stated standard deviation.
        before_N: That of the step before; None for the first one.
        name: The step in words.

    Returns:
        The largest correlation of the noise with itself at all distances, that with the step before at all
        distances, and how many sizes occur twice in both.

    Guarantees:
        Each p-value is one at most as often as it says for N independent draws. At one distance a
        correlation with itself is ``x' A x / |x|^2``, where A links the coordinates to paths; by Chernoff's
        bound it is ``a`` or more with a probability of ``(1 - a^2)^(N/2)`` at most. With given other noise
        it is a coordinate of a random direction, which has the same bound.
    """
    sizes = np.abs(flat_N if before_N is None else np.concatenate([flat_N, before_N]))
    found = [_within(flat_N, name), _twice(sizes, name)]
    return found if before_N is None else [*found, _between(flat_N, before_N, name)]


def _within(flat_N: np.ndarray, name: str) -> Test:
    num = len(flat_N)
    spectrum = fft.rfft(flat_N, fft.next_fast_len(2 * num, real=True))
    linked = fft.irfft(np.abs(spectrum) ** 2, fft.next_fast_len(2 * num, real=True))[:num]
    value = float(np.abs(linked[1:]).max(initial=0.0) / max(linked[0], 1e-300))
    return _correlated(f"{name} and itself at a distance", value, num=num, cases=max(1, num - 1))


def _between(one_N: np.ndarray, other_N: np.ndarray, name: str) -> Test:
    num = min(len(one_N), len(other_N))
    length = fft.next_fast_len(2 * max(len(one_N), len(other_N)), real=True)
    linked = fft.irfft(fft.rfft(one_N, length) * np.conj(fft.rfft(other_N, length)), length)
    size = np.sqrt(float(one_N @ one_N) * float(other_N @ other_N))
    value = float(np.abs(linked).max() / max(size, 1e-300))
    return _correlated(f"{name} and the step before at a distance", value, num=num, cases=2 * num)


def _correlated(name: str, value: float, *, num: int, cases: int) -> Test:
    tail = np.exp(0.5 * num * np.log1p(-min(value**2, 1.0 - 1e-15)))
    return Test(name=name, kind="reuse", value=value, p_value=min(1.0, 2.0 * cases * float(tail)), num=num)


def _twice(sizes: np.ndarray, name: str) -> Test:
    """How many sizes occur twice, of all."""
    num = len(sizes)
    met = int((np.diff(np.sort(sizes)) <= ONE_NUMBER).sum())
    expected = num**2 * MEETING * ONE_NUMBER
    p_value = float(stats.poisson.sf(met - 1, expected)) if met else 1.0
    return Test(
        name=f"sizes that occur twice up to {name}", kind="reuse", value=met / num, p_value=p_value, num=num
    )
