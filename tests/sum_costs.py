"""What a round of a secure sum costs: ``python -m tests.sum_costs --clients 10,100 --numbers 50000,1000000``.

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
    terms = Terms(
        run="0" * 16, round_index=1, cohort=num, survivors=usual_survivors(cohort=num, colluding=0),
        colluding=0, dim=dim, scale=2.0**14, bound=100.0, variance=1e9,
    )  # fmt: skip
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
    return [
        str(num),
        f"{dim:,}",
        str(num_neighbours(num, terms)),
        f"{sum(client) / num:.3f} s",
        f"{sum(server):.2f} s",
        f"{sent / 1e3:.0f} kB beside 2 x {4 * dim / 1e6:.1f} MB",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", default="10,100")
    parser.add_argument("--numbers", default="50000,1000000")
    asked = parser.parse_args()
    say("| clients | numbers | neighbours | CPU of a client | CPU of the server | bytes of a client |")
    say("|---|---|---|---|---|---|")
    for num in map(int, asked.clients.split(",")):
        for dim in map(int, asked.numbers.split(",")):
            say("| " + " | ".join(cost(num, dim)) + " |")


if __name__ == "__main__":
    main()
