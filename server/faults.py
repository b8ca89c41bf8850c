"""Drills: a grid that fails as Flower's SuperLink and its nodes do, over the in-process grid.

What a SuperLink answers in a node's place is made by Flower's own functions, so that codes, types and
the sender (the SuperLink, not the node) are the real ones. Everything is drawn from a seed; time is made
up, so that a drill of lost replies waits for nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields

import httpx
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.server.superlink.linkstate.utils import (
    create_message_error_unavailable_ins_message,
    create_message_error_unavailable_res_message,
)

from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import numpy_generator
from server.local_grid import REBORN_ID, LocalGrid
from server.patience import GridAround, MadeUpTime, PatientGrid

ANSWERED, LATE = "answered", "late"
MAX_FAILED_PULLS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """Probability of each fault, for each message or, where it says so, each round of a node.

    What is left of 1 is a proper answer.

    Attributes:
        seed: Of all draws.
        unavailable: The SuperLink answers "Node Unavailable" for a node without a heartbeat.
        expired: The SuperLink has the message no longer.
        reply_expired: The SuperLink has the reply no longer.
        crashed: The node's client app died; the SuperNode answers.
        lost: Nothing comes.
        late: The answer comes while a later round is waited for.
        twice: The answer comes twice.
        foreign: Beside the answer comes one to a message that nobody sent.
        impostor: In place of the answer comes one that another node made.
        other_round: The answer names another round's group.
        other_run: The answer is of another run.
        absent: A node is not connected in a round; one always is.
        reborn: A node comes back in a round under another node id, as after a restart without its key.
        failed_pull: Asking the SuperLink for replies fails with HTTP 500, at most three times in a row.
    """

    seed: int = 0
    unavailable: float = 0.0
    expired: float = 0.0
    reply_expired: float = 0.0
    crashed: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    foreign: float = 0.0
    impostor: float = 0.0
    other_round: float = 0.0
    other_run: float = 0.0
    absent: float = 0.0
    reborn: float = 0.0
    failed_pull: float = 0.0

    def __post_init__(self) -> None:
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "seed"}
        for name, value in values.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"Faults.{name}={value} is not a probability in [0, 1].")
        total = sum(values[name] for name in FATES)
        if total > 1 + 1e-9:
            raise ConfigError(f"{', '.join(FATES)} add up to {total:g}, more than 1. Lower some of them.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What became of one message.

    Attributes:
        turn: Which push it belonged to, from 1.
        node: The node as the in-process grid knows it.
        kind: Name of the fault, or ``answered``.
        message_type: Type of the message.
    """

    turn: int
    node: int
    kind: str
    message_type: str


class FaultyGrid(GridAround):
    """The in-process grid with the faults of a deployment.

    Args:
        grid: Answers properly.
        faults: What goes wrong, and how often.

    Attributes:
        journal: Fate of every message, in order: what a test compares the federation with.

    Guarantees:
        Equal faults over an equal sequence of calls give equal fates; no draw depends on time or on another.
    """

    def __init__(self, grid: LocalGrid, faults: Faults) -> None:
        super().__init__(grid)
        self._faults = faults
        self._turn, self._pulls, self._failed_in_a_row = 0, 0, 0
        self._waiting: dict[str, list[Message]] = {}
        self._late: list[tuple[int, Message]] = []
        self._names: dict[int, int] = {}
        self.journal: list[Fate] = []

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are connected in the coming round, some under new ids."""
        turn = self._turn + 1
        every = sorted(self._grid.get_node_ids())
        draws = {node: self._draw("absent", turn, node) for node in every}
        here = [node for node in every if draws[node] >= self._faults.absent]
        here = here or [max(every, key=lambda node: draws[node])]
        return [self._name(node, turn) for node in here]

    def _name(self, node: int, turn: int) -> int:
        """Id under which ``node`` is known in ``turn``: a new one after each restart so far."""
        restarts = sum(self._draw("reborn", one, node) < self._faults.reborn for one in range(1, turn + 1))
        name = node + REBORN_ID * restarts
        self._names[name] = node
        return name

    def _draw(self, purpose: str, turn: int, node: int) -> float:
        generator = numpy_generator(self._faults.seed, f"fault-{purpose}", round_index=turn, client=node)
        return float(generator.uniform())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; what comes of each is drawn now."""
        self._turn += 1
        ids = []
        for message in messages:
            node = self._names.get(message.metadata.dst_node_id, message.metadata.dst_node_id)
            reply = self._answer(message, node)
            kind = self._fate(node)
            self.journal.append(
                Fate(turn=self._turn, node=node, kind=kind, message_type=message.metadata.message_type)
            )
            number = message.metadata.message_id
            self._waiting[number] = FATES[kind](message, reply) if kind in FATES else [reply]
            if kind == LATE:
                self._late.append((self._turn, reply))
            ids.append(number)
        return ids

    def _answer(self, message: Message, node: int) -> Message:
        """The proper reply to ``message``, from the client behind ``node``, whatever it is called now."""
        sent = message.metadata
        inner = Message(message.content, node, sent.message_type, group_id=sent.group_id)
        (number,) = self._grid.push_messages([inner])
        found = list(self._grid.pull_messages([number]))
        # Named by the grid below: equal ids in equal runs, and a reply that copies it.
        sent.__dict__["_message_id"] = number
        if not found or found[0].has_error():
            error = found[0].error if found else Error(ErrorCode.UNKNOWN, "no reply")
            return Message(error, reply_to=message)
        return Message(found[0].content, reply_to=message)

    def _fate(self, node: int) -> str:
        place, below = self._draw("fate", self._turn, node), 0.0
        for kind in FATES:
            below += getattr(self._faults, kind)
            if place < below:
                return kind
        return ANSWERED

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to ``message_ids``, late ones of earlier rounds, and now and then a failure.

        Raises:
            httpx.HTTPStatusError: As the SuperLink's database does when it is locked.
        """
        self._pulls += 1
        if self._failed_in_a_row < MAX_FAILED_PULLS and (
            self._draw("pull", self._pulls, 0) < self._faults.failed_pull
        ):
            self._failed_in_a_row += 1
            raise server_error()
        self._failed_in_a_row = 0
        late = [reply for turn, reply in self._late if turn < self._turn]
        self._late = [(turn, reply) for turn, reply in self._late if turn >= self._turn]
        return late + [reply for one in message_ids for reply in self._waiting.pop(one, [])]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull as a grid with patience does, by time of its own."""
        patient = PatientGrid(self, clock=MadeUpTime().clock())
        return patient.send_and_receive(messages, timeout=timeout)


