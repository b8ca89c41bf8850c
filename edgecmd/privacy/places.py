"""Where the ledgers of a simulation lie."""

from pathlib import Path

from edgecmd.config import RunConfig


def client_ledger(config: RunConfig, client: int) -> Path:
    """Ledger of a simulated client: in the run folder, or in ``privacy.ledger_dir``, where runs add up."""
    return ledger_folder(config) / f"client-{client:04d}.jsonl"


def server_ledger(config: RunConfig) -> Path:
    """Ledger of the server under client-level privacy."""
    return ledger_folder(config) / "clients.jsonl"


def ledger_folder(config: RunConfig) -> Path:
    """Folder of a simulation's ledgers."""
    return (
        Path(config.privacy.ledger_dir)
        if config.privacy.ledger_dir
        else Path(config.out) / config.name / "ledger"
    )
