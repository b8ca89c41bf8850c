"""What a report reads: the files of a run folder, most of which may be missing.

Names that somebody gave a file, a class or a client are made `printable` here, once for page and charts.

Shapes: Q queries, H height, W width, C channels.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from edgecmd.core.errors import DataError
from edgecmd.core.events import read_events
from edgecmd.core.files import read_json
from edgecmd.core.text import printable, printable_values
from edgecmd.data.user_files.decode import DecodeError, npz_arrays
from edgecmd.data.user_files.reading import most_array_bytes

Table = Mapping[str, Any]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PICTURE_BYTES = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gallery:
    """Images of ``retrieval.npz``.

    Attributes:
        query: Targets as images, (Q, H, W, C), of a size of their own.
        truth: Their own source images, (Q, H, W, 3).
        found: The nearest source images, nearest first, (Q, 5, H, W, 3).
        rank: Place at which the own image was found, 1 for first, (Q,).
        words: The targets as text, (Q,), where a picture cannot show all of them; None elsewhere.
    """

    query: UInt8[np.ndarray, "num _ _ channels"]
    truth: UInt8[np.ndarray, "num height width 3"]
    found: UInt8[np.ndarray, "num nearest height width 3"]
    rank: Int[np.ndarray, " num"]
    words: Shaped[np.ndarray, " num"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RunFiles:
    """Content of a run folder, images when they are asked for; a table is empty where its file is missing.

    Attributes:
        folder: The run folder.
        name: Name of the run.
        settings: ``config.toml``.
        environment: ``environment.json``.
        rounds: Events of the rounds in order, the last one where a round was repeated.
        stages: Seconds of each stage in order, added up where a stage was repeated.
        partition: ``partition.json``.
        evaluation: ``evaluation.json``.
        classes: ``classes.json``.
        export: ``export/report.json``.
        privacy: ``privacy.json``.
        audit: ``audit.json``.
        federation: ``federation.json``.
    """

    folder: Path
    name: str
    settings: Table
    environment: Table
    rounds: tuple[Table, ...]
    stages: Mapping[str, float]
    partition: Table
    evaluation: Table
    classes: Table
    export: Table
    privacy: Table
    audit: Table
    federation: Table

    @cached_property
    def gallery(self) -> Gallery | None:
        """Images of ``retrieval.npz``; a DataError where the file is damaged."""
        return _read_gallery(self.folder / "retrieval.npz")

    @cached_property
    def audit_pictures(self) -> Mapping[int, bytes]:
        """Content of the PNG files below ``audit``, by the pairs of a step."""
        return _read_audit_pictures(self.folder / "audit")

    @property
    def on_devices(self) -> bool:
        """Whether devices trained on pairs of their own, of which nothing is known here."""
        return bool(self.federation.get("nodes_with_own_pairs"))

    def setting(self, key: str, default: str = "") -> str:
        """Setting by dotted key as text; ``default`` where ``config.toml`` does not have it."""
        value: Any = self.settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return default if value is None else str(value)


def read_run(folder: Path) -> RunFiles:
    """Read what there is, but for images.

    Raises:
        DataError: ``folder`` does not exist, or a file is there but damaged.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Give a run folder, such as one that `edgecmd run` makes.")
    settings = _read_toml(folder / "config.toml")
    events = folder / "events.jsonl"
    return RunFiles(
        folder=folder,
        name=printable(str(settings.get("name") or folder.resolve().name)),
        settings=settings,
        environment=_read_table(folder / "environment.json"),
        rounds=_rounds(events),
        stages=_stages(events),
        partition=_read_table(folder / "partition.json"),
        evaluation=_read_table(folder / "evaluation.json"),
        classes=_read_table(folder / "classes.json"),
        export=_read_table(folder / "export" / "report.json"),
        privacy=_read_table(folder / "privacy.json"),
        audit=_read_table(folder / "audit.json"),
        federation=_read_table(folder / "federation.json"),
    )


def _rounds(events: Path) -> tuple[Table, ...]:
    logged = (printable_values(event) for event in read_events(events, kind="round"))
    by_index = {int(event["round"]): event for event in logged if "round" in event}
    return tuple(by_index[index] for index in sorted(by_index))


def _stages(events: Path) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for event in read_events(events, kind="stage"):
        name = printable(str(event.get("name")))
        seconds[name] = seconds.get(name, 0.0) + float(event.get("seconds") or 0.0)
    return seconds


def _read_toml(path: Path) -> Table:
    try:
        return dict(printable_values(tomllib.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}). Restore it from a copy.") from error


def _read_table(path: Path) -> Table:
    """A JSON object; empty where the file is missing."""
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(
            f"{path} holds a {type(value).__name__}, not a JSON object. Delete it and make it again."
        )
    return dict(printable_values(value))


def _read_audit_pictures(folder: Path) -> dict[int, bytes]:
    """Sheets of gradient inversion; a file that is no PNG, or larger than a sheet, is left out."""
    found = {}
    for path in sorted(folder.glob("inversion-*.png")):
        pairs = path.stem.removeprefix("inversion-")
        if not pairs.isdecimal() or path.stat().st_size > MAX_PICTURE_BYTES:
            continue
        data = path.read_bytes()
        if data.startswith(PNG_SIGNATURE):
            found[int(pairs)] = data
    return dict(sorted(found.items()))


def _read_gallery(path: Path) -> Gallery | None:
    if not path.exists():
        return None
    wanted = ("query", "truth", "found", "rank")
    try:
        arrays = npz_arrays(path, names=(*wanted, "words"), most_bytes=most_array_bytes())
        missing = any(name not in arrays for name in wanted)
        if len({array.shape[:1] for array in arrays.values()}) > 1 or missing:
            raise DecodeError("its arrays have different lengths, or one is missing")
    except DecodeError as error:
        raise DataError(
            f"{path} is damaged ({error}). Delete it, and make it again with `edgecmd run`."
        ) from error
    return Gallery(**arrays)
