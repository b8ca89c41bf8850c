"""A client's side of one round of a secure sum: keys, shares, a masked vector, a vote, one unmasking.

**What the server learns.** Let ``t = survivors``, ``c`` parties collude with a malicious server, and ``2
t > n + c`` with at most ``n`` parties (`terms.require_cohort`). Signatures, envelopes and streams are
taken as perfect.

1. *One cohort.* A party masks only after it opened an envelope of every neighbour, and an envelope opens
   only if both were shown the same list of signed keys and the same terms. The honest parties of a
   connected graph that sent a masked vector agree on both. So all of them add noise under the same terms.
2. *One set of survivors.* A party votes once, for a set that it is in. Votes of ``t`` parties for each of
   two sets would need ``2 t <= (n - c) + 2 c``. A party unmasks only what ``t`` valid votes name, so all
   honest parties unmask the same set ``S``, of at least ``t`` parties, ``t - c`` of them honest. (A
   threshold alone does not give that: a server that tells each party of other drop-outs gets the sum of
   as few as ``t - c - (n - c)(n - t) / (t - c)`` honest parties. Hence the vote, as in Bonawitz et al.
   2017, round 3.)
3. *One secret of each.* For a party in ``S`` every honest holder gives its share of the self-mask, for
   any other its share of the key for pair masks. ``c`` shares of colluding holders are too few for the
   other secret.
4. *Nothing but the sum.* Take an honest party that is not in ``S``: nobody can know its self-mask, which
   is uniform modulo 2^32, so what it sent is uniform whatever it holds. Take the honest parties in ``S``:
   their self-masks become known; a mask of two of them is known to nobody, is uniform, and one adds it
   where the other takes it away. Along a connected graph these masks make the vectors uniform among all
   that have the same sum: for any two lists of vectors with equal sums there are equally many choices of
   masks that give the same messages. So all that the server and its ``c`` parties see is a function of
   public things and of that sum.

A client that sends garbage can spoil the sum. It learns no more than before: 1 to 4 do not ask what it
sent.

State is a value: each step gives the next one, and a step out of its order, or any fault, is a refusal.
After it, and after the unmasking, whoever holds the state throws it away.

Guarantees: one masked vector, one vote and one unmasking for each set of fresh keys; never both secrets
of one party; nothing at all for fewer than ``survivors`` parties.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgecmd.privacy.secure_sum.adverts import Advert, Cohort
from edgecmd.privacy.secure_sum.identities import Identity, Register
from edgecmd.privacy.secure_sum.masking import (
    SECRET_BYTES,
    Secrets,
    opened,
    pair_mask,
    public_bytes,
    sealed,
    self_mask,
    split,
)
from edgecmd.privacy.secure_sum.terms import Terms, refused

KEYS, SHARED, MASKED, VOTED = "keys", "shared", "masked", "voted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    """A client in the middle of a round.

    Attributes:
        terms: Terms of the round.
        name: Its own name.
        secrets: Of the round.
        step: The last step that it took.
        adverts: Keys of the cohort, once it was shown.
        held: Shares that it holds, by the party that they are of: both halves, one after the other.
        vote: The survivors that it voted for.
    """

    terms: Terms
    name: str
    secrets: Secrets
    step: str = KEYS
    adverts: tuple[Advert, ...] = ()
    held: Mapping[str, bytes] = field(default_factory=dict)
    vote: tuple[str, ...] = ()

    @classmethod
    def begin(cls, terms: Terms, identity: Identity) -> tuple["Party", Advert]:
        """Draw secrets for a round, and tell the public keys."""
        secrets = Secrets.drawn()
        unsigned = Advert(
            name=identity.name,
            pairs=public_bytes(secrets.pairs),
            seal=public_bytes(secrets.seal),
            commitment=secrets.commitment,
            signature=b"",
        )
        advert = replace(unsigned, signature=identity.sign(unsigned.text(terms)))
        return cls(terms=terms, name=identity.name, secrets=secrets, adverts=(advert,)), advert

    @property
    def cohort(self) -> Cohort:
        """The cohort that it was shown."""
        return Cohort.of(self.adverts, self.terms)

    def share(
        self, adverts: Iterable[Advert], register: Register, *, least: int = 0, least_neighbours: int = 0
    ) -> tuple["Party", dict[str, bytes]]:
        """Look at the cohort, and give each neighbour shares of both secrets in an envelope of its own.

        Args:
            adverts: Keys of the cohort, its own among them.
            register: The parties that it believes.
            least: Fewest parties that its owner wants.
            least_neighbours: Fewest of them that it masks with.

        Raises:
            PrivacyError: A key is not signed by a party of the register for these terms, its own is missing
                or changed, or the cohort is too small.
        """
        self._require(KEYS)
        cohort = Cohort.of(adverts, self.terms)
        if cohort.adverts.get(self.name) != self.adverts[0]:
            raise refused("The cohort does not hold this party's own keys.")
        for one in cohort.adverts.values():
            if not register.is_signed(one.name, one.text(self.terms), one.signature):
                raise refused(
                    f"The keys of {one.name} are not signed, for this round and these terms, by a party that"
                    " is pinned here."
                )
        neighbours = cohort.graph[self.name]
        if len(cohort.adverts) < least or len(neighbours) < least_neighbours:
            raise refused(
                f"The cohort has {len(cohort.adverts)} parties and {len(neighbours)} neighbours of this one;"
                f" the owner wants {least} and {least_neighbours} or more.",
                "too-few",
            )
        holders = cohort.holders(self.name)
        halves = [
            split(secret, holders=holders, threshold=cohort.threshold(self.name))
            for secret in (self.secrets.itself, self.secrets.pairs)
        ]
        shares = {holder: halves[0][holder] + halves[1][holder] for holder in holders}
        envelopes = {
            other: sealed(
                self.secrets.seal,
                cohort.adverts[other].seal,
                shares[other],
                sender=self.name,
                receiver=other,
                cohort=cohort.digest,
            )
            for other in neighbours
        }
        taken = tuple(cohort.adverts.values())
        held = {self.name: shares[self.name]}
        return replace(self, step=SHARED, adverts=taken, held=held), envelopes

    def mask(self, envelopes: Mapping[str, bytes], vector: np.ndarray) -> tuple["Party", np.ndarray]:
        """Open the envelopes of all neighbours, then hide ``vector``.

        Args:
            envelopes: By sender.
            vector: int64, noise included.

        Returns:
            The next state, and uint32 that are uniform to whoever lacks a mask.

        Raises:
            PrivacyError: An envelope is missing, too many or not for this party, sender and cohort.
        """
        self._require(SHARED)
        cohort = self.cohort
        if set(envelopes) != set(cohort.graph[self.name]):
            raise refused("The envelopes are not those of all neighbours and of nobody else.")
        held = dict(self.held)
        total = vector.astype(np.uint32) + self_mask(self.secrets.itself, len(vector), cohort=cohort.digest)
        for other, envelope in envelopes.items():
            advert = cohort.adverts[other]
            held[other] = opened(
                self.secrets.seal,
                advert.seal,
                envelope,
                sender=other,
                receiver=self.name,
                cohort=cohort.digest,
            )
            total += pair_mask(
                self.secrets.pairs,
                advert.pairs,
                len(vector),
                own=self.name,
                other=other,
                cohort=cohort.digest,
            )
        return replace(self, step=MASKED, held=held), total

    def cast(self, survivors: Iterable[str], identity: Identity) -> tuple["Party", bytes]:
        """Vote for a set of survivors, once.

        Raises:
            PrivacyError: The set is too small, lacks this party, or holds a stranger.
        """
        self._require(MASKED)
        named = tuple(survivors)
        cohort = self.cohort
        if len(set(named)) != len(named) or not set(named) <= set(cohort.adverts) or self.name not in named:
            raise refused("The survivors are not parties of the cohort, this one among them.")
        if len(named) < self.terms.survivors:
            raise refused(
                f"{len(named)} parties are said to have answered; {self.terms.survivors} or more are needed.",
                "too-few",
            )
        vote = tuple(sorted(named))
        return replace(self, step=VOTED, vote=vote), identity.sign(cohort.vote_text(vote))

    def unmask(self, votes: Mapping[str, bytes], register: Register) -> dict[str, bytes]:
        """Shares of the self-masks of the survivors, and of the pair keys of the others. It is the last step.

        Args:
            votes: Signatures of survivors for the set that this party voted for.
            register: The parties that it believes.

        Raises:
            PrivacyError: Fewer than ``survivors`` of them voted for that set.
        """
        self._require(VOTED)
        cohort = self.cohort
        text = cohort.vote_text(self.vote)
        valid = [name for name in self.vote if name in votes and register.is_signed(name, text, votes[name])]
        if len(valid) < self.terms.survivors:
            raise refused(
                f"{len(valid)} parties agree on who answered; {self.terms.survivors} or more are needed.",
                "too-few",
            )
        alive = set(self.vote)
        return {
            owner: both[:SECRET_BYTES] if owner in alive else both[SECRET_BYTES:]
            for owner, both in self.held.items()
        }

    def _require(self, step: str) -> None:
        if self.step != step:
            raise refused(f"A message of the secure sum is out of its order: this party is at {self.step!r}.")

    def packed(self) -> bytes:
        """The state as bytes: secrets, for memory alone."""
        table: dict[str, Any] = {
            "name": self.name,
            "secrets": [self.secrets.itself.hex(), self.secrets.pairs.hex(), self.secrets.seal.hex()],
            "step": self.step,
            "adverts": [one.packed().decode() for one in self.adverts],
            "held": {name: shares.hex() for name, shares in self.held.items()},
            "vote": list(self.vote),
        }
        return json.dumps(table).encode()

    @classmethod
    def unpacked(cls, content: bytes, terms: Terms) -> "Party":
        """The state that was packed, in a round with these terms."""
        table = json.loads(content)
        itself, pairs, seal = (bytes.fromhex(one) for one in table["secrets"])
        return cls(
            terms=terms,
            name=table["name"],
            secrets=Secrets(itself=itself, pairs=pairs, seal=seal),
            step=table["step"],
            adverts=tuple(Advert.unpacked(one.encode()) for one in table["adverts"]),
            held={name: bytes.fromhex(shares) for name, shares in table["held"].items()},
            vote=tuple(table["vote"]),
        )
