"""A made-up data set of noise images and a federation on it that runs in a fraction of a second."""

from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from edgecmd.audits.target import Target
from edgecmd.config import targets
from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.models.students import Student
from edgecmd.privacy.plan import PrivacyPlan, Sections, make_plan
from edgecmd.run import Run
from edgecmd.training.task import Task
from server import federation
from server import simulate as simulation
from server.strategies import build_strategy

NUM_PAIRS = 60
SIDE = 16
NUM_CLIENTS = 4


def write_pairs(path: Path, *, num_pairs: int = NUM_PAIRS) -> Path:
    """Write an .npz of pairs with labels, and public images, all noise."""
    noise = np.random.default_rng(7)
    np.savez(
        path,
        source=noise.integers(0, 256, (num_pairs, SIDE, SIDE, 3), dtype=np.uint8),
        target=noise.integers(0, 256, (num_pairs, SIDE, SIDE, 1), dtype=np.uint8),
        public=noise.integers(0, 256, (24, SIDE, SIDE, 3), dtype=np.uint8),
        label=np.array([f"class-{row % 5}" for row in range(num_pairs)]),
    )
    return path


def settings_of(pairs: Path, out: Path) -> list[str]:
    """Overrides of the tiny federation."""
    return [
        'data.name="folder"',
        f'data.path="{pairs}"',
        f"data.image_size={SIDE}",
        "data.strict=false",
        'student.architecture="ws-50k"',
        'device="cpu"',
        "distill.batch_size=8",
        "distill.num_anchors=16",
        f"federation.num_clients={NUM_CLIENTS}",
        "federation.num_rounds=3",
        "federation.local_steps=2",
        "evaluate.every_rounds=0",
        f'out="{out}"',
        'name="tiny"',
    ]


def tiny_config(pairs: Path, out: Path, *changes: str) -> RunConfig:
    """Settings of the tiny federation."""
    return load_config(None, [*settings_of(pairs, out), *changes])


TESTED = Assembly()


def simulate(config: RunConfig, **options: object) -> Student:
    """The federation of ``config`` in this process, see `server.simulate.simulate`."""
    return simulation.simulate(TESTED.run(config), **options)  # type: ignore[arg-type]


def federate(grid: Grid, config: RunConfig, **options: object) -> Student:
    """The same over another grid, see `server.federation.federate`."""
    return federation.federate(grid, TESTED.run(config), **options)  # type: ignore[arg-type]


def contexts(config: RunConfig) -> dict[int, Context]:
    """Contexts of its clients."""
    return simulation.contexts(TESTED.run(config))


def strategy_of(config: RunConfig) -> FedAvg:
    """The strategy of ``config``."""
    return build_strategy(config.federation, proximal_mu=config.distill.proximal_mu)


def find_target(path: Path, *, config: RunConfig | None = None) -> Target:
    """What an audit looks at, see `edgecmd.config.targets.find_target`."""
    return targets.find_target(path, config=config, assembly=TESTED)


def run_of(config: RunConfig) -> Run:
    """The run of ``config``."""
    return TESTED.run(config)


def task_of(config: RunConfig) -> Task:
    """Its task."""
    return TESTED.task(config)


def plan_of(config: RunConfig) -> PrivacyPlan | None:
    """The plan of its privacy, made anew."""
    sections = Sections(
        privacy=config.privacy,
        distill=config.distill,
        federation=config.federation,
        student=config.student,
    )
    return make_plan(sections)
