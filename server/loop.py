"""The rounds of a federation, around the public hooks of Flower's strategies.

Flower's own ``strategy.start`` cannot resume, goes on when every client failed and aggregates
whatever comes back. This loop owns the cohort, the quorum, the deadline, the screening of replies,
the dtype of the weights, a checkpoint a round and the event log.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, FedAvgM

from edgecmd.config import FederationConfig
from edgecmd.errors import FederationError
from edgecmd.events import EventLog
from edgecmd.seeding import numpy_generator
from server.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from server.cohort import CohortGrid, ask_indices, wait_for_nodes
from server.screening import Rejection, screen
from server.strategies import from_record, restore_strategy, strategy_tensors, to_record

Arrays = Mapping[str, np.ndarray]
Evaluate = Callable[[int, Arrays], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundReport:
    """What one round did.

    Attributes:
        round_index: Round, from 1.
        num_rounds: Rounds of the run.
        num_clients: Replies that were aggregated.
        rejected: Replies that were dropped, and why.
        num_examples: Pairs behind the aggregated replies.
        loss: Mean loss weighted by pairs.
        seconds: Wall time of the round.
        bytes_exchanged: Weights sent and received, in bytes.
        metrics: Evaluation after the round, where there was one.
    """

    round_index: int
    num_rounds: int
    num_clients: int
    rejected: tuple[Rejection, ...]
    num_examples: int
    loss: float
    seconds: float
    bytes_exchanged: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Federation:
    """What stays the same over the rounds.

    Attributes:
        grid: Where the clients are.
        config: Rounds, cohort, quorum, deadline.
        strategy: Flower's strategy; its momenta change from round to round.
        token: Name of the run; clients keep the states of different runs apart by it.
        seed: Seed of the run.
        folder: Run folder; checkpoints and events are written into it.
        evaluate: Metrics of the global weights after a round; empty where none are due.
        report: Called after each round.
        indices: Client of each node that was asked for it.
    """

    grid: Grid
    config: FederationConfig
    strategy: FedAvg
    token: str
    seed: int
    folder: Path
    evaluate: Evaluate
    report: Callable[[RoundReport], None]
    indices: dict[int, int] = field(default_factory=dict)


def run_rounds(federation: Federation, initial: Arrays) -> Arrays:
    """Run the rounds that are left, from the newest checkpoint or from ``initial``.

    Returns:
        Global weights after the last round.

    Raises:
        FederationError: A round had fewer usable replies than the quorum.
    """
    checkpoints, log = federation.folder / "checkpoints", EventLog(federation.folder / "events.jsonl")
    state = newest_checkpoint(checkpoints)
    if state is None:
        state = Checkpoint(round_index=0, arrays=initial, events_bytes=log.num_bytes())
        save_checkpoint(checkpoints, state)
    restore_strategy(federation.strategy, state.strategy)
    arrays: Arrays = {name: state.arrays[name] for name in sorted(state.arrays)}
    if state.round_index < federation.config.num_rounds:
        log.cut_back(state.events_bytes)
    for round_index in range(state.round_index + 1, federation.config.num_rounds + 1):
        arrays, report = run_round(federation, arrays, round_index)
        _log_round(log, report)
        state = Checkpoint(
            round_index=round_index,
            arrays=arrays,
            strategy=strategy_tensors(federation.strategy),
            events_bytes=log.num_bytes(),
        )
        save_checkpoint(checkpoints, state)
        federation.report(report)
    return arrays


def run_round(federation: Federation, arrays: Arrays, round_index: int) -> tuple[Arrays, RoundReport]:
    """Ask a cohort, screen its replies, aggregate, evaluate.

    Raises:
        FederationError: Fewer usable replies than the quorum; the message has the first client's fault.
    """
    config, strategy, started = federation.config, federation.strategy, time.monotonic()
    cohort = draw_cohort(federation, round_index)
    record = to_record(arrays)
    restore_current(strategy, record)
    messages = strategy.configure_train(
        round_index, record, ConfigRecord({"run": federation.token}), CohortGrid(federation.grid, cohort)
    )
    place = {node: index for index, node in enumerate(cohort)}
    messages = sorted(messages, key=lambda message: place[message.metadata.dst_node_id])
    replies = list(federation.grid.send_and_receive(messages, timeout=config.deadline_s))
    replies.sort(key=lambda reply: place[reply.metadata.src_node_id])
    usable, rejected = screen(replies, arrays, max_examples=config.max_examples)
    silent = set(cohort) - {reply.metadata.src_node_id for reply in replies}
    rejected += [
        Rejection(node_id=node, reason=f"no reply within federation.deadline_s={config.deadline_s:g} s")
        for node in cohort
        if node in silent
    ]
    check_quorum(usable, rejected, config=config, round_index=round_index)
    aggregated, _ = strategy.aggregate_train(round_index, usable)
    if aggregated is None:
        raise FederationError(f"Round {round_index}: strategy {config.strategy!r} gave no weights.")
    updated = checked(from_record(aggregated, like=arrays), config=config, round_index=round_index)
    return updated, _report(federation, round_index, usable, rejected, updated, started, len(cohort))


def draw_cohort(federation: Federation, round_index: int) -> list[int]:
    """Node ids asked in a round, in the order of their clients: a share drawn from (seed, round).

    Node ids are random in a deployment. Where only a share is asked, nodes are therefore put into
    the order of their clients' indices first, so that the same clients are drawn in every runtime.
    """
    config, grid = federation.config, federation.grid
    nodes = wait_for_nodes(grid, minimum=config.min_clients, deadline_s=config.deadline_s)
    size = min(len(nodes), max(config.min_clients, round(len(nodes) * config.client_fraction)))
    if size == len(nodes):
        return nodes
    new = [node for node in nodes if node not in federation.indices]
    federation.indices.update(ask_indices(grid, new, deadline_s=config.deadline_s))
    known = sorted((federation.indices[node], node) for node in nodes if node in federation.indices)
    generator = numpy_generator(federation.seed, "cohort", round_index=round_index)
    return [known[place][1] for place in sorted(generator.permutation(len(known))[:size])]


def restore_current(strategy: FedAvg, record: ArrayRecord) -> None:
    """Let FedAvgM step from the weights that were sent, whose dtype the loop keeps."""
    if isinstance(strategy, FedAvgM):
        strategy.current_arrays = record


def check_quorum(
    usable: list[Message], rejected: list[Rejection], *, config: FederationConfig, round_index: int
) -> None:
    """Refuse a round with fewer usable replies than ``federation.min_clients``.

    Raises:
        FederationError: The message has the number, the quorum and the first fault.
    """
    if len(usable) >= config.min_clients:
        return
    first = f" First fault, node {rejected[0].node_id}: {rejected[0].reason}" if rejected else ""
    raise FederationError(
        f"Round {round_index}: {len(usable)} usable replies, federation.min_clients={config.min_clients}."
        f" {len(rejected)} were dropped or missing.{first}"
    )


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
    usable: list[Message],
    rejected: Iterable[Rejection],
    arrays: Arrays,
    started: float,
    cohort_size: int,
) -> RoundReport:
    metrics = [reply.content.metric_records["metrics"] for reply in usable]
    weights = np.asarray([float(str(one["num-examples"])) for one in metrics])
    losses = np.asarray([float(str(one["loss"])) for one in metrics])
    payload = sum(value.nbytes for value in arrays.values())
    return RoundReport(
        round_index=round_index,
        num_rounds=federation.config.num_rounds,
        num_clients=len(usable),
        rejected=tuple(rejected),
        num_examples=int(weights.sum()),
        loss=float((weights * losses).sum() / weights.sum()),
        seconds=time.monotonic() - started,
        bytes_exchanged=payload * (cohort_size + len(usable)),
        metrics=federation.evaluate(round_index, arrays),
    )


def _log_round(log: EventLog, report: RoundReport) -> None:
    log.append(
        "round",
        round=report.round_index,
        clients=report.num_clients,
        rejected=[{"node": one.node_id, "reason": one.reason} for one in report.rejected],
        num_examples=report.num_examples,
        loss=report.loss,
        seconds=round(report.seconds, 4),
        bytes=report.bytes_exchanged,
        **report.metrics,
    )
