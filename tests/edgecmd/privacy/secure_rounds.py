"""Whole rounds of a secure sum without a federation, with drop-outs wherever a test wants them."""

from collections.abc import Collection, Mapping

import numpy as np

from edgecmd.privacy.secure_sum.adverts import Advert
from edgecmd.privacy.secure_sum.collector import Collector
from edgecmd.privacy.secure_sum.identities import Identity, Register, SimulatedIdentity, SimulatedParties
from edgecmd.privacy.secure_sum.party import Party
from edgecmd.privacy.secure_sum.terms import Terms

EVERYBODY = SimulatedParties()


def made_terms(**changes: object) -> Terms:
    """Terms of a small round without noise."""
    usual: dict[str, object] = {
        "run": "0123456789abcdef",
        "round_index": 1,
        "cohort": 5,
        "survivors": 3,
        "colluding": 0,
        "dim": 4,
        "scale": 1.0,
        "bound": 1000.0,
    }
    return Terms(**(usual | changes))  # type: ignore[arg-type]


def people(num: int) -> list[Identity]:
    """Identities of a simulation."""
    return [SimulatedIdentity(name=f"client-{index}") for index in range(num)]


class Round:
    """A round that goes on step by step; what each party holds and what the server has seen stay visible.

    Args:
        terms: Of the round.
        identities: Who takes part.
        register: Whom they believe.
    """

    def __init__(self, terms: Terms, identities: list[Identity], register: Register = EVERYBODY) -> None:
        self.terms, self.register = terms, register
        self.identities = {one.name: one for one in identities}
        self.parties: dict[str, Party] = {}
        self.adverts: list[Advert] = []
        self.masked: dict[str, np.ndarray] = {}
        self.inbox: list[bytes] = []
        for one in identities:
            self.parties[one.name], advert = Party.begin(terms, one)
            self.adverts.append(advert)

    def share(self, names: Collection[str] | None = None) -> "Round":
        """Let ``names``, all by default, look at the cohort of all that are left."""
        self.collector = Collector.begin(self.adverts, self.terms)
        for name in self.parties if names is None else names:
            self.parties[name], envelopes = self.parties[name].share(self.adverts, self.register)
            assert self.collector.add_envelopes(name, envelopes)
        return self

    def mask(self, vectors: Mapping[str, np.ndarray]) -> "Round":
        """Let the parties that have a vector send it."""
        for name, vector in vectors.items():
            envelopes = self.collector.envelopes[name]
            self.parties[name], masked = self.parties[name].mask(envelopes, vector)
            self.masked[name] = masked
            self.collector.add_masked(name, masked)
        return self

    def vote(self, names: Collection[str]) -> "Round":
        """Let ``names`` vote for those whose vectors came."""
        for name in names:
            self.parties[name], vote = self.parties[name].cast(
                self.collector.survivors, self.identities[name]
            )
            self.collector.votes[name] = vote
        return self

    def unmask(self, names: Collection[str]) -> "Round":
        """Let ``names`` give their shares."""
        for name in names:
            shares = self.parties[name].unmask(self.collector.votes, self.register)
            assert self.collector.add_shares(name, shares)
        return self


def whole_round(terms: Terms, vectors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The sum of ``vectors`` through all steps, nobody missing, as int64 from -2^31 up."""
    done = Round(terms, [SimulatedIdentity(name=name) for name in vectors]).share().mask(vectors)
    total = done.vote(vectors).unmask(vectors).collector.total()
    return total.view(np.int32).astype(np.int64)
