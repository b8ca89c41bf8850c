"""The run's own training again on a random half of its pairs, so that members and others are exchangeable.

One process, no Flower: clients, local steps, schedule, privacy and averaging are those of the run
(`edgecmd.audits.replayed_federation`).
"""

import numpy as np
from jaxtyping import Bool

from edgecmd.audits.replayed_federation import Replay
from edgecmd.catalogue.strategy_rows import STRATEGIES
from edgecmd.core.errors import ConfigError
from edgecmd.core.progress import Tick
from edgecmd.models.students import Student
from edgecmd.privacy.mechanisms import MECHANISMS
from edgecmd.run import Run
from edgecmd.training.averaging import load_arrays
from edgecmd.training.task import Holding


def check_retrain(run: Run) -> None:
    """Refuse what cannot be trained again in one process.

    Raises:
        ConfigError: The strategy is not a mean, the student is one over rounds, or whole clients are
            protected.
    """
    strategy, mechanism = run.federation.strategy, run.privacy.mechanism
    averages = [name for name, row in STRATEGIES.items() if row.is_mean]
    if strategy not in averages:
        raise ConfigError(
            f"--retrain averages clients ({', '.join(averages)}); federation.strategy={strategy!r} does not."
            " Audit the shipped model without --retrain."
        )
    if run.federation.ema_decay:
        raise ConfigError(
            f"--retrain keeps the last weights, and federation.ema_decay={run.federation.ema_decay:g} made a"
            " mean of those of all rounds. Audit the shipped model without --retrain."
        )
    if mechanism != "none" and MECHANISMS[mechanism].unit != "pair":
        raise ConfigError(
            f"--retrain asks about single pairs, and privacy.mechanism={mechanism!r} protects whole clients."
            " Audit the shipped model without --retrain."
        )


def retrain(run: Run, keep: Bool[np.ndarray, " num"], *, tick: Tick) -> Student:
    """Train as the run did, on the training pairs where ``keep`` holds.

    Args:
        run: Settings of the run.
        keep: Which training pairs take part, (N,).
        tick: Told how many rounds are done.

    Raises:
        ConfigError: See `check_retrain`; or the coins left no client two pairs.
    """
    check_retrain(run)
    student = run.new_student()
    parts = [run.task.local_data(rows[keep[rows]]) for rows in run.parts]
    holdings = [Holding(data=data, anchors=run.anchors) for data in parts]
    replay = Replay(run=run, student=student, holdings=holdings)
    rounds = run.federation.num_rounds
    for index in range(1, rounds + 1):
        replay.round(index)
        tick(index, rounds)
    return load_arrays(student, replay.arrays).eval()
