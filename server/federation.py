"""A federation from its settings: initial student, rounds, weights and run folder."""

import logging
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from flwr.serverapp import Grid

from edgecmd.artefacts import write_artefact
from edgecmd.assess import validate
from edgecmd.config import RunConfig
from edgecmd.models.students import Student
from edgecmd.privacy.plan import make_plan
from edgecmd.runs import new_student, start_run, student_bytes
from server.client_privacy import central_privacy
from server.loop import Arrays, Federation, RoundReport, run_rounds
from server.privacy_report import write_privacy
from server.strategies import build_strategy

Report = Callable[[RoundReport], None]


def quiet_flower() -> None:
    """Leave Flower's warnings and errors, drop its progress lines; edgecmd prints its own."""
    logging.getLogger("flwr").setLevel(logging.ERROR)


def to_arrays(student: Student) -> dict[str, np.ndarray]:
    """Weights as numpy arrays in the order of their names."""
    state = student.state_dict()
    return {name: state[name].cpu().contiguous().numpy().copy() for name in sorted(state)}


def load_arrays(student: Student, arrays: Arrays) -> Student:
    """Put weights into ``student`` and return it."""
    student.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
    return student


def run_token(folder: Path) -> str:
    """Random name of the run in ``folder``, made once: 16 hexadecimal digits, the same after a resume.

    A client keeps its optimiser's state under it, so that another run never finds this one's state.
    """
    file = folder / "token"
    if not file.exists():
        write_artefact(folder, "token", secrets.token_hex(8), may_leave=False)
    return file.read_text(encoding="ascii").strip()


def federate(grid: Grid, config: RunConfig, *, report: Report | None = None) -> Student:
    """Run or continue the federation of ``config`` and write ``student.safetensors``.

    Args:
        grid: Where the clients are.
        config: Settings; the run folder is ``<out>/<name>``.
        report: Called after each round.

    Raises:
        ConfigError: A setting of the strategy is wrong; nothing is written then.
        FederationError: A round missed its quorum, or no checkpoint can be read.
        PrivacyError: The settings do not earn a guarantee, or every budget was spent beforehand.
    """
    quiet_flower()
    torch.set_num_threads(1)
    strategy, plan = build_strategy(config), make_plan(config)
    folder = start_run(config)
    token = run_token(folder)
    student = new_student(config)

    def evaluate(round_index: int, arrays: Arrays) -> dict[str, float]:
        every = config.evaluate.every_rounds
        due = every and (round_index % every == 0 or round_index == config.federation.num_rounds)
        return validate(load_arrays(student, arrays), config) if due else {}

    federation = Federation(
        grid=grid,
        config=config.federation,
        strategy=strategy,
        token=token,
        seed=config.seed,
        folder=folder,
        evaluate=evaluate,
        report=report or (lambda _: None),
        central=central_privacy(plan, config, token=token),
        private=plan is not None,
    )
    load_arrays(student, run_rounds(federation, to_arrays(student)))
    write_artefact(folder, "student.safetensors", student_bytes(student, config), may_leave=True)
    if plan is not None:
        write_privacy(plan, config, folder)
    return student
