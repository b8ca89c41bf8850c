"""The command line, killed and interrupted in the middle of rounds, ends with the bytes of a calm run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgecmd.cli import main
from edgecmd.config.assemble import start_run
from edgecmd.config.provenance import Provenance, write_provenance
from edgecmd.core.events import read_events
from server.loop import RoundReport
from tests.command_line import edgecmd, run, take_interrupts
from tests.tiny_federation import run_of, settings_of, simulate, tiny_config

ROOT = Path(__file__).parents[2]
NUM_ROUNDS = 6
CHANGES = [
    "distill.keep_optimizer=true",
    'federation.strategy="fedadam"',
    "federation.server_learning_rate=0.1",
    f"federation.num_rounds={NUM_ROUNDS}",
    "federation.local_steps=2",
]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


# The command line; it stops itself once a file ``pattern`` is there, so that nobody has to be quick.
STOPPING = """
import os, signal, sys
from pathlib import Path
from edgecmd.cli import main

pattern, rename = sys.argv.pop(1), os.replace

def replace(source, target):
    rename(source, target)
    if Path(target).match(pattern):
        os.kill(os.getpid(), signal.SIGSTOP)

os.replace = replace
main()
"""


def start(*words: str, stop_at: str = "") -> subprocess.Popen[str]:
    program = ["-c", STOPPING, stop_at] if stop_at else ["-m", "edgecmd"]
    return subprocess.Popen(
        [sys.executable, *program, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=take_interrupts,
    )


def simulation(pairs: Path, out: Path, changes: Sequence[str]) -> list[str]:
    return ["simulate", *(word for one in [*settings_of(pairs, out), *changes] for word in ("--set", one))]


def wait_until_stopped(process: subprocess.Popen[str]) -> None:
    """Wait until the process has stopped itself."""
    seen = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert seen is not None
    assert seen.si_code == os.CLD_STOPPED, process.communicate()


def end_by(process: subprocess.Popen[str], kind: int) -> tuple[str, str]:
    """Send signal ``kind`` once the process has stopped itself; return the output."""
    wait_until_stopped(process)
    process.send_signal(kind)
    process.send_signal(signal.SIGCONT)
    return process.communicate()


def rounds_logged(folder: Path) -> list[int]:
    return [event["round"] for event in read_events(folder / "events.jsonl", kind="round")]


def test_killed_twice_and_interrupted_once(pairs: Path, tmp_path: Path) -> None:
    simulate(tiny_config(pairs, tmp_path / "calm", *CHANGES))
    expected = (tmp_path / "calm" / "tiny" / "student.safetensors").read_bytes()
    folder = tmp_path / "runs" / "tiny"

    # In round 1, before there is any checkpoint of a finished round: client 1 has just ended its work.
    settings = simulation(pairs, tmp_path / "runs", CHANGES)
    process = start(*settings, stop_at="clients/*/client-0001/round-000001.state")
    end_by(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert rounds_logged(folder) == []

    # In the middle of round 3.
    process = start("resume", str(folder), stop_at="clients/*/client-0002/round-000003.state")
    end_by(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert rounds_logged(folder) == [1, 2]
    assert not (folder / "student.safetensors").exists()

    # Ctrl-C in the middle of round 5.
    process = start("resume", str(folder), stop_at="clients/*/client-0000/round-000005.state")
    _, err = end_by(process, signal.SIGINT)
    assert process.returncode == 130
    assert "Stopped. Finished work is saved" in err
    assert "Traceback" not in err

    done = edgecmd("resume", str(folder), folder=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Student: " in done.stdout
    assert (folder / "student.safetensors").read_bytes() == expected
    assert rounds_logged(folder) == list(range(1, NUM_ROUNDS + 1))
    assert all(json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines())
    assert not list(folder.glob("checkpoints/*.partial"))


def test_a_missed_quorum_ends_with_code_5_and_names_client_and_stage(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client's state is damaged and every client is needed; the message says what to delete."""
    config = tiny_config(pairs, tmp_path, "distill.keep_optimizer=true", "federation.min_clients=4")

    def stop(_: RoundReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(config, report=stop)
    (state,) = (tmp_path / "tiny" / "clients").glob("*/client-0002/round-000001.state")
    state.write_bytes(b"damaged")
    monkeypatch.setattr(sys, "argv", ["edgecmd", "resume", str(tmp_path / "tiny")])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == 5, err
    for words in (
        "edgecmd: Round 2: 3 usable replies, federation.min_clients=4.",
        "4 clients were asked: 1 x ClientError: client 2, stage distil: FederationError: ",
        f"delete the folder {state.parent}",
        "(node 102).",
    ):
        assert words in err
    assert "Traceback" not in err


def test_a_second_process_is_refused_at_once_and_the_first_goes_on(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first stands still in round 2 while the others try; each of its rounds is then logged once."""
    folder = tmp_path / "runs" / "tiny"
    words = simulation(pairs, tmp_path / "runs", CHANGES)
    first = start(*words, stop_at="clients/*/client-0001/round-000002.state")
    wait_until_stopped(first)
    try:
        files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for others in (words, ["run", *words[1:]], ["run", "--fresh", *words[1:]], ["resume", str(folder)]):
            assert run(monkeypatch, *others) == 5
            err = capsys.readouterr().err
            assert f"{folder} is in use by process {first.pid}." in err
            assert "Traceback" not in err
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    finally:
        first.send_signal(signal.SIGCONT)
    _, err = first.communicate()
    assert first.returncode == 0, err
    assert rounds_logged(folder) == list(range(1, NUM_ROUNDS + 1))
    assert run(monkeypatch, "resume", str(folder)) == 0
    assert rounds_logged(folder) == list(range(1, NUM_ROUNDS + 1))


def test_a_run_of_flower_is_not_resumed_here(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(pairs, tmp_path)
    folder = start_run(run_of(config))
    write_provenance(folder, Provenance(runtime="flower", nodes=3, nodes_with_own_pairs=3))
    words = [word for one in settings_of(pairs, tmp_path) for word in ("--set", one)]
    for command in (["resume", str(folder)], ["simulate", *words], ["run", *words]):
        assert run(monkeypatch, *command) == 5
        err = capsys.readouterr().err
        assert "the pairs of 3 of its 3 clients are stored on their nodes" in err
        assert f'flwr run . <federation> --run-config \'out="{tmp_path}" name="tiny"' in err
        assert "data.path" not in err
    assert not (folder / "events.jsonl").exists()
    assert not (folder / "pipeline.json").exists()


@pytest.mark.parametrize("text", ["{}", "[]", "3", "null", '{"baselines": "no"}', '{"baselines": 1}'])
def test_a_damaged_pipeline_file_is_an_error_with_the_way_out(
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
) -> None:
    folder = start_run(run_of(tiny_config(pairs, tmp_path)))
    (folder / "pipeline.json").write_text(text)
    assert run(monkeypatch, "resume", str(folder)) == 4
    err = capsys.readouterr().err
    assert f"{folder / 'pipeline.json'} is damaged" in err
    assert '{"baselines": true}' in err
    assert "nexpected" not in err
    assert not (folder / "events.jsonl").exists()


def test_fresh_begins_anew_and_keeps_nothing(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(pairs, tmp_path)
    folder = start_run(run_of(config))
    (folder / "checkpoints").mkdir()
    write_provenance(folder, Provenance(runtime="flower", nodes=3, nodes_with_own_pairs=3))
    words = [word for one in settings_of(pairs, tmp_path) for word in ("--set", one)]
    stopped: list[Path] = []

    def stop(*_: object, **__: object) -> None:
        stopped.extend(folder.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("server.simulate.simulate", stop)
    assert run(monkeypatch, "run", "--fresh", "--no-baselines", *words) == 130
    names = {path.name for path in stopped}
    assert names == {".lock", ".owner", "config.toml", "environment.json", "pipeline.json"}
