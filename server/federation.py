"""A federation from its settings: initial student, rounds, weights and run folder."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from flwr.serverapp import Grid

from edgecmd.assess import validate
from edgecmd.config import RunConfig
from edgecmd.models.students import Student
from edgecmd.runs import new_student, save_student, start_run
from server.loop import Arrays, Federation, RoundReport, run_rounds

Report = Callable[[RoundReport], None]


def quiet_flower() -> None:
    """Leave Flower's warnings and errors, drop its progress lines; edgecmd prints its own."""
    logging.getLogger("flwr").setLevel(logging.ERROR)


def to_arrays(student: Student) -> dict[str, np.ndarray]:
    """Weights as numpy arrays in the order of their names."""
    state = student.state_dict()
    return {name: state[name].contiguous().numpy().copy() for name in sorted(state)}


def load_arrays(student: Student, arrays: Arrays) -> Student:
    """Put weights into ``student`` and return it."""
    student.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
    return student


def federate(grid: Grid, config: RunConfig, *, report: Report | None = None) -> Student:
    """Run or continue the federation of ``config`` and write ``student.safetensors``.

    Args:
        grid: Where the clients are.
        config: Settings; the run folder is ``<out>/<name>``.
        report: Called after each round.

    Raises:
        FederationError: A round missed its quorum, or no checkpoint can be read.
    """
    quiet_flower()
    torch.set_num_threads(1)
    folder = start_run(config)
    student = new_student(config)

    def evaluate(round_index: int, arrays: Arrays) -> dict[str, float]:
        every = config.evaluate.every_rounds
        due = every and (round_index % every == 0 or round_index == config.federation.num_rounds)
        return validate(load_arrays(student, arrays), config) if due else {}

    federation = Federation(
        grid=grid,
        config=config.federation,
        seed=config.seed,
        folder=folder,
        evaluate=evaluate,
        report=report or (lambda _: None),
    )
    load_arrays(student, run_rounds(federation, to_arrays(student)))
    save_student(student, folder / "student.safetensors", config)
    return student
