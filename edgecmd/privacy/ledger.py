"""The ledger of a data set: everything ever spent on it, over rounds, runs, restarts and resumes.

An append-only file of JSON lines. Each line carries a digest over itself and over the line before it;
each append is one write, synchronised to the disk before it counts. A line that a crash tore is counted
as one round of the dearest plan. How the bytes are read, sealed, locked and appended is in
`edgecmd.privacy.ledger_file`.

What each part detects, and what it does not:

| | by itself | with a count apart | with a key | with both |
|---|---|---|---|---|
| a torn, changed or missing line before the last, by accident | yes | yes | yes | yes |
| lines missing at the end, an older copy, no file at all | no | yes | no | yes |
| lines edited or forged by someone who recomputes digests | no | as far as the count | yes | yes |
| the same someone, who also writes the count | no | no | no | yes |
| older copies of ledger and count, put back together | no | no | no | no |

The last line is what no file on a device can show. Whoever can read the key can do everything.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgecmd.core.errors import PrivacyError
from edgecmd.core.files import write_bytes_atomically
from edgecmd.core.text import counted
from edgecmd.privacy.accounting import total_epsilon
from edgecmd.privacy.ledger_file import (
    DIGEST_LENGTH,
    Book,
    Count,
    Line,
    appended,
    dearest,
    encoded,
    locked,
    parse,
    raise_unwritten,
    read_bytes,
    read_count,
    require_no_less,
    write_count,
)
from edgecmd.privacy.plan import PrivacyPlan

__all__ = ["Book", "BudgetSpentError", "Ledger", "Line", "Release", "dearest", "describe"]

SLACK = 1e-9
SHORTEST_KEY = 16


class BudgetSpentError(PrivacyError):
    """One more round would exceed the budget; the text depends on the ledger alone, not on the data."""

    def __init__(self, text: str) -> None:
        super().__init__(text, code="budget-spent")


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What is released in a round.

    Attributes:
        run: Name of the run.
        round_index: Round, from 1.
        query: SHA-256 of what was asked: run, round and incoming weights.
        reply: SHA-256 of what is released.
        anchors: SHA-256 of the anchors of the round; empty where there are none.
    """

    run: str
    round_index: int
    query: str
    reply: str
    anchors: str = ""


