"""Checkpoints of a federation: one folder per round, written beside and renamed, never pickled.

A checkpoint holds the global weights, the strategy's momenta, the round and the length of
``events.jsonl`` at that moment, which is cut back to it when a run is resumed. In asynchronous rounds it
names the clients that have yet to answer, and by the number of its round the checkpoint whose weights each
was sent; that one stays as long as it is named.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edgecmd.core.artefacts import declare
from edgecmd.core.errors import FederationError
from edgecmd.core.files import folder_in_one_piece, read_json, write_bytes_atomically, write_json

KEPT = 2
PREFIX = "round-"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """State of a federation after a round.

    Attributes:
        round_index: Last finished round; 0 before the first.
        arrays: Global weights.
        strategy: Momenta of the strategy.
        events_bytes: Length of the event log.
        in_flight: Round whose weights each node that has yet to answer was sent, by node.
        earlier: The checkpoints of these rounds, by round, in one that was read.
        simulated_s: Made-up time that has passed, in seconds.
    """

    round_index: int
    arrays: Mapping[str, np.ndarray]
    strategy: Mapping[str, np.ndarray] = field(default_factory=dict)
    events_bytes: int = 0
    in_flight: Mapping[int, int] = field(default_factory=dict)
    earlier: Mapping[int, "Checkpoint"] = field(default_factory=dict)
    simulated_s: float = 0.0


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``folder/round-<index>`` completely or not at all; keep the last two and those that they name."""
    final = _path(folder, checkpoint.round_index)
    digests = {}
    with folder_in_one_piece(final) as partial:
        for name, tensors in (("student", checkpoint.arrays), ("strategy", checkpoint.strategy)):
            # Not ascontiguousarray, which turns a scalar into a vector.
            data = save({key: np.asarray(value, order="C") for key, value in tensors.items()})
            declare(f"checkpoints/{final.name}/{name}.safetensors", may_leave=True)
            write_bytes_atomically(partial / f"{name}.safetensors", data)
            digests[name] = hashlib.sha256(data).hexdigest()
        state = {"round": checkpoint.round_index, "events_bytes": checkpoint.events_bytes, "sha256": digests}
        if checkpoint.in_flight:
            state["in_flight"] = {str(node): checkpoint.in_flight[node] for node in checkpoint.in_flight}
        if checkpoint.simulated_s:
            state["simulated_s"] = checkpoint.simulated_s
        declare(f"checkpoints/{final.name}/state.json", may_leave=False)
        write_json(partial / "state.json", state)
    _prune(folder)


def _prune(folder: Path) -> None:
    # What a killed process leaves; the run folder has one owner, so nobody writes there now.
    halves = (*folder.glob(".*.tmp"), *folder.glob(f"{PREFIX}*.partial"))
    finished = _finished(folder)
    named = {round_index for path in finished[-KEPT:] for round_index in _named(path)}
    past = [path for path in finished[:-KEPT] if _round_of(path) not in named]
    for old in (*past, *halves):
        shutil.rmtree(old, ignore_errors=True)


def _named(path: Path) -> set[int]:
    """Rounds that a checkpoint names; none where it is damaged."""
    try:
        return set(_in_flight(read_json(path / "state.json")).values())
    except (OSError, ValueError, AttributeError, TypeError):
        return set()


def _in_flight(state: dict[str, Any]) -> dict[int, int]:
    return {int(node): int(sent) for node, sent in state.get("in_flight", {}).items()}


def _path(folder: Path, round_index: int) -> Path:
    return folder / f"{PREFIX}{round_index:06d}"


def _finished(folder: Path) -> list[Path]:
    paths = folder.glob(f"{PREFIX}*")
    return sorted((path for path in paths if path.name.removeprefix(PREFIX).isdigit()), key=_round_of)


def _round_of(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Newest checkpoint that reads well; None where there is none at all.

    Raises:
        FederationError: There are checkpoints, but each is damaged.
    """
    finished = _finished(folder)
    faults = []
    for path in reversed(finished):
        try:
            return _read(path, whole=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            faults.append(f"{path.name}: {error}")
    if faults:
        raise FederationError(
            f"No checkpoint under {folder} can be read ({'; '.join(faults)}). Start the run again under"
            " another name with --set name=..."
        )
    return None


def _read(path: Path, *, whole: bool) -> Checkpoint:
    """A checkpoint, and where it is wanted whole, those that it names."""
    state = read_json(path / "state.json")
    if state["round"] != _round_of(path):
        raise FederationError(f"state.json is for round {state['round']}")
    tensors = {}
    for name in ("student", "strategy"):
        data = (path / f"{name}.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != state["sha256"][name]:
            raise FederationError(f"{name}.safetensors does not match its checksum")
        tensors[name] = load(data)
    in_flight = _in_flight(state)
    named = sorted(set(in_flight.values())) if whole else []
    return Checkpoint(
        round_index=int(state["round"]),
        arrays=tensors["student"],
        strategy=tensors["strategy"],
        events_bytes=int(state["events_bytes"]),
        in_flight=in_flight,
        earlier={one: _read(_path(path.parent, one), whole=False) for one in named},
        simulated_s=float(state.get("simulated_s", 0.0)),
    )
