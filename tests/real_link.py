"""A federation from its kits over TLS on loopback, for tests that break it: three sites, one behind a proxy.

Everything is started by the kits' own scripts through `server.deploy`; here is only what does harm.
"""

import logging
import os
import resource
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from clients.check import check_node
from edgecmd.config.reader import read_flat, unflatten
from edgecmd.core.errors import EdgecmdError
from edgecmd.core.events import FILE, read_events
from edgecmd.datasets.sample import write_sample
from edgecmd.privacy.ledger import Ledger
from server.deploy.description import read_deployment
from server.deploy.followed_run import run_federation
from server.deploy.kit_processes import free_port, start_kit, stop, wait_for_server
from server.deploy.kits import SERVER, SITES, make_kits
from server.deploy.link import Link, link_of
from server.deploy.texts import LOOPBACK, RESTART_DELAY_S

LOG = logging.getLogger("tests.real_link")
NAMES = ("east", "north", "south")
BEHIND_PROXY = "south"
PATIENCE_S = 900.0
DESCRIPTION = """\
name = "faults"
[server]
address = "localhost:{port}"
out = "{folder}/runs"
[run]
data.image_size = 16
student.architecture = "ws-50k"
federation.num_rounds = 2
federation.local_steps = 2
federation.min_clients = 3
distill.batch_size = 8
distill.num_anchors = 16
evaluate.every_rounds = 0
"""
SITE = """\
[[site]]
name = "{name}"
data-dir = "{folder}/pairs/{name}"
state-dir = "{folder}/state/{name}"
"""
# The noise is fixed, so that epsilon adds up over the runs of a test instead of filling the budget in one.
PRIVATE = {"privacy.mechanism": "anchors", "privacy.noise_multiplier": 2.0, "privacy.epsilon": 500.0}


