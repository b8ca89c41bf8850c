"""The rounds of a federation, around the public hooks of Flower's strategies.

Flower's own ``strategy.start`` cannot resume, goes on when every client failed and aggregates
whatever comes back. This loop owns the cohort, the quorum, the deadline, the screening of replies,
the dtype of the weights, a checkpoint a round and the event log.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from flwr.app import Message

from edgecmd.core.errors import FederationError, PrivacyError
from edgecmd.core.events import EventLog
from edgecmd.core.own_code import running
from edgecmd.core.seeding import numpy_generator
from edgecmd.privacy.ledger import BudgetSpentError
from edgecmd.settings import FederationConfig
from edgecmd.training.averaging import Arrays, part_of_step
from server.asynchronous.buffer import Buffer
from server.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from server.cohort import Identity, ask_identities, shared_indices, wait_for_nodes
from server.messages import Gathered, Messenger, exchange, train_messages
from server.privacy.client_privacy import CentralPrivacy
from server.privacy.one_shot import OneShot
from server.privacy.sum_round import SumRounds
from server.quorum import BudgetEndError, check_quorum
from server.resident.rounds import ResidentRounds
from server.screening import Rejection, claimed_client, screen
from server.strategies import from_record, restore_current, restore_strategy, strategy_tensors, to_record

AVERAGE = "average/"
Evaluate = Callable[[int, Arrays], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundReport:
    """What one round did.

    Attributes:
        round_index: Round, from 1.
        num_rounds: Rounds of the run.
        num_clients: Replies that were aggregated.
        rejected: Replies that were dropped, and why.
        num_examples: Pairs behind the aggregated replies; None under privacy.
        loss: Mean loss weighted by pairs; None under privacy.
        seconds: Wall time of the round.
        bytes_exchanged: Weights sent and received, in bytes.
        metrics: Evaluation after the round, where there was one.
        shared: Indices that several nodes claim, with those nodes; all of them are used.
        simulated_s: Made-up time that the round took, in seconds; None where time is real.
        staleness: Rounds by which the weights that each reply started from were old, in asynchronous rounds.
        num_at_once: Clients that trained with others at once; None where none was to.
    """

    round_index: int
    num_rounds: int
    num_clients: int
    rejected: tuple[Rejection, ...]
    num_examples: int | None
    loss: float | None
    seconds: float
    bytes_exchanged: int
    metrics: Mapping[str, float]
    shared: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    simulated_s: float | None = None
    staleness: tuple[int, ...] = ()
    num_at_once: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Federation(Messenger):
    """What stays the same over the rounds.

    Attributes:
        seed: Seed of the run.
        folder: Run folder; checkpoints and events are written into it.
        evaluate: Metrics of the global weights after a round; empty where none are due.
        report: Called after each round.
        identities: What each node that was asked says of itself.
        central: Client-level privacy of the server; None without it.
        fixed: Names of weights that stay as they are, whatever comes back: statistics that are held.
        buffer: Gathers the replies of asynchronous rounds; None for rounds that wait for their cohort.
        summed: Makes each round a secure sum; None where replies are seen one by one.
        share_of_step: Share of the strategy's step in a round, from 1, that is taken.
        one_shot: Makes the student of what clients release once; None where they send weights.
        average: Mean of the weights after the rounds so far; empty without ``federation.ema_decay``.
        resident: Lets clients train in turn in this process, or processes of its own; None where they get
            messages.
    """

    seed: int
    folder: Path
    evaluate: Evaluate
    report: Callable[[RoundReport], None]
    identities: dict[int, Identity] = field(default_factory=dict)
    central: CentralPrivacy | None = None
    fixed: frozenset[str] = frozenset()
    buffer: Buffer | None = None
    summed: SumRounds | None = None
    share_of_step: Callable[[int], float] = lambda _: 1.0
    one_shot: OneShot | None = None
    average: dict[str, np.ndarray] = field(default_factory=dict)
    resident: ResidentRounds | None = None

    @property
    def hidden(self) -> bool:
        """Whether it must stay secret who was asked and who answered."""
        return self.central is not None and self.central.hidden


def run_rounds(federation: Federation, initial: Arrays) -> Arrays:
    """Run the rounds that are left, from the newest checkpoint or from ``initial``.

    Returns:
        Global weights after the last round, or after the last one that privacy budgets allowed; with
        ``federation.ema_decay`` their mean over the rounds.

    Raises:
        FederationError: A round had fewer usable replies than the quorum.
        PrivacyError: No round could be made, because the clients refused.
    """
    checkpoints, log = federation.folder / "checkpoints", EventLog(federation.folder / "events.jsonl")
    state = newest_checkpoint(checkpoints)
    if state is None:
        passed_s = federation.clock.made_up_s
        state = Checkpoint(round_index=0, arrays=initial, events_bytes=log.num_bytes(), simulated_s=passed_s)
        save_checkpoint(checkpoints, state)
    kept = dict(state.strategy)
    for key in [key for key in kept if key.startswith(AVERAGE)]:
        federation.average[key.removeprefix(AVERAGE)] = kept.pop(key)
    restore_strategy(federation.strategy, kept)
    arrays: Arrays = {name: state.arrays[name] for name in sorted(state.arrays)}
    if state.round_index < federation.config.num_rounds:
        log.cut_back(state.events_bytes)
        _go_on(federation, state)
    warned: set[tuple[int, ...]] = set()
    for round_index in range(state.round_index + 1, federation.config.num_rounds + 1):
        try:
            arrays, report = run_round(federation, arrays, round_index)
        except BudgetEndError as end:
            _end_early(log, end, round_index)
            break
        _warn(log, report, warned)
        _log_round(log, report)
        state = Checkpoint(
            round_index=round_index,
            arrays=arrays,
            strategy=strategy_tensors(federation.strategy)
            | {AVERAGE + name: value for name, value in federation.average.items()},
            events_bytes=log.num_bytes(),
            in_flight=federation.buffer.in_flight if federation.buffer is not None else {},
            simulated_s=federation.clock.made_up_s,
        )
        save_checkpoint(checkpoints, state)
        federation.report(report)
    return federation.average or arrays


def _go_on(federation: Federation, state: Checkpoint) -> None:
    """Ask again what was in flight, and let made-up time go on where it was."""
    if federation.buffer is not None:
        federation.buffer.ask_again(federation, state)
    if federation.clock.go_to is not None:
        federation.clock.go_to(state.simulated_s)


def _end_early(log: EventLog, end: BudgetEndError, round_index: int) -> None:
    """Log that the budgets ended the run before ``round_index``.

    Raises:
        PrivacyError: It is the first round, so there is nothing to end with.
    """
    if round_index == 1:
        raise PrivacyError(f"No round can be run. {end}", code="budget-spent") from end
    log.append("budget", rounds=round_index - 1, reason=str(end))
    logging.getLogger("edgecmd").warning("The run ends after round %d: %s", round_index - 1, end)


def run_round(federation: Federation, arrays: Arrays, round_index: int) -> tuple[Arrays, RoundReport]:
    """Gather screened replies, aggregate, evaluate.

    Raises:
        FederationError: Fewer usable replies than the quorum; the message has every cause.
    """
    config, strategy, clock = federation.config, federation.strategy, federation.clock
    started, begun = time.monotonic(), clock.now()
    if federation.central is not None:
        _require_central_budget(federation.central)
    gathered = gather(federation, arrays, round_index)
    usable = gathered.usable
    summed = federation.summed
    each = usable if not gathered.num_summed else []
    claims = {one.metadata.src_node_id: claimed_client(one) for one in each}
    if not federation.hidden and summed is None:
        check_quorum(
            range(gathered.num_clients),
            gathered.rejected,
            num_asked=gathered.num_asked,
            num_unknown=gathered.num_unknown,
            terms=federation.terms,
            round_index=round_index,
        )
    if federation.central is not None:
        usable = [federation.central.combine(usable, arrays, round_index=round_index)]
    elif federation.one_shot is not None and summed is None:
        gathered = replace(gathered, num_summed=len(usable))
        usable = [federation.one_shot.combine(usable, arrays)]
    elif federation.private:
        weigh_equally(usable)
    restore_current(strategy, to_record(arrays))
    with running(f"The strategy {config.strategy!r}", strategy):
        aggregated, _ = strategy.aggregate_train(round_index, usable)
        if aggregated is None:
            raise FederationError(f"Round {round_index}: strategy {config.strategy!r} gave no weights.")
        moved = from_record(aggregated, like=arrays)
    moved |= {name: value for name, value in arrays.items() if name in federation.fixed}
    moved = part_of_step(arrays, moved, share=federation.share_of_step(round_index))
    updated = checked(moved, config=config, round_index=round_index)
    simulated_s = clock.now() - begun if clock.go_to is not None else None
    shown = averaged(federation, updated, round_index)
    report = _report(federation, round_index, replace(gathered, usable=usable), shown, started)
    report = replace(
        report, simulated_s=simulated_s, staleness=gathered.staleness, num_at_once=gathered.num_at_once
    )
    return updated, report if federation.hidden else replace(report, shared=shared_indices(claims))


def averaged(federation: Federation, arrays: Arrays, round_index: int) -> Arrays:
    """What the student would be now: ``arrays``, or the exponential mean that they go into.

    Round ``t`` of ``n`` weighs ``decay^(n-t)`` of the last, so first weights are no part of it (the
    correction of Adam's moments). A function of what was released: post-processing.
    """
    decay = federation.config.ema_decay
    if not decay:
        return arrays
    share = (1.0 - decay) / (1.0 - decay**round_index)
    for name, value in arrays.items():
        before = federation.average.get(name, value)
        mean = before + share * (value - before)
        federation.average[name] = np.asarray(mean if value.dtype.kind == "f" else value, dtype=value.dtype)
    return federation.average


def gather(federation: Federation, arrays: Arrays, round_index: int) -> Gathered:
    """The replies of a round: of a buffer, or of a cohort that is drawn, one by one or as their sum."""
    if federation.buffer is not None:
        return federation.buffer.gather(federation, arrays, round_index)
    cohort, unknown = draw_cohort(federation, round_index)
    num_summed = 0
    if federation.resident is not None:
        terms = federation.terms
        return federation.resident.gather(
            arrays, cohort, round_index, deadline_s=terms.deadline_s, wire=federation.wire
        )
    if federation.summed is not None:
        summed = federation.summed.ask(federation, arrays, cohort, round_index)
        usable, rejected, num_summed = [summed.reply], summed.rejected, summed.num_clients
    else:
        usable, rejected = ask(federation, arrays, cohort, round_index)
    return Gathered(
        usable=usable,
        rejected=rejected + unknown,
        num_asked=len(cohort),
        num_sent=len(cohort),
        num_unknown=len({one.node_id for one in unknown}),
        num_summed=num_summed,
    )


def ask(
    federation: Federation, arrays: Arrays, cohort: list[int], round_index: int
) -> tuple[list[Message], list[Rejection]]:
    """Send a round to ``cohort``; usable replies by client, and what was dropped or did not come."""
    config = federation.config
    answers, missing = exchange(federation, train_messages(federation, arrays, cohort, round_index))
    reference = arrays if federation.one_shot is None else federation.one_shot.reference
    usable, rejected = screen(
        answers,
        reference,
        max_examples=config.max_examples,
        private=federation.private,
        wire=federation.wire,
    )
    place = {node: index for index, node in enumerate(cohort)}
    return usable, sorted([*rejected, *missing], key=lambda one: place.get(one.node_id, len(place)))


def weigh_equally(replies: Iterable[Message]) -> None:
    """Give each reply the weight 1: how many pairs per client has is private."""
    for reply in replies:
        reply.content.metric_records["metrics"]["num-examples"] = 1


def _require_central_budget(central: CentralPrivacy) -> None:
    try:
        central.require_budget()
    except BudgetSpentError as spent:
        raise BudgetEndError(str(spent)) from spent


def draw_cohort(federation: Federation, round_index: int) -> tuple[list[int], list[Rejection]]:
    """Node ids asked in a round, in the order of their clients: a share drawn from (seed, round).

    Node ids are random in a deployment. Where only a share is asked, nodes are therefore put into
    the order of their clients' indices first, so that the same clients are drawn in every runtime.

    Returns:
        The node ids, and the nodes that could not be drawn because they did not say which client they are.
    """
    terms = federation.terms
    nodes = wait_for_nodes(federation.grid, terms, clock=federation.clock)
    if federation.central is not None and federation.central.hidden:
        return federation.central.draw(nodes, round_index=round_index), []
    size = terms.cohort_size(len(nodes), fraction=federation.config.client_fraction)
    if size == len(nodes):
        return nodes, []
    new = [node for node in nodes if node not in federation.identities]
    found, unknown = ask_identities(
        federation.grid, new, deadline_s=terms.deadline_s, private=federation.private
    )
    federation.identities.update(found)
    known = sorted(
        (federation.identities[node].client, node) for node in nodes if node in federation.identities
    )
    generator = numpy_generator(federation.seed, "cohort", round_index=round_index)
    return [known[place][1] for place in sorted(generator.permutation(len(known))[:size])], unknown


def checked(arrays: Arrays, *, config: FederationConfig, round_index: int) -> Arrays:
    """Refuse aggregated weights that are not finite.

    Raises:
        FederationError: The server's step overflowed.
    """
    broken = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if broken:
        raise FederationError(
            f"Round {round_index}: strategy {config.strategy!r} made {broken[0]!r} NaN or infinite."
            f" Lower federation.server_learning_rate={config.server_learning_rate:g}."
        )
    return arrays


def _report(
    federation: Federation,
    round_index: int,
    gathered: Gathered,
    arrays: Arrays,
    started: float,
) -> RoundReport:
    whole = sum(value.nbytes for value in arrays.values())
    down, up = (whole, whole) if federation.wire is None else federation.wire.num_bytes
    central, hidden = federation.central, federation.hidden
    num_clients = central.num_answers if central is not None else gathered.num_clients
    num_sent: float = gathered.num_sent
    num_came: float = num_clients
    if central is not None and hidden:
        num_sent = num_came = central.normaliser
    num_examples, loss = (None, None) if federation.private else _weighted_loss(gathered)
    return RoundReport(
        round_index=round_index,
        num_rounds=federation.config.num_rounds,
        num_clients=round(central.normaliser) if central is not None and hidden else num_clients,
        rejected=() if hidden else tuple(gathered.rejected),
        num_examples=num_examples,
        loss=loss,
        seconds=time.monotonic() - started,
        bytes_exchanged=round(down * num_sent + up * num_came),
        metrics=federation.evaluate(round_index, arrays),
    )


def _weighted_loss(gathered: Gathered) -> tuple[int, float]:
    """Pairs behind the replies, and their mean loss weighted by pairs."""
    metrics = [reply.content.metric_records["metrics"] for reply in gathered.usable]
    told = gathered.told or [(str(one["num-examples"]), str(one["loss"])) for one in metrics]
    weights = np.asarray([float(num) for num, _ in told])
    losses = np.asarray([float(loss) for _, loss in told])
    return int(weights.sum()), float((weights * losses).sum() / weights.sum())


def _warn(log: EventLog, report: RoundReport, warned: set[tuple[int, ...]]) -> None:
    """Log, once for the same nodes, that several nodes claim one index."""
    for client, nodes in report.shared.items():
        if nodes in warned:
            continue
        warned.add(nodes)
        reason = (
            f"nodes {', '.join(map(str, nodes))} all claim to be client {client}; all are used. Give each"
            " its own partition-id."
        )
        log.append("warning", round=report.round_index, reason=reason)
        logging.getLogger("edgecmd").warning("%s", reason)


def _log_round(log: EventLog, report: RoundReport) -> None:
    times = {} if report.simulated_s is None else {"simulated_seconds": round(report.simulated_s, 4)}
    ages = {"staleness": list(report.staleness)} if report.staleness else {}
    at_once = {} if report.num_at_once is None else {"at_once": report.num_at_once}
    log.append(
        "round",
        round=report.round_index,
        clients=report.num_clients,
        rejected=[{"node": one.node_id, "reason": one.reason} for one in report.rejected],
        num_examples=report.num_examples,
        loss=report.loss,
        seconds=round(report.seconds, 4),
        bytes=report.bytes_exchanged,
        **times,
        **ages,
        **at_once,
        **report.metrics,
    )
