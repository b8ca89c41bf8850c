"""The server and sites of some kits as processes of this machine, which end together."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgecmd.core.errors import FederationError
from server.deploy.kits import SERVER, SITES
from server.deploy.link import environment, link_of, live_link
from server.deploy.texts import LOOPBACK, NODE_PORT_VARIABLE

START_S, STOP_S = 120.0, 10.0


@contextmanager
def running(kits: Path, sites: list[str], *, logs: Path) -> Iterator[Callable[[], None]]:
    """The server and sites of some kits, started by their own scripts; they end with the block.

    Args:
        kits: Of one federation.
        sites: Names of those to start.
        logs: Folder for what they print.

    Yields:
        Function that raises FederationError once one of them has ended by itself.

    Raises:
        FederationError: The server does not answer in time; the message has the last of its log.
    """
    link = link_of(kits / SERVER)
    with ExitStack() as stack:
        server = start_kit(kits / SERVER, logs / "server.log")
        stack.callback(stop, server)
        wait_for_server(server, kits / SERVER, log=logs / "server.log")
        # Before the nodes: an unknown key is refused for good.
        link.register()
        started = {"server": server}
        for site in sites:
            started[site] = start_kit(kits / SITES / site, logs / f"{site}.log", port=free_port())
            stack.callback(stop, started[site])

        def look() -> None:
            for name, process in started.items():
                if process.poll() is not None:
                    raise _ended(name, f"ended with {process.returncode}", logs / f"{name}.log")

        yield look


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return int(one.getsockname()[1])


def start_kit(kit: Path, log: Path, *, port: int = 0) -> "subprocess.Popen[bytes]":
    """Start a kit by its own script, in a process group of its own.

    Args:
        kit: Of the server, or of a site.
        log: For what it prints.
        port: Of loopback, for a site's SuperNode.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    env = environment(kit / "state" / "flower") | ({NODE_PORT_VARIABLE: str(port)} if port else {})
    words = [str((kit / "start.sh").resolve())]
    with log.open("wb") as file:
        return subprocess.Popen(
            words, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a program and whatever it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def wait_for_server(server: "subprocess.Popen[bytes]", kit: Path, *, log: Path) -> None:
    """Wait until a SuperLink that was started answers.

    Args:
        server: Its process.
        kit: Of the server.
        log: What it prints.

    Raises:
        FederationError: It ended, or does not answer in time; the message has the last of its log.
    """
    end = time.monotonic() + START_S
    while True:
        try:
            live_link(kit)
        except FederationError as error:
            late = time.monotonic() > end
            if server.poll() is None and not late:
                time.sleep(0.3)
                continue
            what = f"did not answer in {START_S:.0f} s" if late else f"ended with {server.returncode}"
            raise _ended("server", what, log) from error
        return


def _ended(name: str, what: str, log: Path) -> FederationError:
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
    return FederationError(f"{name} {what}. The last of {log}: {' | '.join(last) or 'nothing'}")
