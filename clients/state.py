"""What a client keeps between rounds: its optimiser's state, on its own disk.

A file a round; the last two are kept, so that a round which was cut off can be repeated from
exactly the state in which it began.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from edgecmd.files import write_bytes_atomically

KEPT_ROUNDS = 2
PREFIX = "round-"


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix(PREFIX))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}*.safetensors"), key=_round_of)


def load_state(folder: Path, *, round_index: int) -> dict[str, Tensor]:
    """Newest state from before ``round_index``; empty where there is none or it is damaged."""
    earlier = [path for path in _files(folder) if _round_of(path) < round_index]
    if not earlier:
        return {}
    try:
        return load(earlier[-1].read_bytes())
    except SafetensorError:
        return {}


def save_state(folder: Path, tensors: Mapping[str, Tensor], *, round_index: int) -> None:
    """Write the state after ``round_index`` and drop all but the last two rounds."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(folder / f"{PREFIX}{round_index:06d}.safetensors", save(dict(tensors)))
    for path in _files(folder)[:-KEPT_ROUNDS]:
        path.unlink(missing_ok=True)
