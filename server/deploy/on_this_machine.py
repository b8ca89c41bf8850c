"""The whole of a federation on this machine: its kits, its server and its sites, over TLS on loopback."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from clients.check import check_node
from edgecmd.config.reader import read_flat, unflatten
from edgecmd.core.errors import ConfigError, FederationError
from edgecmd.datasets.sample import write_sample
from server.deploy.description import Deployment, Site
from server.deploy.followed_run import run_federation
from server.deploy.kits import SERVER, SITES, make_kits
from server.deploy.link import environment, health, link_of
from server.deploy.texts import LOOPBACK

START_S, STOP_S = 120.0, 10.0
SAMPLE_PAIRS = 60


def try_federation(deployment: Deployment, folder: Path, *, sample: bool, say: Callable[[str], None]) -> Path:
    """Run a federation from its kits on this machine.

    Args:
        deployment: Its server's address becomes a free port of loopback, its folder of runs ``folder/runs``,
            and each site's state ``folder/state/NAME``.
        folder: To make.
        sample: Give each site a folder of sample pairs; else the data-dir of each must exist here.
        say: Called with each line of progress.

    Returns:
        The run folder.

    Raises:
        ConfigError: The folder exists, or a site's data-dir does not.
        FederationError: The run failed, or a program ended early; the message has the last of its log.

    Guarantees:
        Ledgers that count the pairs of a real federation are not touched: a trial's lie in ``folder``.
        Everything listens on loopback alone, and no process is left behind.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists. Choose another folder with --out, or remove it.")
    here = _here(deployment, folder.resolve(), sample=sample)
    kits = folder / "kits"
    make_kits(here, kits, link_port=here.port)
    for site in here.sites:
        if sample:
            write_sample(Path(str(site.node["data-dir"])), num=SAMPLE_PAIRS)
        _begin_ledger(kits / SITES / site.name)
    with running(kits, [site.name for site in here.sites], logs=folder / "logs"):
        say(f"The server and {len(here.sites)} sites are running; their output is in {folder / 'logs'}.")
        return run_federation(kits / SERVER, say=say)


@contextmanager
def running(kits: Path, sites: list[str], *, logs: Path) -> Iterator[None]:
    """The server and sites of some kits, started by their own scripts; they end with the block.

    Args:
        kits: Of one federation.
        sites: Names of those to start.
        logs: Folder for what they print.

    Raises:
        FederationError: The server does not answer in time; the message has the last of its log.
    """
    link = link_of(kits / SERVER)
    with ExitStack() as stack:
        server = _started(stack, kits / SERVER, logs / "server.log")
        _wait_for(server, link.port, kits / SERVER / "ca.crt", log=logs / "server.log")
        # Before the nodes: an unknown key is refused for good.
        link.register()
        for site in sites:
            _started(stack, kits / SITES / site, logs / f"{site}.log", port=free_port())
        yield


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return int(one.getsockname()[1])


def _here(deployment: Deployment, folder: Path, *, sample: bool) -> Deployment:
    sites = []
    for site in deployment.sites:
        node = dict(site.node) | {"state-dir": str(folder / "state" / site.name)}
        if sample:
            node["data-dir"] = str(folder / "pairs" / site.name)
        elif not Path(str(node["data-dir"])).is_dir():
            raise ConfigError(
                f"Site {site.name} has data-dir={node['data-dir']!r}, which is no folder on this machine."
                " Give one that is, or use --sample for folders of sample pairs."
            )
        sites.append(Site(name=site.name, node=node))
    out = folder / "runs"
    return replace(
        deployment,
        host="localhost",
        port=free_port(),
        out=out,
        settings={**deployment.settings, "out": str(out)},
        sites=tuple(sites),
    )


def _begin_ledger(kit: Path) -> None:
    config = unflatten(read_flat(kit / "run.toml"))
    if config.privacy.mechanism != "none":
        check_node(read_flat(kit / "node.toml"), config, new_ledger=True)


def _started(stack: ExitStack, kit: Path, log: Path, *, port: int = 0) -> "subprocess.Popen[bytes]":
    log.parent.mkdir(parents=True, exist_ok=True)
    env = environment(kit / "state" / "flower") | ({"EDGECMD_NODE_PORT": str(port)} if port else {})
    words = [str((kit / "start.sh").resolve())]
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    stack.callback(stop, process)
    return process


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


def _wait_for(server: "subprocess.Popen[bytes]", port: int, authority: Path, *, log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            health(f"localhost:{port}", authority)
        except FederationError as error:
            late = time.monotonic() > end
            if server.poll() is None and not late:
                time.sleep(0.3)
                continue
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            what = f"did not answer in {START_S:.0f} s" if late else f"ended with {server.returncode}"
            raise FederationError(f"The server {what}. The last of {log}: {' | '.join(last)}") from error
        return
