"""Being taken down: settings in place of a task."""

from typing import TYPE_CHECKING, Any

import numpy as np

from edgecmd.config.schema import RunConfig

if TYPE_CHECKING:
    from edgecmd.config.assemble import Assembly
    from edgecmd.data.experiment import Experiment
    from edgecmd.data.pairs import PairedData
    from edgecmd.models.teachers import Teacher
    from edgecmd.run import Run
    from edgecmd.settings import DataConfig
    from edgecmd.training.distill import LocalData
    from edgecmd.training.task import Holding, Task

_MADE: "list[Assembly]" = []


def process() -> "Assembly":
    """The one assembly of this process."""
    if not _MADE:
        from edgecmd.config.assemble import Assembly

        _MADE.append(Assembly())
    return _MADE[0]


def task_of(config: RunConfig) -> "Task":
    """The task."""
    return process().task(config)


def experiment(config: "DataConfig") -> "Experiment":
    """The experiment."""
    return process().experiment(config)


def teacher_of(config: RunConfig) -> "Teacher":
    """The teacher."""
    return process().teacher(config)


def client_rows(config: RunConfig) -> tuple[np.ndarray, ...]:
    """The parts of the clients."""
    return process().run(config).parts


def client_part(config: RunConfig, client: int) -> np.ndarray:
    """One of them."""
    return process().run(config).part(client)


def client_pairs(config: RunConfig, client: int) -> "tuple[PairedData, tuple[str, ...]]":
    """Pairs of one client of a simulation and their ids."""
    return task_of(config).training_pairs(client_part(config, client))


def client_holding(config: RunConfig, client: int) -> "Holding":
    """What one client holds."""
    return run_of(config).holding(client)


def training_data(config: RunConfig, rows: np.ndarray) -> "LocalData":
    """Training pairs at ``rows``."""
    return task_of(config).local_data(rows)


def training_features(config: RunConfig) -> Any:  # noqa: ANN401
    """Teacher features of training pairs."""
    return task_of(config).training_features


def shares_features(_: "Experiment", config: RunConfig) -> bool:
    """Whether copies share a feature."""
    return task_of(config).shares_features


def target_input(config: RunConfig, pairs: "PairedData") -> Any:  # noqa: ANN401
    """Targets as the student sees them."""
    return task_of(config).target_input(pairs.target)


def pair_features(config: RunConfig, pairs: "PairedData", ids: tuple[str, ...]) -> Any:  # noqa: ANN401
    """Teacher features of pairs."""
    return task_of(config).pair_features(pairs, ids)


def place_features(config: RunConfig, images: np.ndarray) -> np.ndarray:
    """Teacher features of places."""
    return task_of(config).place_features(images)


def map_view(config: RunConfig) -> Any:  # noqa: ANN401
    """View of the places."""
    return task_of(config).view


def map_reduction(config: RunConfig) -> Any:  # noqa: ANN401
    """Their reduction."""
    return task_of(config).reduction


def num_places(config: RunConfig) -> int:
    """Places of a pair."""
    return task_of(config).num_places(config.distill)


def ready_pairs(config: RunConfig) -> Any:  # noqa: ANN401
    """Ready features of pairs."""
    return task_of(config).ready[0]


def public_features(config: RunConfig) -> np.ndarray:
    """Teacher features of the public images."""
    return task_of(config).public_features


def public_anchors(config: RunConfig) -> Any:  # noqa: ANN401
    """Anchors."""
    return task_of(config).anchors(config.distill, seed=config.seed)


def anchors_fingerprint(config: RunConfig) -> dict[str, str | int]:
    """Kind, number and digest of the anchors."""
    return task_of(config).anchors_fingerprint(config.distill, seed=config.seed)


def told_to_devices(config: RunConfig) -> dict[str, str]:
    """What devices compare."""
    return task_of(config).told_to_devices()


def teacher_dim(config: RunConfig) -> int:
    """Dimension of the teacher's feature."""
    return task_of(config).teacher_dim


def run_of(config: RunConfig) -> "Run":
    """The run."""
    return process().run(config)
