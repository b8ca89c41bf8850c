"""Numbers of a run for TensorBoard, MLflow or Weights & Biases, out of its event log.

Losses, scores, bytes and epsilon go out, under the name of the run folder: no setting, no path, no image.
"""

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from edgecmd.core.artefacts import declare
from edgecmd.core.errors import ConfigError, EdgecmdError, choose
from edgecmd.core.machine import is_of_machine
from edgecmd.core.own_code import told
from edgecmd.core.run_lock import seems_owned
from edgecmd.core.statistics import finite
from edgecmd.evaluation.evaluate import headline
from edgecmd.report.page import strange_files_named
from edgecmd.report.read import RunFiles, read_run

# Takes the name of a number, the number, and the round that it is of.
Log = Callable[[str, float, int], object]
# Unless the user's environment says otherwise, numbers stay on this machine and nothing else is recorded.
DEFAULTS = {
    "MLFLOW_CONFIGURE_LOGGING": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_EXPERIMENT_NAME": "edgecmd",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
    "WANDB_PROJECT": "edgecmd",
    "WANDB_SILENT": "true",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_X_DISABLE_STATS": "true",
    "WANDB_X_SAVE_REQUIREMENTS": "false",
}


def track(folder: Path, tracker: str, *, follow: bool = False, pause_s: float = 2.0) -> int:
    """Send the rounds of a run, and its scores where it has some, to a tracker.

    Args:
        folder: The run folder.
        tracker: A key of `TRACKERS`.
        follow: Whether to wait for more rounds while a process works on the run.
        pause_s: Seconds between two looks.

    Returns:
        Number of rounds that were sent; one that a resumed run repeated is sent once.

    Raises:
        ConfigError: There is no such tracker, it is not installed, or it fails.
        DataError: A file of the folder is damaged.
    """
    opened, sent, goes_on = choose("--to", tracker, TRACKERS), 0, True
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    with _failures_named(tracker), opened(folder) as log:
        while goes_on:
            # Asked before the files are read, so that nothing of the run's end is missed.
            goes_on = follow and seems_owned(folder)
            with strange_files_named(str(folder)):
                run = read_run(folder)
                rounds, scores = _rounds(run), _scores(run)
            for index, values in rounds.items():
                if index > sent:
                    _send(log, values, index)
                    sent = index
            if goes_on:
                time.sleep(pause_s)
        _send(log, scores, sent)
    return len(rounds)


@contextmanager
def _failures_named(tracker: str) -> Iterator[None]:
    """Turn what a library raises into a sentence; errors of the machine pass."""
    try:
        yield
    except Exception as error:
        # Of a server that cannot be reached, a library makes an error without a number.
        is_away = isinstance(error, ConnectionError | TimeoutError) or getattr(error, "errno", 0) is None
        if isinstance(error, EdgecmdError) or (is_of_machine(error) and not is_away):
            raise
        way_out = f"Check the settings of {tracker}, then track again. The run is as it was."
        if isinstance(error, ImportError):
            way_out = f'Install {tracker}: pip install "edgecmd[trackers]".'
        raise ConfigError(f"--to={tracker} failed: {told(error)}. {way_out}") from error


def _send(log: Log, values: Mapping[str, object], index: int) -> None:
    for name, value in values.items():
        if (number := finite(value)) is not None:
            # MLflow takes no @ in a name.
            log(name.replace("@", "_at_"), number, index)


def _rounds(run: RunFiles) -> dict[int, dict[str, object]]:
    """Loss, validation, bytes and, once it is known, epsilon of each finished round."""
    spent = {int(index): value for index, value in run.privacy.get("epsilon_by_round") or ()}
    found = {}
    for event in run.rounds:
        index = int(event["round"])
        values = {"loss": event.get("loss"), "bytes": event.get("bytes"), "epsilon": spent.get(index)}
        validated = {f"validation/{key[4:]}": one for key, one in event.items() if key.startswith("val_")}
        found[index] = values | validated
    return found


def _scores(run: RunFiles) -> dict[str, object]:
    """Scores of the student on the test, and the epsilon of the whole run."""
    values = headline(run.evaluation.get("student") or {})
    return {**{f"test/{name}": one for name, one in values.items()}, "epsilon": run.privacy.get("epsilon")}


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Log]:
    """Event files below ``tensorboard``, in the place of those of an earlier call."""
    writers: Any = importlib.import_module("torch.utils.tensorboard")
    place = folder / "tensorboard"
    declare("tensorboard/events", may_leave=False)
    for old in place.glob("events.out.tfevents.*"):
        old.unlink()
    with writers.SummaryWriter(str(place), flush_secs=2) as writer:
        yield writer.add_scalar


@contextmanager
def _mlflow(folder: Path) -> Iterator[Log]:
    """A new run, where the user's own settings of MLflow say."""
    # Not `mlflow.start_run`, which also records the user, the program and its place.
    client: Any = importlib.import_module("mlflow").MlflowClient()
    name, status = os.environ["MLFLOW_EXPERIMENT_NAME"], "FAILED"
    found = client.get_experiment_by_name(name)
    experiment = client.create_experiment(name) if found is None else found.experiment_id
    run_id = client.create_run(experiment, run_name=folder.resolve().name).info.run_id
    try:
        yield lambda name, value, index: client.log_metric(run_id, name, value, step=index)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)


@contextmanager
def _wandb(folder: Path) -> Iterator[Log]:
    """A new run, which stays on this machine unless WANDB_MODE says otherwise."""
    with importlib.import_module("wandb").init(name=folder.resolve().name) as run:
        yield lambda name, value, index: run.log({name: value}, step=index)


TRACKERS: Mapping[str, Callable[[Path], AbstractContextManager[Log]]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
