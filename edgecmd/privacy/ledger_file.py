"""The bytes of a ledger: lines in a chain, the count kept apart from it, and the lock over both."""

import errno
import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from edgecmd.core.errors import PrivacyError
from edgecmd.core.files import write_bytes_atomically
from edgecmd.privacy.accounting import Spending, total_epsilon

DIGEST_LENGTH = 16
# Rivals hold the lock for milliseconds; whoever holds it for so long is stuck.
LOCK_TIMEOUT_S = 30.0
LOCK_POLL_S = 0.005
KINDS = ("begin", "plan", "spend", "torn")
ROUNDS = ("spend", "torn")
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """A ledger as it was read.

    Attributes:
        lines: Whole lines in order.
        digests: Digest of each of them.
        num_torn: Torn lines at the end that no later line accounts for.
        ends_clean: Whether the file ends with a newline, or is empty.
    """

    lines: tuple[Line, ...]
    digests: tuple[str, ...]
    num_torn: int
    ends_clean: bool

    @property
    def digest(self) -> str:
        """Digest of the last whole line; empty where there is none."""
        return self.digests[-1] if self.digests else ""

    @property
    def is_begun(self) -> bool:
        """Whether anything was ever written."""
        return bool(self.lines or self.num_torn)

    def num_rounds(self) -> int:
        """Rounds that were counted, torn ones included."""
        return sum(line["kind"] in ROUNDS for line in self.lines) + self.num_torn

    def plans(self) -> dict[str, Spending]:
        """Cost of a round by plan."""
        return {line["plan"]: Spending(**line["spending"]) for line in self.lines if line["kind"] == "plan"}

    def spendings(self, *, delta: float, upcoming: Spending | None = None) -> list[Spending]:
        """Everything that was spent, torn lines included.

        Args:
            delta: Compares plans, to find the dearest.
            upcoming: Plan about to be used: the price of a torn line where the file names no plan.
        """
        plans = self.plans()
        spent = [plans[line["plan"]] for line in self.lines if line["kind"] in ROUNDS]
        if self.num_torn:
            known = list(plans.values()) or ([upcoming] if upcoming else [])
            if known:
                spent += [dearest(known, delta=delta)] * self.num_torn
        return spent


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """What is kept apart from a ledger, so that a shorter or older one shows.

    Attributes:
        rounds: Rounds that were counted when it was written.
        digest: Digest of the ledger's last line then.
    """

    rounds: int
    digest: str


def dearest(spendings: list[Spending], *, delta: float) -> Spending:
    """The one that costs most; where none costs anything by itself, the one that adds up fastest."""

    def cost(one: Spending) -> tuple[float, float]:
        growth = one.count * (one.sampling_rate / max(one.noise_multiplier, 1e-9)) ** 2
        return total_epsilon([one], delta=delta), growth

    return max(spendings, key=cost)


def encoded(lines: list[Line], *, after: Book, key: bytes | None) -> tuple[bytes, str]:
    """What is appended to a ledger for ``lines``, in one piece, and the digest of the last of them."""
    data, digest = b"" if after.ends_clean else b"\n", after.digest
    for line in lines:
        digest = _digest(line, digest, key)
        data += json.dumps({**line, "digest": digest}).encode() + b"\n"
    return data, digest


def parse(content: bytes, path: Path, *, key: bytes | None = None) -> Book:
    """Whole lines, and torn ones that are still open.

    Raises:
        PrivacyError: A damaged line is followed by whole ones that do not account for it; or the ledger
            was begun with a key and none is given, or the other way round.
    """
    lines: list[Line] = []
    digests: list[str] = []
    num_torn, first_bad = 0, 0
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if not raw:
            continue
        line = _whole(raw, digests[-1] if digests else "", key)
        if not lines:
            _require_key(line or _loose(raw), path, key)
        if line is None or (line["kind"] == "begin" and lines):
            num_torn, first_bad = num_torn + 1, first_bad or number
            if line or _loose(raw) is not None:
                raise _damaged(path, first_bad, key)
            continue
        digests.append(str(line.pop("digest")))
        lines.append(line)
        if line["kind"] == "torn" and num_torn:
            num_torn -= 1
            first_bad = first_bad if num_torn else 0
        elif line["kind"] == "spend" and num_torn:
            raise _damaged(path, first_bad, key)
    return Book(
        lines=tuple(lines),
        digests=tuple(digests),
        num_torn=num_torn,
        ends_clean=not content or content.endswith(b"\n"),
    )


def _loose(raw: bytes) -> object:
    """What ``raw`` holds, whatever its digest; None for the beginning of a line, which a crash tore."""
    try:
        found: object = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if found is not None else ""


def _whole(raw: bytes, before: str, key: bytes | None) -> Line | None:
    """The line in ``raw`` if it is complete and follows on ``before``; else None."""
    try:
        line = json.loads(raw)
        digest = line.pop("digest")
        fits = hmac.compare_digest(str(digest), _digest(line, before, key))
        if not fits or line["kind"] not in KINDS:
            return None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return {**line, "digest": digest}


def _digest(line: Line, before: str, key: bytes | None) -> str:
    text = (before + json.dumps(line, sort_keys=True)).encode()
    return hashlib.sha256(text).hexdigest()[:DIGEST_LENGTH] if key is None else _seal(text, key)


def _seal(text: bytes, key: bytes | None) -> str:
    """HMAC-SHA256 under the key; without one a plain digest, which anyone can make."""
    return (hmac.new(key, text, hashlib.sha256) if key is not None else hashlib.sha256(text)).hexdigest()


