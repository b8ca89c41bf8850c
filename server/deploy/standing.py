"""How a deployed federation stands: its sites, its newest run and the rounds of that."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecmd.core.files import read_json
from server.deploy.followed_run import APP, rounds, run_folder
from server.deploy.kits import read_kit
from server.deploy.link import live_link
from server.federation import TOLD_EPSILON


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """How a federation stands.

    Attributes:
        sites: Flower's status of each site, by name: registered, online or offline, and since when (UTC).
        run: Flower's record of the newest run; None before the first.
        rounds: Rounds that the run folder has.
        folder: The run folder.
        epsilon: What each site says that it has spent over all runs, with ``epsilon`` and ``delta``, when it
            was last asked: at the start of a run and at its end; None where its owner does not let it.
    """

    sites: Mapping[str, str]
    run: Mapping[str, Any] | None
    rounds: int
    folder: Path
    epsilon: Mapping[str, Mapping[str, float] | None]


def status(kit: Path) -> Status:
    """Sites and rounds of a deployed federation.

    Args:
        kit: The server's kit.

    Raises:
        FederationError: The SuperLink is not there.
    """
    link = live_link(kit)
    found = {str(node["node-id"]): _since(node) for node in link.nodes()}
    known, runs = link.registered(), [run for run in link.runs() if run["fab-id"] == APP]
    sites = dict.fromkeys(read_kit(kit)["sites"], "not registered")
    sites |= {
        site: "revoked" if one.revoked else found.get(one.node, "unknown") for site, one in known.items()
    }
    folder = run_folder(kit)
    told = read_json(folder / TOLD_EPSILON) if (folder / TOLD_EPSILON).is_file() else {}
    told = told if isinstance(told, dict) else {}
    return Status(
        sites=sites,
        run=runs[0] if runs else None,
        rounds=len(rounds(folder)),
        folder=folder,
        epsilon={site: told.get(known[site].node) if site in known else None for site in sites},
    )


def _since(node: Mapping[str, Any]) -> str:
    """Flower's status of a node, and since when it has it."""
    state, at = str(node["status"]), node.get(f"{node['status']}-at", "N/A")
    return state if at == "N/A" else f"{state} since {at}"
