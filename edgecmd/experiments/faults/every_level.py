"""The planted faults of every level, run one after the other."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from edgecmd.audits.finding import Finding
from edgecmd.audits.many_runs.runs import NAIVE, headline_arms, measure
from edgecmd.audits.static.sensitivity import Effort
from edgecmd.audits.step.checks import StepEffort
from edgecmd.audits.step.draws import audit_draws
from edgecmd.audits.step.random_source import spawned_words
from edgecmd.config.assemble import Assembly
from edgecmd.config.schema import RunConfig
from edgecmd.config.targets import find_target
from edgecmd.core.progress import ticker
from edgecmd.experiments.audit_ladder import audit_level
from edgecmd.experiments.faults.ledger_faults import book_faults, small_run
from edgecmd.experiments.faults.loss_faults import loss_faults
from edgecmd.experiments.faults.planted import Fault, Outcome, outcomes
from edgecmd.experiments.faults.step_faults import noise_times, step_faults

TRIES, STEP_DRAWS = 24, 200
NUM_RUNS, NUM_DRAWS = 60, 1000
SOUND = "edgecmd-anchors"
SUMMED = (
    'privacy.aggregation="secure-sum"',
    "privacy.sampling_rate=1",
    "federation.local_steps=1",
    "federation.num_rounds=1",
)


def plant_all() -> list[Outcome]:
    """What the audits say of every fault and of its sound twin; one to three minutes."""
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder, ticker("planted faults") as tick:
        planted = all_faults(Path(folder))
        for outcome in outcomes(planted):
            found.append(outcome)
            tick(len(found), len(planted))
    return found


def all_faults(folder: Path) -> list[Fault]:
    """The faults of every level, in the order of the levels.

    Args:
        folder: An empty folder for the small runs.
    """
    from server.simulate import simulate

    assembly = Assembly()

    def train(config: RunConfig) -> object:
        return simulate(assembly.run(config))

    sound = small_run(train, folder, "sound")
    views = small_run(train, folder, "views", "privacy.num_views=4")
    step = StepEffort(num_draws=STEP_DRAWS, spawned=spawned_words())
    return [
        *loss_faults(),
        *book_faults(sound, folder),
        *step_faults(
            sound,
            views,
            small_run(train, folder, "summed", *SUMMED),
            check=lambda target: audit_level(target, "check", Effort(num_tries=TRIES)),
            step=lambda target: audit_level(target, "step", step),
        ),
        *draw_faults(sound),
        *run_faults(folder / "runs"),
    ]


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
