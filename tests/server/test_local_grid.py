"""The in-process grid, and the parts of Flower below it that are not documented."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from edgecmd.core.errors import MachineError
from server.cohort import CohortGrid
from server.local_grid import RUN_ID, LocalGrid, copy_records, local_grid, set_identity
from server.strategies import to_record
from tests.hand_made import TOKEN, Weights, app_of, contexts, drift, records

WEIGHTS = {"w": np.array([1.0, 2.0], np.float32)}


def to_node(node: int, *, round_index: int = 1, message_type: str = MessageType.TRAIN) -> Message:
    content = RecordDict(
        {
            "arrays": to_record(WEIGHTS),
            "config": ConfigRecord({"server-round": round_index, "run": TOKEN}),
        }
    )
    return Message(content, node, message_type)


def test_flower_still_takes_the_identity_of_a_task() -> None:
    """Without it no message can be made; the setting is not documented."""
    TaskIdentity._run_id = None
    with pytest.raises(RuntimeError, match="run_id is not set"):
        Message(RecordDict({}), 1, "train")
    set_identity()
    message = Message(RecordDict({}), 1, "train")
    assert message.metadata.run_id == RUN_ID
    assert Run.create_empty(RUN_ID).run_id == RUN_ID


def test_flower_still_keeps_the_id_of_a_message_where_the_grid_writes_it() -> None:
    grid = LocalGrid(app_of(drift), contexts(2))
    message = to_node(100)
    assert message.metadata.message_id == ""
    message.metadata.__dict__["_message_id"] = "m1"
    assert message.metadata.message_id == "m1"
    assert Message(RecordDict({}), reply_to=message).metadata.reply_to_message_id == "m1"
    ids = list(grid.push_messages([to_node(100), to_node(101)]))
    replies = list(grid.pull_messages(ids))
    assert [one.metadata.reply_to_message_id for one in replies] == ids
    assert len({one.metadata.message_id for one in replies} - {""}) == 2


def test_replies_are_handed_out_once_and_only_those_asked_for() -> None:
    grid = LocalGrid(app_of(drift), contexts(3))
    first, second = grid.push_messages([to_node(100), to_node(101)])
    assert [one.metadata.src_node_id for one in grid.pull_messages([second])] == [101]
    assert list(grid.pull_messages([second, "unknown"])) == []
    assert [one.metadata.src_node_id for one in grid.pull_messages([first])] == [100]


def test_the_grid_is_a_grid_of_flower() -> None:
    grid = LocalGrid(app_of(drift), contexts(3))
    assert list(grid.get_node_ids()) == [100, 101, 102]
    assert grid.run.run_id == RUN_ID
    other = Run.create_empty(5)
    grid.set_run(other)
    assert grid.run is other
    made = grid.create_message(RecordDict({}), "train", 101, "round-1", 60.0)
    assert (made.metadata.dst_node_id, made.metadata.group_id, made.metadata.ttl) == (101, "round-1", 60.0)


def test_a_cohort_shows_its_own_nodes_and_passes_the_rest_on() -> None:
    grid = LocalGrid(app_of(drift), contexts(3))
    cohort = CohortGrid(grid, [102])
    assert list(cohort.get_node_ids()) == [102]
    assert cohort.run is grid.run
    other = Run.create_empty(5)
    cohort.set_run(other)
    assert grid.run is other
    assert cohort.create_message(RecordDict({}), "train", 102, "g").metadata.dst_node_id == 102
    (reply,) = cohort.pull_messages(cohort.push_messages([to_node(102)]))
    assert reply.metadata.src_node_id == 102
    assert len(list(cohort.send_and_receive([to_node(102)], timeout=600.0))) == 1


def test_an_exception_becomes_the_error_reply_of_a_supernode() -> None:
    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        raise OSError("no disk")

    (reply,) = LocalGrid(app_of(step), contexts(1)).send_and_receive([to_node(100)])
    assert reply.has_error()
    assert reply.error.reason == "OSError: no disk"


def test_ctrl_c_within_a_client_is_not_a_fault_of_the_client() -> None:
    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalGrid(app_of(step), contexts(1)).send_and_receive([to_node(100)])


def test_clients_cannot_change_what_the_others_receive() -> None:
    app, seen = ClientApp(), []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        seen.append((list(message.content), list(arrays), arrays["w"].numpy().tolist()))
        arrays["w"] = Array(np.zeros(9))
        arrays["more"] = Array(np.zeros(1))
        message.content.config_records["config"]["server-round"] = 99
        del message.content["config"]
        return Message(records(WEIGHTS, client=0), reply_to=message)

    content = RecordDict(
        {"arrays": to_record(WEIGHTS), "config": ConfigRecord({"server-round": 1, "run": TOKEN})}
    )
    set_identity()
    messages = [Message(content, node, "train") for node in (100, 101)]
    list(LocalGrid(app, contexts(2)).send_and_receive(messages))
    assert seen == [(["arrays", "config"], ["w"], [1.0, 2.0])] * 2


def test_copied_records_share_no_container() -> None:
    content = RecordDict({"arrays": to_record(WEIGHTS), "config": ConfigRecord({"a": 1})})
    copied = copy_records(content)
    assert copied == content
    copied.config_records["config"]["a"] = 2
    assert content.config_records["config"]["a"] == 1
    assert isinstance(copied["arrays"], ArrayRecord)


def test_a_drill_hits_the_round_and_node_it_names() -> None:
    grid = LocalGrid(
        app_of(drift),
        contexts(2),
        fault=lambda index, node: OSError("drill") if (index, node) == (2, 101) else None,
    )
    for index, failed in ((1, []), (2, [101]), (3, [])):
        replies = grid.send_and_receive([to_node(node, round_index=index) for node in (100, 101)])
        assert [one.metadata.src_node_id for one in replies if one.has_error()] == failed


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with a package ``clients`` whose client sleeps; it is first on the path of new processes."""
    package = tmp_path / "clients"
    package.mkdir()
    (package / "__init__.py").write_text('"""Stand-in."""\n')
    (package / "app.py").write_text(
        "import os, pathlib, time\n"
        "from flwr.app import Message, RecordDict\n"
        "from flwr.clientapp import ClientApp\n"
        "app = ClientApp()\n"
        "def make_app(*, local): return app\n"
        "@app.train()\n"
        "def train(message, context):\n"
        "    folder = pathlib.Path(__file__).parent.parent\n"
        "    (folder / f'{os.getpid()}.pid').write_text('')\n"
        "    time.sleep(3600)\n"
        "    return Message(RecordDict({}), reply_to=message)\n"
    )
    (tmp_path / "main.py").write_text(
        "from flwr.app import Context, Message, RecordDict\n"
        "from flwr.clientapp import ClientApp\n"
        "from server.local_grid import local_grid\n"
        "if __name__ == '__main__':\n"
        "    nodes = {n: Context(1, n, {}, RecordDict(), {}) for n in (100, 101)}\n"
        "    with local_grid(ClientApp(), nodes, num_workers=2) as grid:\n"
        "        list(grid.send_and_receive([Message(RecordDict({}), n, 'train') for n in nodes]))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]))
    return tmp_path


def busy_workers(folder: Path) -> list[int]:
    """Process ids of both workers, once they are in their client."""
    end = time.monotonic() + 12000
    while len(workers := [int(one.stem) for one in folder.glob("*.pid")]) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    return workers


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


@needs_proc
def test_workers_end_with_a_process_that_is_killed(stand_in: Path) -> None:
    process = subprocess.Popen([sys.executable, str(stand_in / "main.py")])
    workers = busy_workers(stand_in)
    process.kill()
    process.wait()
    end = time.monotonic() + 1200
    while any(alive(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.02)
    assert [pid for pid in workers if alive(pid)] == []


@needs_proc
def test_killed_workers_are_an_error_of_the_federation(stand_in: Path) -> None:
    def kill_workers() -> None:
        for pid in busy_workers(stand_in):
            os.kill(pid, signal.SIGKILL)

    with local_grid(ClientApp(), contexts(2), num_workers=2) as grid:
        killer = threading.Thread(target=kill_workers)
        killer.start()
        with pytest.raises(MachineError, match="A worker process was killed.*edgecmd resume"):
            list(grid.send_and_receive([to_node(100), to_node(101)]))
        killer.join()


@needs_proc
def test_workers_that_are_late_are_left_behind(stand_in: Path) -> None:
    """The reply is missing; the worker itself stays with its client until that is done."""
    with local_grid(ClientApp(), contexts(2), num_workers=2) as grid:
        assert list(grid.send_and_receive([to_node(100), to_node(101)], timeout=0.05)) == []
        for pid in busy_workers(stand_in):
            os.kill(pid, signal.SIGKILL)
