"""Which ledger counts a device's pairs: that of their folder, or the one that counted these pairs before.

Beside each ledger is a list of digests of the pairs that it counts. A folder that was moved, or copied, is
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

from edgecmd.core.errors import PrivacyError
from edgecmd.core.files import write_text_atomically
from edgecmd.privacy.ledger import Ledger
from edgecmd.privacy.ledger_file import locked

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
        counted: Pairs that it counts, of those that are there and those that were.
        elsewhere: Pairs that other ledgers count and this one does not.
    """

    ledger: Ledger
    pairs: Path
    moved: bool
    counted: frozenset[str]
    elsewhere: frozenset[str]

    def rows(self, digests: Sequence[str]) -> np.ndarray:
        """Rows of the pairs that this ledger may count; the others belong to other ledgers."""
        kept = [row for row, one in enumerate(digests) if one not in self.elsewhere]
        return np.array(kept, dtype=np.int64)


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

    @property
    def counts(self) -> Path:
        """Folder of the counts of their rounds."""
        return self.state / "rounds"

    def _ledger(self, name: str) -> Ledger:
        # A key of its own for each ledger: under one key another data set's ledger would be believed here.
        key = None if self.key is None else hmac.digest(self.key, name.encode(), "sha256")
        return Ledger(self.folder / f"{name}.jsonl", key=key, count=self.counts / f"{name}.json")

    def _counted(self) -> Mapping[str, frozenset[str]]:
        """Pairs that each ledger counts, by the name of the ledger; one that is lost leaves its list."""
        try:
            files = [*self.folder.glob("*.jsonl"), *self.folder.glob("*.pairs"), *self.counts.glob("*.json")]
        except OSError as error:
            raise _unreadable(self.folder, error) from error
        return {name: _read(self.folder / f"{name}.pairs") for name in sorted({one.stem for one in files})}

    def find(self, data: Path, present: Sequence[str]) -> Found:
        """The ledger of the pairs at ``data``.

        Args:
            data: Folder or .npz of the pairs.
            present: Digests of all pairs that are there now, whatever the settings can use of them
                (`edgecmd.data.user_files.device_pairs.DevicePairs.present`).

        Raises:
            PrivacyError: Neither the folder nor its pairs are known (code ``no-ledger``).

        Guarantees:
            A folder that has a ledger always gets that one, whatever it holds. One that was moved gets the
            ledger that counted at least half of its pairs, the one with most of them. A pair that another
            ledger counts, and this one does not, is in none of the rows, so what was spent on it is never
            forgotten; and that is decided pair by pair. A ledger whose file is lost is still known by its
            list and its count, so its pairs find no other.
        """
        counted, name = self._counted(), ledger_name(data)
        moved = name not in counted
        if moved:
            name = _most_alike(counted, present)
        if not name:
            raise PrivacyError(
                f"No ledger under {self.folder} counts the pairs at {data}. If they were never in a private"
                f" run, start one: `{BEGIN}`. If they were, restore the state folder; without it, their"
                " budget must be treated as spent.",
                code="no-ledger",
            )
        others = frozenset[str]().union(*(pairs for other, pairs in counted.items() if other != name))
        return Found(
            ledger=self._ledger(name),
            pairs=self.folder / f"{name}.pairs",
            moved=moved,
            counted=counted[name],
            elsewhere=others - counted[name],
        )

    def of_folder(self, data: Path) -> Ledger:
        """The ledger that was begun for pairs at ``data``, whichever they are; it may not exist."""
        return self._ledger(ledger_name(data))

    def claim(self, data: Path, present: Sequence[str]) -> Found:
        """`find`, and note the pairs as the ledger's own, before anything of them is released.

        Under one lock for all ledgers of the device: of two that are asked at once about a new pair, one
        counts it.

        Raises:
            PrivacyError: See `find`; or the list cannot be locked or written.
        """
        with locked(self.folder / "pairs"):
            found = self.find(data, present)
            own = [one for one in present if one not in found.elsewhere]
            if not found.counted.issuperset(own):
                _write(found.pairs, found.counted.union(own), ledger=found.ledger.path)
        return found

    def begin(self, data: Path, present: Sequence[str]) -> Found:
        """Begin a ledger for pairs that have none, as their owner says.

        Raises:
            PrivacyError: The pairs have one already, had one that is lost, or it cannot be written.
        """
        name = ledger_name(data)
        try:
            known = self.find(data, present)
        except PrivacyError as error:
            if error.code != "no-ledger":
                raise
        else:
            if known.ledger.exists or known.moved:
                lost = "" if known.ledger.exists else ", but its file is lost: restore it"
                raise PrivacyError(
                    f"The ledger {known.ledger.path} already counts the pairs at {data}{lost}. No new ledger"
                    " is started: what was spent on them stays spent.",
                    code="ledger",
                )
        self._ledger(name).begin()
        return self.claim(data, present)


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
            " released without it; free some space, or make the folder writable.",
            code="ledger",
        ) from error


def _unreadable(path: Path, error: Exception) -> PrivacyError:
    return PrivacyError(
        f"{path} cannot be read: {error}. Nothing is released without it; give the node's user permission to"
        " read it.",
        code="ledger",
    )
