"""Ledger records of a run: what its event log says was released, against what ledgers and run claim.

Three records are kept by three parts of a run: each client (or the server) writes its ledger before a
release, the server logs each round, and the statement is made at the end. A release that one of them
forgot is in the others.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.privacy_claim import Claim, read_claim, settings_finding
from edgecmd.audits.target import Target
from edgecmd.core.errors import DataError, PrivacyError
from edgecmd.core.events import read_events
from edgecmd.core.statistics import finite
from edgecmd.privacy.accounting import Spending, total_epsilon
from edgecmd.privacy.ledger import Book, Ledger, Line, describe
from edgecmd.privacy.plan import PrivacyPlan

# The same accountant on the same ledger repeats itself; another version of it may round otherwise.
SAME_ACCOUNTANT = 1e-3
# Opacus' PRV gives the upper end of an interval of half-width 0.01, so an honest claim may lie 0.02 below.
OTHER_ACCOUNTANT = 0.02
# Above this the second accountant's grid takes minutes and gigabytes (86 s at 1283).
LARGEST_SECOND = 50.0
ANY = "any client"
SPENT = ("spend", "torn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """What the files of a run say, each by itself.

    Attributes:
        plan: Plan of the run.
        claim: ``privacy.json``; None before the end of a run.
        token: Name of the run in the ledgers.
        answers: Clients that were aggregated, for each round of ``events.jsonl``.
        ledgers: Ledgers by the names of ``epsilon_by_client``; empty where they are on other machines.
        shared: Whether other runs write to the same ledgers.
        ended_by_budget: Whether spent budgets ended the run.
        num_clients: Clients of the federation.
    """

    plan: PrivacyPlan
    claim: Claim | None
    token: str
    answers: Mapping[int, int]
    ledgers: Mapping[str, Book]
    shared: bool
    ended_by_budget: bool
    num_clients: int

    @property
    def releases(self) -> int:
        """Most releases of one unit that the event log implies: if the answers were spread evenly."""
        if self.plan.unit == "client":
            return len(self.answers)
        # More nodes than federation.num_clients may answer in a deployment.
        units = max([self.num_clients, *self.answers.values()])
        return math.ceil(sum(self.answers.values()) / units)


def books_findings(target: Target) -> list[Finding]:
    """Hold the settings, the rounds and the epsilon of a run folder against each other.

    Returns:
        Nothing without a run folder, and little without privacy.

    Raises:
        DataError: A file is missing or is not what it should be.
        PrivacyError: A ledger is damaged, or all of them are gone.
    """
    if target.folder is None:
        return []
    claim = read_claim(target)
    settings = settings_finding(target, claim)
    found = [settings] if settings is not None else []
    if target.plan is None or not target.plan.private:
        return found
    books = read_books(target, target.plan, claim)
    return [*found, rounds_finding(books), epsilon_finding(books)]


def read_books(target: Target, plan: PrivacyPlan, claim: Claim | None) -> Books:
    """Read event log, token and ledgers of a run folder.

    Raises:
        DataError: ``events.jsonl`` or ``token`` is missing, damaged or too short.
        PrivacyError: A ledger is damaged, or all that ``privacy.json`` counts are gone.
    """
    folder = target.folder
    assert folder is not None
    answers = read_answers(folder, at_least=claim.rounds if claim else 0)
    token = folder / "token"
    if answers and not token.is_file():
        raise DataError(
            f"{token} is missing, so this run's lines in the ledgers cannot be told apart from others."
            " Restore it."
        )
    return Books(
        plan=plan,
        claim=claim,
        token=token.read_text(encoding="ascii", errors="replace").strip() if token.is_file() else "",
        answers=answers,
        ledgers=_read_ledgers(target, plan, claim),
        shared=bool(target.run.privacy.ledger_dir),
        ended_by_budget=any(read_events(folder / "events.jsonl", kind="budget")),
        num_clients=target.run.federation.num_clients,
    )


def read_answers(folder: Path, *, at_least: int) -> dict[int, int]:
    """Clients whose replies were aggregated, for each round of the event log.

    Args:
        folder: Run folder.
        at_least: Rounds that there must be.

    Raises:
        DataError: The log is missing, or a round of it is missing or damaged.
    """
    log = folder / "events.jsonl"
    at_least = max(at_least, _newest_round(folder / "checkpoints"))
    answers: dict[int, int] = {}
    for event in read_events(log, kind="round"):
        index, clients = event.get("round"), event.get("clients")
        if not isinstance(index, int) or not isinstance(clients, int) or index < 1 or clients < 0:
            raise DataError(f"{log} has a round={index!r} with clients={clients!r}. Restore the log.")
        answers[index] = clients
    missing = sorted(set(range(1, max([at_least, *answers]) + 1)) - set(answers))
    if missing:
        raise DataError(
            f"{log} lacks round {missing[0]} and {len(missing) - 1} others, so what was released cannot be"
            " counted. Restore the log."
        )
    return answers


def _newest_round(checkpoints: Path) -> int:
    names = (path.name.removeprefix("round-") for path in checkpoints.glob("round-*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def _read_ledgers(target: Target, plan: PrivacyPlan, claim: Claim | None) -> dict[str, Book]:
    """Ledgers on this disk.

    Raises:
        PrivacyError: A ledger is damaged, or the claim counts ledgers and there is none.
    """
    run, run = target.run, target.run
    if plan.unit == "client":
        paths = {ANY: run.server_ledger}
    else:
        paths = {f"client {one}": run.client_ledger(one) for one in range(run.federation.num_clients)}
    found = {name: Ledger(path).read() for name, path in paths.items() if path.exists()}
    counted = [name for name in claim.by_client if name in paths] if claim else []
    if counted and not found:
        raise PrivacyError(
            f"privacy.json counts {len(counted)} ledgers, but none is in {run.ledger_folder}. Restore them;"
            " without them the budget of these pairs must be treated as spent."
        )
    return found


def rounds_finding(books: Books) -> Finding:
    """Whether the ledgers hold every release of the event log; they may hold more (other runs, repeats)."""
    counted = counted_releases(books)
    forgotten = {
        index: _expected(books, clients) - counted[index]
        for index, clients in books.answers.items()
        if counted[index] < _expected(books, clients)
    }
    cheaper = 0 if not books.ledgers else _other_plans(books)
    if not books.ledgers:
        forgotten = _rounds_not_claimed(books)
    num = sum(forgotten.values())
    return Finding(
        level="check",
        name="books: rounds",
        attacker="code",
        verdict=CONTRADICTED if num or cheaper else NOT_CONTRADICTED,
        text=_rounds_text(books, forgotten, cheaper),
        quantity="uncounted releases",
        claimed=0.0,
        measured=float(num + cheaper),
        counts={
            "rounds": len(books.answers),
            "answers": sum(books.answers.values()),
            "ledgers": len(books.ledgers),
        },
        details={"rounds_of_other_plans": cheaper, "ended_by_budget": books.ended_by_budget},
    )


def _expected(books: Books, clients: int) -> int:
    return 1 if books.plan.unit == "client" else clients


def counted_releases(books: Books) -> Counter[int]:
    """For each round, ledgers that have a line of this run for it."""
    return Counter(
        index
        for book in books.ledgers.values()
        for index in {line["round"] for line in own_lines(book, books.token)}
    )


def own_lines(book: Book, token: str) -> list[Line]:
    """Spendings of the run ``token``."""
    return [line for line in book.lines if line["kind"] == "spend" and line["run"] == token]


def _other_plans(books: Books) -> int:
    """Lines of this run that were booked under another plan than the settings make."""
    name = describe(books.plan)["plan"]
    return sum(
        line["plan"] != name for book in books.ledgers.values() for line in own_lines(book, books.token)
    )


def _rounds_not_claimed(books: Books) -> dict[int, int]:
    """Rounds of the log beyond those that ``privacy.json`` counts, where the ledgers are elsewhere."""
    if books.claim is None:
        return {}
    return {index: 1 for index in books.answers if index > books.claim.rounds}


def _rounds_text(books: Books, forgotten: Mapping[int, int], other_plans: int) -> str:
    rounds, answers = len(books.answers), sum(books.answers.values())
    end = ", ended by spent budgets" if books.ended_by_budget else ""
    if forgotten:
        first = min(forgotten)
        return (
            f"Contradicted: events.jsonl has {rounds} rounds and {answers} answers, of which"
            f" {sum(forgotten.values())} were never counted (the first in round {first})."
        )
    if other_plans:
        return (
            f"Contradicted: {other_plans} releases of this run were counted under another plan than"
            " config.toml makes."
        )
    if not books.ledgers:
        return (
            f"The {rounds} rounds of events.jsonl are those that privacy.json counts{end}; the clients'"
            " ledgers are on their own devices and were not read."
        )
    if books.plan.unit == "client":
        return f"All {rounds} rounds are in the server's ledger{end}."
    return f"All {answers} answers of {rounds} rounds are in {len(books.ledgers)} ledgers{end}."


def epsilon_finding(books: Books) -> Finding:
    """Epsilon recomputed from ledgers and event log, against the one that is claimed."""
    started = time.monotonic()
    accountant, delta = books.plan.accountant, books.plan.delta
    spent = {name: _spent(book, books, delta=delta) for name, book in books.ledgers.items()}
    found = {name: total_epsilon(one, delta=delta, accountant=accountant) for name, one in spent.items()}
    from_events = books.plan.epsilon_after(books.releases)
    worst = max(found, key=lambda name: found[name], default="")
    second_name = "pld" if accountant == "prv" else "prv"
    second = second_opinion(
        spent[worst] if worst else [books.plan.round_spending()] * books.releases,
        delta=delta,
        accountant=second_name,
        first=found[worst] if worst else from_events,
    )
    measured = max([from_events, *found.values()])
    verdict, text = _epsilon_verdict(books, found, from_events=from_events, second=second)
    return Finding(
        level="check",
        name="books: epsilon",
        attacker="code",
        verdict=verdict,
        text=text,
        quantity="epsilon",
        claimed=books.claim.epsilon if books.claim else None,
        measured=measured,
        counts={"ledgers": len(books.ledgers), "rounds": len(books.answers)},
        seconds=time.monotonic() - started,
        details={
            f"by_ledgers_{accountant}": finite(max(found.values(), default=None)),
            f"by_ledgers_{second_name}": finite(second),
            f"by_events_{accountant}": finite(from_events),
            "budget": books.plan.epsilon,
            "delta": delta,
        },
    )


def _spent(book: Book, books: Books, *, delta: float) -> list[Spending]:
    """What a ledger held when the claim was made: a shared one may have grown since, after this run's end."""
    if not books.shared:
        return book.spendings(delta=delta)
    own = own_lines(book, books.token)
    last = max((index for index, line in enumerate(book.lines) if line in own), default=-1)
    plans = book.plans()
    return [plans[line["plan"]] for line in book.lines[: last + 1] if line["kind"] in SPENT]


