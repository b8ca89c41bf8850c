"""Seeds derived from (run, purpose, round, client); nothing here touches a global generator.

A derived seed does not depend on how many others were drawn before it, so a result does not depend
on the number of workers or on their order, and a resumed run draws what the first one would have.
"""

import zlib

import numpy as np
import torch


def seed_sequence(
    seed: int, purpose: str, *, round_index: int = 0, client: int = 0
) -> np.random.SeedSequence:
    """Entropy for one purpose.

    Args:
        seed: Seed of the run, at least 0.
        purpose: What the randomness is for, such as ``"student-init"``.
        round_index: Round of the federation, from 1; 0 where there is none.
        client: Index of the client; 0 where there is none.
    """
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), round_index, client])


def repeats_of(seed: int, num: int) -> range:
    """Seeds of ``num`` runs that differ in nothing else: the given one and those after it."""
    return range(seed, seed + num)


def numpy_generator(seed: int, purpose: str, *, round_index: int = 0, client: int = 0) -> np.random.Generator:
    """Numpy generator of `seed_sequence`."""
    return np.random.default_rng(seed_sequence(seed, purpose, round_index=round_index, client=client))


def torch_generator(
    seed: int,
    purpose: str,
    *,
    round_index: int = 0,
    client: int = 0,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a constant
) -> torch.Generator:
    """Torch generator of `seed_sequence` that draws on ``device``.

    Devices of one kind draw the same numbers, those of another kind others. Never for private noise or
    coins: those are `edgecmd.privacy.step.randomness`.
    """
    state = seed_sequence(seed, purpose, round_index=round_index, client=client).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))
