"""The same student trained in one place, on all pairs at once: the reference for a federation."""

from dataclasses import replace

import numpy as np

from edgecmd.losses import loss_of
from edgecmd.models.students import Student
from edgecmd.run import Run
from edgecmd.training.distill import Place, distil, make_optimizer


def train_central(run: Run) -> Student:
    """Distil on all training pairs in one place.

    As many sequential optimiser steps as a client of the federation makes over all rounds, and as
    many pairs per step as all clients of a round use together.

    Args:
        run: Settings of the federation that is compared with.
    """
    federation = run.federation
    distill = replace(
        run.distill,
        batch_size=run.distill.batch_size * federation.answers_a_round,
        learning_rate=run.distill.central_learning_rate,
    )
    data = run.task.local_data(np.arange(len(run.task.data.train)))
    student, anchors = run.new_student(), run.anchors
    optimizer = make_optimizer(student, distill)
    for index in range(federation.num_rounds):
        place = Place.of_round(federation, seed=run.seed, round_index=index + 1)
        distil(
            student,
            data,
            anchors,
            distill,
            loss=loss_of(distill),
            num_steps=federation.local_steps,
            place=place,
            optimizer=optimizer,
        )
    return student.eval()
