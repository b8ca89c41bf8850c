"""A round of a simulation in which no message is made: weights go in, a running mean comes out.

Through messages a client and round cost some 9 ms for a student of 228k parameters: its weights are encoded,
copied, decoded and screened, and all replies are held until the round ends. Here the student stays, and one
mean is held however many clients there are.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Protocol, runtime_checkable

import numpy as np
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from clients.work import ClientError, Group, Taken
from clients.work import Turns as OwnTurns
from edgecmd.catalogue.strategy_rows import STRATEGIES
from edgecmd.run import Run
from edgecmd.training.averaging import Arrays
from edgecmd.training.codecs import Wire
from server.cohort import Identity
from server.local_grid import Fault, describe
from server.messages import Gathered
from server.resident.groups import groups_of
from server.resident.workers import TurnWorkers
from server.screening import Rejection, error_words, turn_fault
from server.strategies import to_record


@runtime_checkable
class Turns(Protocol):
    """Who lets clients train: this process (`clients.work.Turns`) or several (`server.resident.workers`)."""

    def begin(self, arrays: Arrays, round_index: int) -> None:
        """Take the global weights of a round."""

    def line_up(self, groups: Iterable[Group]) -> None:
        """Say whose turns will be asked for, in this order, and who trains at once."""

    def take(self, client: int, *, end: float) -> Taken | None:
        """The turn of a client; None where it has not ended by ``end`` of the monotonic clock."""


@dataclass(slots=True)
class _Pass:
    """What one pass over the clients gave.

    Attributes:
        mean: Mean of the weights so far, each client weighed by its pairs among those of all that were asked.
        told: Pairs and loss of each client in the mean.
        dropped: Nodes that are not in it, with why.
        silent: Nodes that the deadline left out.
        num_at_once: Clients in the mean that trained with others at once.
    """

    mean: dict[str, np.ndarray] = field(default_factory=dict)
    told: list[tuple[int, float]] = field(default_factory=list)
    dropped: dict[int, str] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    num_at_once: int = 0

    def add(self, weights: Mapping[str, np.ndarray], *, num: int, total: int, loss: float) -> None:
        """Add a client's weights, with the arithmetic and the order of Flower's FedAvg."""
        factor = num / total
        for name, value in weights.items():
            if name in self.mean:
                self.mean[name] += value * factor
            else:
                self.mean[name] = np.asarray(value * factor)
        self.told.append((num, loss))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidentRounds:
    """Gathers the rounds of a run whose clients are all here.

    Attributes:
        run: The run; see `may_stay`.
        turns: Who lets the clients train.
        first_node: Node id of client 0; the others follow.
        fault: For drills: called with (round, node id); an exception it returns is the client's.

    Guarantees:
        The weights, events and reports of a run are to the bit those of the same run through messages. A
        round in which a client fails is made again without it, because Flower divides by the pairs of
        those that answered: a turn is a function of its round, so it gives the same again. Where the
        deadline cuts a round short, which no two machines do alike, the mean is scaled instead. With
        ``federation.clients_at_once`` above 1 weights differ in the last digits from those through messages,
        and follow, to the bit, from the settings: groups stay what they were where a client fails.
    """

    run: Run
    turns: Turns
    first_node: int
    fault: Fault | None = None

    def gather(
        self,
        arrays: Arrays,
        cohort: list[int],
        round_index: int,
        *,
        deadline_s: float,
        wire: Wire | None = None,
    ) -> Gathered:
        """The mean of a round's clients, as one reply.

        Args:
            arrays: Global weights.
            cohort: Node ids in the order of their clients.
            round_index: Round, from 1.
            deadline_s: Seconds for the round; who has not answered by then is left out.
            wire: How weights would travel; they are changed as if they did.
        """
        end = time.monotonic() + deadline_s
        left, dropped = cohort, dict[int, str]()
        self.turns.begin(arrays if wire is None else wire.received(wire.sent(arrays)), round_index)
        weights_of = _as_taken if wire is None else partial(wire.onto, arrays)
        drill = cache(partial(self._drill, round_index))
        groups = groups_of(self.run, [self._client(node) for node in cohort])
        while True:
            passed = self._pass(groups, left, end, drill, weights_of)
            dropped |= passed.dropped
            left = [node for node in left if node not in passed.dropped]
            if not passed.dropped or passed.silent or not left:
                break
        dropped |= dict.fromkeys(passed.silent, f"no reply within federation.deadline_s={deadline_s:g} s")
        return Gathered(
            usable=[_reply(passed, total=self._num_pairs(left))] if passed.told else [],
            rejected=[Rejection(node_id=node, reason=dropped[node]) for node in cohort if node in dropped],
            num_asked=len(cohort),
            num_sent=len(cohort),
            num_summed=len(passed.told),
            told=tuple(passed.told),
            num_at_once=passed.num_at_once if self.run.federation.clients_at_once > 1 else None,
        )

    @property
    def identities(self) -> dict[int, Identity]:
        """Who each node is: nobody has to be asked."""
        clients = range(self.run.federation.num_clients)
        return {self.first_node + client: Identity(client=client, own_pairs=False) for client in clients}

    def _pass(
        self,
        groups: list[Group],
        nodes: list[int],
        end: float,
        drill: Callable[[int], Exception | None],
        weights_of: Callable[[Arrays], Arrays],
    ) -> _Pass:
        passed, total = _Pass(), self._num_pairs(nodes)
        asked = {self._client(node): node for node in nodes}
        # Asked for when a turn is about to begin, as a drill may end the process between two of them.
        self.turns.line_up(
            tuple(one if one in asked and drill(asked[one]) is None else None for one in group)
            for group in groups
        )
        alone = {group[0] for group in groups if len(group) == 1}
        for client in (one for group in groups for one in group if one in asked):
            node, num = asked[client], self._num_pairs([asked[client]])
            taken, error = None, drill(node)
            if error is None:
                try:
                    taken = self.turns.take(client, end=end)
                except ClientError as failed:
                    error = failed
            if error is not None:
                passed.dropped[node] = _words(error)
                continue
            if taken is None or time.monotonic() > end:
                passed.silent.add(node)
                continue
            metrics = {"num-examples": num, "client": client, "loss": taken.loss}
            weights = weights_of(taken.weights)
            fault = turn_fault(weights, metrics, max_examples=self.run.federation.max_examples)
            if fault is not None:
                passed.dropped[node] = fault
            else:
                passed.add(weights, num=num, total=total, loss=taken.loss)
                passed.num_at_once += client not in alone
        return passed

    def _client(self, node: int) -> int:
        return node - self.first_node

    def _num_pairs(self, nodes: list[int]) -> int:
        return sum(len(self.run.part(self._client(node))) for node in nodes)

    def _drill(self, round_index: int, node: int) -> Exception | None:
        return self.fault(round_index, node) if self.fault is not None else None


def _as_taken(weights: Arrays) -> Arrays:
    return weights


def _words(error: Exception) -> str:
    """Why a client failed, as a reply would say it."""
    return error_words(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, describe(error)), private=False)


def _reply(passed: _Pass, *, total: int) -> Message:
    """The reply that stands for all of a pass, whose weights were to be divided by ``total`` pairs."""
    num = sum(pairs for pairs, _ in passed.told)
    mean = passed.mean
    if num != total:
        mean = {name: np.asarray(value * (total / num)) for name, value in mean.items()}
    content = RecordDict({"arrays": to_record(mean), "metrics": MetricRecord({"num-examples": num})})
    return Message(content, 1, "train")


def may_stay(run: Run) -> bool:
    """Whether a simulation needs no messages: its strategy takes the mean, and nothing is private.

    Under privacy what is counted, noised and released is what really travels, so it travels here too.
    """
    row = STRATEGIES.get(run.federation.strategy)
    travels = run.federation.num_workers == 1 or run.remake is not None
    public = run.privacy.mechanism == "none" and run.privacy.aggregation == "plain"
    return row is not None and row.linear and travels and public


@contextmanager
def resident_rounds(
    run: Run, token: str, *, first_node: int, fault: Fault | None = None
) -> Iterator[ResidentRounds]:
    """The rounds of a run, whose processes end with the block.

    Args:
        run: The run; see `may_stay`.
        token: Its name.
        first_node: Node id of client 0.
        fault: For drills, see `ResidentRounds`.
    """
    if run.federation.num_workers == 1:
        yield ResidentRounds(run=run, turns=OwnTurns(run, token), first_node=first_node, fault=fault)
        return
    workers = TurnWorkers(run, token)
    try:
        yield ResidentRounds(run=run, turns=workers, first_node=first_node, fault=fault)
    finally:
        workers.close()
