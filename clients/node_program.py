"""``edgecmd-node``: starts a SuperNode, and answers its messages with the edgecmd that is installed here.

Flower starts ``flwr-clientapp`` for each message, which imports the app's bundle that a server sent. A site
reads private pairs, and whoever reaches the SuperLink's control port could run any code there. Under this
program each message is answered by `clients.app:app` of the site's own installation instead, and no module of
a bundle is imported.

The program imports torch once and forks for each message, because starting Python and torch takes far longer
than the optimiser steps of a round. With ``--run FILE`` it also works out the noise of that run once.
"""

import contextlib
import importlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType

from clients.asking import PROGRAM, VARIABLE
from edgecmd.core.machine import import_torch_quickly

POLL_S, STOP_S = 0.5, 10.0
# For all parts of a message, which a SuperNode hands on as they come.
WHOLE_MESSAGE_S = 600.0
SUPERNODE = "flower-supernode"
# What answering a message imports where it is first needed.
PRELOADED = (
    *("clients.app", "clients.device", "clients.private", "clients.work"),
    *("edgecmd.datasets.emoji", "edgecmd.privacy.step.vmap_engine"),
    *("flwr.supernode.cli", "flwr.supernode.runtime.run_clientapp"),
    *("dp_accounting.pld.privacy_loss_distribution", "dp_accounting.rdp", "scipy.optimize"),
    *("PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.WebPImagePlugin", "httpcore", "h11"),
)
LONGEST_BYTES = 1 << 16


def main() -> None:
    """Run the command of the arguments, such as ``--run run.toml flower-supernode ...``, until it ends.

    Guarantees:
        An app that a server sends is never imported, whichever it names. Each message has a process of its
        own, which shares no random state that anything private is drawn from: noise and coins come from the
        operating system, in that process.
    """
    command, run = sys.argv[1:], None
    if command[:1] == ["--run"]:
        run, command = (command[1:2] or [""])[0], command[2:]
    if not command:
        sys.exit(
            "edgecmd-node: name the program to run, such as flower-supernode and its options, after"
            " --run and the file of the run's settings, if there is one."
        )
    preload()
    if run is not None:
        prepare(Path(run), node=dict(itertools.pairwise(command)).get("--node-config"))
    with tempfile.TemporaryDirectory(prefix="edgecmd-node-") as name:
        sys.exit(serve(Path(name), command))


def preload() -> None:
    """Import what a message needs, so that forked processes have it."""
    import_torch_quickly()
    import torch

    for name in PRELOADED:
        importlib.import_module(name)
    torch.set_num_threads(1)
    # The first optimiser imports a third of torch.
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.AdamW([weight]).step()


def prepare(path: Path, *, node: str | None = None) -> None:
    """Work out what each message of a run needs, and neither a pair nor a server decides: noise and anchors.

    Args:
        path: Settings of the run, as the kit has them.
        node: File of the node's config; anchors of another one are worked out for each message.

    Raises:
        SystemExit: The settings cannot be read, or give no guarantee; with the reason.

    Guarantees:
        Opens nothing below ``data-dir``.
    """
    from clients.check import asked_here
    from clients.device import warm_up
    from clients.work import SERVED
    from edgecmd.config.reader import read_flat, unflatten
    from edgecmd.core.errors import EdgecmdError

    try:
        config = unflatten(read_flat(path))
        _ = SERVED.run(config).plan
    except EdgecmdError as error:
        sys.exit(f"edgecmd-node: {error}")
    if node is not None and Path(node).is_file():
        try:
            warm_up(*asked_here(read_flat(Path(node)), config))
        except EdgecmdError as error:
            sys.stderr.write(f"edgecmd-node: rounds would be refused: {error}\n")


def serve(folder: Path, command: list[str]) -> int:
    """Run ``command`` and fork for each message that it is asked to answer.

    Args:
        folder: Empty, and of this user alone; holds the socket and the program that stands in for Flower's.
        command: The SuperNode's program and its arguments.

    Returns:
        Exit code of the command; 128 and the signal's number where a signal ended it.
    """
    with socket.socket(socket.AF_UNIX) as asked:
        asked.bind(str(folder / "messages"))
        asked.listen()
        asked.settimeout(POLL_S)
        node = subprocess.Popen(_ending(command), env=environment(folder))
        children: set[int] = set()
        with _stopping(node):
            while node.poll() is None:
                children -= {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0]}
                words = _question(asked)
                if words is not None:
                    children.add(_forked(words, asked))
    return node.returncode if node.returncode >= 0 else 128 - node.returncode


def supernode() -> None:
    """Run Flower's SuperNode with the arguments of this process, which ends when it does.

    Flower gives up where the network breaks during a TLS handshake, and its server's thread then keeps the
    process: online nowhere, and started again by nobody.
    """
    from flwr.supernode.cli import flower_supernode

    flower_supernode()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _ending(command: list[str]) -> list[str]:
    """``command``; Flower's SuperNode as `supernode`."""
    if Path(command[0]).name != SUPERNODE:
        return command
    return [sys.executable, "-P", "-c", f"from {__name__} import supernode; supernode()", *command[1:]]


def environment(folder: Path) -> dict[str, str]:
    """Environment in which Flower's name for its program of ClientApps is that of `clients.asking`."""
    stand_in = folder / "bin" / PROGRAM
    stand_in.parent.mkdir()
    asking = Path(__file__).with_name("asking.py")
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{asking}" "$@"\n', encoding="utf-8")
    stand_in.chmod(0o700)
    path = f"{stand_in.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": path, VARIABLE: str(folder / "messages")}


def answer(words: list[str]) -> None:
    """Answer the message that ``words`` name, as Flower's program does, with the installed app.

    A message whose rest does not come is given up: when a SuperLink dies, Flower waits for two hours.
    """
    from flwr.clientapp import ClientApp
    from flwr.supernode.cli import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp as runtime

    from clients.app import app

    def installed(**_: object) -> object:
        def load(_fab_id: str, _version: str, _digest: str) -> ClientApp:
            return app

        return load

    vars(runtime)["get_load_client_app_fn"] = installed
    pull = "pull_and_inflate_object_from_tree"
    vars(runtime)[pull] = partial(vars(runtime)[pull], max_time=WHOLE_MESSAGE_S)
    # Nothing is installed for a bundle either.
    sys.argv = [PROGRAM, *(word for word in words if word != "--allow-runtime-dependency-installation")]
    flwr_clientapp()


def _question(asked: socket.socket) -> list[str] | None:
    """Arguments of the next message; None where nobody asks, or what is asked is no list of texts."""
    try:
        connection, _ = asked.accept()
    except TimeoutError:
        return None
    with connection, contextlib.suppress(OSError, ValueError):
        connection.settimeout(POLL_S)
        with connection.makefile("rb") as file:
            words = json.loads(file.readline(LONGEST_BYTES))
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            connection.sendall(b"taken\n")
            return words
    return None


def _forked(words: list[str], asked: socket.socket) -> int:
    """A process of its own that answers a message."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, signal.SIG_DFL)
        asked.close()
        answer(words)
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def _stopping(node: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Pass a request to stop on to the node; it ends with the block."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        node.terminate()

    before = {sign: signal.signal(sign, stop) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
        if node.poll() is None:
            node.terminate()
            try:
                node.wait(STOP_S)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()
