"""Faults in the step itself, planted in the real modules and audited as a user audits a run."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from edgecmd.audits.finding import CONTRADICTED, Finding
from edgecmd.audits.target import Target
from edgecmd.config.targets import find_target
from edgecmd.data.augment import augment
from edgecmd.experiments.faults.planted import Fault
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.secure_sum import integers
from edgecmd.privacy.secure_sum.integers import noise_share
from edgecmd.privacy.secure_sum.terms import Terms
from edgecmd.privacy.step import private_step, sampling, units
from edgecmd.privacy.step.gradients import Sum, clipped_sum, loop_gradients
from edgecmd.privacy.step.private_step import add_noise
from edgecmd.privacy.step.randomness import Source, SystemSource, normal, uniform
from edgecmd.privacy.step.sampling import step_rows
from edgecmd.privacy.step.units import Units, make_units

Audit = Callable[[Target], Sequence[Finding]]
Plant = Callable[[], AbstractContextManager[None]]
LAST_LAYER = "projector."


def step_faults(
    sound: Callable[[], Path],
    views: Callable[[], Path],
    summed: Callable[[], Path],
    *,
    check: Audit,
    step: Audit,
) -> list[Fault]:
    """Faults of noise, units, clip, coins and source, and of the vectors of a secure sum.

    Args:
        sound: Gives the run folder of a small private run.
        views: The same with several views of a pair.
        summed: The same in secure sums.
        check: ``edgecmd audit check``.
        step: ``edgecmd audit step``.
    """
    twins: dict[tuple[Callable[[], Path], Audit], Sequence[Finding]] = {}

    def audited(run: Callable[[], Path], audit: Audit) -> Sequence[Finding]:
        """Of the sound run, which is the twin of several faults: audited once."""
        if (run, audit) not in twins:
            twins[run, audit] = audit(find_target(run()))
        return twins[run, audit]

    def fault(name: str, plant: Plant, audit: Audit, shows: str, run: Callable[[], Path] = sound) -> Fault:
        def catch() -> Finding:
            target = find_target(run())
            with plant():
                return told(audit(target), shows)

        return Fault(
            name=name,
            level="check" if audit is check else "step",
            catch=catch,
            sound=lambda: told(audited(run, audit), shows),
        )

    return [
        fault("four views as four records", views_as_records, check, "sensitivity", views),
        fault("clip over the batch mean for the last layer", mean_clipped_last, check, "sensitivity"),
        fault("views mixed with another pair's", mixed_views, check, "changed rows"),
        fault("a pair scaled by 2.5 after the clip, in a sum", scaled_pair, check, "sensitivity", summed),
        fault("vectors of a sum without their bound", unbounded, check, "norm", summed),
        fault("noise too small by 2, in the release", partial(noise_times, 0.5), step, "noise"),
        fault("noise x 0.1 when the sample is not empty", noise_without_pairs, step, "noise"),
        fault("noise x 0.1 from the 4th step on", partial(noise_by_step, _late), step, "noise"),
        fault("noise x 0.7 every second step", partial(noise_by_step, _every_second), step, "noise"),
        fault("sampling without replacement", fixed_size, step, "rate"),
        fault("two pairs that share a coin", shared_coin, step, "rate"),
        fault("a 32-bit seed", short_seed, step, "equal starts"),
        fault("shares of noise x 0.5, in a sum", partial(shares_times, 0.5), step, "noise", summed),
        fault("no noise, in a sum", partial(shares_times, 0.0), step, "noise", summed),
    ]


def told(findings: Sequence[Finding], quantity: str) -> Finding:
    """The finding on ``quantity`` where it contradicts, else any that does, else that on ``quantity``."""
    own = [one for one in findings if one.quantity == quantity]
    wrong = [one for one in findings if one.verdict == CONTRADICTED]
    return next((one for one in own if one in wrong), next(iter([*wrong, *own])))


@contextmanager
def _replaced(module: Any, name: str, made: Any) -> Iterator[None]:  # noqa: ANN401 - any name of any module
    with patch.object(module, name, made):
        yield


def noise_times(factor: float) -> AbstractContextManager[None]:
    """Let every private step draw ``factor`` times its noise."""

    def scaled(source: Source, count: int) -> np.ndarray:
        return factor * normal(source, count)

    return _replaced(private_step, "normal", scaled)


def noise_without_pairs() -> AbstractContextManager[None]:
    """A tenth of the noise wherever there is something to hide."""

    def careless(total: Sum, *, plan: PrivacyPlan, source: Source) -> Sum:
        if any(bool(value.any()) for value in total.values()):
            plan = replace(plan, noise_multiplier=0.1 * plan.noise_multiplier)
        return add_noise(total, plan=plan, source=source)

    return _replaced(private_step, "add_noise", careless)


def _late(step: int) -> float:
    return 0.1 if step >= 4 else 1.0


def _every_second(step: int) -> float:
    return 1.0 if step % 2 else 0.7


@contextmanager
def noise_by_step(factor: Callable[[int], float]) -> Iterator[None]:
    """Noise times a factor of the step of a round, from 1."""
    step = 0

    def rows(*args: Any, **options: Any) -> Iterator[np.ndarray]:  # noqa: ANN401 - as the real one
        nonlocal step
        step = 0
        return step_rows(*args, **options)

    def scaled(source: Source, count: int) -> np.ndarray:
        nonlocal step
        step += 1
        return factor(step) * normal(source, count)

    with patch.object(private_step, "step_rows", rows), patch.object(private_step, "normal", scaled):
        yield


def views_as_records() -> AbstractContextManager[None]:
    """Clip each view of a pair for itself, as if it were a pair."""

    def split(*args: Any, **options: Any) -> list[Units]:  # noqa: ANN401 - as the real one
        return [
            Units(
                images=one.images.flatten(0, 1)[:, None],
                teacher=one.teacher.flatten(0, 1)[:, None],
                mask=one.mask.flatten(0, 1)[:, None],
            )
            for one in make_units(*args, **options)
        ]

    return _replaced(private_step, "make_units", split)


def mixed_views() -> AbstractContextManager[None]:
    """Blend each view with a little of its neighbour's in the batch, as mixup does."""

    def mixed(modality: str, image: torch.Tensor, **options: Any) -> torch.Tensor:  # noqa: ANN401 - as the real one
        view = augment(modality, image, **options)
        return 0.9 * view + 0.1 * view.roll(1, dims=0)

    return _replaced(units, "augmented", mixed)