class Ledger:
    """Ledger of one data set.

    Args:
        path: The file; beside it is its lock, ``<ledger>.lock``.
        key: Secret of the owner, 16 bytes or more, kept where whoever can write the ledger cannot read
            it. The chain of digests is then an HMAC-SHA256. One key a data set: a ledger does not name
            its pairs, so under a shared key that of other pairs would be believed.
        count: File with the number of counted rounds, kept apart from the ledger: the ledger is that of
            a device. It must have been begun (`begin`) before anything is spent, and a shorter, older or
            missing one is refused. None for a simulation, where a missing file is an empty ledger.

    Guarantees:
        `spend` returns only after the line is on the disk, and after it the count; a release that waits
        for it is counted whatever happens afterwards. Two processes cannot together exceed the budget:
        `spend` checks again under an exclusive lock. Where a lock, the ledger or the count cannot be had
        or written, `spend` raises, so that nothing is released, and undoes what it wrote.

        Without a key the digests show accidents and nothing else: anyone can recompute them. With one,
        whoever edits or forges a line without the key is refused, and with a count whoever shortens or
        replaces the ledger. Older copies of ledger and count, put back together, are never noticed.

    Raises:
        PrivacyError: The key is too short.
    """

    def __init__(self, path: Path, *, key: bytes | None = None, count: Path | None = None) -> None:
        if key is not None and len(key) < SHORTEST_KEY:
            raise PrivacyError(
                f"The key of the ledger {path} has {counted(len(key), 'byte')}; allowed are"
                f" {SHORTEST_KEY} or more. Make"
                " one with `openssl rand -hex 32`.",
                code="ledger",
            )
        self.path, self.key, self.count = path, key, count

    @property
    def exists(self) -> bool:
        """Whether the ledger was begun; False also where only a count of rounds is left of it."""
        return bool(read_bytes(self.path))

    def begin(self) -> None:
        """Begin a new ledger, for pairs that never took part in anything.

        Raises:
            PrivacyError: There is one, or there was one that counted rounds; or it cannot be written.
        """
        with locked(self.path):
            left = read_count(self.count, key=self.key, ledger=self.path) if self.count else None
            if self.exists or (left is not None and left.rounds):
                found = self.path if self.exists else self.count
                raise PrivacyError(
                    f"No new ledger is started at {self.path}: {found} says what these pairs have spent."
                    " Continue with it, or restore the ledger from a copy; move both files away only for"
                    " pairs that are in no other ledger.",
                    code="ledger",
                )
            empty = Book(lines=(), digests=(), num_torn=0, ends_clean=True)
            data, digest = encoded([self._begin_line()], after=empty, key=self.key)
            try:
                # The count first: a ledger without its count would be what is left when someone takes it.
                if self.count:
                    write_count(self.count, Count(rounds=0, digest=digest), key=self.key)
                write_bytes_atomically(self.path, data)
            except OSError as error:
                raise_unwritten(self.path, error)

    def _begin_line(self) -> Line:
        return {
            "kind": "begin",
            "keyed": self.key is not None,
            "time": _now(),
            "name": secrets.token_hex(DIGEST_LENGTH),
        }

    def read(self) -> Book:
        """Read the file.

        Raises:
            PrivacyError: It cannot be read, a line in the middle is damaged or edited, or it holds less
                than the count.
        """
        # The count first: a rival that spends in between makes the ledger the longer of the two.
        count = read_count(self.count, key=self.key, ledger=self.path) if self.count else None
        book = parse(read_bytes(self.path), self.path, key=self.key)
        if self.count:
            _require_counted(book, count, self.path, self.count)
            require_no_less(book, count, path=self.path, apart=self.count)
        return book

    def epsilon(self, *, delta: float, accountant: str = "pld") -> float:
        """Epsilon of everything that was spent so far."""
        return total_epsilon(self.read().spendings(delta=delta), delta=delta, accountant=accountant)

    def num_rounds(self) -> int:
        """Rounds that were counted, torn ones included."""
        return self.read().num_rounds()

    def find(self, *, run: str, round_index: int, query: str) -> str | None:
        """Digest of the reply that was released for this very query; None where there was none.

        Raises:
            PrivacyError: The ledger of a device was never begun, or cannot be trusted.
        """
        asked, found = (run, round_index, query), None
        # Under the lock: a line that a rival is about to take back must not be answered from.
        with locked(self.path):
            book = self._begun()
        for line in book.lines:
            if line["kind"] == "spend" and (line["run"], line["round"], line["query"]) == asked:
                found = str(line["reply"])
        return found

    def require_budget(self, plan: PrivacyPlan, *, epsilon: float, delta: float) -> None:
        """Refuse one more round of ``plan`` that would exceed ``epsilon`` at ``delta``.

        Raises:
            BudgetSpentError: It would.
            PrivacyError: The ledger of a device was never begun or cannot be trusted, or the file holds
                rounds that this plan does not add up with.
        """
        book = self._begun()
        _require_same_kind(book, plan, self.path)
        _require(book, plan, epsilon=epsilon, delta=delta)

    def spend(self, plan: PrivacyPlan, release: Release, *, epsilon: float, delta: float) -> None:
        """Count one round of ``plan``; to be called before the release leaves.

        Raises:
            BudgetSpentError: It would exceed the budget; nothing is written.
            PrivacyError: The ledger of a device was never begun or cannot be trusted, cannot be locked or
                written, or holds rounds that this plan does not add up with.
        """
        with locked(self.path):
            book = self._begun()
            _require_same_kind(book, plan, self.path)
            _require(book, plan, epsilon=epsilon, delta=delta)
            lines = [] if book.lines or self.key is None else [self._begin_line()]
            lines += _lines_for(book, plan, release, delta=delta)
            data, digest = encoded(lines, after=book, key=self.key)
            with appended(self.path, data):
                if self.count:
                    total = Count(rounds=book.num_rounds() + 1, digest=digest)
                    write_count(self.count, total, key=self.key)

    def _begun(self) -> Book:
        book = self.read()
        if self.count and not book.is_begun:
            raise PrivacyError(
                f"No ledger at {self.path} counts these pairs. If they were never in a private run, start"
                " one with `edgecmd node --new-ledger`; otherwise restore theirs.",
                code="no-ledger",
            )
        return book


