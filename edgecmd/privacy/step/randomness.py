"""Where coins and noise of a private step come from: the operating system, unless a test asks otherwise."""

import math
import os
import ssl
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from edgecmd.core.seeding import seed_sequence

UNIFORM_BITS = 52
NORMALS_A_DRAW = 4
FRESH_BYTES = 48
# Normals that are made at a time, so that their steps stay in a core's cache.
IN_CACHE = 1 << 13
# Place of the Mersenne Twister's words in the state of a torch generator, each in eight bytes.
STATE_BEGINS = 24
STATE_WORDS = 624


@runtime_checkable
class Source(Protocol):
    """Randomness that an observer of the releases must not know.

    Attributes:
        private: Whether an observer cannot predict it; False for the deterministic source.
    """

    private: bool

    def words(self, count: int) -> np.ndarray:
        """``count`` uniform uint64."""


class SystemSource:
    """Randomness of the operating system, stretched by OpenSSL's generator.

    That generator (AES-256 in counter mode, NIST SP 800-90A) is seeded by the operating system; fresh
    entropy of the operating system is added at every call, so neither a forked process nor a copied
    virtual machine repeats another's noise. Reading all of it from the system takes many times as long.
    """

    private = True

    def words(self, count: int) -> np.ndarray:
        """``count`` uniform uint64."""
        ssl.RAND_add(os.urandom(FRESH_BYTES), float(FRESH_BYTES))
        return np.frombuffer(ssl.RAND_bytes(8 * count), dtype=np.uint64)


class DeterministicSource:
    """Randomness derived from the run's seed. NOT PRIVATE: whoever knows the seed subtracts the noise."""

    private = False

    def __init__(self, seed: int, *, round_index: int = 0, client: int = 0) -> None:
        sequence = seed_sequence(seed, "privacy", round_index=round_index, client=client)
        self._generator = np.random.default_rng(sequence)

    def words(self, count: int) -> np.ndarray:
        """``count`` uniform uint64."""
        return self._generator.integers(0, 2**64, count, dtype=np.uint64)


def make_source(*, deterministic: bool, seed: int, round_index: int, client: int) -> Source:
    """The operating system's source, or the deterministic one where the settings ask for it."""
    if deterministic:
        return DeterministicSource(seed, round_index=round_index, client=client)
    return SystemSource()


def uniform(source: Source, count: int) -> np.ndarray:
    """``count`` float64 in the open interval (0, 1), with 52 bits each."""
    return _uniform(source.words(count))


def _uniform(words: np.ndarray) -> np.ndarray:
    bits = (words >> np.uint64(64 - UNIFORM_BITS)).astype(np.float64)
    bits += 0.5
    bits *= 2.0**-UNIFORM_BITS
    return bits


def normal(source: Source, count: int) -> np.ndarray:
    """``count`` float64 from N(0, 1).

    Each is half the sum of four draws, so that the low bits of one draw cannot be read off the
    result (Holohan and Braghin 2021, arXiv 2107.10138, n = 2). A draw is ``sqrt(2) erfinv(2 u - 1)``:
    ``2 u - 1`` is exact and never -1 or 1, so the tails are symmetric and finite.
    """
    # What nobody can ask for again may be drawn in any order: in pieces, it never fills fresh memory.
    words = None if isinstance(source, SystemSource) else source.words(NORMALS_A_DRAW * count)
    drawn = np.empty(count)
    for first in range(0, count, IN_CACHE):
        num = min(IN_CACHE, count - first)
        if words is None:
            own = source.words(NORMALS_A_DRAW * num).reshape(NORMALS_A_DRAW, num)
        else:
            own = words.reshape(NORMALS_A_DRAW, count)[:, first : first + num]
        signed = _uniform(own)
        signed *= 2.0
        signed -= 1.0
        drawn[first : first + num] = torch.from_numpy(signed).erfinv_().sum(dim=0).numpy()
    drawn *= math.sqrt(2.0 / NORMALS_A_DRAW)
    return drawn


def integers(source: Source, count: int, *, high: int) -> np.ndarray:
    """``count`` whole numbers in ``[0, high)``, unbiased to 2^-40 for ``high`` below 2^13."""
    return (uniform(source, count) * high).astype(np.int64)


def generator(source: Source) -> torch.Generator:
    """A torch generator on the CPU whose whole state of 624 words comes from ``source``.

    ``manual_seed`` would not do: torch's generator keeps 32 bits of a seed, few enough to try them all.
    """
    made = torch.Generator()
    state = made.get_state()
    words = source.words(STATE_WORDS) & np.uint64(2**32 - 1)
    state[STATE_BEGINS : STATE_BEGINS + 8 * STATE_WORDS] = torch.from_numpy(words.view(np.uint8).copy())
    made.set_state(state)
    return made
