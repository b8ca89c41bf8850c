"""The ledger of a data set: what was ever spent on it, over rounds, runs, restarts and resumes.

An append-only file of JSON lines. Each line carries a digest over itself and over the line before
it, so a changed or missing line in the middle is noticed; each append is one write, synchronised to
the disk before it counts. A line that a crash tore is counted as one round of the dearest plan.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgecmd.errors import PrivacyError
from edgecmd.privacy.accounting import Spending, total_epsilon
from edgecmd.privacy.plan import PrivacyPlan

SLACK = 1e-9
DIGEST_LENGTH = 16
Line = dict[str, Any]


class BudgetSpentError(PrivacyError):
    """One more round would exceed the budget; the text depends on the ledger alone, not on the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What is released in a round.

    Attributes:
        run: Name of the run.
        round_index: Round, from 1.
        query: SHA-256 of what was asked: run, round and incoming weights.
        reply: SHA-256 of what is released.
    """

    run: str
    round_index: int
    query: str
    reply: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """A ledger as it was read.

    Attributes:
        lines: Whole lines in order.
        digest: Digest of the last whole line.
        num_torn: Torn lines at the end that no later line accounts for.
        ends_clean: Whether the file ends with a newline, or is empty.
    """

    lines: tuple[Line, ...]
    digest: str
    num_torn: int
    ends_clean: bool

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
        spent = [plans[line["plan"]] for line in self.lines if line["kind"] in ("spend", "torn")]
        if self.num_torn:
            known = list(plans.values()) or ([upcoming] if upcoming else [])
            if known:
                spent += [dearest(known, delta=delta)] * self.num_torn
        return spent


def dearest(spendings: list[Spending], *, delta: float) -> Spending:
    """The one that costs most; where none costs anything by itself, the one that adds up fastest."""

    def cost(one: Spending) -> tuple[float, float]:
        growth = one.count * (one.sampling_rate / max(one.noise_multiplier, 1e-9)) ** 2
        return total_epsilon([one], delta=delta), growth

    return max(spendings, key=cost)


class Ledger:
    """Ledger of one data set.

    Args:
        path: The file; a missing one is empty.

    Guarantees:
        `spend` returns only after the line is on the disk; a release that waits for it is counted
        whatever happens afterwards. Two processes cannot together exceed the budget: `spend` checks
        again under an exclusive lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Book:
        """Read the file.

        Raises:
            PrivacyError: It cannot be read, or a line in the middle is damaged.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise PrivacyError(
                f"The ledger {self.path} cannot be read: {error.strerror}. Nothing is released without it;"
                " it must be a file that this user may read and write."
            ) from error
        return _parse(content, self.path)

    def epsilon(self, *, delta: float, accountant: str = "pld") -> float:
        """Epsilon of everything that was spent so far."""
        return total_epsilon(self.read().spendings(delta=delta), delta=delta, accountant=accountant)

    def num_rounds(self) -> int:
        """Rounds that were counted, torn ones included."""
        book = self.read()
        return sum(line["kind"] in ("spend", "torn") for line in book.lines) + book.num_torn

    def find(self, *, run: str, round_index: int, query: str) -> str | None:
        """Digest of the reply that was released for this very query; None where there was none."""
        found = None
        for line in self.read().lines:
            if line["kind"] == "spend" and (line["run"], line["round"], line["query"]) == (
                run,
                round_index,
                query,
            ):
                found = str(line["reply"])
        return found

    def require_budget(self, plan: PrivacyPlan, *, epsilon: float, delta: float) -> None:
        """Refuse one more round of ``plan`` that would exceed ``epsilon`` at ``delta``.

        Raises:
            BudgetSpentError: It would.
            PrivacyError: The file holds rounds that this plan does not add up with.
        """
        book = self.read()
        _require_same_kind(book, plan, self.path)
        _require(book, plan, epsilon=epsilon, delta=delta)

    def spend(self, plan: PrivacyPlan, release: Release, *, epsilon: float, delta: float) -> None:
        """Count one round of ``plan``; to be called before the release leaves.

        Raises:
            BudgetSpentError: It would exceed the budget; nothing is written.
            PrivacyError: The file cannot be written, or holds rounds that this plan does not add up with.
        """
        with self._locked() as descriptor:
            book = _parse(_read_all(descriptor), self.path)
            _require_same_kind(book, plan, self.path)
            _require(book, plan, epsilon=epsilon, delta=delta)
            data = _lines_for(book, plan, release, delta=delta)
            if os.write(descriptor, data) != len(data):
                raise PrivacyError(f"The ledger {self.path} could not be written; is the disk full?")
            os.fsync(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise PrivacyError(
                f"The ledger {self.path} cannot be opened for writing: {error.strerror}."
                " Nothing is released without it; make it writable."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if new:
                _sync_folder(self.path.parent)
            yield descriptor
        finally:
            os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require(book: Book, plan: PrivacyPlan, *, epsilon: float, delta: float) -> None:
    one = plan.round_spending()
    spent = book.spendings(delta=delta, upcoming=one)
    projected = total_epsilon([*spent, one], delta=delta, accountant=plan.accountant)
    if projected <= epsilon * (1.0 + SLACK):
        return
    before = total_epsilon(spent, delta=delta, accountant=plan.accountant)
    raise BudgetSpentError(
        f"The privacy budget is spent: epsilon={before:.4g} after {len(spent)} rounds, one more makes"
        f" {projected:.4g}, allowed is {epsilon:g} at delta={delta:g}. These pairs take part in no further"
        " round of this kind; new pairs in a data set of their own may."
    )


def _require_same_kind(book: Book, plan: PrivacyPlan, path: Path) -> None:
    """Refuse to add up what does not: another relation, or rounds with and without true noise."""
    plans = [line for line in book.lines if line["kind"] == "plan"]
    others = {line["relation"] for line in plans} - {plan.relation}
    if others:
        raise PrivacyError(
            f"The ledger {path} counts under {sorted(others)[0]!r}; this run's relation is {plan.relation!r}."
            " The two do not add up; keep a ledger for each (privacy.ledger_dir)."
        )
    if any(line["private"] != plan.private for line in plans):
        there, here = ("private", "NOT PRIVATE") if not plan.private else ("NOT PRIVATE", "private")
        raise PrivacyError(
            f"The ledger {path} holds rounds that were {there}, and this run is {here}"
            " (privacy.deterministic, privacy.projected_pairs): no epsilon holds for both together. Keep such"
            " runs apart, with a privacy.ledger_dir of their own or none."
        )


def _lines_for(book: Book, plan: PrivacyPlan, release: Release, *, delta: float) -> bytes:
    """Everything that one `spend` appends, in one piece: the end of a torn line, the plan, the spending."""
    described = describe(plan)
    known = book.plans()
    lines: list[Line] = []
    if described["plan"] not in known:
        lines.append({"kind": "plan", **described})
    if book.num_torn:
        costs = {**known, described["plan"]: plan.round_spending()}
        price = dearest(list(known.values()) or [plan.round_spending()], delta=delta)
        name = next(one for one, cost in costs.items() if cost == price)
        lines += [{"kind": "torn", "plan": name}] * book.num_torn
    lines.append(
        {
            "kind": "spend",
            "plan": described["plan"],
            "run": release.run,
            "round": release.round_index,
            "query": release.query,
            "reply": release.reply,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    data, digest = b"" if book.ends_clean else b"\n", book.digest
    for line in lines:
        digest = _digest(line, digest)
        data += json.dumps({**line, "digest": digest}).encode() + b"\n"
    return data


def describe(plan: PrivacyPlan) -> Line:
    """What a ledger says of a plan, under a name made of it."""
    table = {
        "mechanism": plan.mechanism,
        "unit": plan.unit,
        "relation": plan.relation,
        "clip": plan.clip,
        "sensitivity": plan.sensitivity,
        "private": plan.private,
        "spending": asdict(plan.round_spending()),
    }
    name = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]
    return {"plan": name, **table}


def _digest(line: Line, before: str) -> str:
    text = before + json.dumps(line, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def _parse(content: bytes, path: Path) -> Book:
    """Whole lines, and torn ones that are still open.

    Raises:
        PrivacyError: A damaged line is followed by whole ones that do not account for it.
    """
    lines: list[Line] = []
    digest, num_torn, first_bad = "", 0, 0
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if not raw:
            continue
        line = _whole(raw, digest)
        if line is None:
            num_torn, first_bad = num_torn + 1, first_bad or number
            if not _is_torn(raw):
                raise _damaged(path, first_bad)
            continue
        digest = str(line.pop("digest"))
        lines.append(line)
        if line["kind"] == "torn" and num_torn:
            num_torn -= 1
            first_bad = first_bad if num_torn else 0
        elif line["kind"] == "spend" and num_torn:
            raise _damaged(path, first_bad)
    return Book(
        lines=tuple(lines),
        digest=digest,
        num_torn=num_torn,
        ends_clean=not content or content.endswith(b"\n"),
    )


def _is_torn(raw: bytes) -> bool:
    """Whether ``raw`` is the beginning of a line; a whole line that does not fit was changed, not torn."""
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return True
    return False


def _damaged(path: Path, number: int) -> PrivacyError:
    return PrivacyError(
        f"The ledger {path} is damaged at line {number}, so what was spent is not known. Restore the file"
        " from a copy; without one, treat the budget of these pairs as spent."
    )


def _whole(raw: bytes, before: str) -> Line | None:
    """The line in ``raw`` if it is complete and follows on ``before``; else None."""
    try:
        line = json.loads(raw)
        digest = line.pop("digest")
        if digest != _digest(line, before) or line["kind"] not in ("plan", "spend", "torn"):
            return None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return {**line, "digest": digest}
