"""What Skellam noise costs: a bound of its Renyi divergences, and the Gaussian that stands for it.

Agarwal, Kairouz and Liu (2021, arXiv 2110.04995, theorem 3.5 and corollary 3.6): for whole
orders ``a >= 2`` the Renyi divergence is at most ``a D2^2 / (2 mu) + min(((2a-1) D2^2 + 6 D1) / (4 mu^2),
3 D1 / (2 mu))`` with ``D1, D2`` the L1 and L2 sensitivities. Vectors are integers, so ``D1 <= D2^2``.
With ``mu = sigma^2 D2^2`` the first of the two is at most ``(2a+5) / (4 sigma^4 D2^2) <= (a / (2
sigma^2)) 2.25 / (sigma^2 D2^2)``: the cost of a Gaussian whose noise multiplier is `gaussian_multiplier`.
That compares Renyi divergences of whole orders and nothing else, so such releases are added up by these
alone.
"""

import math

# Least number of integer units for the sensitivity: the cost of discrete noise is told for it.
LEAST_UNITS = 2.0**12


def gaussian_multiplier(noise_multiplier: float) -> float:
    """Noise multiplier of the Gaussian whose Renyi divergences of whole orders bound those of Skellam noise.

    Args:
        noise_multiplier: ``sigma``: root of the variance of the sum, in units of the integers' sensitivity,
            which is at least `LEAST_UNITS`.
    """
    return noise_multiplier / math.sqrt(1.0 + 2.25 / (noise_multiplier * LEAST_UNITS) ** 2)


def skellam_divergence(order: int, *, l1: float, l2: float, variance: float) -> float:
    """Bound of the Renyi divergence of whole ``order`` between Skellam noise and the same noise moved.

    Args:
        order: 2 or more.
        l1: L1 norm of the move.
        l2: Its L2 norm.
        variance: ``mu`` of each coordinate.
    """
    small = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    return order * l2**2 / (2 * variance) + min(small, 3 * l1 / (2 * variance))
