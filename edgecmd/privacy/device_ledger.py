"""Which ledger counts a device's pairs: that of their folder, else the one that counted these pairs before.

Beside each ledger lies a list of digests of the pairs that it counts. A folder that was moved, or copied, is
recognised by them and keeps its past. A pair that another ledger of this device counts is left out by itself:
here its past would be unknown. Where nothing is known of a folder its owner begins a ledger, once.

Files in the device's folder of state::

    ledger/<name>.jsonl    the ledger (`edgecmd.privacy.ledger`)
    ledger/<name>.pairs    a digest a line of each pair that it counts; private
    rounds/<name>.json     the count of its rounds, kept apart from it
"""

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecmd.errors import PrivacyError
from edgecmd.files import write_text_atomically
from edgecmd.privacy.ledger import Ledger

# Share of a folder's pairs that a ledger must have counted before for it to be theirs.
LEAST_SHARE = 0.5
BEGIN = "edgecmd node NODE_CONFIG --new-ledger"


def device_state() -> Path:
    """Folder of a device's state: ``EDGECMD_STATE``, or the user's folder of state.

    Not the cache folder: who empties a cache does not mean to forget what was spent.
    """
    return Path(os.environ.get("EDGECMD_STATE") or Path.home() / ".local" / "state" / "edgecmd")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A device's ledger.

    Attributes:
        ledger: The ledger.
        pairs: The list of the pairs that it counts.
        moved: Whether it was begun for another folder, and found by the pairs.
        rows: Rows of the pairs that this ledger may count; the others belong to other ledgers.
    """

    ledger: Ledger
    pairs: Path
    moved: bool
    rows: np.ndarray

    def record(self, digests: Sequence[str]) -> None:
        """Add pairs to those that the ledger counts; to be called before anything of them is released.

        Raises:
            PrivacyError: The list cannot be written.
        """
        known = _read(self.pairs)
        if not known.issuperset(digests):
            _write(self.pairs, known.union(digests), ledger=self.ledger.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceLedgers:
    """The ledgers of a device.

    Attributes:
        state: The device's folder of state.
        key: Secret that keys their chains; None without one.
    """

    state: Path
    key: bytes | None = None

    @property
    def folder(self) -> Path:
        """Folder of the ledgers."""
        return self.state / "ledger"

    def _ledger(self, name: str) -> Ledger:
        # A key of its own for each ledger: under one key another data set's ledger would be believed here.
        key = None if self.key is None else hmac.digest(self.key, name.encode(), "sha256")
        return Ledger(self.folder / f"{name}.jsonl", key=key, count=self.state / "rounds" / f"{name}.json")

    def _counted(self) -> Mapping[str, frozenset[str]]:
        """Pairs that each ledger counts, by the name of the ledger."""
        try:
            names = sorted(path.stem for path in self.folder.glob("*.jsonl"))
        except OSError as error:
            raise _unreadable(self.folder, error) from error
        return {name: _read(self.folder / f"{name}.pairs") for name in names}

    def find(self, data: Path, digests: Sequence[str]) -> Found:
        """The ledger of the pairs at ``data``.

        Args:
            data: Folder or .npz of the pairs.
            digests: Of the pairs that are there now (`edgecmd.data.device_pairs.DevicePairs`).

        Raises:
            PrivacyError: Neither the folder nor its pairs are known (code ``no-ledger``).

        Guarantees:
            A folder that has a ledger always gets that one, whatever it holds. One that was moved gets the
            ledger that counted at least half of its pairs, the one with most of them. A pair that another
            ledger counts, and this one does not, is in none of the rows, so what was spent on it is never
            forgotten; and that is decided pair by pair.
        """
        counted, name = self._counted(), ledger_name(data)
        moved = name not in counted
        if moved:
            name = _most_alike(counted, digests)
        if not name:
            raise PrivacyError(
                f"No ledger under {self.folder} counts the pairs at {data}. If they never took part in a"
                f" private run, begin one: `{BEGIN}`. If they did, restore the folder of state: without it"
                " their budget must be treated as spent.",
                code="no-ledger",
            )
        own = counted[name]
        elsewhere = frozenset[str]().union(*(pairs for other, pairs in counted.items() if other != name))
        rows = [row for row, one in enumerate(digests) if one in own or one not in elsewhere]
        return Found(
            ledger=self._ledger(name),
            pairs=self.folder / f"{name}.pairs",
            moved=moved,
            rows=np.array(rows, dtype=np.int64),
        )

    def begin(self, data: Path, digests: Sequence[str]) -> Found:
        """Begin a ledger for pairs that have none, as their owner says.

        Raises:
            PrivacyError: The pairs have one already, or it cannot be written.
        """
        try:
            known = self.find(data, digests)
        except PrivacyError as error:
            if error.code != "no-ledger":
                raise
        else:
            raise PrivacyError(
                f"The ledger {known.ledger.path} counts the pairs at {data} already, so nothing is begun:"
                " what was spent on them stays spent.",
                code="ledger",
            )
        name = ledger_name(data)
        self._ledger(name).begin()
        found = self.find(data, digests)
        found.record([digests[row] for row in found.rows])
        return found


def ledger_name(data: Path) -> str:
    """Name of the ledger that is begun for pairs at ``data``."""
    return hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:32]


def _most_alike(counted: Mapping[str, frozenset[str]], digests: Sequence[str]) -> str:
    """Name of the ledger that counted most of ``digests``, at least `LEAST_SHARE` of them; else empty."""
    shares = {name: sum(one in pairs for one in digests) for name, pairs in counted.items()}
    best = max(shares, key=lambda name: (shares[name], name), default="")
    return best if best and shares[best] >= max(1.0, LEAST_SHARE * len(digests)) else ""


def _read(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text(encoding="ascii").split())
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _write(path: Path, digests: frozenset[str], *, ledger: Path) -> None:
    try:
        write_text_atomically(path, "".join(f"{one}\n" for one in sorted(digests)))
        path.chmod(0o600)
    except OSError as error:
        raise PrivacyError(
            f"The list of pairs of the ledger {ledger} cannot be written: {error.strerror}. Nothing is"
            " released without it; make room, or make the folder writable.",
            code="ledger",
        ) from error


def _unreadable(path: Path, error: Exception) -> PrivacyError:
    return PrivacyError(
        f"{path} cannot be read: {error}. Nothing is released without it; let the node's user read it.",
        code="ledger",
    )
