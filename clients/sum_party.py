"""A client in a secure sum: it holds the round's secrets in Flower's memory of the node, and nowhere else.

Its queries are ``query.sum_keys``, ``query.sum_shares``, ``query.sum_vote`` and ``query.sum_unmask``; the
masked vector is the reply to the round's ``train``. What each step protects is in
`edgecmd.privacy.secure_sum.party`.
"""

from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Context

from clients.node import Node
from clients.order import Order
from edgecmd.privacy.secure_sum.adverts import Advert
from edgecmd.privacy.secure_sum.identities import (
    Identity,
    Register,
    SimulatedIdentity,
    SimulatedParties,
)
from edgecmd.privacy.secure_sum.integers import noised
from edgecmd.privacy.secure_sum.key_files import read_identity, read_pinned
from edgecmd.privacy.secure_sum.party import Party
from edgecmd.privacy.secure_sum.terms import Terms, refused
from edgecmd.privacy.step.randomness import Source
from edgecmd.run import Run

STATE = "secure-sum"


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """Who a client is to the others of a round, and what its owner asks of them.

    Attributes:
        identity: Signs for it.
        register: Whom it believes.
        min_cohort: Fewest parties.
        min_neighbours: Fewest of them that it masks with.
    """

    identity: Identity
    register: Register
    min_cohort: int
    min_neighbours: int


def member_of(node: Node) -> Member:
    """The member that a node is.

    Raises:
        PrivacyError: A device with pairs of its own has no key, or no list of the others' keys.
    """
    identity: Identity = SimulatedIdentity(name=f"client-{node.client:06d}")
    register: Register = SimulatedParties()
    if node.data is not None:
        if node.own_key is None or node.peer_keys is None:
            raise refused(
                "The run asks for a secure sum, and the node config lacks own-key or peer-keys. Set own-key"
                " to this node's registered key and peer-keys to the list of all sites' public keys; both are"
                " in a kit of `edgecmd deploy init`. Without the list, a server could play the others.",
                "no-peers",
            )
        identity, register = read_identity(node.own_key), read_pinned(node.peer_keys)
    return Member(
        identity=identity,
        register=register,
        min_cohort=int(node.parties.get("min-cohort", 0)),
        min_neighbours=int(node.parties.get("min-neighbours", 0)),
    )


def terms_of(run: Run, order: Order, asked: ConfigRecord) -> Terms:
    """The terms of a round, all but the length of a vector from the run's settings.

    Raises:
        PrivacyError: The run has no secure sum, or the terms protect nobody.
    """
    plan = run.sum_plan
    if plan is None:
        raise refused("The run's settings have privacy.aggregation='plain': it has no secure sum.")
    dim = asked.get("dim")
    if not isinstance(dim, int) or dim < 1:
        raise refused(f"The round has vectors of length {dim!r}; allowed are whole numbers from 1.")
    return plan.terms(
        run=order.token,
        round_index=order.round_index,
        dim=dim,
        noise_std=0.0 if run.plan is None else run.plan.noise_std,
    )


def answer_query(
    query: str, asked: ConfigRecord, context: Context, *, terms: Terms, member: Member
) -> ConfigRecord:
    """Take a step of the protocol beside the masked vector.

    Args:
        query: One of `clients.identity.QUERIES`.
        asked: What the server passes on.
        context: Its ``state`` holds the party between steps, in memory.
        terms: Of the round.
        member: Who this client is.

    Raises:
        PrivacyError: The step is out of order, or what the server passes on is not what was sent; the
            secrets of the round are forgotten.
    """
    if query == "sum_keys":
        party, advert = Party.begin(terms, member.identity)
        _keep(party, context)
        return ConfigRecord({"keys": advert.packed()})
    party = _taken(context, terms)
    if query == "sum_shares":
        adverts = [Advert.unpacked(one) for one in _listed(asked, "keys", bytes)]
        party, envelopes = party.share(
            adverts, member.register, least=member.min_cohort, least_neighbours=member.min_neighbours
        )
        _keep(party, context)
        return ConfigRecord({"to": list(envelopes), "envelopes": list(envelopes.values())})
    if query == "sum_vote":
        party, vote = party.cast(_listed(asked, "survivors", str), member.identity)
        _keep(party, context)
        return ConfigRecord({"vote": vote})
    shares = party.unmask(_paired(asked, "voters", "votes"), member.register)
    return ConfigRecord({"of": list(shares), "shares": list(shares.values())})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Masking:
    """What turns a client's vector into what the server may see.

    Attributes:
        asked: Envelopes of the neighbours.
        context: Holds the party.
        terms: Of the round.
        source: Of the noise.
    """

    asked: ConfigRecord
    context: Context
    terms: Terms
    source: Source

    def hidden(self, vector: np.ndarray) -> np.ndarray:
        """``vector`` as integers, with the client's share of the noise, behind masks: uint32.

        Raises:
            PrivacyError: As `answer_query`; or the vector is not of the length that the terms say.
        """
        party = _taken(self.context, self.terms)
        if vector.shape != (self.terms.dim,):
            raise refused(
                f"The vector has {vector.size} numbers, and the terms of the round say {self.terms.dim}."
            )
        if not np.isfinite(vector).all():
            raise FloatingPointError("The weights are not finite. Lower distill.learning_rate.")
        integers = noised(vector, self.terms, self.source)
        party, hidden = party.mask(_paired(self.asked, "from", "envelopes"), integers)
        _keep(party, self.context)
        return hidden


def _keep(party: Party, context: Context) -> None:
    context.state[STATE] = ConfigRecord({"terms": party.terms.digest, "party": party.packed()})


def _taken(context: Context, terms: Terms) -> Party:
    """The party of the round; it is in the memory no more, so that what fails leaves no secrets."""
    kept = context.state.config_records.pop(STATE, None)
    if kept is None or kept["terms"] != terms.digest:
        raise refused(
            "This client is in the middle of no such round: it was restarted, its last step failed, or the"
            " message is another round's. It takes part again in the next round."
        )
    return Party.unpacked(bytes(kept["party"]), terms)  # type: ignore[arg-type]


def _listed(asked: ConfigRecord, name: str, kind: type) -> list:  # type: ignore[type-arg]
    found = asked.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, kind) for one in found):
        raise refused(f"The message has {name!r} of another kind than a list of {kind.__name__}.")
    return found


def _paired(asked: ConfigRecord, names: str, values: str) -> dict[str, bytes]:
    listed, found = _listed(asked, names, str), _listed(asked, values, bytes)
    if len(set(listed)) != len(listed) or len(listed) != len(found):
        raise refused(f"The message of the server has {len(listed)} {names!r} and {len(found)} {values!r}.")
    return dict(zip(listed, found, strict=True))
