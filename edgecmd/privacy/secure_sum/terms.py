"""What all parties of one round of a secure sum must agree on, and who masks with whom."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from edgecmd.core.errors import PrivacyError

MODULUS = 2**32
# Standard deviations of the whole noise for which the integers leave room.
NOISE_ROOM = 12.0
# Parties up to which each masks with every other.
COMPLETE = 31
FEWEST_NEIGHBOURS = 30
# Bits of security that the chance of a graph that falls apart must leave.
GRAPH_BITS = 40


def refused(text: str, code: str = "secure-sum") -> PrivacyError:
    """Why a party takes no further part in a round."""
    return PrivacyError(text, code=code)


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The public terms of one round.

    Attributes:
        run: Name of the run.
        round_index: Round, from 1.
        cohort: Most parties.
        survivors: Fewest parties whose vectors are in the sum; with fewer, nothing is released.
        colluding: Parties that may work together with the server.
        dim: Length of a vector.
        scale: Integer units for 1.
        bound: Largest L2 norm of one party's vector before scaling and noise.
        variance: Of the noise on each coordinate of the sum, in integer units squared, that the honest
            survivors bring together; 0 for none.

    Raises:
        PrivacyError: These terms would protect nobody, or the sum could wrap around.
    """

    run: str
    round_index: int
    cohort: int
    survivors: int
    colluding: int
    dim: int
    scale: float
    bound: float
    variance: float = 0.0

    def __post_init__(self) -> None:
        require_cohort(cohort=self.cohort, survivors=self.survivors, colluding=self.colluding)
        if not self.fits:
            raise PrivacyError(
                f"The sum of {self.cohort} clients with privacy.max_pairs, privacy.clip and this noise does"
                f" not fit into 32 bits at {self.dim:,} numbers. Lower privacy.max_pairs, train fewer weights"
                " (student.trainable='last' or a smaller student), or ask fewer clients."
            )

    @property
    def honest(self) -> int:
        """Fewest honest parties in a sum."""
        return self.survivors - self.colluding

    @property
    def share_variance(self) -> float:
        """Variance of the noise that each party adds: any ``honest`` of them bring ``variance``."""
        return self.variance / self.honest

    @property
    def fits(self) -> bool:
        """Whether no coordinate of the sum can leave the range of the integers.

        Privacy does not depend on it: what wraps around is a function of what would be released.
        """
        noise = NOISE_ROOM * math.sqrt(self.cohort * self.share_variance)
        return self.cohort * (self.scale * self.bound + 1.0) + noise < MODULUS / 2

    @property
    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()


def require_cohort(*, cohort: int, survivors: int, colluding: int) -> None:
    """Refuse numbers of parties with which a sum would tell more than a sum.

    Two sets of survivors cannot both get ``survivors`` votes where ``2 survivors > cohort + colluding``:
    an honest party votes once, a colluding one may vote for both.

    Raises:
        PrivacyError: With what is allowed.
    """
    least = max((cohort + colluding) // 2 + 1, colluding + 2)
    if not least <= survivors <= cohort:
        allowed = f"from {least} to {cohort}" if least <= cohort else "none: ask more clients"
        raise PrivacyError(
            f"privacy.min_survivors={survivors} with {cohort} clients a round and"
            f" privacy.num_colluding={colluding}: more than half of the clients that do not collude must"
            f" agree on a sum, and two of them must be in it. Allowed: {allowed}."
        )


def usual_survivors(*, cohort: int, colluding: int) -> int:
    """What ``privacy.min_survivors = 0`` stands for: four fifths of a round's clients, or what it takes."""
    return min(cohort, max(-(-4 * cohort // 5), (cohort + colluding) // 2 + 1, colluding + 2))


def num_neighbours(num: int, terms: Terms) -> int:
    """With how many others each of ``num`` parties masks.

    Up to `COMPLETE` parties that is all others. Beyond, the parties stand on a ring in an order that hashes
    decide, and each masks with the ``k/2`` on either side (Bell, Bonawitz, Gascon, Lepoint and Raykova 2020).
    Honest survivors fall into two groups only where ``k/2`` neighbours in a row are colluding or gone, at two
    places: at most ``num^2 / 2`` choices, each with a chance of at most ``lost^k``. ``k`` makes that less
    than 2^-40.
    """
    if num <= COMPLETE:
        return num - 1
    lost = (terms.colluding + num - min(num, terms.survivors)) / num
    needed = 0.0
    if lost > 0.0:
        needed = (GRAPH_BITS * math.log(2.0) + 2.0 * math.log(num)) / -math.log(lost)
    half = math.ceil(max(needed, FEWEST_NEIGHBOURS) / 2.0)
    return min(num - 1, 2 * half)


def graph(names: Iterable[str], terms: Terms, *, seed: bytes) -> Mapping[str, tuple[str, ...]]:
    """Who masks with whom: for each party its neighbours, sorted.

    Args:
        names: The round's parties.
        terms: The round's terms.
        seed: Public; it depends on the fresh keys of all parties.
    """
    ring = sorted(names, key=lambda name: hashlib.sha256(seed + name.encode()).digest())
    num, reach = len(ring), num_neighbours(len(ring), terms)
    if reach == num - 1:
        return {name: tuple(sorted(set(ring) - {name})) for name in ring}
    half = reach // 2
    steps = [step for step in range(-half, half + 1) if step]
    return {
        name: tuple(sorted(ring[(place + step) % num] for step in steps)) for place, name in enumerate(ring)
    }


def share_threshold(num_holders: int, *, num: int, terms: Terms) -> int:
    """Shares that restore a secret, of ``num_holders`` in a cohort of ``num``.

    Where all hold shares of all it is the number of survivors. In a graph it is a third of the holders, and
    more than can collude: honest holders answer for one set of survivors alone, so they give one of the two
    secrets, and never both.
    """
    if num_holders == num:
        return terms.survivors
    return max(min(terms.colluding, num_holders - 1), num_holders // 3) + 1
