"""The event log of a run, ``events.jsonl``: one JSON object per line, appended and flushed.

Under privacy it is the owner's alone, because of times and of who answered (`artefacts`); what a line
reveals about the pairs is in `FIELDS`.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgecmd.core.artefacts import declare
from edgecmd.core.machine import at

FILE = "events.jsonl"
# Field of an event -> what it tells under a privacy mechanism. Metrics of a round have "val_" before their
# names: functions of released weights and of the validation set.
FIELDS = {
    "event": "its kind: of the program",
    "time": "the clock: not covered",
    "seconds": "how long it took: not covered",
    "simulated_seconds": "how long it took by made-up time: of settings and answers",
    "staleness": "how old the answers were, in rounds: when clients answered: not covered",
    "at_once": "how many trained with others in one call: never under privacy",
    "round": "counted from 1: of the settings",
    "rounds": "how many were made: of settings, ledgers and answers",
    "clients": "how many answered: not covered; where the cohort is secret, a public constant",
    "rejected": "nodes whose replies were not used, and why: not covered; a refusal gives a code alone",
    "reason": "why the run ended early, or what it warns of: of ledgers and of nodes, never a client's text",
    "num_examples": "null: never told under privacy",
    "loss": "null: never told under privacy",
    "bytes": "size of the weights, times the messages: of settings and answers",
    "name": "a stage of the pipeline: of the program",
}


class EventLog:
    """Appends events to a file; on resume the file is cut back to a known length.

    Args:
        path: The file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        declare(FILE, may_leave=False)
        self.path = path

    def append(self, kind: str, **fields: object) -> None:
        """Write one event with the current time; it is on disk when this returns."""
        line = json.dumps({"event": kind, "time": round(time.time(), 3), **fields}, allow_nan=False)
        length = self.num_bytes()
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            # A torn line would swallow the next one.
            with contextlib.suppress(OSError):
                self.cut_back(length)
            raise at(error, self.path, need=len(line)) from None

    def num_bytes(self) -> int:
        """Length of the log."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut_back(self, num_bytes: int) -> None:
        """Drop everything after ``num_bytes``: what a killed run wrote after its last checkpoint."""
        if self.num_bytes() > num_bytes:
            os.truncate(self.path, num_bytes)


def read_events(path: Path, *, kind: str = "") -> Iterator[dict[str, Any]]:
    """Events of a log in order, those of ``kind`` where one is given; a torn last line is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict) and (not kind or event.get("event") == kind):
            yield event