def _require_key(first: object, path: Path, key: bytes | None) -> None:
    """Refuse a ledger whose first line says that it was begun with a key, or without one."""
    if first is None:
        return
    keyed = isinstance(first, dict) and first.get("kind") == "begin" and first.get("keyed") is True
    if keyed and key is None:
        raise PrivacyError(
            f"The ledger {path} was started with a key and is opened without one, so nobody can tell whether"
            " it was edited. Give the key that it was started with.",
            code="ledger",
        )
    if key is not None and not keyed:
        raise PrivacyError(
            f"The ledger {path} was started without a key and is opened with one. Until now anybody could"
            " have edited it, so a key proves nothing about it. Leave the key out, or start a new ledger"
            " for pairs that are in no ledger.",
            code="ledger",
        )


def _damaged(path: Path, number: int, key: bytes | None) -> PrivacyError:
    why = " or was edited, or the key is not the one that it was started with" if key else ""
    return PrivacyError(
        f"The ledger {path} is damaged at line {number}{why}, so what was spent is unknown. Restore the file"
        " from a copy; without one, treat the budget of these pairs as spent.",
        code="ledger",
    )


def read_count(path: Path, *, key: bytes | None, ledger: Path) -> Count | None:
    """The count of ``ledger`` in ``path``; None where there is no such file.

    Raises:
        PrivacyError: It cannot be read, was edited, or belongs to another key.
    """
    try:
        table = json.loads(path.read_bytes())
        count = Count(rounds=int(table["rounds"]), digest=str(table["digest"]))
        if not hmac.compare_digest(str(table["seal"]), _count_seal(count, key)):
            raise ValueError("the seal does not fit")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PrivacyError(
            f"The count of rounds {path} of the ledger {ledger} cannot be read or was changed, or the key is"
            f" a different one ({error}). Restore it from a copy; without one, treat the budget of these"
            " pairs as spent.",
            code="ledger",
        ) from error
    return count


def write_count(path: Path, count: Count, *, key: bytes | None) -> None:
    """Put ``count`` in place of the file's content, all or nothing.

    Raises:
        OSError: It cannot be written.
    """
    table = {"rounds": count.rounds, "digest": count.digest, "seal": _count_seal(count, key)}
    write_bytes_atomically(path, json.dumps(table).encode() + b"\n")


def _count_seal(count: Count, key: bytes | None) -> str:
    return _seal(f"count\0{count.rounds}\0{count.digest}".encode(), key)


def require_no_less(book: Book, count: Count | None, *, path: Path, apart: Path) -> None:
    """Refuse a ledger that is not the counted one, or that one with more lines.

    Raises:
        PrivacyError: It is shorter, older, another one, or missing.
    """
    if count is None or (count.rounds == 0 and not book.is_begun):
        return
    rounds = 0
    for line, digest in zip(book.lines, book.digests, strict=True):
        rounds += line["kind"] in ROUNDS
        if rounds == count.rounds and digest == count.digest:
            return
    raise PrivacyError(
        f"The ledger {path} holds {book.num_rounds()} rounds and does not continue from the {count.rounds}"
        f" that {apart} counts: it was truncated, replaced by an older copy or another ledger, or removed."
        " Restore the newest; without it, treat the budget of these pairs as spent.",
        code="ledger",
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the ledger at ``path``, the file ``<ledger>.lock`` beside it.

    Raises:
        PrivacyError: The lock cannot be had.
    """
    lock = Path(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A marker file in place of a lock would outlive a killed process and stop the device for good.
        held = FileLock(lock, timeout=LOCK_TIMEOUT_S, mode=0o600, fallback_to_soft=False)
        held.acquire(poll_interval=LOCK_POLL_S)
    except Timeout as error:
        raise PrivacyError(
            f"The ledger {path} has been locked by another process for {LOCK_TIMEOUT_S:g} seconds ({lock})."
            " Nothing is released; stop the process that holds the lock, or try again.",
            code="ledger",
        ) from error
    except (OSError, NotImplementedError) as error:
        raise PrivacyError(
            f"The ledger {path} cannot be locked: {_reason(error)}. Nothing is released without the lock"
            f" {lock}; keep the ledger in a folder that this user may write to, on a disk that supports"
            " locks (some network file systems do not).",
            code="ledger",
        ) from error
    try:
        yield
    finally:
        held.release()


def read_bytes(path: Path) -> bytes:
    """Content of the ledger at ``path``; empty where there is none.

    Raises:
        PrivacyError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise PrivacyError(
            f"The ledger {path} cannot be read: it cannot be opened ({_reason(error)}). Nothing is released"
            " without it; it must be a file that this user may read and write.",
            code="ledger",
        ) from error


@contextmanager
def appended(path: Path, data: bytes) -> Iterator[None]:
    """Append ``data``, synchronised to the disk, and run the body; undo it where either fails.

    Raises:
        PrivacyError: The file or the disk refuses; the file is what it was, if the disk allows that.
    """
    try:
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        raise PrivacyError(
            f"The ledger {path} cannot be opened for writing: {_reason(error)}."
            " Nothing is released without it; make it writable.",
            code="ledger",
        ) from error
    try:
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
            if new:
                _sync_folder(path.parent)
            yield
        except OSError as error:
            _undo(descriptor, size)
            raise_unwritten(path, error)
    finally:
        os.close(descriptor)


def raise_unwritten(path: Path, error: OSError) -> NoReturn:
    """Say that nothing was released, since it could not be counted.

    Raises:
        PrivacyError: Always.
    """
    raise PrivacyError(
        f"The ledger {path} or the count beside it could not be written: {_reason(error)}. Nothing was"
        " released, and the round is not counted if the disk allowed it to be undone. Free some disk space"
        " and make the folder writable.",
        code="ledger",
    ) from error


def _undo(descriptor: int, size: int) -> None:
    """Cut off what was appended; where that fails too, the round stays counted, which is the safe side."""
    with suppress(OSError):
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
