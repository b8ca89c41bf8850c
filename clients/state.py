"""What a client keeps between rounds, on its own disk: its optimiser's state, what compression left out.

A file per round: 32 bytes of SHA-256, then safetensors. The last three are kept. A server falls back
by one checkpoint at most, and may have asked for one round beyond its newest checkpoint when it was
killed; so the round that it repeats begins two rounds before the client's newest, or later.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from edgecmd.core.errors import FederationError
from edgecmd.core.files import write_bytes_atomically

KEPT_ROUNDS = 3
PREFIX, SUFFIX = "round-", ".state"
DIGEST_BYTES = hashlib.sha256().digest_size


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix(PREFIX))


def _files(folder: Path) -> list[Path]:
    paths = folder.glob(f"{PREFIX}*{SUFFIX}")
    return sorted((path for path in paths if path.stem.removeprefix(PREFIX).isdigit()), key=_round_of)


def load_state(folder: Path, *, round_index: int) -> dict[str, Tensor]:
    """Newest state from before ``round_index``; empty where there is none yet.

    Raises:
        FederationError: The file is damaged. A fresh optimiser in its place would change the result
            without a word.
    """
    earlier = [path for path in _files(folder) if _round_of(path) < round_index]
    if not earlier:
        return {}
    content = earlier[-1].read_bytes()
    digest, tensors = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(tensors).digest() != digest:
        raise FederationError(
            f"The client's state {earlier[-1]} is damaged. Restore the file, or delete the folder"
            f" {folder}: then this client starts with a fresh optimiser and nothing left over from"
            " compression, and the result differs from that of an undamaged run."
        )
    return load(tensors)


def save_state(folder: Path, tensors: Mapping[str, Tensor], *, round_index: int) -> None:
    """Write the state after ``round_index``.

    Files of later rounds go: they belong to rounds that are being repeated. Of the others the last
    `KEPT_ROUNDS` stay.
    """
    content = save(dict(tensors))
    path = folder / f"{PREFIX}{round_index:06d}{SUFFIX}"
    write_bytes_atomically(path, hashlib.sha256(content).digest() + content)
    files = _files(folder)
    kept = [one for one in files if _round_of(one) <= round_index][-KEPT_ROUNDS:]
    for one in files:
        if one not in kept:
            one.unlink(missing_ok=True)
