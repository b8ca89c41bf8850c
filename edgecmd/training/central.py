"""The same student trained in one place, on all pairs at once: the limit that a federation is held to."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgecmd.config.schema import RunConfig
from edgecmd.data.problem import experiment, public_anchors, training_data
from edgecmd.losses import loss_of
from edgecmd.models.students import Student
from edgecmd.training.distill import Place, distil, make_optimizer
from edgecmd.training.run_folder import new_student

Progress = Callable[[int, int, float], None]


def train_central(config: RunConfig, *, progress: Progress | None = None) -> Student:
    """Distil on all training pairs in one place.

    As many sequential optimiser steps as a client of the federation makes over all rounds, and as
    many pairs a step as all clients of a round use together.

    Args:
        config: Settings of the federation that is compared with.
        progress: Called with (steps done, steps in all, mean loss) after each round's worth of steps.
    """
    federation = config.federation
    cohort = max(1, round(federation.num_clients * federation.client_fraction))
    distill = replace(
        config.distill,
        batch_size=config.distill.batch_size * cohort,
        learning_rate=config.distill.central_learning_rate,
    )
    data = training_data(config, np.arange(len(experiment(config.data).train)))
    student, anchors = new_student(config), public_anchors(config)
    optimizer = make_optimizer(student, distill)
    for index in range(federation.num_rounds):
        place = Place.of_round(config, round_index=index + 1)
        loss = distil(
            student,
            data,
            anchors,
            distill,
            loss=loss_of(distill),
            num_steps=federation.local_steps,
            place=place,
            optimizer=optimizer,
        )
        if progress is not None:
            progress(place.first_step + federation.local_steps, place.total_steps, loss)
    return student.eval()
