"""``privacy.json`` of a run: from the ledgers on this disk, or, in a deployment, from the rounds made."""

from pathlib import Path
from typing import Any

from edgecmd.config.schema import RunConfig
from edgecmd.core.artefacts import write_artefact
from edgecmd.data.problem import anchors_fingerprint
from edgecmd.privacy.ledger import Ledger
from edgecmd.privacy.ledger_paths import client_ledger, server_ledger
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.statement import privacy_table
from server.checkpoint import newest_checkpoint


def write_privacy(plan: PrivacyPlan, config: RunConfig, folder: Path) -> dict[str, Any]:
    """Write ``privacy.json`` and return its content."""
    state = newest_checkpoint(folder / "checkpoints")
    rounds_done = state.round_index if state is not None else 0
    spent, counted = _spent(plan, config, rounds_done)
    table = privacy_table(
        plan, spent, rounds_done=rounds_done, anchors=anchors_fingerprint(config), ledger=counted
    )
    write_artefact(folder, "privacy.json", table, may_leave=True, private=True)
    return table


def _spent(plan: PrivacyPlan, config: RunConfig, rounds_done: int) -> tuple[dict[str, float], str]:
    """Epsilon by client, and what it counts."""
    where = "all runs in privacy.ledger_dir" if config.privacy.ledger_dir else "this run, resumes included"
    if plan.unit == "client":
        ledger = Ledger(server_ledger(config))
        return {"any client": _epsilon(ledger, plan)}, f"the server's ledger: {where}"
    paths = {client: client_ledger(config, client) for client in range(config.federation.num_clients)}
    found = {
        f"client {client}": _epsilon(Ledger(path), plan) for client, path in paths.items() if path.exists()
    }
    if found:
        return found, f"each client's ledger: {where}; other runs on the same pairs add up"
    return (
        {"any client": plan.epsilon_after(rounds_done)},
        "the rounds of this run; each client's own ledger, on its device, is what counts over all runs",
    )


def _epsilon(ledger: Ledger, plan: PrivacyPlan) -> float:
    return ledger.epsilon(delta=plan.delta, accountant=plan.accountant)
