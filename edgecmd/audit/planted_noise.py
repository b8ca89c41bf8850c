"""Faults that only draws and runs can show: too little noise, and what in-batch negatives leak in the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np

from edgecmd.audit.draws import audit_draws
from edgecmd.audit.experiments import NAIVE, headline_arms
from edgecmd.audit.faults import Fault
from edgecmd.audit.finding import Finding
from edgecmd.audit.many_runs import judge, run_arms
from edgecmd.audit.step import audit_noise
from edgecmd.audit.target import Target
from edgecmd.config import RunConfig
from edgecmd.privacy import train
from edgecmd.privacy.plan import make_plan
from edgecmd.privacy.randomness import Source, normal

NUM_RUNS, NUM_DRAWS = 60, 1000
SOUND = "edgecmd-anchors"


def noise_faults(config: RunConfig) -> list[Fault]:
    """Noise too small by two, seen in the weights of a step and in many draws of it.

    Args:
        config: A small private run; nothing of it need have been trained.
    """
    target = Target(
        kind="run folder",
        path=Path(config.name),
        config=config,
        folder=None,
        plan=make_plan(config),
        privacy={},
    )

    def planted(audit: Callable[[], Finding]) -> Finding:
        with noise_times(0.5):
            return audit()

    def draws() -> Finding:
        return audit_draws(target, num_draws=NUM_DRAWS)

    return [
        Fault(
            name="noise too small by 2, in the weights",
            level="step",
            catch=lambda: planted(lambda: audit_noise(target)),
            sound=lambda: audit_noise(target),
        ),
        Fault(
            name="noise too small by 2, in many draws",
            level="step",
            catch=lambda: planted(draws),
            sound=draws,
        ),
    ]


@contextmanager
def noise_times(factor: float) -> Iterator[None]:
    """Let every private step draw ``factor`` times its noise."""

    def scaled(source: Source, count: int) -> np.ndarray:
        return factor * normal(source, count)

    with patch.object(train, "normal", scaled):
        yield


def run_faults(folder: Path) -> list[Fault]:
    """In-batch negatives under Opacus, attacked by whoever holds the final weights.

    Args:
        folder: An empty folder for the runs' results.
    """

    @cache
    def measured() -> dict[str, Finding]:
        arms = [arm for arm in headline_arms(seed=0) if arm.key in (NAIVE, SOUND)]
        run_arms(arms, num_runs=NUM_RUNS, folder=folder)
        return {arm.key: judge(arm, num_runs=NUM_RUNS, folder=folder) for arm in arms}

    return [
        Fault(
            name="in-batch negatives under Opacus, from the final weights",
            level="many-runs",
            catch=lambda: measured()[NAIVE],
            sound=lambda: measured()[SOUND],
        )
    ]
