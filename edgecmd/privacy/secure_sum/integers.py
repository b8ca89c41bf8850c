"""Vectors as integers modulo 2^32, and the noise that many parties add together.

**Sensitivity.** A party's vector ``g`` is brought into the ball of its norm bound, multiplied by the
scale ``s`` and rounded: ``v = round(s P(g))``. One unit moves ``g`` by at most ``Delta``. A projection
``P`` onto a ball never moves two points apart, and rounding moves two numbers apart by at most 1; so
``v`` moves by at most ``s Delta + sqrt(d)`` in L2, whatever the number of pairs. `scale_for` makes
``sqrt(d)`` at most `ROUNDING` of ``s C``, so ``s Delta (1 + ROUNDING)`` bounds it for ``Delta >= C`` at
every ``d``. No party counts its pairs against a limit, so no pair decides about anything.

**Noise.** Each party adds ``Skellam(lambda, lambda)`` to each coordinate, the difference of two Poisson
variates. Sums of Skellam variates are Skellam variates, so ``n`` honest parties with
``lambda = mu / (2 n)`` bring variance ``mu``, exactly and without seeing each other's.

**Cost.** Agarwal, Kairouz and Liu (2021, arXiv 2110.04995, theorem 3.5 and corollary 3.6): for whole
orders ``a >= 2`` the Renyi divergence is at most ``a D2^2 / (2 mu) + min(((2a-1) D2^2 + 6 D1) / (4 mu^2),
3 D1 / (2 mu))`` with ``D1, D2`` the L1 and L2 sensitivities. Vectors are integers, so ``D1 <= D2^2``.
With ``mu = sigma^2 D2^2`` the first of the two is at most ``(2a+5) / (4 sigma^4 D2^2) <= (a / (2
sigma^2)) 2.25 / (sigma^2 D2^2)``: the cost of a Gaussian whose noise multiplier is `gaussian_multiplier`.
That compares Renyi divergences of whole orders and nothing else, so such releases are added up by these
alone.
"""

import math

import numpy as np

from edgecmd.privacy.secure_sum.terms import MODULUS, Terms
from edgecmd.privacy.step.randomness import Source

# What rounding adds to the sensitivity, as a share of it.
ROUNDING = 1.0 / 64.0
# Least number of integer units for the clip: the cost of discrete noise is told for it.
LEAST_UNITS = 2.0**12
PHILOX_WORDS = 2
NOISE_NORM_ROOM = 2.0


def scale_for(dim: int, *, clip: float) -> float:
    """Integer units for 1: a power of two with ``scale clip >= max(2^12, 64 sqrt(dim))``."""
    return 2.0 ** math.ceil(math.log2(max(LEAST_UNITS, math.sqrt(dim) / ROUNDING) / clip))


def finest_scale(*, cohort: int, bound: float) -> float:
    """The largest power of two at which ``cohort`` vectors of norm ``bound`` fit, without noise."""
    return 2.0 ** math.floor(math.log2((MODULUS / 2 - 1) / cohort - 1.0) - math.log2(bound))


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


def encoded(vector: np.ndarray, terms: Terms) -> np.ndarray:
    """A party's vector as int64: into the ball of the norm bound, scaled and rounded.

    Guarantees:
        What moves ``vector`` by ``Delta`` in L2 moves the result by at most ``scale Delta + sqrt(dim)``.
    """
    length = float(np.linalg.norm(vector))
    factor = min(1.0, terms.bound / length) if length > 0.0 else 1.0
    return np.rint(vector * (factor * terms.scale)).astype(np.int64)


def noise_share(terms: Terms, source: Source) -> np.ndarray:
    """One party's share of the noise, int64; zeros where the terms have no noise.

    The generator is begun with 128 bits of ``source`` and forgotten.
    """
    rate = terms.share_variance / 2.0
    generator = np.random.Generator(np.random.Philox(key=source.words(PHILOX_WORDS)))
    return generator.poisson(rate, terms.dim) - generator.poisson(rate, terms.dim)


def decoded(total: np.ndarray, terms: Terms) -> np.ndarray:
    """The sum modulo 2^32 as float64 in the units of the vectors."""
    return total.astype(np.uint32).view(np.int32).astype(np.float64) / terms.scale


def is_plausible(total: np.ndarray, terms: Terms) -> bool:
    """Whether a decoded sum has a norm that vectors within the bound and the noise can make.

    A vector of garbage gives numbers all over the range, far beyond it.
    """
    noise = math.sqrt(terms.cohort * terms.share_variance * terms.dim)
    most = terms.cohort * (terms.scale * terms.bound + math.sqrt(terms.dim)) + NOISE_NORM_ROOM * noise
    return float(np.linalg.norm(total)) * terms.scale <= most
