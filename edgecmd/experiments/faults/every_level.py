"""The planted faults of every level, run one after the other."""

import tempfile
from pathlib import Path

from edgecmd.audits.static.sensitivity import Effort
from edgecmd.audits.step.checks import StepEffort
from edgecmd.audits.step.random_source import spawned_words
from edgecmd.config.assemble import Assembly
from edgecmd.config.schema import RunConfig
from edgecmd.core.progress import ticker
from edgecmd.experiments.audit_ladder import audit_level
from edgecmd.experiments.faults.ledger_faults import book_faults, small_run
from edgecmd.experiments.faults.loss_faults import loss_faults
from edgecmd.experiments.faults.planted import Fault, Outcome, outcomes
from edgecmd.experiments.faults.run_faults import draw_faults, run_faults
from edgecmd.experiments.faults.step_faults import step_faults

TRIES, DRAWS = 24, 200


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
    step = StepEffort(num_draws=DRAWS, spawned=spawned_words())
    return [
        *loss_faults(),
        *book_faults(sound, folder),
        *step_faults(
            sound,
            views,
            check=lambda target: audit_level(target, "check", Effort(num_tries=TRIES)),
            step=lambda target: audit_level(target, "step", step),
        ),
        *draw_faults(sound),
        *run_faults(folder / "runs"),
    ]
