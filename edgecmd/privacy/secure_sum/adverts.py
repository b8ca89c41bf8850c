"""The parties of one round: the signed keys of each, who masks with whom, and what they vote on."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from edgecmd.privacy.secure_sum.neighbours import graph, share_threshold
from edgecmd.privacy.secure_sum.terms import Terms, refused


@dataclass(frozen=True, kw_only=True, slots=True)
class Advert:
    """A party's fresh public keys of a round, signed.

    Attributes:
        name: Of the party.
        pairs: X25519 key that masks are agreed on with.
        seal: X25519 key that envelopes are agreed on with.
        commitment: SHA-256 of the self-mask's seed.
        signature: Over all of it and the terms.
    """

    name: str
    pairs: bytes
    seal: bytes
    commitment: bytes
    signature: bytes

    def text(self, terms: Terms) -> bytes:
        """What is signed."""
        return b"edgecmd secure sum 1 keys\0" + terms.digest + self.pairs + self.seal + self.commitment

    def packed(self) -> bytes:
        """As it travels."""
        parts = (self.pairs, self.seal, self.commitment, self.signature)
        return json.dumps([self.name, *(one.hex() for one in parts)]).encode()

    @classmethod
    def unpacked(cls, content: bytes) -> "Advert":
        """Read what travelled.

        Raises:
            PrivacyError: It is something else.
        """
        try:
            name, *parts = json.loads(content)
            pairs, seal, commitment, signature = (bytes.fromhex(one) for one in parts)
        except (ValueError, TypeError) as error:
            raise refused(f"A party's keys cannot be read: {error}.") from error
        if (
            not isinstance(name, str)
            or not name.isascii()
            or {len(pairs), len(seal), len(commitment)} != {32}
        ):
            raise refused("A party's keys do not have a name and three times 32 bytes.")
        return cls(name=name, pairs=pairs, seal=seal, commitment=commitment, signature=signature)


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The parties of a round, as a party was shown them.

    Attributes:
        terms: Terms of the round.
        adverts: By name, sorted.
    """

    terms: Terms
    adverts: Mapping[str, Advert]

    @classmethod
    def of(cls, adverts: Iterable[Advert], terms: Terms) -> "Cohort":
        """Put a list of adverts in order.

        Raises:
            PrivacyError: A name is there twice, or there are too few or too many parties.
        """
        listed = sorted(adverts, key=lambda one: one.name)
        named = {one.name: one for one in listed}
        if len(named) != len(listed):
            raise refused("A party is in the cohort twice.")
        if not terms.survivors <= len(listed) <= terms.cohort:
            raise refused(
                f"The cohort has {len(listed)} parties; allowed are {terms.survivors} to {terms.cohort}.",
                "too-few",
            )
        return cls(terms=terms, adverts=named)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the terms and of all keys."""
        made = hashlib.sha256(self.terms.digest)
        for one in self.adverts.values():
            made.update(hashlib.sha256(one.packed()).digest())
        return made.digest()

    @cached_property
    def graph(self) -> Mapping[str, tuple[str, ...]]:
        """Neighbours of each party."""
        return graph(self.adverts, self.terms, seed=self.digest)

    def holders(self, name: str) -> tuple[str, ...]:
        """Who holds the shares of a party's secrets: its neighbours and itself, in order."""
        return tuple(sorted((*self.graph[name], name)))

    def threshold(self, name: str) -> int:
        """Shares that restore a secret of ``name``."""
        return share_threshold(len(self.holders(name)), num=len(self.adverts), terms=self.terms)

    def vote_text(self, survivors: Iterable[str]) -> bytes:
        """What a vote for a set of survivors signs."""
        return b"edgecmd secure sum 1 vote\0" + self.digest + "\0".join(sorted(survivors)).encode()