def _require_counted(book: Book, count: Count | None, path: Path, apart: Path) -> None:
    """Refuse a ledger that was begun with a count whose count is gone."""
    if count is None and book.lines and book.lines[0]["kind"] == "begin":
        raise PrivacyError(
            f"The ledger {path} was started with a count of rounds, and {apart} is missing, so an older copy"
            " of the ledger would not be noticed. Restore it; without it, treat the budget of these pairs"
            " as spent.",
            code="ledger",
        )


def _require(book: Book, plan: PrivacyPlan, *, epsilon: float, delta: float) -> None:
    one = plan.round_spending()
    spent = book.spendings(delta=delta, upcoming=one)
    projected = total_epsilon([*spent, one], delta=delta, accountant=plan.accountant)
    if projected <= epsilon * (1.0 + SLACK):
        return
    before = total_epsilon(spent, delta=delta, accountant=plan.accountant)
    raise BudgetSpentError(
        f"The privacy budget is spent: epsilon={before:.4g} after {counted(len(spent), 'round')}, one more"
        f" makes {projected:.4g}, allowed is {epsilon:g} at delta={delta:g}. These pairs cannot take part in"
        " another round of this kind; new pairs in a separate data set can."
    )


def _require_same_kind(book: Book, plan: PrivacyPlan, path: Path) -> None:
    """Refuse to add up what does not: another relation, or rounds with and without true noise."""
    plans = [line for line in book.lines if line["kind"] == "plan"]
    others = {line["relation"] for line in plans} - {plan.relation}
    if others:
        raise PrivacyError(
            f"The ledger {path} counts under {sorted(others)[0]!r}; this run's relation is"
            f" {plan.relation!r}. The two cannot be added up; keep a ledger for each (privacy.ledger_dir).",
            code="ledger",
        )
    if any(line["private"] != plan.private for line in plans):
        there, here = ("private", "NOT PRIVATE") if not plan.private else ("NOT PRIVATE", "private")
        raise PrivacyError(
            f"The ledger {path} holds rounds that were {there}, and this run is {here}"
            " (privacy.deterministic, privacy.projected_pairs): no epsilon holds for both together. Keep"
            " such runs apart, with a separate privacy.ledger_dir or none.",
            code="ledger",
        )


def _lines_for(book: Book, plan: PrivacyPlan, release: Release, *, delta: float) -> list[Line]:
    """Everything that one `spend` appends: the end of torn lines, the plan, the spending."""
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
    spent = {
        "kind": "spend",
        "plan": described["plan"],
        "run": release.run,
        "round": release.round_index,
        "query": release.query,
        "reply": release.reply,
        "anchors": release.anchors,
        "time": _now(),
    }
    return [*lines, spent]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe(plan: PrivacyPlan) -> Line:
    """What a ledger says of a plan, under a name made of it."""
    table = {
        "mechanism": plan.mechanism,
        "unit": plan.unit,
        "relation": plan.relation,
        "clip": plan.clip,
        "sensitivity": plan.sensitivity,
        "private": plan.private,
        "spending": plan.round_spending().line(),
    }
    name = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]
    return {"plan": name, **table}
