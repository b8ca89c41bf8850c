"""Asynchronous rounds: all clients are kept busy, and a round ends as soon as its buffer is full (FedBuff).

Nguyen et al. 2022, arXiv 2106.06639. A client is sent the newest weights when it has answered; round t
aggregates the first ``federation.buffer_size`` answers, whoever they are from. With ``n_i`` pairs behind the
i-th answer ``a_i``, which started from weights that are ``tau_i`` rounds old, and the server's learning rate
``eta`` of the strategy:

    w_{t+1} = w_t + eta * sum_i n_i s(tau_i) (a_i - w_{t - tau_i}) / sum_i n_i,    s(tau) = 1 / sqrt(1 + tau)

`rebase` moves each answer to where it would be if it had started from ``w_t``; the rest of the round is that
of synchronous ones.
"""

from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, Message

from edgecmd.training.averaging import Arrays
from server.checkpoint import Checkpoint
from server.cohort import wait_for_nodes
from server.messages import Gathered, Messenger, lasting, train_messages
from server.patience import POLL_S, not_taken
from server.screening import Rejection, claimed_client, error_words, fitting, screen


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Asked:
    """A client that has yet to answer.

    Attributes:
        message: What it was sent.
        version: Round whose weights these were; 0 for the first weights.
        arrays: The weights.
        sent_s: When, by the federation's clock.
    """

    message: Message
    version: int
    arrays: Arrays
    sent_s: float


