"""The server's side of one round of a secure sum: pass messages on, add up, and take the masks away."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgecmd.core.errors import FederationError
from edgecmd.privacy.secure_sum.adverts import Advert, Cohort
from edgecmd.privacy.secure_sum.masking import (
    SECRET_BYTES,
    Secrets,
    pair_mask,
    public_bytes,
    restored,
    same,
    self_mask,
)
from edgecmd.privacy.secure_sum.terms import Terms


class SpoiltError(FederationError):
    """What came does not make a sum; nobody learnt anything by it."""


@dataclass(kw_only=True, slots=True)
class Collector:
    """One round.

    Attributes:
        cohort: The parties.
        envelopes: By receiver, then by sender.
        survivors: Parties whose masked vectors are in the total.
        votes: By party.
    """

    cohort: Cohort
    envelopes: dict[str, dict[str, bytes]] = field(default_factory=dict)
    survivors: tuple[str, ...] = ()
    votes: dict[str, bytes] = field(default_factory=dict)
    _total: np.ndarray = field(init=False)
    _shares: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._total = np.zeros(self.terms.dim, dtype=np.uint32)

    @classmethod
    def begin(cls, adverts: Iterable[Advert], terms: Terms) -> "Collector":
        """Begin with the parties whose keys came.

        Raises:
            PrivacyError: Too few or too many, or two of one name.
        """
        return cls(cohort=Cohort.of(adverts, terms))

    @property
    def terms(self) -> Terms:
        """Terms of the round."""
        return self.cohort.terms

    def add_envelopes(self, sender: str, envelopes: Mapping[str, bytes]) -> bool:
        """Take what ``sender`` sends to its neighbours; whether it is for them all and for nobody else."""
        if set(envelopes) != set(self.cohort.graph[sender]):
            return False
        for receiver, one in envelopes.items():
            self.envelopes.setdefault(receiver, {})[sender] = one
        return True

    def add_masked(self, name: str, masked: np.ndarray) -> None:
        """Add a party's masked vector, uint32 of the terms' length."""
        self._total += masked
        self.survivors = tuple(sorted((*self.survivors, name)))

    def add_shares(self, holder: str, shares: Mapping[str, bytes]) -> bool:
        """Take a holder's shares; whether there is one, well-formed, for each party that it holds some of."""
        own = {name for name in self.cohort.adverts if holder in self.cohort.holders(name)}
        if set(shares) != own or {len(one) for one in shares.values()} != {SECRET_BYTES}:
            return False
        for owner, share in shares.items():
            self._shares.setdefault(owner, {})[holder] = share
        return True

    def total(self) -> np.ndarray:
        """The sum of the survivors' vectors modulo 2^32, uint32.

        Raises:
            SpoiltError: A secret cannot be restored: too few shares, or some that are not as they should be.
        """
        total, cohort, alive = self._total.copy(), self.cohort, set(self.survivors)
        for name, advert in cohort.adverts.items():
            seed = self._restored(name)
            if name in alive:
                known = Secrets(itself=seed, pairs=b"", seal=b"").commitment
                self._require(name, same(known, advert.commitment))
                total -= self_mask(seed, self.terms.dim, cohort=cohort.digest)
                continue
            self._require(name, same(public_bytes(seed), advert.pairs))
            for other in alive.intersection(cohort.graph[name]):
                # The missing one's half of the masks that the survivors have added.
                total += pair_mask(
                    seed,
                    cohort.adverts[other].pairs,
                    self.terms.dim,
                    own=name,
                    other=other,
                    cohort=cohort.digest,
                )
        return total

    def _restored(self, name: str) -> bytes:
        shares, threshold = self._shares.get(name, {}), self.cohort.threshold(name)
        seed = restored(shares, holders=self.cohort.holders(name), threshold=threshold)
        if seed is None:
            raise SpoiltError(
                f"{len(shares)} shares of a secret of {name} came, {threshold} are needed. Nothing is"
                " released."
            )
        return seed

    def _require(self, name: str, fits: bool) -> None:
        if not fits:
            raise SpoiltError(
                f"The shares of a secret of {name} do not restore it: it, or who held them, sent something"
                " else. The round is spoilt; nothing is released."
            )
