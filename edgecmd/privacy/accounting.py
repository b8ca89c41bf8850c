"""What noise costs: tight composition with dp-accounting, and Opacus as a second opinion.

Every answer is the least of several upper bounds, so that it comes within seconds at any setting:

- **Gaussian.** Without sampling, the composition is one Gaussian with ``mu^2 = sum count / sigma^2``,
  whose epsilon has a closed form (Balle and Wang 2018). It bounds sampled releases too: with ``P``, ``Q``
  the outputs without and with the unit and ``M = (1-q) P + q Q``, the hockey-stick divergence is jointly
  convex, so ``H_a(P, M) <= (1-q) H_a(P, P) + q H_a(P, Q)``, and ``H_a(P, P) = max(0, 1-a)`` is the least
  value that any divergence has. Hence ``(P, Q)`` dominates ``(P, M)``, and ``(Q, P)`` dominates ``(M, P)``,
  at every ``a``, and domination survives composition (Zhu, Dong and Wang 2022, theorem 10).
- **Renyi** (Mironov, Talwar and Zhang 2019), for sampled releases in any number.
- **Skellam noise** is known by Renyi divergences of whole orders alone, so a composition in which it is
  anywhere is bounded by them (`edgecmd.privacy.secure_sum.skellam`).
- **Privacy loss distributions**, where they can be held: a grid of `FINEST` = 1e-3 that is doubled until
  the loss range has at most `MOST_POINTS`. dp-accounting puts the masses so that the divergence is
  interpolated between grid points ("connect the dots", Doroshenko et al. 2022). The divergence is convex
  in ``a``, so an interpolation is an upper bound on every grid. Its Fourier transforms lose up to `LOST`
  of the mass, which is taken off delta.

**More noise never costs more, and more releases never less.** The first two bounds are monotone by their
formulas. An interpolation on a fixed grid keeps the order of two curves, and one on a grid twice as fine
is below; a grid gets no coarser with more noise and no finer with more releases. Where only the first
two bounds can be had, the same holds with more releases or less noise. Two exceptions are upper bounds
that may break this order: the first two bounds where dp-accounting fails with an error, and with ``rdp``,
which does not ask Opacus about more than `RDP_PARTS` different parts.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from edgecmd.core.errors import PrivacyError, choose
from edgecmd.privacy.secure_sum.skellam import gaussian_multiplier

# Below this, one full-batch step has an epsilon of hundreds; it is called infinite, which is a bound.
SMALLEST_NOISE = 0.05
LARGEST_NOISE = 1e4
# Coarser loses hundredths of an epsilon, finer costs seconds; the rounding is pessimistic either way.
FINEST = 1e-3
MOST_POINTS = 1 << 18
# A grid that has to be coarser is of no use: one step of it is worth a quarter of an epsilon.
MOST_DOUBLINGS = 8
# Parts of a composition that are free; beyond, the grid of each is coarser.
FREE_PARTS = 8
# More releases than this make tails that dp-accounting cannot cut off.
MOST_RELEASES = 200_000
# Mass that Fourier transforms of 2^18 numbers may lose: 2^18 x 2^-53 with some to spare.
LOST = 1e-10
# Mass beyond which dp-accounting cuts off, and deviations of one release that it keeps.
TAIL = 1e-15
DEVIATIONS = 10.0
PRV_POINTS = 1 << 20
# Noise that Opacus is asked about at most.
LOUD = 20.0
# Different parts of a composition that Opacus is asked about at most: each may take a tenth of a second.
RDP_PARTS = 32
# Rates so near to 1 count as 1: an upper bound, and the libraries divide by what is left.
NEARLY_ONE = 1.0 - 1e-6
ORDERS = (*range(2, 64), *(1 << power for power in range(6, 13)), 96, 192, 384, 768)
TOLERANCE = 1e-3
GAUSSIAN, SKELLAM = "gaussian", "skellam"


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Spending:
    """``count`` releases of a Gaussian mechanism on a Poisson sample, or of Skellam noise on everything.

    Attributes:
        sampling_rate: Probability with which a unit is in the sample; 1 for no amplification.
        noise_multiplier: Standard deviation of the noise in units of the sensitivity.
        count: Releases.
        noise: ``gaussian`` or ``skellam``.
    """

    sampling_rate: float
    noise_multiplier: float
    count: int
    noise: str = GAUSSIAN

    def line(self) -> dict[str, Any]:
        """As a ledger writes it: the noise is Gaussian where nothing else is said."""
        return {name: value for name, value in asdict(self).items() if value != GAUSSIAN}


def merged(spendings: Iterable[Spending]) -> tuple[Spending, ...]:
    """The same spendings, equal ones counted together."""
    counts: Counter[tuple[float, float, str]] = Counter()
    for one in spendings:
        counts[one.sampling_rate, one.noise_multiplier, one.noise] += one.count
    return tuple(
        Spending(sampling_rate=rate, noise_multiplier=multiplier, count=count, noise=noise)
        for (rate, multiplier, noise), count in sorted(counts.items())
        if count
    )


def total_epsilon(spendings: Iterable[Spending], *, delta: float, accountant: str = "pld") -> float:
    """Epsilon of all ``spendings`` together, add or remove one unit.

    Args:
        spendings: What was released about the same data.
        delta: Probability beside epsilon.
        accountant: ``pld``, ``prv`` or ``rdp``.

    Returns:
        An upper bound; 0 for nothing, infinity where the noise is (nearly) absent.

    Guarantees:
        An answer within seconds at every setting; more noise never costs more.

    Raises:
        PrivacyError: The accountant is ``gdp``.
        ConfigError: The accountant is unknown.
    """
    check_accountant(accountant)
    together = merged(_no_rate_nearly_one(spendings))
    if not together:
        return 0.0
    if min(one.noise_multiplier for one in together) < SMALLEST_NOISE:
        return math.inf
    return _epsilon(together, delta, accountant)


def _no_rate_nearly_one(spendings: Iterable[Spending]) -> Iterator[Spending]:
    """The same spendings, rates within a millionth of 1 as 1: epsilon grows with the rate."""
    for one in spendings:
        yield replace(one, sampling_rate=1.0) if NEARLY_ONE < one.sampling_rate < 1.0 else one


def check_accountant(name: str) -> None:
    """Refuse an accountant that does not give a bound.

    Raises:
        PrivacyError: ``gdp``.
        ConfigError: Unknown.
    """
    if name == "gdp":
        raise PrivacyError(
            "privacy.accountant='gdp' is an approximation by the central limit theorem and not a bound: at"
            " noise multiplier 1, rate 0.05 and 500 steps it gives 6.86, but the true value is 7.52. Use"
            " 'pld'."
        )
    choose("privacy.accountant", name, ACCOUNTANTS)


@lru_cache(maxsize=4096)
def _epsilon(spendings: tuple[Spending, ...], delta: float, accountant: str) -> float:
    if any(one.noise == SKELLAM for one in spendings):
        return renyi_epsilon(map(_as_gaussian, spendings), delta)
    try:
        return float(ACCOUNTANTS[accountant](spendings, delta))
    # The libraries divide and take roots of what rounding has emptied; the simple bounds hold all the same.
    except (ArithmeticError, ValueError):
        return _simple(spendings, delta)


def _as_gaussian(one: Spending) -> Spending:
    """A Gaussian release that costs no less at any whole order."""
    if one.noise == GAUSSIAN:
        return one
    return replace(one, noise_multiplier=gaussian_multiplier(one.noise_multiplier), noise=GAUSSIAN)


def gaussian_epsilon(spendings: Iterable[Spending], delta: float) -> float:
    """Exact epsilon of the composition without sampling; an upper bound with sampling."""
    from scipy.special import log_ndtr, ndtri

    mu = math.sqrt(math.fsum(one.count / one.noise_multiplier**2 for one in spendings))

    def exceeds(epsilon: float) -> bool:
        upper = float(log_ndtr(mu / 2.0 - epsilon / mu))
        lower = epsilon + float(log_ndtr(-mu / 2.0 - epsilon / mu))
        # The difference of two numbers that are known to some digits; the second may be left out.
        share = min(1.0, -math.expm1(min(0.0, lower - upper)) + 1e-12 + 1e-15 * (epsilon + mu * mu))
        return upper + math.log(share) > math.log(delta)

    if not exceeds(0.0):
        return 0.0
    low, high = 0.0, (mu * mu / 2.0 - mu * float(ndtri(delta))) * (1.0 + 1e-9)
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high


def renyi_epsilon(spendings: Iterable[Spending], delta: float) -> float:
    """Epsilon by Renyi divergences of whole orders; an upper bound for any rates and counts.

    ``A(a) - 1 = sum_{k >= 2} C(a, k) q^k (1-q)^(a-k) (exp(k (k-1) / (2 sigma^2)) - 1)`` has no negative
    term, so nothing cancels; orders of all releases add up, and ``epsilon = log A / (a - 1)
    + log(1 - 1/a) - log(a delta) / (a - 1)`` (Balle, Barthe, Gaboardi, Hsu and Sato 2020, theorem 21).
    """
    least = math.inf
    parts = list(spendings)
    for order in ORDERS:
        log_moment = math.fsum(one.count * _log_moment(one, order) for one in parts)
        divergence = log_moment / (order - 1) * (1.0 + 1e-9)
        tail = math.log1p(-1.0 / order) - math.log(order * delta) / (order - 1)
        least = min(least, divergence + tail)
    return max(0.0, least)


def _log_moment(one: Spending, order: int) -> float:
    """``log A(order)`` of one release."""
    from scipy.special import gammaln, logsumexp

    rate, square = one.sampling_rate, 2.0 * one.noise_multiplier**2
    if rate == 1.0:
        return order * (order - 1) / square
    k = np.arange(2, order + 1, dtype=np.float64)
    exponent = k * (k - 1) / square
    # log(exp(x) - 1), which neither overflows nor cancels.
    grown = exponent + np.log(-np.expm1(-exponent))
    ways = gammaln(order + 1.0) - gammaln(k + 1) - gammaln(order + 1.0 - k)
    terms = ways + k * math.log(rate) + (order - k) * math.log1p(-rate) + grown
    return float(np.logaddexp(0.0, logsumexp(terms)))


def _simple(spendings: tuple[Spending, ...], delta: float) -> float:
    """The least of the bounds that always come at once."""
    return min(gaussian_epsilon(spendings, delta), renyi_epsilon(spendings, delta))


@lru_cache(maxsize=64)
def _loss_distribution(noise_multiplier: float, sampling_rate: float, interval: float) -> Any:  # noqa: ANN401 - untyped library
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=sampling_rate, value_discretization_interval=interval
    )


def _loss_range(spendings: tuple[Spending, ...]) -> float:
    """Upper bound of the losses that a distribution holds; it falls with noise and grows with releases."""
    largest = max(0.5 / one.noise_multiplier**2 + DEVIATIONS / one.noise_multiplier for one in spendings)
    return 2.0 * (largest + _simple(spendings, TAIL))


def _pld(spendings: tuple[Spending, ...], delta: float) -> float:
    simple = _simple(spendings, delta)
    if sum(one.count for one in spendings) > MOST_RELEASES or delta <= 2.0 * LOST or simple == 0.0:
        return simple
    # Without sampling the closed form is exact, and no grid gives less.
    if all(one.sampling_rate == 1.0 for one in spendings):
        return simple
    points = MOST_POINTS / max(1.0, len(spendings) / FREE_PARTS)
    coarser = max(0, math.ceil(math.log2(_loss_range(spendings) / (points * FINEST))))
    if coarser > MOST_DOUBLINGS:
        return simple
    composed = None
    # An overflow makes an infinite loss, which is still an upper bound.
    with np.errstate(all="ignore"):
        for one in spendings:
            single = _loss_distribution(one.noise_multiplier, one.sampling_rate, FINEST * 2.0**coarser)
            part = single.self_compose(one.count)
            composed = part if composed is None else composed.compose(part)
        assert composed is not None
        found = float(composed.get_epsilon_for_delta(delta - LOST))
    return min(simple, found) if found >= 0.0 else simple


def _prv(spendings: tuple[Spending, ...], delta: float) -> float:
    from opacus.accountants import PRVAccountant

    simple, count = _simple(spendings, delta), sum(one.count for one in spendings)
    # Its grid has steps of a hundredth of an epsilon over the root of the number of releases.
    work = _loss_range(spendings) * math.sqrt(count) * len(spendings)
    if count > MOST_RELEASES or work > PRV_POINTS * 1e-2 / 4.0 or delta <= 2.0 * LOST or simple == 0.0:
        return simple
    found = _by_opacus(PRVAccountant(), spendings, delta)
    return min(simple, found) if found >= 0.0 else simple


def _rdp(spendings: tuple[Spending, ...], delta: float) -> float:
    from opacus.accountants import RDPAccountant

    simple = _simple(spendings, delta)
    if simple == 0.0 or len(spendings) > RDP_PARTS:
        return simple
    found = _by_opacus(RDPAccountant(), spendings, delta)
    if found >= 0.0 and all(one.noise_multiplier <= LOUD for one in spendings):
        return found
    return min(found if found >= 0.0 else math.inf, simple)


def _by_opacus(accountant: Any, spendings: tuple[Spending, ...], delta: float) -> float:  # noqa: ANN401
    # Its series for broken orders are slow where noise is loud; less noise is an upper bound.
    accountant.history = [
        (min(one.noise_multiplier, LOUD), one.sampling_rate, one.count) for one in spendings
    ]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # That a best order is the last of its list makes a bound wide and not wrong.
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta))


ACCOUNTANTS: dict[str, Callable[[tuple[Spending, ...], float], float]] = {
    "pld": _pld,
    "prv": _prv,
    "rdp": _rdp,
}
PACKAGE = {"pld": "dp-accounting", "prv": "opacus", "rdp": "opacus"}


def accountant_version(name: str) -> str:
    """Accountant with its package and version, such as ``pld (dp-accounting 0.6.0)``."""
    return f"{name} ({PACKAGE[name]} {version(PACKAGE[name])})"


@lru_cache(maxsize=64)
def calibrate(
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float,
    count: int,
    accountant: str = "pld",
    noise: str = GAUSSIAN,
) -> float:
    """Least noise multiplier that keeps ``count`` releases within ``epsilon``, to a part in a thousand above.

    Raises:
        PrivacyError: No noise of a sensible size does it.
    """

    def cost(multiplier: float) -> float:
        one = Spending(sampling_rate=sampling_rate, noise_multiplier=multiplier, count=count, noise=noise)
        return total_epsilon([one], delta=delta, accountant=accountant)

    high = 1.0
    while cost(high) > epsilon:
        high *= 2.0
        if high > LARGEST_NOISE:
            raise PrivacyError(
                f"No noise multiplier up to {LARGEST_NOISE:g} keeps {count} steps within"
                f" epsilon={epsilon:g}, delta={delta:g}. Raise privacy.epsilon or take fewer steps."
            )
    low = high / 2.0 if high > 1.0 else SMALLEST_NOISE
    while high / low > 1.0 + TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if cost(middle) > epsilon else (low, middle)
    return high
