"""Trackers: numbers alone go out, each round once, and what a library does wrong is one sentence."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.events import EventLog
from edgecmd.core.files import write_json
from edgecmd.experiments import trackers
from edgecmd.experiments.trackers import TRACKERS, track
from tests.command_line import edgecmd

EVALUATION = {"student": {"data": "/secret/pairs", "retrieval": {"recall@1": 0.25}, "clusters": {}}}
Sent = list[tuple[dict[str, float], int]]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `track` sets for a library ends with the test."""
    for name in trackers.DEFAULTS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Three rounds, of which the second is validated and the third was repeated."""
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "config.toml").write_text('name = "first"\n[data]\npath = "/secret/pairs"\n')
    log = EventLog(folder / "events.jsonl")
    for index, fields in ((1, {}), (2, {"val_recall@1": 0.5}), (3, {}), (3, {})):
        log.append("round", round=index, loss=4.0 - index, bytes=1000, clients=3, rejected=[], **fields)
    log.append("stage", name="simulate", seconds=2.0)
    return folder


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What a made-up TensorBoard was given: the name of a number, the number, its round."""
    found: Sent = []

    class SummaryWriter:
        def __init__(self, place: str, *, flush_secs: int) -> None:
            self.place = Path(place)
            self.place.mkdir(exist_ok=True)
            (self.place / f"events.out.tfevents.{len(list(self.place.iterdir()))}.new").write_bytes(b"")

        def __enter__(self) -> "SummaryWriter":
            return self

        def __exit__(self, *_: object) -> None:
            found.append(({}, -1))

        def add_scalar(self, name: str, value: float, index: int) -> None:
            found.append(({name: value}, index))

        def flush(self) -> None: ...

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    return found


ROUNDS = [
    ({"loss": 3.0}, 1),
    ({"bytes": 1000.0}, 1),
    ({"loss": 2.0}, 2),
    ({"bytes": 1000.0}, 2),
    ({"validation/recall_at_1": 0.5}, 2),
    ({"loss": 1.0}, 3),
    ({"bytes": 1000.0}, 3),
]


def test_each_round_goes_out_once_and_the_scores_at_the_end(run_folder: Path, sent: Sent) -> None:
    write_json(run_folder / "evaluation.json", EVALUATION)
    assert track(run_folder, "tensorboard") == 3
    assert sent == [*ROUNDS, ({"test/recall_at_1": 0.25}, 3), ({}, -1)]
    names = [path.name for path in (run_folder / "tensorboard").iterdir()]
    track(run_folder, "tensorboard")
    # In the place of the earlier ones, which TensorBoard would show beside them.
    assert len(list((run_folder / "tensorboard").iterdir())) == len(names) == 1


def test_under_privacy_epsilon_stands_in_for_the_loss(run_folder: Path, sent: Sent) -> None:
    (run_folder / "events.jsonl").unlink()
    log = EventLog(run_folder / "events.jsonl")
    for index in (1, 2):
        log.append("round", round=index, loss=None, num_examples=None, bytes=10, clients=3, rejected=[])
    write_json(run_folder / "privacy.json", {"epsilon": 2.5, "epsilon_by_round": [[1, 1.5], [2, 2.5]]})
    track(run_folder, "tensorboard")
    given = [({"bytes": 10.0}, 1), ({"epsilon": 1.5}, 1), ({"bytes": 10.0}, 2), ({"epsilon": 2.5}, 2)]
    assert sent == [*given, ({"epsilon": 2.5}, 2), ({}, -1)]


