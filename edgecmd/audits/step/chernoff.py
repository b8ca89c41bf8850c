"""Chernoff's bound on a mean of draws with a known distribution."""

import math

import numpy as np
from scipy import optimize


def chernoff(log_mass: np.ndarray, value: np.ndarray, mean: float, *, num: int) -> float:
    """Probability that the mean of ``num`` draws is as far from its expectation as ``mean``, at most.

    Chernoff's bound on the side on which ``mean`` lies: ``min_t exp(num (log E e^(t v) - t mean))``.

    Args:
        log_mass: Logarithms of the probabilities of the values.
        value: The values.
        mean: Mean of the draws that was seen.
        num: Draws.
    """
    expected = float(np.exp(log_mass) @ value)
    side = 1.0 if mean > expected else -1.0

    def exponent(log_t: float) -> float:
        t = side * math.exp(log_t)
        return float(np.logaddexp.reduce(log_mass + t * value) - t * mean)

    found = optimize.minimize_scalar(exponent, bounds=(-12.0, 6.0), method="bounded")
    return math.exp(min(0.0, num * float(found.fun)))