def until(found: Callable[[], Any], what: str, *, seconds: float = PATIENCE_S, every_s: float = 0.2) -> Any:
    """What ``found`` returns, once it is something."""
    end = time.monotonic() + seconds
    while not (one := found()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain: {what}"
        time.sleep(every_s)
    return one


class Proxy:
    """Passes TCP connections on; cut, it swallows nothing and passes nothing on, as a broken line does."""

    def __init__(self, port: int) -> None:
        self.port, self._target, self._open = free_port(), port, threading.Event()
        self._open.set()
        self._server = socket.create_server((LOOPBACK, self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    def close(self) -> None:
        self.heal()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._carry, args=(connection,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near, suppress(OSError):
            self._open.wait()
            with socket.create_connection((LOOPBACK, self._target)) as far:
                other = {near: far, far: near}
                while True:
                    for one in select.select([near, far], [], [])[0]:
                        data = one.recv(1 << 16)
                        self._open.wait()
                        if not data:
                            return
                        other[one].sendall(data)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `edgecmd deploy run` came to."""

    code: int
    text: str
    rounds: list[dict[str, Any]]

    @property
    def clients(self) -> list[int]:
        return [one["clients"] for one in self.rounds]

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(one["round"], dropped["reason"]) for one in self.rounds for dropped in one["rejected"]]


@dataclass(kw_only=True)
class RealLink:
    """The kits and programs of a federation of `NAMES` in ``folder``."""

    folder: Path
    programs: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port, self._beside = free_port(), ThreadPoolExecutor(max_workers=1)
        self.proxy, self._of_before = Proxy(self.port), set[int]()
        sites = "".join(SITE.format(name=name, folder=self.folder) for name in NAMES)
        text = DESCRIPTION.format(port=self.port, folder=self.folder) + sites
        (self.folder / "federation.toml").write_text(text)
        make_kits(read_deployment(self.folder / "federation.toml"), self.kits, link_port=self.port)
        for file in ("start.sh", "kit.json"):
            path = self.kit(BEHIND_PROXY) / file
            path.write_text(path.read_text().replace(f":{self.port}", f":{self.proxy.port}"))
        self.settings = read_flat(self.kit(SERVER) / "run.toml")
        for name in NAMES:
            write_sample(self.folder / "pairs" / name, num=40)
            config = unflatten(self.settings | PRIVATE)
            check_node(read_flat(self.kit(name) / "node.toml"), config, new_ledger=True)

    @property
    def kits(self) -> Path:
        return self.folder / "kits"

    def kit(self, name: str) -> Path:
        return self.kits / SERVER if name == SERVER else self.kits / SITES / name

    @property
    def link(self) -> Link:
        return link_of(self.kit(SERVER))

    def log(self, name: str) -> str:
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        port = 0 if name == SERVER else free_port()
        self.programs[name] = start_kit(self.kit(name), self.folder / "logs" / f"{name}.log", port=port)
        return self.programs[name]

    def start_server(self) -> None:
        wait_for_server(self.start(SERVER), self.kit(SERVER), log=self.folder / "logs" / f"{SERVER}.log")
        self.link.register()

    def is_running(self, name: str) -> bool:
        return name in self.programs and self.programs[name].poll() is None

    def supervised(self, name: str) -> int:
        """Start a site until Flower takes it in, with the delay of its unit; how often it took."""
        for attempt in range(1, 8):
            if not self.is_running(name):
                self.start(name)
            until(
                lambda: "SuperNode ID" in self.log(name) or not self.is_running(name), f"{name} is taken in"
            )
            if self.is_running(name):
                return attempt
            LOG.info("%s ended with %s; again in a minute", name, self.programs[name].returncode)
            time.sleep(RESTART_DELAY_S)
        raise AssertionError(f"{name} is not taken in: {self.log(name)[-2000:]}")

    def ensure(self) -> None:
        """Everything is running and every site online; what ended is started again."""
        self.proxy.heal()
        if not self.is_running(SERVER):
            self.start_server()

        def all_here() -> bool:
            ended = [name for name in NAMES if not self.is_running(name)]
            for name in ended:
                self.start(name)
            for name in ended:
                LOG.info("%s is taken in at attempt %d", name, self.supervised(name))
            return self.online() == set(NAMES)

        until(all_here, "all sites are online", every_s=1.0)

    def online(self) -> set[str]:
        """Sites that the SuperLink takes for online; read from its database, which asks no program."""
        found = self._select(
            f"SELECT name FROM node WHERE status = 'online' AND online_until > {time.time()}"
        )
        return {name for (name,) in found}

    def quit(self, name: str) -> None:
        """Ask a program to end, as a service manager does."""
        stop(self.programs[name])

    def kill(self, name: str) -> None:
        """End a program and what it started, as a power cut does."""
        for process in [*self.processes(name), self.programs[name].pid]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.programs[name].wait()

    def processes(self, name: str) -> list[int]:
        """Processes below a program, the nearest first."""
        found = [self.programs[name].pid]
        for one in found:
            found += children(one)
        return found[1:]

    def answering(self, name: str) -> int:
        """The process of a site that is answering a message now; 0 for none."""
        return next((one for one in self._forked(name) if one not in self._of_before), 0)

    def _forked(self, name: str) -> list[int]:
        program = self.programs[name].pid
        own = words_of(program)
        return [one for one in children(program) if words_of(one) == own]

    def next_answering(self, name: str) -> int:
        """The next process of a site that answers a message, once it is there; the last may linger."""
        before = set(self._forked(name))
        return int(
            until(
                lambda: next((one for one in self._forked(name) if one not in before), 0),
                f"{name} at work",
                every_s=0.02,
            )
        )

    def server_app(self) -> int:
        return next((one for one in self.processes(SERVER) if "flwr-serverapp" in words_of(one)), 0)

    def pause(self, *pids: int) -> None:
        # Zero would be this process and all around it.
        assert all(pid > 1 for pid in pids)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

    def resume(self, *pids: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def limit_files(self, name: str, num_bytes: int) -> None:
        """Let a site's processes of the future write no larger file: the disk is full for them."""
        hard = resource.prlimit(self.programs[name].pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self.programs[name].pid, resource.RLIMIT_FSIZE, (num_bytes, hard))

    def train_messages(self) -> list[bool]:
        """Of each training message at the SuperLink, whether its node has taken it."""
        found = self._select("SELECT delivered_at FROM message_ins WHERE message_type = 'train'")
        return [bool(taken) for (taken,) in found]

    def num_replies(self) -> int:
        return len(self._select("SELECT 1 FROM message_res WHERE message_type = 'train'"))

    def _select(self, words: str) -> list[tuple[Any, ...]]:
        uri = f"file:{self.kit(SERVER) / 'state/link.db'}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as one, suppress(sqlite3.OperationalError):
            return one.execute(words).fetchall()
        return []

    def describe(self, name: str, *, private: bool = False, **changes: object) -> None:
        """Make ``name`` the run that is submitted next."""
        given = {f"federation.{key}": value for key, value in changes.items()}
        settings = self.settings | (PRIVATE if private else {}) | given | {"name": name}
        (self.kit(SERVER) / "run.toml").write_text(tomli_w.dumps(settings))

    def begin(self, name: str, *, command: bool = False) -> "Future[Outcome]":
        """Submit the described run and follow it beside the test: here, or by `edgecmd deploy run`.

        The command also audits and exports what ended well, which takes longer than a few rounds.
        """
        # What waits for the rest of a dead server's message answers nothing of this run.
        self._of_before = {pid for one in NAMES if self.is_running(one) for pid in self._forked(one)}
        return self._beside.submit(self._commanded if command else self._followed, name)

    def _commanded(self, name: str) -> Outcome:
        done = self.edgecmd("run", str(self.kit(SERVER)))
        return self._outcome(name, done.returncode, done.stdout + done.stderr)

    def _followed(self, name: str) -> Outcome:
        lines: list[str] = []
        try:
            run_federation(self.kit(SERVER), say=lines.append)
        except EdgecmdError as error:
            return self._outcome(name, error.exit_code, "\n".join([*lines, str(error)]))
        return self._outcome(name, 0, "\n".join(lines))

    def _outcome(self, name: str, code: int, text: str) -> Outcome:
        outcome = Outcome(code=code, text=text, rounds=self.rounds(name))
        LOG.info("%s: exit %d, %s %s\n%s", name, outcome.code, outcome.clients, outcome.reasons, text)
        return outcome

    def rounds(self, name: str) -> list[dict[str, Any]]:
        return list(read_events(self.folder / "runs" / name / FILE, kind="round"))

    def undisturbed(self, name: str, *, look: Callable[[], None] = lambda: None, **changes: object) -> bytes:
        """Final student of a plain run in which nothing is broken."""
        self.describe(name, **changes)
        folder = run_federation(self.kit(SERVER), say=LOG.info, look=look)
        assert {one["clients"] for one in self.rounds(name)} == {len(NAMES)}
        return (folder / "student.safetensors").read_bytes()

    def edgecmd(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "edgecmd", "deploy", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def ledger(self, name: str) -> Ledger:
        state = self.folder / "state" / name
        (path,) = (state / "ledger").glob("*.jsonl")
        return Ledger(path, count=state / "rounds" / f"{path.stem}.json")

    def counted(self, name: str, run: str) -> Counter[int]:
        """How often a site's ledger counts each round of a run; reading it checks its chain and its count."""
        token = (self.folder / "runs" / run / "token").read_text().strip()
        lines = self.ledger(name).read().lines
        return Counter(
            int(str(line["round"])) for line in lines if line["kind"] == "spend" and line["run"] == token
        )

    def close(self) -> None:
        """Everything ends, and nothing is left behind."""
        self.proxy.close()
        self._beside.shutdown(wait=False)
        for name in [*NAMES, SERVER]:
            if name in self.programs:
                self.quit(name)


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started and that are there."""
    try:
        return [
            int(one)
            for thread in Path(f"/proc/{pid}/task").iterdir()
            for one in (thread / "children").read_text().split()
        ]
    except OSError:
        return []


def words_of(pid: int) -> str:
    """Command of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def resident_kb(pid: int) -> int:
    """Memory of a process that is resident, in kB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))


def of_folder(folder: Path) -> Mapping[int, str]:
    """Processes whose command names ``folder``."""
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return {pid: words for pid in pids if str(folder) in (words := words_of(pid))}
