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
What that costs: `edgecmd.privacy.secure_sum.skellam`.
"""

import math

import numpy as np

from edgecmd.privacy.secure_sum.skellam import LEAST_UNITS
from edgecmd.privacy.secure_sum.terms import MODULUS, Terms
from edgecmd.privacy.step.randomness import Source

# What rounding adds to the sensitivity, as a share of it.
ROUNDING = 1.0 / 64.0
PHILOX_WORDS = 2
NOISE_NORM_ROOM = 2.0


def scale_for(dim: int, *, clip: float) -> float:
    """Integer units for 1: a power of two with ``scale clip >= max(2^12, 64 sqrt(dim))``."""
    return 2.0 ** math.ceil(math.log2(max(LEAST_UNITS, math.sqrt(dim) / ROUNDING) / clip))


def finest_scale(*, cohort: int, bound: float) -> float:
    """The largest power of two at which ``cohort`` vectors of norm ``bound`` fit, without noise."""
    return 2.0 ** math.floor(math.log2((MODULUS / 2 - 1) / cohort - 1.0) - math.log2(bound))


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


def noised(vector: np.ndarray, terms: Terms, source: Source) -> np.ndarray:
    """What a party hides behind masks: its vector as integers, with its share of the noise; int64."""
    return np.asarray(encoded(vector, terms) + noise_share(terms, source))


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
