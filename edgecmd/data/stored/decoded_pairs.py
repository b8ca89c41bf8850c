"""Pairs that a device has decoded, kept on its own disk: each message is answered by a process of its own.

A pair is known by its two files: names, sizes, times of the last change and of the last change of anything
about them, which no program sets, and numbers of the files. So each pair is decoded again, or not, by itself.

Shapes: N pairs.
"""

import contextlib
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL

from edgecmd import __version__
from edgecmd.core.files import write_bytes_atomically

# Of both halves of all pairs that are kept; a device's disk is not a run's to fill.
MOST_BYTES = 2**29
# A file that changed so shortly before may change again while its time stays the same.
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decoded:
    """A pair.

    Attributes:
        digest: Of its stored halves.
        halves: Source and target as the settings take them.
    """

    digest: str
    halves: tuple[np.ndarray, np.ndarray]


@dataclass(kw_only=True, eq=False)
class DecodedPairs:
    """Pairs of one folder as one set of settings takes them.

    Attributes:
        path: File that keeps them; None keeps nothing.
        what: Settings that change a number of a pair; those of the last reading are the ones that are kept.

    Guarantees:
        A pair that is found is what decoding its files now would give. What is missing, damaged, of other
        settings or of another release is not found, and no error. The file is readable by its owner alone.
    """

    path: Path | None
    what: str
    _known: Mapping[str, Decoded] = field(init=False)
    _kept: dict[str, Decoded] = field(init=False, default_factory=dict)
    _num_bytes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        # Another release may decode a file to other numbers.
        self.what = f"{self.what}, edgecmd {__version__}, Pillow {PIL.__version__}, numpy {np.__version__}"
        self._known = {} if self.path is None else _read(self.path, self.what)

    def state_of(self, files: Sequence[Path]) -> str:
        """What a pair's files are known by; empty where that says too little, or nothing is kept."""
        return "" if self.path is None else state_of(files)

    def find(self, state: str) -> Decoded | None:
        """The pair whose files are in that state."""
        return self._known.get(state)

    def keep(self, state: str, pair: Decoded) -> None:
        """Keep a pair of this reading, as long as there is room."""
        num = sum(one.nbytes for one in pair.halves)
        if state and self._num_bytes + num <= MOST_BYTES:
            self._kept[state] = pair
            self._num_bytes += num

    def save(self) -> None:
        """Keep the pairs of this reading and no others, for the next one."""
        if self.path is None or self._kept.keys() == self._known.keys():
            return
        # A full disk costs the next message some time, and not this one its answer.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.parent.chmod(0o700)
            write_bytes_atomically(self.path, _packed(self.what, self._kept))
            self.path.chmod(0o600)


def state_of(files: Sequence[Path]) -> str:
    """What files are known by, as long as nobody changes them; empty where that says too little.

    Args:
        files: Files, or folders for what they hold.
    """
    try:
        found = [(str(one), one.stat()) for one in files]
    except OSError:
        return ""
    newest = max((max(one.st_mtime_ns, one.st_ctime_ns) for _, one in found), default=0)
    if newest > time.time_ns() - SETTLED_NS:
        return ""
    return repr([(name, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for name, one in found])


def _packed(what: str, pairs: Mapping[str, Decoded]) -> bytes:
    data, every = io.BytesIO(), list(pairs.values())
    np.savez(
        data,
        what=np.array(what),
        state=np.array(list(pairs), dtype=np.str_),
        digest=np.array([one.digest for one in every], dtype=np.str_),
        source=np.array([one.halves[0] for one in every]),
        target=np.array([one.halves[1] for one in every]),
    )
    return data.getvalue()


def _read(path: Path, what: str) -> dict[str, Decoded]:
    # Whatever is wrong with the file, its pairs are decoded again. Each array in it has a checksum.
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            if str(found["what"]) != what:
                return {}
            states, digests = found["state"].tolist(), found["digest"].tolist()
            rows = zip(states, digests, found["source"], found["target"], strict=True)
        return {state: Decoded(digest=digest, halves=(one, two)) for state, digest, one, two in rows}
    except Exception:
        return {}
