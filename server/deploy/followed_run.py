"""A run of a federation that is deployed: submit it, or follow the one that is under way, to its end."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgecmd.config.reader import read_flat, unflatten
from edgecmd.core.errors import FederationError
from edgecmd.core.events import FILE, read_events
from edgecmd.core.text import counted
from server.deploy.app_bundle import write_app
from server.deploy.kits import read_kit
from server.deploy.link import Link, live_link

APP = "edgecmd/edgecmd-app"
FINISHED, WELL = "finished", "finished:completed"
LOOK_S, POLL_S, ASK_S = 1.0, 3.0, 15.0
Watch = Callable[[str], None]


def register(kit: Path) -> list[str]:
    """Register the keys of a server's kit that are new.

    Args:
        kit: The server's kit; its SuperLink must be running.

    Returns:
        Names of sites that were registered now.

    Raises:
        FederationError: The SuperLink is not there.
    """
    return live_link(kit).register()


def run_federation(kit: Path, *, say: Watch, look: Callable[[], None] = lambda: None) -> Path:
    """Run a deployed federation to its end; one that is under way is followed instead.

    Args:
        kit: The server's kit; its SuperLink must be running.
        say: Called with each line of progress.
        look: Called every few seconds; what it raises ends the following, not the run.

    Returns:
        The run folder.

    Raises:
        FederationError: The SuperLink is not there, or the run failed; the message says why.
    """
    link = live_link(kit)
    if new := link.register():
        say(f"Registered: {', '.join(new)}.")
    folder = run_folder(kit)
    under_way, done = _under_way(link), len(rounds(folder))
    if under_way is None:
        write_app(link.state / "app")
        words = ("run", str(link.state / "app"), "own", "--run-config", str(kit / "run.toml"))
        run_id = str(link.flwr(*words)["run-id"])
        after = f", which has {counted(done, 'round')} already" if done else ""
        say(f"Run {run_id} is submitted; its folder is {folder}{after}.")
    else:
        run_id = str(under_way["run-id"])
        say(f"Run {run_id} is under way with {counted(done, 'round')}; following it.")
    _follow(link, run_id, folder=folder, num_said=done, say=say, look=look)
    return folder


def run_folder(kit: Path) -> Path:
    """Where the kit's run lies on the server."""
    facts, own, run = read_kit(kit), read_flat(kit / "server.toml"), read_flat(kit / "run.toml")
    return Path(str(own.get("out", facts["out"]))) / str(run.get("name", facts["name"]))


def rounds(folder: Path) -> list[dict[str, Any]]:
    """Rounds that a run folder has."""
    return list(read_events(folder / FILE, kind="round"))


def _under_way(link: Link) -> Mapping[str, Any] | None:
    return next(
        (run for run in link.runs() if run["fab-id"] == APP and not run["status"].startswith(FINISHED)), None
    )


def _follow(
    link: Link, run_id: str, *, folder: Path, num_said: int, say: Watch, look: Callable[[], None]
) -> None:
    run: Mapping[str, Any]
    names, last = {one.node: site for site, one in link.registered().items()}, ""
    total = unflatten(read_flat(link.kit / "run.toml")).federation.num_rounds
    run, asked = {}, -math.inf
    while True:
        # Flower's program takes a second of a processor to answer, and between rounds the log says enough.
        if time.monotonic() - asked >= (ASK_S if 0 < num_said < total else POLL_S):
            run, asked = _run(link, run_id), time.monotonic()
        found = rounds(folder)
        # A run that continues cuts the log back to its last checkpoint.
        num_said = min(num_said, len(found))
        for event in found[num_said:]:
            say(_line(event, total=total, names=names))
        num_said = len(found)
        if run["status"] != last:
            last = run["status"]
            say(f"Flower: {last}.")
        if last.startswith(FINISHED):
            break
        look()
        time.sleep(LOOK_S)
    if last != WELL:
        reason = str(run["status-details"]).rstrip(" .") or "Flower gives no reason"
        raise FederationError(
            f"Run {run_id} ended as {last}: {reason}. Finished rounds are kept; the next"
            " `edgecmd deploy run` continues after them."
        )


def _run(link: Link, run_id: str) -> Mapping[str, Any]:
    """What the SuperLink says of a run."""
    run = next((one for one in link.runs() if str(one["run-id"]) == run_id), None)
    if run is None:
        raise FederationError(
            f"The SuperLink knows no run {run_id} any more. Run `edgecmd deploy run` again."
        )
    return run


def _line(event: Mapping[str, Any], *, total: int, names: Mapping[str, str]) -> str:
    dropped = [
        f"{names.get(str(one['node']), one['node'])} ({one['reason']})" for one in event.get("rejected") or ()
    ]
    loss = event.get("loss")
    parts = [
        f"round {event['round']}/{total}",
        f"{counted(event['clients'], 'site')} answered",
        *([f"loss {loss:.3f}"] if loss is not None else []),
        f"{event['bytes'] / 1e6:.1f} MB",
        f"{event['seconds']:.1f} s",
    ]
    return "  ".join(parts) + (f"; without {', '.join(dropped)}" if dropped else "")