def second_opinion(
    spendings: Iterable[Spending], *, delta: float, accountant: str, first: float
) -> float | None:
    """Epsilon by another accountant; None where that would take minutes or its numbers give out."""
    if not first <= LARGEST_SECOND:
        return None
    try:
        # Without amplification (rate 1) Opacus takes a logarithm of zero that it then does not use.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found = total_epsilon(spendings, delta=delta, accountant=accountant)
    except (ValueError, RuntimeError, ArithmeticError):
        return None
    return finite(found)


def _epsilon_verdict(
    books: Books, found: Mapping[str, float], *, from_events: float, second: float | None
) -> tuple[str, str]:
    claim, accountant = books.claim, books.plan.accountant
    largest = max(found.values(), default=0.0)
    says = (
        (f"the ledgers say {largest:.4g} ({accountant})" if found else "no ledger was read")
        + ("" if second is None else f" and {second:.4g} by a second accountant")
        + f", the event log at least {from_events:.4g}"
    )
    if claim is None:
        over = max(largest, from_events) > books.plan.epsilon * (1.0 + SAME_ACCOUNTANT)
        budget = f"{says}; the budget is {books.plan.epsilon:g}"
        if over:
            return CONTRADICTED, f"Contradicted: the unfinished run is over its budget: {budget}."
        return INDICATOR, f"The run is unfinished and claims nothing yet: {budget}."
    if claim.epsilon is None:
        return INDICATOR, f"privacy.json claims no finite epsilon; {says}."
    floors = [_floor(value) for value in (largest, from_events)]
    floors += [] if second is None else [second - OTHER_ACCOUNTANT]
    low = [name for name, value in found.items() if _below(claim.by_client.get(name), value)]
    if claim.epsilon < max(floors):
        return CONTRADICTED, f"Contradicted: privacy.json claims epsilon={claim.epsilon:.4g}, but {says}."
    if low:
        return (
            CONTRADICTED,
            f"Contradicted: privacy.json claims {claim.by_client.get(low[0])!r} for {low[0]}, whose ledger"
            f" says {found[low[0]]:.4g}.",
        )
    return NOT_CONTRADICTED, f"Not contradicted: privacy.json claims epsilon={claim.epsilon:.4g}; {says}."


def _floor(value: float) -> float:
    return value * (1.0 - SAME_ACCOUNTANT)


def _below(claimed: float | None, found: float) -> bool:
    """Whether one client's claim is too small; a client that was left out of the claim counts as zero."""
    return (0.0 if claimed is None else claimed) < _floor(found)
