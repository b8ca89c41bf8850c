"""The random source of the real step: is it the system's, fresh in each process, and wide enough (level L1)?

A source that is seeded with 32 bits passes every test of its noise. What gives it away is the birthday
paradox: of 400,000 fresh ones eighteen couples start with the same words, where 128 bits that nobody
can predict agree with a probability of 2e-28.
"""

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.step.driven_rounds import Step
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step import randomness, units
from edgecmd.privacy.step.randomness import STATE_BEGINS, STATE_WORDS, Source, SystemSource

NUM_FRESH = 400_000
FIRST_WORDS = 2
# A normal is half the sum of four draws of a word each; fewer mean that something stretches them out of
# sight, or that low bits of a draw can be read off the noise.
WORDS_A_COORDINATE = 4.0
NUM_COMPARED = 16
SPAWNED = (
    "import sys; from edgecmd.privacy.step.randomness import make_source;"
    "s = make_source(deterministic=False, seed=0, round_index=1, client=0);"
    f"sys.stdout.write(s.words({NUM_COMPARED}).tobytes().hex())"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        fault: What is wrong; empty where nothing is.
    """

    name: str
    fault: str = ""


def source_finding(
    steps: Sequence[Step], plan: PrivacyPlan, *, spawned: Sequence[bytes] | None = None
) -> Finding:
    """Type and behaviour of the source that a client's steps draw from.

    Args:
        steps: Driven steps, whose words were counted; none of a secure sum, whose noise has a generator.
        plan: Of the run.
        spawned: See `spawned_words`, which is asked where there is None.
    """
    started = time.monotonic()
    checks = [*([counted(steps)] if steps else []), view_state()]
    repeats = 0
    if plan.private:
        repeats = repeated_starts(NUM_FRESH)
        checks += [source_type(fresh()), system_calls(fresh()), birthday(repeats)]
        checks.append(processes(spawned_words() if spawned is None else spawned))
    faults = [one.fault for one in checks if one.fault]
    kind = (CONTRADICTED if faults else NOT_CONTRADICTED) if plan.private else INDICATOR
    sound = (
        f"the system's own; {NUM_FRESH} fresh ones start differently, and so do other processes"
        if plan.private
        else "derived from the seed, NOT PRIVATE by its settings"
    )
    return Finding(
        level="step",
        name="random source",
        attacker="steps",
        verdict=kind,
        text=f"The source of coins and noise: {'; '.join(faults) or sound}.",
        quantity="equal starts",
        claimed=0.0,
        measured=float(repeats),
        counts={"checks": len(checks), "failed": len(faults), "fresh": NUM_FRESH if plan.private else 0},
        seconds=time.monotonic() - started,
        details={one.name: one.fault or "as it should be" for one in checks},
    )


def fresh() -> Source:
    """A source as a client's round makes one, always of the same client and round."""
    return randomness.make_source(deterministic=False, seed=0, round_index=1, client=0)


def source_type(source: Source) -> Check:
    """Whether it is the operating system's source itself, and no other that looks alike."""
    if type(source) is SystemSource and source.private:
        return Check(name="type")
    return Check(
        name="type", fault=f"it is a {type(source).__name__}, but the plan promises the system's source"
    )


def system_calls(source: Source) -> Check:
    """Whether each draw asks the system for entropy and consists of the very bytes of OpenSSL's generator."""
    given: list[bytes] = []
    real = ssl.RAND_bytes

    def noted(count: int) -> bytes:
        given.append(real(count))
        return given[-1]

    for _ in range(3):
        given.clear()
        with (
            patch.object(os, "urandom", wraps=os.urandom) as entropy,
            patch.object(ssl, "RAND_bytes", noted),
        ):
            words = source.words(NUM_COMPARED).tobytes()
        if not entropy.called or b"".join(given) != words:
            return Check(
                name="system calls", fault="its words are not those that the system's generator gave"
            )
    return Check(name="system calls")


def repeated_starts(num: int) -> int:
    """How many of ``num`` fresh sources start with 128 bits that another started with."""
    starts = np.empty((num, FIRST_WORDS), dtype=np.uint64)
    for index in range(num):
        starts[index] = fresh().words(FIRST_WORDS)
    return num - len(np.unique(starts, axis=0))


def birthday(repeats: int) -> Check:
    """Whether fresh sources ever start alike."""
    if not repeats:
        return Check(name="fresh sources")
    # n^2 / (2 N) couples of n draws out of N.
    bits = np.log2(NUM_FRESH**2 / (2.0 * repeats))
    fault = f"{repeats} of {NUM_FRESH} fresh ones repeat another: it is seeded with about {bits:.0f} bits"
    return Check(name="fresh sources", fault=fault)


def processes(spawned: Sequence[bytes]) -> Check:
    """Whether a forked child and new processes (`spawned_words`) draw words of their own."""
    found = [fresh().words(NUM_COMPARED).tobytes(), *spawned]
    source = fresh()
    first = source.words(NUM_COMPARED).tobytes()
    found.append(first)
    if hasattr(os, "fork"):
        found += [_of_a_child(source), source.words(NUM_COMPARED).tobytes()]
    if len(set(found)) == len(found):
        return Check(name="processes")
    return Check(name="processes", fault="two processes draw the same words")


def spawned_words() -> tuple[bytes, bytes]:
    """First words of two new processes, which know nothing of this one: they hold for several audits."""
    started = [subprocess.Popen([sys.executable, "-c", SPAWNED], stdout=subprocess.PIPE) for _ in range(2)]
    first, second = (bytes.fromhex(one.communicate()[0].decode("ascii")) for one in started)
    return first, second


def _of_a_child(source: Source) -> bytes:
    """Words that a forked child draws from a source that its parent has used."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing of the parent's, such as open files or exit handlers, may be touched here.
        os.write(write, source.words(NUM_COMPARED).tobytes())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read()


def counted(steps: Sequence[Step]) -> Check:
    """Whether the step's coins and noise are words of its source, and not stretched out of fewer."""
    least = min(one.words for one in steps)
    if least < WORDS_A_COORDINATE:
        fault = f"a step's noise is made of {least:.2g} of its words for each coordinate"
        return Check(name="words of the noise", fault=fault)
    # The first step of a round draws coins of all pairs; where there are bins, they are those of its epoch.
    bare = [one for one in steps if one.noise.index == 1 and one.coins < one.pairs]
    if bare:
        fault = f"a step deals {bare[0].pairs} pairs by {bare[0].coins} of its words"
        return Check(name="words of the noise", fault=fault)
    return Check(name="words of the noise")


class _Known:
    """A source of counted words, all different."""

    private = False

    def words(self, count: int) -> np.ndarray:
        """Multiples of an odd number, whose low halves are all different."""
        return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def view_state() -> Check:
    """Whether the whole state of the generator of views comes from the source."""
    source = _Known()
    state = vars(units)["generator"](source).get_state().numpy()
    held = state[STATE_BEGINS : STATE_BEGINS + 8 * STATE_WORDS].view(np.uint64)
    missing = int((held != (source.words(STATE_WORDS) & np.uint64(2**32 - 1))).sum())
    if not missing:
        return Check(name="state of the views")
    fault = f"{missing} of {STATE_WORDS} words of the state of the views' generator are not its own"
    return Check(name="state of the views", fault=fault)
