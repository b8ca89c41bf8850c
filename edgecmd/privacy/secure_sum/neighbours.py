"""Who masks with whom in a round of a secure sum, and how many of them restore a secret."""

import hashlib
import math
from collections.abc import Iterable, Mapping

from edgecmd.privacy.secure_sum.terms import Terms

# Parties up to which each masks with every other.
COMPLETE = 31
FEWEST_NEIGHBOURS = 30
# Bits of security that the chance of a graph that falls apart must leave.
GRAPH_BITS = 40


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
