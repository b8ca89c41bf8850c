"""Where the ledgers of a simulation lie, and whose pairs they count; a device's: `device_ledger`."""

import hashlib
from functools import lru_cache
from pathlib import Path

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import PrivacyError
from edgecmd.core.files import write_text_atomically
from edgecmd.data.problem import client_rows, experiment


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


def require_same_clients(config: RunConfig) -> None:
    """Refuse ledgers of ``privacy.ledger_dir`` that count other pairs than the clients of this run hold.

    A client's ledger says what was spent on the pairs that it held then. Dealt anew, a pair would bring
    what it has spent into a ledger that does not know of it.

    Raises:
        PrivacyError: The folder was begun with pairs dealt otherwise.
    """
    if not config.privacy.ledger_dir:
        return
    file, present = ledger_folder(config) / "clients.sha256", holdings_digest(config)
    try:
        begun = file.read_text(encoding="ascii").strip() if file.exists() else ""
        if not begun:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(file, present)
    except OSError as error:
        raise PrivacyError(
            f"{file} cannot be read or written: {error.strerror}. Set privacy.ledger_dir to a folder that"
            " this user may write to.",
            code="ledger",
        ) from error
    if begun not in ("", present):
        raise PrivacyError(
            f"privacy.ledger_dir={config.privacy.ledger_dir!r} counts pairs that were dealt to clients"
            " otherwise: data, seed, federation.num_clients and federation.partition (with its alpha) must be"
            " those of the first run there. Use the same, or another folder for pairs that never met these.",
            code="ledger",
        )


@lru_cache(maxsize=4)
def holdings_digest(config: RunConfig) -> str:
    """SHA-256 of which client holds which pairs: by their ids, else by their target images."""
    whole, digest = experiment(config.data), hashlib.sha256()
    for rows in client_rows(config):
        ids = "\n".join(whole.train_ids[row] for row in rows) if whole.train_ids else ""
        held = ids.encode() or whole.train.target[rows].tobytes()
        digest.update(hashlib.sha256(held).digest())
    return digest.hexdigest()
