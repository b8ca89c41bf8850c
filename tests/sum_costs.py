"""What a round of a secure sum costs: ``python -m tests.sum_costs --clients 10,100 --numbers 50000,1000000``.

With ``--sampled`` one client is timed and the server's work for one client, times their number.
Processor time of one client and of the server, and bytes of one client both ways, for everything that the
protocol adds to a plain round. Identities are registered keys, so signatures are real ones.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from edgecmd.privacy.secure_sum.collector import Collector
from edgecmd.privacy.secure_sum.identities import PinnedKeys, RegisteredIdentity, key_name
from edgecmd.privacy.secure_sum.integers import noised
from edgecmd.privacy.secure_sum.masking import SECRET_BYTES, restored, sealed, self_mask, split
from edgecmd.privacy.secure_sum.neighbours import num_neighbours
from edgecmd.privacy.secure_sum.party import Party
from edgecmd.privacy.secure_sum.terms import Terms, usual_survivors
from edgecmd.privacy.step.randomness import SystemSource

Result = TypeVar("Result")


def say(text: str) -> None:
    """A line of the table, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def timed(spent: list[float], call: Callable[[], Result]) -> Result:
    """Result of ``call``, whose processor time is added."""
    started = time.process_time()
    result = call()
    spent.append(time.process_time() - started)
    return result


def cost(num: int, dim: int) -> list[str]:
    """A row of the table; every client drops no message."""
    keys = [RegisteredIdentity(key=ec.generate_private_key(ec.SECP384R1())) for _ in range(num)]
    register = PinnedKeys(keys={key_name(one.key.public_key()): one.key.public_key() for one in keys})
    terms = terms_of(num, dim)
    client, server, sent = list[float](), list[float](), 0
    parties, adverts = {}, []
    for one in keys:
        parties[one.name], advert = timed(client, lambda one=one: Party.begin(terms, one))  # type: ignore[misc]
        adverts.append(advert)
    collector = timed(server, lambda: Collector.begin(adverts, terms))
    for name, party in parties.items():
        parties[name], envelopes = timed(client, lambda party=party: party.share(adverts, register))  # type: ignore[misc]
        timed(server, lambda name=name, envelopes=envelopes: collector.add_envelopes(name, envelopes))  # type: ignore[misc]
    # The down direction too: all keys, the envelopes of others, and the votes.
    sent += sum(len(one.packed()) for one in adverts) + len(adverts[0].packed())
    sent += 2 * sum(map(len, envelopes.values()))
    vector = np.random.default_rng(0).normal(size=dim) / dim**0.5
    for name, party in parties.items():
        integers = timed(client, lambda: noised(vector, terms, SystemSource()))
        parties[name], masked = timed(  # type: ignore[misc]
            client,
            lambda name=name, party=party, integers=integers: party.mask(collector.envelopes[name], integers),
        )
        timed(server, lambda name=name, masked=masked: collector.add_masked(name, masked))  # type: ignore[misc]
    for one in keys:
        parties[one.name], collector.votes[one.name] = timed(  # type: ignore[misc]
            client, lambda one=one: parties[one.name].cast(collector.survivors, one)
        )
    sent += sum(map(len, collector.votes.values())) + len(next(iter(collector.votes.values())))
    sent += 33 * num
    for name, party in parties.items():
        shares = timed(client, lambda party=party: party.unmask(collector.votes, register))  # type: ignore[misc]
        timed(server, lambda name=name, shares=shares: collector.add_shares(name, shares))  # type: ignore[misc]
    sent += sum(len(one) + 32 for one in shares.values())
    timed(server, collector.total)
    return row(num, dim, terms, sum(client) / num, sum(server), sent)


def sampled(num: int, dim: int) -> list[str]:
    """A row of which one client is timed, with real signatures of all, and the server once a client of it."""
    keys = [RegisteredIdentity(key=ec.generate_private_key(ec.SECP384R1())) for _ in range(num)]
    register = PinnedKeys(keys={key_name(one.key.public_key()): one.key.public_key() for one in keys})
    terms = terms_of(num, dim)
    begun = [Party.begin(terms, one) for one in keys]
    secrets = {party.name: party.secrets for party, _ in begun}
    adverts, own = [advert for _, advert in begun], keys[0]
    client, whole, each = list[float](), list[float](), list[float]()
    timed(client, lambda: Party.begin(terms, own))
    collector = timed(whole, lambda: Collector.begin(adverts, terms))
    cohort, party = collector.cohort, begun[0][0]
    party, envelopes = timed(client, lambda: party.share(adverts, register))
    timed(each, lambda: collector.add_envelopes(own.name, envelopes))
    arrived = {
        other: sealed(
            secrets[other].seal, cohort.adverts[own.name].seal, bytes(2 * SECRET_BYTES),
            sender=other, receiver=own.name, cohort=cohort.digest,
        )
        for other in cohort.graph[own.name]
    }  # fmt: skip
    vector = np.random.default_rng(0).normal(size=dim) / dim**0.5
    integers = timed(client, lambda: noised(vector, terms, SystemSource()))
    party, masked = timed(client, lambda: party.mask(arrived, integers))
    timed(each, lambda: collector.add_masked(own.name, masked))
    everybody = tuple(sorted(secrets))
    party, vote = timed(client, lambda: party.cast(everybody, own))
    votes = {one.name: one.sign(cohort.vote_text(everybody)) for one in keys}
    shares = timed(client, lambda: party.unmask(votes, register))
    timed(each, lambda: collector.add_shares(own.name, shares))
    holders, threshold = cohort.holders(own.name), cohort.threshold(own.name)
    itself = secrets[own.name].itself
    parts = split(itself, holders=holders, threshold=threshold)
    timed(each, lambda: restored(parts, holders=holders, threshold=threshold))
    timed(each, lambda: self_mask(itself, dim, cohort=cohort.digest))
    sent = sum(len(one.packed()) for one in adverts) + len(adverts[0].packed())
    sent += 2 * sum(map(len, envelopes.values())) + sum(map(len, votes.values())) + len(vote) + 33 * num
    sent += sum(len(one) + 32 for one in shares.values())
    return row(num, dim, terms, sum(client), sum(whole) + num * sum(each), sent)


def terms_of(num: int, dim: int) -> Terms:
    """Terms of a round of ``num`` clients of which four fifths must stay."""
    return Terms(
        run="0" * 16, round_index=1, cohort=num, survivors=usual_survivors(cohort=num, colluding=0),
        colluding=0, dim=dim, scale=2.0**14, bound=100.0, variance=1e9,
    )  # fmt: skip


def row(num: int, dim: int, terms: Terms, client: float, server: float, sent: int) -> list[str]:
    """Words of a row: seconds of a client and of the server, bytes of a client."""
    return [
        str(num),
        f"{dim:,}",
        str(num_neighbours(num, terms)),
        f"{client:.3f} s",
        f"{server:.2f} s",
        f"{sent / 1e3:.0f} kB beside 2 x {4 * dim / 1e6:.1f} MB",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", default="10,100")
    parser.add_argument("--numbers", default="50000,1000000")
    parser.add_argument("--sampled", action="store_true", help="Time one client, and the server once.")
    asked = parser.parse_args()
    say("| clients | numbers | neighbours | CPU of a client | CPU of the server | bytes of a client |")
    say("|---|---|---|---|---|---|")
    for num in map(int, asked.clients.split(",")):
        for dim in map(int, asked.numbers.split(",")):
            say("| " + " | ".join((sampled if asked.sampled else cost)(num, dim)) + " |")


if __name__ == "__main__":
    main()
