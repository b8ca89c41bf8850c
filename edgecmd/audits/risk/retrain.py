"""The run's own training again on a random half of its pairs, so that members and others are exchangeable.

One process, no Flower: clients, local steps, schedule, privacy and averaging are those of the run
(`edgecmd.audits.replayed_federation`).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int

from edgecmd.audits.replayed_federation import AVERAGES, Replay, load_weights
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.problem import Holding, client_rows, public_anchors, training_data
from edgecmd.models.students import Student
from edgecmd.privacy.mechanisms import MECHANISMS
from edgecmd.training.run_folder import new_student

Tick = Callable[[int, int], None]


def fair_coins(num: int, *, seed: int) -> Bool[np.ndarray, " num"]:
    """Which of ``num`` pairs take part: independent fair coins."""
    return np.asarray(numpy_generator(seed, "membership-coins").integers(0, 2, num) == 1)


def check_retrain(config: RunConfig) -> None:
    """Refuse what cannot be trained again in one process.

    Raises:
        ConfigError: The strategy is no mean, or whole clients are protected.
    """
    strategy, mechanism = config.federation.strategy, config.privacy.mechanism
    if strategy not in AVERAGES:
        raise ConfigError(
            f"--retrain averages clients ({', '.join(AVERAGES)}); federation.strategy={strategy!r} does not."
            " Audit the shipped model without --retrain."
        )
    if mechanism != "none" and MECHANISMS[mechanism].unit != "pair":
        raise ConfigError(
            f"--retrain asks about single pairs, and privacy.mechanism={mechanism!r} protects whole clients."
            " Audit the shipped model without --retrain."
        )


def retrain(config: RunConfig, keep: Bool[np.ndarray, " num"], *, tick: Tick) -> Student:
    """Train as the run did, on the training pairs where ``keep`` holds.

    Args:
        config: Settings of the run.
        keep: Which training pairs take part, (N,).
        tick: Told how many rounds are done.

    Raises:
        ConfigError: See `check_retrain`; or the coins left no client two pairs.
    """
    check_retrain(config)
    student = new_student(config)
    replay = Replay(
        config=config,
        student=student,
        holdings=[_holding(config, rows[keep[rows]]) for rows in client_rows(config)],
    )
    rounds = config.federation.num_rounds
    for index in range(1, rounds + 1):
        replay.round(index)
        tick(index, rounds)
    load_weights(student, replay.arrays)
    return student.eval()


def _holding(config: RunConfig, rows: Int[np.ndarray, " num"]) -> Holding:
    return Holding(data=training_data(config, rows), anchors=public_anchors(config))