def server_error() -> httpx.HTTPStatusError:
    """What a poll raises when the SuperLink's database is locked."""
    request = httpx.Request("POST", "http://superlink/v1/runtime/pull-messages")
    response = httpx.Response(500, request=request, text="database is locked")
    return httpx.HTTPStatusError(
        "Server error '500 Internal Server Error'", request=request, response=response
    )


def reply_like(reply: Message, question: Message) -> Message:
    """The same answer to another message."""
    body = reply.error if reply.has_error() else reply.content
    return Message(body, reply_to=question)


def posed(message: Message, *, node: int | None = None, group: str | None = None, name: str) -> Message:
    """A message like ``message`` to another node or of another group, with the id ``name``."""
    sent = message.metadata
    other = Message(
        message.content,
        sent.dst_node_id if node is None else node,
        sent.message_type,
        group_id=sent.group_id if group is None else group,
    )
    other.metadata.__dict__["_message_id"] = name
    return other


def unavailable(message: Message) -> Message:
    """What the SuperLink answers for a node without a heartbeat: in its own name, not the node's."""
    return create_message_error_unavailable_res_message(message.metadata, "node_unavail")


def expired(message: Message) -> Message:
    """What the SuperLink answers for a message that it has no longer."""
    return create_message_error_unavailable_ins_message(message.metadata.message_id, message.metadata.run_id)


def reply_expired(message: Message) -> Message:
    """What the SuperLink answers for a reply that was there too long."""
    return create_message_error_unavailable_res_message(message.metadata, "msg_unavail")


def crashed(message: Message) -> Message:
    """What a SuperNode answers for a client app that died."""
    return Message(Error(ErrorCode.CLIENT_APP_CRASHED, "ClientApp stopped responding."), reply_to=message)


def _foreign(message: Message, reply: Message) -> list[Message]:
    name = f"nobody-sent-{message.metadata.message_id}"
    return [reply_like(reply, posed(message, name=name)), reply]


def _impostor(message: Message, reply: Message) -> list[Message]:
    sent = message.metadata
    return [reply_like(reply, posed(message, node=sent.dst_node_id + 1, name=sent.message_id))]


def _other_round(message: Message, reply: Message) -> list[Message]:
    return [reply_like(reply, posed(message, group="round-0", name=message.metadata.message_id))]


def _other_run(_: Message, reply: Message) -> list[Message]:
    reply.metadata.__dict__["_run_id"] = reply.metadata.run_id + 1
    return [reply]


FATES: Mapping[str, Callable[[Message, Message], list[Message]]] = {
    "unavailable": lambda message, _: [unavailable(message)],
    "expired": lambda message, _: [expired(message)],
    "reply_expired": lambda message, _: [reply_expired(message)],
    "crashed": lambda message, _: [crashed(message)],
    "lost": lambda *_: [],
    LATE: lambda *_: [],
    "twice": lambda _, reply: [reply, reply],
    "foreign": _foreign,
    "impostor": _impostor,
    "other_round": _other_round,
    "other_run": _other_run,
}
