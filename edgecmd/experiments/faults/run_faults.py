"""Faults that only draws and runs can show: too little noise, and what in-batch negatives leak in the end."""

from collections.abc import Callable
from pathlib import Path

from edgecmd.audits.finding import Finding
from edgecmd.audits.many_runs.runs import NAIVE, headline_arms, measure
from edgecmd.audits.step.draws import audit_draws
from edgecmd.config.targets import find_target
from edgecmd.experiments.faults.planted import Fault
from edgecmd.experiments.faults.step_faults import noise_times

NUM_RUNS, NUM_DRAWS = 60, 1000
SOUND = "edgecmd-anchors"


def draw_faults(sound: Callable[[], Path]) -> list[Fault]:
    """Noise too small by two, seen in many draws of a step.

    Args:
        sound: Gives the run folder of a small private run.
    """

    def draws() -> Finding:
        return audit_draws(find_target(sound()), num_draws=NUM_DRAWS)

    def planted() -> Finding:
        with noise_times(0.5):
            return draws()

    return [Fault(name="noise too small by 2, in many draws", level="step", catch=planted, sound=draws)]


def run_faults(folder: Path) -> list[Fault]:
    """In-batch negatives under Opacus, attacked by whoever holds the final weights.

    Args:
        folder: An empty folder for the runs' results.
    """

    def measured(key: str) -> Finding:
        return measure(
            [arm for arm in headline_arms(seed=0) if arm.key == key], num_runs=NUM_RUNS, folder=folder
        )[0]

    return [
        Fault(
            name="in-batch negatives under Opacus, from the final weights",
            level="many-runs",
            catch=lambda: measured(NAIVE),
            sound=lambda: measured(SOUND),
        )
    ]