@dataclass(kw_only=True)
class Buffer:
    """Gathers the answers of asynchronous rounds.

    Attributes:
        size: Answers that a round waits for.
        max_staleness: Age in rounds beyond which an answer is dropped.
        mixed: Names of weights that are statistics of data, not differences that add up; see `rebase`.

    Guarantees:
        A client has one message at a time, so that it answers a version of the weights at most once, and has
        at most one answer in a buffer. Which answers a round has depends on when they came; how they are
        aggregated does not. A client that fails, or does not answer within the deadline, is asked again in
        the next round. A round ends with fewer answers than ``size`` only when nobody is left who could
        give one.
    """

    size: int
    max_staleness: int
    mixed: frozenset[str] = frozenset()
    _waiting: dict[int, Asked] = field(init=False, default_factory=dict)
    _ready: list[tuple[Asked, Message]] = field(init=False, default_factory=list)

    @property
    def in_flight(self) -> dict[int, int]:
        """Round whose weights each node was sent that has yet to be heard in an aggregation, by node."""
        asked = [*self._waiting.values(), *(one for one, _ in self._ready)]
        return {one.message.metadata.dst_node_id: one.version for one in asked}

    def ask_again(self, messenger: Messenger, state: Checkpoint) -> None:
        """Send what was in flight when ``state`` was saved: the same messages, so the same answers."""
        nodes = {*messenger.grid.get_node_ids()} if state.in_flight else set()
        for version, sent in sorted(state.earlier.items()):
            if messenger.clock.go_to is not None:
                messenger.clock.go_to(sent.simulated_s)
            arrays = {name: sent.arrays[name] for name in sorted(sent.arrays)}
            again = [node for node in sorted(nodes) if state.in_flight.get(node) == version]
            self._send(messenger, arrays, again, version)

    def gather(self, messenger: Messenger, arrays: Arrays, round_index: int) -> Gathered:
        """Send the newest weights to all who are idle, and wait until the buffer is full.

        Args:
            messenger: What stays the same over the rounds.
            arrays: The newest weights.
            round_index: Round, from 1.

        Returns:
            At most ``size`` replies by client, moved to the newest weights; and who was dropped since the
            last round.
        """
        version, busy = round_index - 1, self.in_flight
        nodes = wait_for_nodes(messenger.grid, messenger.terms, clock=messenger.clock)
        idle = [node for node in nodes if node not in busy]
        dropped = self._send(messenger, arrays, idle, version)
        num_asked = len(busy) + len(idle)
        dropped += self._drop_old(version)
        while len(self._ready) < self.size and self._waiting:
            dropped += self._receive(messenger, arrays)
            dropped += self._drop_old(version)
        taken, self._ready = self._ready[: self.size], self._ready[self.size :]
        taken.sort(key=lambda one: (claimed_client(one[1]), one[1].metadata.src_node_id))
        for asked, reply in taken:
            if asked.version < version:
                rebase(reply, asked.arrays, arrays, staleness=version - asked.version, mixed=self.mixed)
        return Gathered(
            usable=[reply for _, reply in taken],
            rejected=dropped,
            num_asked=num_asked,
            num_sent=len(idle),
            staleness=tuple(version - asked.version for asked, _ in taken),
        )

    def _send(self, messenger: Messenger, arrays: Arrays, nodes: list[int], version: int) -> list[Rejection]:
        """Send a version of the weights; the nodes whose message was not taken."""
        messages = lasting(train_messages(messenger, arrays, nodes, version + 1), messenger.terms.deadline_s)
        taken = {*messenger.grid.push_messages(messages)} if messages else set()
        dropped, now = list[Rejection](), messenger.clock.now()
        for message in messages:
            node = message.metadata.dst_node_id
            if message.metadata.message_id in taken:
                asked = Asked(message=message, version=version, arrays=arrays, sent_s=now)
                self._waiting[node] = asked
            else:
                reason = error_words(not_taken(message).error, private=messenger.private)
                dropped.append(Rejection(node_id=node, reason=reason))
        return dropped

    def _receive(self, messenger: Messenger, arrays: Arrays) -> list[Rejection]:
        """Put what has come in into the buffer, or wait a little; what was dropped, or came too late."""
        clock, deadline_s = messenger.clock, messenger.terms.deadline_s
        asked = {one.message.metadata.message_id: one.message for one in self._waiting.values()}
        found, dropped = fitting(list(messenger.grid.pull_messages(list(asked))), asked)
        usable, faulty = screen(
            found,
            arrays,
            max_examples=messenger.config.max_examples,
            private=messenger.private,
            wire=messenger.wire,
            started={node: one.arrays for node, one in self._waiting.items()},
        )
        self._ready += [(self._waiting[reply.metadata.src_node_id], reply) for reply in usable]
        left = {node: one.sent_s + deadline_s - clock.now() for node, one in self._waiting.items()}
        silent = [node for node in left if node not in found and left[node] <= 0]
        silence = f"no reply within federation.deadline_s={deadline_s:g} s"
        dropped += [*faulty, *(Rejection(node_id=node, reason=silence) for node in silent)]
        for node in (*found, *silent):
            del self._waiting[node]
        if not found and not silent:
            clock.sleep(min(POLL_S, *left.values()))
        return sorted(dropped, key=lambda one: one.node_id)

    def _drop_old(self, version: int) -> list[Rejection]:
        """Drop answers to weights that are too old by now."""
        old = [one for one in self._ready if version - one[0].version > self.max_staleness]
        self._ready = [one for one in self._ready if one not in old]
        return [
            Rejection(
                node_id=asked.message.metadata.dst_node_id,
                reason=f"an answer to weights that are {version - asked.version} rounds old, more than"
                f" federation.max_staleness={self.max_staleness}",
            )
            for asked, _ in old
        ]


def weight_of(staleness: int) -> float:
    """``s(tau) = 1 / sqrt(1 + tau)``, the weight of an answer to weights that are ``tau`` rounds old."""
    return float(1.0 / np.sqrt(1.0 + staleness))


def rebase(
    reply: Message, started: Arrays, newest: Arrays, *, staleness: int, mixed: frozenset[str] = frozenset()
) -> None:
    """Move a reply to where it would be if it had started from the newest weights: ``w + s (a - w_old)``.

    Args:
        reply: A screened reply; its weights ``a`` are replaced.
        started: The weights that it started from, ``w_old``.
        newest: The newest weights, ``w``.
        staleness: Rounds between the two, ``tau``.
        mixed: Names of statistics, such as variances in batch normalisation, which a sum of differences could
            make negative: these become ``w + s (a - w)``, between the two.
    """
    record, weight = reply.content.array_records["arrays"], weight_of(staleness)
    moved = {}
    for name in record:
        new = newest[name].astype(np.float64)
        step = record[name].numpy() - (new if name in mixed else started[name].astype(np.float64))
        moved[name] = Array(np.asarray(new + weight * step, dtype=newest[name].dtype))
    reply.content["arrays"] = ArrayRecord(moved)
