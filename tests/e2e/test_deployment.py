"""A deployment on this machine (`pytest -m slow`): a SuperLink, three SuperNodes, and one that dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgecmd.config.file_settings import VARIABLE
from edgecmd.core.events import read_events
from edgecmd.core.files import read_json
from edgecmd.privacy.ledger import Ledger
from tests.device_files import make_device
from tests.flower_processes import BIN, answers, environment, flwr, free_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="process groups of POSIX")]

SETTINGS = {
    "name": "deployed",
    "out": "/nowhere",
    "data.image_size": 32,
    "device": "cpu",
    "student.architecture": "ws-50k",
    "distill.batch_size": 16,
    "federation.num_clients": 3,
    "federation.num_rounds": 4,
    "federation.local_steps": 2,
    "federation.deadline_s": 240.0,
    "evaluate.every_rounds": 0,
}


def started(stack: ExitStack, folder: Path, name: str, *words: str) -> "subprocess.Popen[bytes]":
    """One of Flower's programs in a process group of its own, which ends with the test."""
    env = environment(folder / "home") | {VARIABLE: str(folder / "server.toml")}
    log = stack.enter_context((folder / f"{name}.log").open("wb"))
    process = subprocess.Popen(
        [str(BIN / words[0]), *words[1:]], env=env, stdout=log, stderr=log, start_new_session=True
    )
    stack.callback(kill, process)
    return process


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End a program and what it started, as a power cut does."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def deployed(stack: ExitStack, folder: Path, configs: list[str]) -> list["subprocess.Popen[bytes]"]:
    """A SuperLink, and a SuperNode for each node config."""
    port = free_port()
    (folder / "home").mkdir()
    (folder / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n\n[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    (folder / "server.toml").write_text(f'out = "{folder}/runs"\n')
    local = ("--insecure", "--host", "127.0.0.1", "--port")
    started(stack, folder, "superlink", "flower-superlink", *local, str(port))
    wait(lambda: answers(port))
    found = []
    for place, config in enumerate(configs):
        words = (*local, str(free_port()), "--superlink", f"127.0.0.1:{port}", "--node-config", config)
        found.append(started(stack, folder, f"node{place}", "flower-supernode", *words))
    return found


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Three SuperNodes of a simulation that are connected."""
    with ExitStack() as stack:
        yield deployed(stack, tmp_path, [f"partition-id={place} num-partitions=3" for place in range(3)])


def wait(until, seconds: float = 400.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.5)


def newest(home: Path) -> dict[str, str]:
    (run,) = json.loads(flwr(home, "ls", "--format", "json"))["runs"]
    return dict(run)


def test_a_node_that_is_killed_in_a_round_does_not_end_the_run(
    nodes: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    config = " ".join(f"{name}={json.dumps(value)}" for name, value in SETTINGS.items())
    flwr(tmp_path / "home", "run", ".", "--run-config", config)
    folder = tmp_path / "runs" / "deployed"

    def rounds() -> list[dict]:
        return list(read_events(folder / "events.jsonl", kind="round"))

    wait(lambda: len(rounds()) == 1 and b"ROUND 2" in (tmp_path / "node1.log").read_bytes())
    kill(nodes[1])
    wait(lambda: newest(tmp_path / "home")["status"].startswith("finished"))
    assert newest(tmp_path / "home")["status"] == "finished:completed"
    assert [event["round"] for event in rounds()] == [1, 2, 3, 4]
    assert [event["clients"] for event in rounds()] == [3, 2, 2, 2]
    dropped = [(event["round"], one["reason"]) for event in rounds() for one in event["rejected"]]
    ((round_index, reason),) = dropped
    assert round_index == 2
    assert reason.startswith("Error: Node Unavailable")
    expected = {"runtime": "flower", "nodes": 3, "nodes_with_own_pairs": 0}
    assert read_json(folder / "federation.json") == expected
    assert (folder / "student.safetensors").exists()


def test_asynchronous_rounds_take_the_first_answers(
    nodes: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    """Two of three nodes fill a round; one that is killed is missing from the rounds after it."""
    settings = {**SETTINGS, "federation.buffer_size": 2, "federation.num_rounds": 5}
    config = " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
    flwr(tmp_path / "home", "run", ".", "--run-config", config)
    folder = tmp_path / "runs" / "deployed"

    def rounds() -> list[dict]:
        return list(read_events(folder / "events.jsonl", kind="round"))

    wait(lambda: len(rounds()) == 2)
    kill(nodes[1])
    wait(lambda: newest(tmp_path / "home")["status"].startswith("finished"))
    assert newest(tmp_path / "home")["status"] == "finished:completed"
    assert [event["clients"] for event in rounds()] == [2] * 5
    for event in rounds():
        assert len(event["staleness"]) == 2
        assert all(0 <= age < event["round"] for age in event["staleness"])
        assert "simulated_seconds" not in event
    assert max(max(event["staleness"]) for event in rounds()) > 0, "the third node's answer came later"
    assert (folder / "student.safetensors").exists()


def test_devices_with_pairs_of_their_own(tmp_path: Path) -> None:
    """Two answer, one has no ledger; the card does not claim their pairs, and the run stays on Flower."""
    devices = [make_device(tmp_path / f"device{place}", rows=range(20)) for place in range(3)]
    words = ["data.image_size=16", "privacy.mechanism=anchors", "distill.num_anchors=64"]
    private = [word for setting in words for word in ("--set", setting)]
    configs = []
    for place, device in enumerate(devices):
        texts = {name: value for name, value in device.node.items() if name != "public-dir"}
        text = " ".join(f'{name}="{value}"' for name, value in texts.items()) + " max-epsilon=9.0"
        configs.append(text)
        begin = ["--new-ledger"] if place < 2 else []
        done = subprocess.run(
            [sys.executable, "-m", "edgecmd", "node", text, *begin, *private],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    settings = {
        **SETTINGS,
        "data.image_size": 16,
        "federation.num_rounds": 2,
        "privacy.mechanism": "anchors",
        "distill.num_anchors": 64,
    }
    config = " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
    with ExitStack() as stack:
        deployed(stack, tmp_path, configs)
        flwr(tmp_path / "home", "run", ".", "--run-config", config)
        wait(lambda: newest(tmp_path / "home")["status"].startswith("finished"))
        assert newest(tmp_path / "home")["status"] == "finished:completed"
    folder = tmp_path / "runs" / "deployed"
    rounds = list(read_events(folder / "events.jsonl", kind="round"))
    assert [event["clients"] for event in rounds] == [2, 2]
    assert {one["reason"] for event in rounds for one in event["rejected"]} == {"refused: no-ledger"}
    expected = {"runtime": "flower", "nodes": 3, "nodes_with_own_pairs": 3}
    assert read_json(folder / "federation.json") == expected
    counts = [
        Ledger(path, count=device.root / "state" / "rounds" / f"{path.stem}.json").num_rounds()
        for device in devices
        for path in (device.root / "state" / "ledger").glob("*.jsonl")
    ]
    assert counts == [2, 2]
    for command, code in ((["export", str(folder)], 0), (["resume", str(folder)], 5)):
        done = subprocess.run(
            [sys.executable, "-m", "edgecmd", *command],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
    assert "flwr run . <federation>" in done.stderr
    card = (folder / "export" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "3 devices" in card
    assert "2017" not in card
    assert "2,017" not in card