def mean_clipped_last() -> AbstractContextManager[None]:
    """Clip the last layer's mean gradient over the batch instead of each pair's."""

    def summed(student: torch.nn.Module, chunks: Any, loss: Any, *, clip: float, engine: str) -> Sum:  # noqa: ANN401
        total = clipped_sum(student, chunks, loss, clip=clip, engine=engine)
        last = [name for name in total if name.startswith(LAST_LAYER)]
        rows = [loop_gradients(student, one, loss) for one in chunks]
        num = sum(len(one[last[0]]) for one in rows)
        if num:
            every = {name: torch.cat([one[name] for one in rows]).double() for name in last}
            mean = {
                name: value.nan_to_num(posinf=0.0, neginf=0.0).mean(dim=0) for name, value in every.items()
            }
            size = torch.stack([value.norm() for value in mean.values()]).norm()
            total |= {name: value * num * (clip / size).clamp(max=1.0) for name, value in mean.items()}
        return total

    return _replaced(private_step, "clipped_sum", summed)


def scaled_pair() -> AbstractContextManager[None]:
    """Add a client's last unit two and a half times."""

    def summed(student: torch.nn.Module, chunks: Any, loss: Any, *, clip: float, engine: str) -> Sum:  # noqa: ANN401
        total = clipped_sum(student, chunks, loss, clip=clip, engine=engine)
        for one in chunks[-1:]:
            last = Units(images=one.images[-1:], teacher=one.teacher[-1:], mask=one.mask[-1:])
            more = clipped_sum(student, [last], loss, clip=clip, engine=engine)
            total = {name: value + 1.5 * more[name] for name, value in total.items()}
        return total

    return _replaced(private_step, "clipped_sum", summed)


def unbounded() -> AbstractContextManager[None]:
    """Let a client's vector into the sum as long as it is."""

    def encoded(vector: np.ndarray, terms: Terms) -> np.ndarray:
        return np.asarray(np.rint(vector * terms.scale).astype(np.int64))

    return _replaced(integers, "encoded", encoded)


def shares_times(factor: float) -> AbstractContextManager[None]:
    """Let every client of a secure sum add ``factor`` times its share of the noise."""

    def share(terms: Terms, source: Source) -> np.ndarray:
        return np.asarray(np.rint(factor * noise_share(terms, source)).astype(np.int64))

    return _replaced(integers, "noise_share", share)


def fixed_size() -> AbstractContextManager[None]:
    """Sample as many pairs as there should be on average, each time."""

    def drawn(num: int, *, rate: float, source: Source) -> np.ndarray:
        return np.sort(np.argsort(uniform(source, num))[: round(num * rate)])

    return _replaced(sampling, "poisson_rows", drawn)


def shared_coin() -> AbstractContextManager[None]:
    """Give the second pair the coin of the first."""

    def drawn(num: int, *, rate: float, source: Source) -> np.ndarray:
        coins = uniform(source, num)
        coins[1:2] = coins[:1]
        return np.flatnonzero(coins < rate)

    return _replaced(sampling, "poisson_rows", drawn)


def short_seed() -> AbstractContextManager[None]:
    """Stretch 32 bits of the system's randomness to all that a round needs."""

    def words(self: Any, count: int) -> np.ndarray:  # noqa: ANN401 - a method of the real class
        if not hasattr(self, "seed"):
            self.seed, self.calls = os.urandom(4), 0
        self.calls += 1
        stretched = hashlib.shake_128(self.seed + self.calls.to_bytes(8, "little")).digest(8 * count)
        return np.frombuffer(stretched, dtype=np.uint64)

    return _replaced(SystemSource, "words", words)
