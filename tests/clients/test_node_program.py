"""The node program: the installed app answers each message, whatever a server sends, in a new process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clients import asking, node_program
from clients.asking import PROGRAM, VARIABLE
from server.deploy.app_bundle import PACKAGE, write_app

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")

EVIL = 'from pathlib import Path\n\nPath("{mark}").write_text("ran")\n\nfrom clients.app import app as app\n'
ROOT = Path(__file__).parents[2]


def python(folder: Path, code: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a fresh process: this one has threads, and is not to be forked."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def write_evil(folder: Path) -> Path:
    """A bundle as Flower keeps it, whose app, whose `clients.work` and whose `edgecmd` leave a mark."""
    app = folder / "home" / "apps" / "edgecmd.edgecmd-app.0.1.0.0badbad0"
    write_app(app)
    mark = folder / "mark"
    (app / PACKAGE / "client_app.py").write_text(EVIL.format(mark=mark))
    for room in ("clients", "edgecmd"):
        (app / room).mkdir()
        (app / room / "__init__.py").write_text(EVIL.format(mark=mark))
        (app / room / "work.py").write_text(EVIL.format(mark=mark))
    return mark


ASK = """
from flwr.supernode.runtime import run_clientapp as runtime
{before}
load = runtime.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
app = load("edgecmd/edgecmd-app", "0.1.0", "0badbad0")
from clients.app import app as installed
print(app is installed, any("0badbad0" in one for one in __import__("sys").path))
"""
GUARDED = """
import flwr.supernode.cli as cli
from clients import node_program
cli.flwr_clientapp = lambda: None
node_program.answer([])
"""


def test_flower_alone_runs_whatever_a_server_sends(tmp_path: Path) -> None:
    """What the node program is for: without it the bundle's code runs. Else the next test shows nothing."""
    mark = write_evil(tmp_path)
    python(tmp_path, ASK.format(before=""), FLWR_HOME=str(tmp_path / "home"))
    assert mark.exists()


def test_a_changed_bundle_is_not_run(tmp_path: Path) -> None:
    mark = write_evil(tmp_path)
    done = python(tmp_path, ASK.format(before=GUARDED), FLWR_HOME=str(tmp_path / "home"))
    assert done.stdout.split() == ["True", "False"], done.stderr
    assert not mark.exists()


LOST = """
import time
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.proto.message_pb2 import ObjectTree
def pulled(object_id):
    raise ObjectUnavailableError(object_id)
node_program.WHOLE_MESSAGE_S = 0.5
node_program.answer([])
from flwr.supernode.runtime.run_clientapp import pull_and_inflate_object_from_tree as pull
try:
    pull(ObjectTree(object_id="part"), pulled, print)
except Exception as error:
    print(type(error).__name__)
"""


def test_a_message_whose_rest_never_comes_is_given_up(tmp_path: Path) -> None:
    """Flower alone asks for two hours, so that a dead SuperLink would leave a process behind at each site."""
    code = GUARDED.replace("node_program.answer([])", "") + LOST
    done = python(tmp_path, code, FLWR_HOME=str(tmp_path / "home"))
    assert done.stdout.split() == ["ObjectPullError"], done.stderr


def test_nothing_is_installed_for_a_bundle(tmp_path: Path) -> None:
    code = """
import sys
import flwr.supernode.cli as cli
from clients import node_program
cli.flwr_clientapp = lambda: print(sys.argv)
node_program.answer(["--token", "x", "--allow-runtime-dependency-installation"])
"""
    assert python(tmp_path, code).stdout.strip() == str([PROGRAM, "--token", "x"])


def test_two_processes_share_no_private_noise(tmp_path: Path) -> None:
    """Noise is drawn once before, as a careless preload might; forked processes must differ even so."""
    code = """
import os, socket, sys
from clients import node_program
from edgecmd.privacy.step.randomness import generator, make_source, normal
source = make_source(deterministic=False, seed=0, round_index=1, client=0)
normal(source, 4)
def answer(words):
    with open(words[0], "w") as file:
        file.write(" ".join(map(repr, normal(source, 4))) + f" {generator(source).initial_seed()}")
node_program.answer = answer
for name in ("one", "two"):
    with socket.socket(socket.AF_UNIX) as asked:
        _, status = os.waitpid(node_program._forked([name], asked), 0)
        assert status == 0
"""
    done = python(tmp_path, code)
    assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name).read_text().split() for name in ("one", "two"))
    assert not set(one[:4]) & set(two[:4])


SERVE = """
import sys
from pathlib import Path
from clients import node_program
def answer(words):
    with open("answered", "a") as file:
        file.write(" ".join(words) + "\\n")
    if words == ["fail"]:
        raise RuntimeError("of the app")
    sys.exit(3)
node_program.answer = answer
Path("own").mkdir(mode=0o700)
sys.exit(node_program.serve(Path("own").resolve(), sys.argv[1:]))
"""


