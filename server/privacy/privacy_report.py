"""``privacy.json``: what a run promised, and what its ledgers counted."""

from typing import Any

from edgecmd.core.artefacts import write_artefact
from edgecmd.privacy.ledger import Ledger
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.statement import privacy_table
from edgecmd.run import Run
from server.checkpoint import newest_checkpoint


def write_privacy(plan: PrivacyPlan, run: Run) -> dict[str, Any]:
    """Write ``privacy.json``, from the ledgers on this disk, else from the rounds made; its content."""
    state = newest_checkpoint(run.folder / "checkpoints")
    rounds_done = state.round_index if state is not None else 0
    spent, counted = _spent(plan, run, rounds_done)
    table = privacy_table(
        plan,
        spent,
        rounds_done=rounds_done,
        anchors=run.task.anchors_fingerprint(run.distill, seed=run.seed),
        ledger=counted,
    )
    write_artefact(run.folder, "privacy.json", table, may_leave=True, private=True)
    return table


def _spent(plan: PrivacyPlan, run: Run, rounds_done: int) -> tuple[dict[str, float], str]:
    """Epsilon by client, and what it counts."""
    where = "all runs in privacy.ledger_dir" if run.privacy.ledger_dir else "this run, resumes included"
    if plan.unit == "client":
        ledger = Ledger(run.server_ledger)
        return {"any client": _epsilon(ledger, plan)}, f"the server's ledger: {where}"
    paths = {client: run.client_ledger(client) for client in range(run.federation.num_clients)}
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
