"""What all parties of one round of a secure sum must agree on."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass

from edgecmd.core.errors import PrivacyError

MODULUS = 2**32
# Standard deviations of the whole noise for which the integers leave room.
NOISE_ROOM = 12.0


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