def serve(folder: Path, *command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SERVE, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def node(folder: Path, text: str) -> str:
    """A script in the place of a SuperNode."""
    script = folder / "node"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return str(script)


def test_flowers_program_is_answered_here(tmp_path: Path) -> None:
    """A message is taken by the name that Flower starts, and one that fails does not end the others."""
    script = node(tmp_path, f"{PROGRAM} --token one\n{PROGRAM} fail\n{PROGRAM} --token two 'a b'\nexit 7")
    process = serve(tmp_path, script)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 7
    wait_for(tmp_path / "answered", "two")
    answered = sorted((tmp_path / "answered").read_text().splitlines())
    assert answered == ["--token one", "--token two a b", "fail"], errors


def wait_for(path: Path, word: str) -> None:
    """Processes that answer end by themselves, after whoever asked."""
    end = time.monotonic() + 600
    while not (path.exists() and word in path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_is_no_question_is_not_answered(tmp_path: Path) -> None:
    code = (
        "import os,socket\n"
        "for text in (b'', b'no json\\n', b'{}\\n', b'[1]\\n', b'[\\n', b'\\xff\\n', b'\"' + b'x' * 70000):\n"
        "    one = socket.socket(socket.AF_UNIX); one.settimeout(20)\n"
        f"    one.connect(os.environ['{VARIABLE}'])\n"
        "    try:\n        one.sendall(text); one.shutdown(socket.SHUT_WR); taken = one.recv(9)\n"
        "    except OSError:\n        taken = b''\n"
        "    assert taken == b'', taken\n"
    )
    (tmp_path / "ask.py").write_text(code)
    process = serve(tmp_path, node(tmp_path, f"{sys.executable} {tmp_path / 'ask.py'} && {PROGRAM} well"))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    wait_for(tmp_path / "answered", "well")


def test_a_request_to_stop_reaches_the_node(tmp_path: Path) -> None:
    process = serve(
        tmp_path,
        node(tmp_path, "trap 'echo stopped > end; exit 5' TERM\necho up > up\nwhile :; do sleep 0.05; done"),
    )
    wait_for(tmp_path / "up", "up")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 5
    assert (tmp_path / "end").read_text() == "stopped\n"


def test_a_node_that_is_killed_is_told_by_its_code(tmp_path: Path) -> None:
    process = serve(tmp_path, node(tmp_path, "kill -9 $$"))
    process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("there", [True, False])
def test_without_the_node_program_nothing_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Flower's own program, which runs a server's bundle, never takes its place."""
    if there:
        monkeypatch.setenv(VARIABLE, str(tmp_path / "nobody"))
    else:
        monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(SystemExit, match="edgecmd-node does not answer"):
        asking.main()


def test_the_stand_in_needs_no_other_module(tmp_path: Path) -> None:
    """It starts without site-packages and without what lies in the working folder."""
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    env = node_program.environment(tmp_path)
    done = subprocess.run(
        [PROGRAM, "--token", "x"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "edgecmd-node does not answer" in done.stderr


def test_a_command_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["edgecmd-node"])
    with pytest.raises(SystemExit, match="name the program to run"):
        node_program.main()


def test_every_module_that_is_preloaded_exists() -> None:
    done = python(ROOT, "from clients.node_program import preload; preload()")
    assert done.returncode == 0, done.stderr
    assert json.dumps(sorted(set(node_program.PRELOADED))) == json.dumps(sorted(node_program.PRELOADED))


PRIVATE_RUN = """
[privacy]
mechanism = "anchors"
epsilon = {epsilon}
"""


def test_the_noise_of_a_run_is_worked_out_before_a_message_comes(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(PRIVATE_RUN.format(epsilon=4.0))
    code = """
from pathlib import Path
from clients import node_program
from edgecmd.privacy import accounting
node_program.prepare(Path("run.toml"))
print(accounting.calibrate.cache_info().currsize)
"""
    assert python(tmp_path, code).stdout.strip() == "1"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--run"], "name the program to run"),
        (["--run", "run.toml"], "name the program to run"),
        (["--run", "absent.toml", "true"], "absent.toml"),
        (["--run", "run.toml", "true"], "privacy.epsilon=-1"),
    ],
)
def test_settings_of_a_run_that_cannot_be_used_are_told(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a sentence in place of an exit code, which Python writes to the standard error and ends with 1."""
    (tmp_path / "run.toml").write_text(PRIVATE_RUN.format(epsilon=-1.0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edgecmd-node", *words])
    monkeypatch.setattr(node_program, "preload", lambda: None)
    with pytest.raises(SystemExit) as ended:
        node_program.main()
    assert text in str(ended.value.code)


def test_a_supernode_whose_server_thread_is_left_ends(tmp_path: Path) -> None:
    """Flower's main thread ends where the network breaks in a handshake; another would keep the process."""
    code = """
import threading, time
import flwr.supernode.cli as cli
from clients.node_program import supernode
cli.flower_supernode = lambda: threading.Thread(target=time.sleep, args=(3600,)).start()
supernode()
"""
    assert python(tmp_path, code).returncode == 1


def test_flower_s_supernode_is_started_as_one_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And any other program as it is; each with its own arguments."""
    started: list[list[str]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: list[str], **options: object) -> None:
            started.append(command)
            super().__init__([sys.executable, "-c", ""], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", Noted)
    for place, program in enumerate(("/opt/bin/flower-supernode", "other")):
        folder = tmp_path / str(place)
        folder.mkdir()
        assert node_program.serve(folder, [program, "--port", "9094"]) == 0
    assert started[0][0] == sys.executable
    assert started[0][-2:] == ["--port", "9094"]
    assert "flower-supernode" not in started[0]
    assert started[1] == ["other", "--port", "9094"]
