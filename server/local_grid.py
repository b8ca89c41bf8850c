"""A Flower grid inside this process: the same ClientApp without Ray, SuperLink or sockets.

The only file that touches what Flower does not document: the identity of a task and the id of a
message. ``tests/server/test_local_grid.py`` fails when either changes.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitTimeout
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from edgecmd.core.errors import MachineError
from edgecmd.core.processes import Workers
from edgecmd.models.devices import share_of_gpu

RUN_ID = 1
TASK_ID = 1
# A node that comes back under another id, in a drill, has one of the same remainder.
REBORN_ID = 1_000_000
WORKER_KILLED = (
    "A worker process was killed, perhaps for lack of memory. Continue with `edgecmd resume`; lower"
    " federation.num_workers in the run's config.toml first."
)
Fault = Callable[[int, int], Exception | None]


def set_identity() -> None:
    """Tell Flower which task this process runs; without it no message can be made."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SUPERLINK_NODE_ID, TASK_ID


def copy_records(content: RecordDict) -> RecordDict:
    """Copy the containers, so that clients cannot change each other's; array bytes are immutable."""
    kinds = (ArrayRecord, ConfigRecord, MetricRecord)
    copied = RecordDict()
    for name, record in content.items():
        kind = next(kind for kind in kinds if isinstance(record, kind))
        copied[name] = kind(dict(record))  # type: ignore[arg-type]
    return copied


def answer(app: ClientApp, message: Message, context: Context) -> Message:
    """Let ``app`` answer one message; an exception becomes the error reply that a SuperNode sends."""
    try:
        message.content = copy_records(message.content)
        return app(message=message, context=context)
    except Exception as error:
        return failure(message, describe(error))


def failure(message: Message, reason: str) -> Message:
    """The reply of a client that failed."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def describe(error: Exception) -> str:
    """Kind and text of an error, as the reason of an error reply."""
    return f"{type(error).__name__}: {error}"


Served = tuple[RecordDict | str, RecordDict]


def _serve(content: RecordDict, message_type: str, context: Context) -> Served:
    """Answer in a worker process, through the project's own app; the answer, and the client's state."""
    from clients.app import make_app

    set_identity()
    reply = answer(make_app(local=True), Message(content, context.node_id, message_type), context)
    return _served(reply, context)


def _served(reply: Message, context: Context) -> Served:
    """What a reply holds, or the reason of its error; and the client's state after it."""
    return str(reply.error.reason) if reply.has_error() else reply.content, context.state


class LocalGrid(Grid):
    """Serves each message by a call, or in local processes of one thread each.

    Args:
        app: The client app. Other processes have one that makes the run of the settings.
        contexts: Context of each client by node id.
        num_workers: 1 answers in this process; more start that many processes. On a GPU they work side by
            side, each with an equal share of its memory; this process, which evaluates, has one too.
        device: Kind of device that clients train on.
        fault: For drills: called with (round, node id); an exception it returns is the client's.
        others: For drills: apps by node id of those that have one of their own; they answer in this process.
    """

    def __init__(
        self,
        app: ClientApp,
        contexts: Mapping[int, Context],
        *,
        num_workers: int = 1,
        device: str = "cpu",
        fault: Fault | None = None,
        others: Mapping[int, ClientApp] | None = None,
    ) -> None:
        self._app, self._contexts, self._fault = app, contexts, fault
        self._others = dict(others or {})
        self._run = Run.create_empty(RUN_ID)
        self._ids = itertools.count(1)
        self._replies: dict[str, Message] = {}
        begin = partial(share_of_gpu, device, num_workers + 1)
        self._pool = Workers(num_workers, begin=begin) if num_workers > 1 else None
        set_identity()

    def set_run(self, run: Run) -> None:
        """Remember the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Node ids of all clients."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer all messages and keep the replies."""
        return self._push(list(messages), timeout=None)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies to ``message_ids`` that are there."""
        return [self._replies.pop(one) for one in list(message_ids) if one in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Answer messages until ``timeout`` seconds have passed; later clients do not reply."""
        return self.pull_messages(self._push(list(messages), timeout=timeout))

    def close(self) -> None:
        """Stop the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _push(self, messages: list[Message], *, timeout: float | None) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{next(self._ids)}"
        end = None if timeout is None else time.monotonic() + timeout
        pool = self._pool
        answers = self._answer_in_pool(pool, messages, end) if pool else self._answer_here(messages, end)
        for message, reply in answers:
            reply.metadata.__dict__["_message_id"] = f"r{next(self._ids)}"
            self._replies[message.metadata.message_id] = reply
        return [message.metadata.message_id for message in messages]

    def _answer_here(self, messages: list[Message], end: float | None) -> Iterator[tuple[Message, Message]]:
        for message in messages:
            if end is not None and time.monotonic() >= end:
                return
            error = self._drill(message)
            reply = failure(message, describe(error)) if error else self._answer(message)
            if end is None or time.monotonic() <= end:
                yield message, reply

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        return answer(self._others.get(node, self._app), message, self._contexts[node])

    def _answer_in_pool(
        self, pool: Workers, messages: list[Message], end: float | None
    ) -> Iterator[tuple[Message, Message]]:
        futures = [self._submit(pool, message) for message in messages]
        for message, future in zip(messages, futures, strict=True):
            node = message.metadata.dst_node_id
            if node in self._others and not future.done():
                future.set_result(_served(self._answer(message), self._contexts[node]))
            try:
                result, state = future.result(None if end is None else max(0.0, end - time.monotonic()))
                self._contexts[node].state = state
            except WaitTimeout:
                future.cancel()
                continue
            except BrokenProcessPool as error:
                raise MachineError(WORKER_KILLED) from error
            if isinstance(result, str):
                yield message, failure(message, result)
            else:
                yield message, Message(result, reply_to=message)

    def _submit(self, pool: Workers, message: Message) -> Future[Served]:
        error, node = self._drill(message), message.metadata.dst_node_id
        if error is None and node not in self._others:
            return pool.submit(_serve, message.content, message.metadata.message_type, self._contexts[node])
        here: Future[Served] = Future()
        if error is not None:
            here.set_result((describe(error), self._contexts[node].state))
        return here

    def _drill(self, message: Message) -> Exception | None:
        if self._fault is None or message.metadata.message_type != MessageType.TRAIN:
            return None
        config: Mapping[str, Any] = message.content.config_records["config"]
        return self._fault(int(config["server-round"]), message.metadata.dst_node_id)


@contextmanager
def local_grid(
    app: ClientApp,
    contexts: Mapping[int, Context],
    *,
    num_workers: int = 1,
    device: str = "cpu",
    fault: Fault | None = None,
    others: Mapping[int, ClientApp] | None = None,
) -> Iterator[LocalGrid]:
    """A `LocalGrid` whose worker processes end with the block."""
    grid = LocalGrid(app, contexts, num_workers=num_workers, device=device, fault=fault, others=others)
    try:
        yield grid
    finally:
        grid.close()