def test_it_follows_a_run_to_its_end(run_folder: Path, sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def seems_owned(folder: Path) -> bool:
        """The run ends before the third look, and its last round comes after the question was asked."""
        looks.append(folder)
        if len(looks) < 4:
            EventLog(folder / "events.jsonl").append("round", round=3 + len(looks), loss=0.5, bytes=1)
        return len(looks) < 3

    monkeypatch.setattr(trackers, "seems_owned", seems_owned)
    assert track(run_folder, "tensorboard", follow=True, pause_s=0.0) == 6
    assert len(looks) == 3
    assert [index for values, index in sent if "loss" in values] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_has_ended_is_not_waited_for(run_folder: Path, sent: Sent) -> None:
    assert track(run_folder, "tensorboard", follow=True, pause_s=1e6) == 3


def test_mlflow_gets_a_run_without_a_word_of_the_machine(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []

    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> None:
            calls.append(("experiment", name))

        def create_experiment(self, name: str) -> str:
            return f"id of {name}"

        def create_run(self, experiment: str, *, run_name: str) -> SimpleNamespace:
            calls.append(("run", experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r"))

        def log_metric(self, run_id: str, name: str, value: float, *, step: int) -> None:
            calls.append((run_id, name, value, step))
            if name == "validation/recall_at_1":
                raise ConnectionError("the server is gone")

        def set_terminated(self, run_id: str, status: str) -> None:
            calls.append((run_id, status))

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=MlflowClient))
    with pytest.raises(ConfigError, match=r"--to=mlflow failed: ConnectionError: the server.*as it was\."):
        track(run_folder, "mlflow")
    assert calls[:2] == [("experiment", "edgecmd"), ("run", "id of edgecmd", "first")]
    assert calls[2:] == [
        *(("r", *values, index) for sent, index in ROUNDS[:5] for values in sent.items()),
        ("r", "FAILED"),
    ]
    assert "secret" not in repr(calls)


def test_weights_and_biases_stays_on_this_machine_unless_told(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []
    given: Sent = []

    class Run:
        def __enter__(self) -> "Run":
            return self

        def __exit__(self, *_: object) -> None: ...

        def log(self, values: dict[str, float], *, step: int) -> None:
            given.append((values, step))

    def init(**words: object) -> Run:
        names = ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DISABLE_CODE", "WANDB_X_DISABLE_META")
        asked.append((words, *map(os.environ.get, names)))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    track(run_folder, "wandb")
    assert asked[0] == ({"name": "first"}, "offline", "edgecmd", "true", "true")
    assert given == ROUNDS
    monkeypatch.setenv("WANDB_MODE", "online")
    track(run_folder, "wandb")
    assert asked[1][1] == "online"


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_tracker_that_is_not_there_is_named_with_the_way_out(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in ("torch.utils.tensorboard", "mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    done = edgecmd("track", "first", "--to", name, folder=run_folder.parent)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"--to={name} failed: ModuleNotFoundError" in done.stderr
    assert f'Install {name}: pip install "edgecmd[trackers]".' in done.stderr
    assert not (run_folder / "tensorboard").exists()


def test_the_command_says_whose_the_numbers_are(run_folder: Path, sent: Sent) -> None:
    done = edgecmd("track", "first", "--to", "tensorboard", folder=run_folder.parent)
    assert done.stdout.splitlines() == [
        "Sent 3 rounds of first to tensorboard.",
        "Look at it: tensorboard --logdir first/tensorboard",
    ]
    text = (run_folder / "config.toml").read_text() + '[privacy]\nmechanism = "anchors"\n'
    (run_folder / "config.toml").write_text(text)
    done = edgecmd("track", "first", "--to", "tensorboard", folder=run_folder.parent)
    assert "is for the owner of the run only" in done.stdout.splitlines()[0]
    for words, code, told in (
        (("first", "--to", "tensorbord"), 2, "Did you mean 'tensorboard'?"),
        (("nowhere", "--to", "tensorboard"), 5, "nowhere is not a run folder"),
    ):
        done = edgecmd("track", *words, folder=run_folder.parent)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1)
        assert told in done.stderr


def test_a_file_of_another_kind_is_named(run_folder: Path, sent: Sent) -> None:
    write_json(run_folder / "privacy.json", {"epsilon_by_round": 3})
    with pytest.raises(DataError, match="not as edgecmd writes it"):
        track(run_folder, "tensorboard")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries
class TestReal:
    """The libraries themselves, where they are installed."""

    def test_tensorboard_reads_what_was_written(self, run_folder: Path) -> None:
        events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        write_json(run_folder / "evaluation.json", EVALUATION)
        track(run_folder, "tensorboard")
        read = events.EventAccumulator(str(run_folder / "tensorboard"))
        read.Reload()
        found = {(name, one.step): one.value for name in read.Tags()["scalars"] for one in read.Scalars(name)}
        expected = [*ROUNDS, ({"test/recall_at_1": 0.25}, 3)]
        assert found == {(name, index): value for sent, index in expected for name, value in sent.items()}
        data = b"".join(path.read_bytes() for path in (run_folder / "tensorboard").iterdir())
        assert b"secret" not in data

    def test_mlflow_reads_what_was_written(self, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mlflow = pytest.importorskip("mlflow")
        monkeypatch.chdir(run_folder.parent)
        mlflow.set_tracking_uri(f"sqlite:///{run_folder.parent / 'mlflow.db'}")
        track(run_folder, "mlflow")
        client = mlflow.MlflowClient()
        (run,) = client.search_runs([client.get_experiment_by_name("edgecmd").experiment_id])
        assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
        losses = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")]
        assert losses == [(1, 3.0), (2, 2.0), (3, 1.0)]
        assert not run.data.params
        assert os.fspath(run_folder) not in json.dumps(run.data.tags)
