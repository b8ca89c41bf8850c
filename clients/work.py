"""A client's answer to one round: decode the student, distil on the client's own pairs, encode.

To a message, or, in a simulation without privacy, in turn with other clients on a student that stays.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from clients import device
from clients.identity import ASKED, MASKED
from clients.node import BUDGETS, Node, read_node
from clients.order import Order, read_order
from clients.private import (
    Counting,
    answer_privately,
    private_plan,
    simulated_counting,
    source_of,
    sum_privately,
)
from clients.state import load_state, save_state
from clients.sum_party import Masking, answer_query, member_of, terms_of
from edgecmd.config.assemble import Assembly
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import EdgecmdError, PrivacyError
from edgecmd.core.kept import Kept
from edgecmd.core.machine import explain, is_of_machine
from edgecmd.core.own_code import RAISED
from edgecmd.models.students import Student
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.refusals import sealed
from edgecmd.privacy.secure_sum.updates import update_of, weighted
from edgecmd.run import Run
from edgecmd.training.averaging import Arrays, to_arrays
from edgecmd.training.codecs import Wire
from edgecmd.training.distill import optimizer_tensors, restore_optimizer
from edgecmd.training.stacked import Stack, Visit
from edgecmd.training.task import Holding

# Clients that train at once, in their places; None in a place whose client is not asked.
Group = tuple[int | None, ...]
# Folders of rests; one that is of noised weights alone is never mixed with another.
REST, NOISED_REST = "rest", "noised-rest"
Done = TypeVar("Done")
SEALED = "it failed; the reason stays in the log of the client"
LOG = logging.getLogger("edgecmd.client")


class ClientError(RuntimeError):
    """A failure on a client, with its index and the stage in which it happened."""

    @classmethod
    def at(cls, client: int, stage: str, cause: BaseException) -> "ClientError":
        """What becomes of ``cause``; it travels between processes as its text."""
        return cls(f"client {client}, stage {stage}: {type(cause).__name__}: {cause}")


class SealedError(RuntimeError):
    """Replaces an error whose text could reveal something about the pairs."""


# What the clients that this process serves have in common, as long as it lives.
SERVED = Assembly()


def answer_train(
    message: Message,
    context: Context,
    *,
    run_of: Callable[[RunConfig], Run] = SERVED.run,
    local: bool = False,
) -> Message:
    """Distil for one round.

    Args:
        message: Holds ``arrays`` (the student's weights) and ``config`` with ``server-round`` and
            ``run``.
        context: Holds the run config, which the server wrote, and the node config, which the node's
            owner wrote (`clients.node`).
        run_of: Gives the run of the settings.
        local: Whether the run config was written by whoever started this process; see `read_order`.

    Returns:
        The reply; where the client declines, an error whose reason is a word of a fixed table.

    Raises:
        ClientError: Anything failed. The message names client and stage; under privacy, and on a device
            with pairs of its own, it says only that it failed.
    """
    torch.set_num_threads(1)
    return _answered(message, context, lambda stages: _answer(message, context, stages, run_of, local=local))


def answer_sum_query(
    query: str,
    message: Message,
    context: Context,
    *,
    run_of: Callable[[RunConfig], Run] = SERVED.run,
    local: bool = False,
) -> Message:
    """Take a step of a secure sum beside the masked vector, see `clients.sum_party`.

    Args:
        query: One of `clients.identity.QUERIES`.
        message: Holds ``config`` as for `answer_train`, and ``sum`` with what the server passes on.
        context: As for `answer_train`; its ``state`` holds the secrets of the round.
        run_of: Gives the run of the settings.
        local: Whether the run config was written by whoever started this process.

    Returns:
        The reply; where the client declines, an error whose reason is a word of a fixed table.

    Raises:
        ClientError: As `answer_train`.
    """

    def step(stages: "_Stages") -> RecordDict:
        node, order = _asked(message, context, stages, local=local)
        stages.now = "secure sum"
        run, asked = run_of(order.config), message.content.config_records[ASKED]
        private_plan(run, node)
        terms = terms_of(run, order, asked)
        return RecordDict({ASKED: answer_query(query, asked, context, terms=terms, member=member_of(node))})

    return _answered(message, context, step)


def _answered(message: Message, context: Context, answer: "Callable[[_Stages], RecordDict]") -> Message:
    """The reply that ``answer`` makes, or the refusal or failure that its error becomes."""
    stages = _Stages()
    try:
        return Message(answer(stages), reply_to=message)
    except PrivacyError as error:
        LOG.warning("the client declines: %s", error)
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, sealed(error)), reply_to=message)
    # Code of the run's own may ask the process to end; other clients that it serves would end with it.
    except RAISED as error:
        if _is_private(context):
            trace = None if isinstance(error, EdgecmdError) else error
            LOG.error("client %d failed in stage %s: %s", stages.client, stages.now, error, exc_info=trace)
            raise ClientError.at(stages.client, "private round", SealedError(SEALED)) from None
        raise stages.failed(error) from error


@dataclass(slots=True)
class _Stages:
    """How far an answer came, for the message of a failure."""

    client: int = 0
    now: str = "config"

    def failed(self, error: BaseException) -> ClientError:
        """What becomes of an error that may be told."""
        return ClientError.at(self.client, self.now, explain(error) if is_of_machine(error) else error)

    def caught(self, error: BaseException) -> ClientError:
        """The same for later, with where it came from."""
        failure = self.failed(error)
        failure.__cause__ = error
        return failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What a turn gave.

    Attributes:
        weights: The student after it, by the names of the weights that were sent; they change with the next
            turn. With ``federation.compression`` what a server decodes of it: `Wire.moves`.
        loss: Mean loss over the local steps.
    """

    weights: Mapping[str, np.ndarray]
    loss: float


class Turns:
    """Clients of a simulation that train in turn on one student of this process, alone or several at once.

    Args:
        run: The run; without privacy, which counts and releases by messages.
        token: Name of the run.

    Guarantees:
        The weights of a turn are to the bit those that `answer_train` answers with, given the weights that a
        client takes from what the server sends. With several places in a group they differ in the last
        digits; see `edgecmd.training.stacked.distil_together` for what they follow from.
    """

    def __init__(self, run: Run, token: str) -> None:
        torch.set_num_threads(1)
        self._run, self._token = run, token
        self._sent: dict[str, torch.Tensor] = {}
        self._round_index = 0
        self._line: Iterator[Group] = iter(())
        self._taken: dict[int, Taken | ClientError] = {}
        self._stacks = Kept[int, Stack](2)

    def begin(self, arrays: Arrays, round_index: int) -> None:
        """Take the global weights of a round."""
        self._sent = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        self._round_index, self._taken = round_index, {}

    def line_up(self, groups: Iterable[Group]) -> None:
        """Say whose turns will be asked for, in this order, and who trains at once."""
        self._line, self._taken = iter(groups), {}

    def take(self, client: int, *, end: float) -> Taken | None:
        """The turn of one client; None where it would begin after ``end`` of the monotonic clock.

        Raises:
            ClientError: Anything failed; the message names client and stage.
        """
        if client not in self._taken:
            if time.monotonic() >= end:
                return None
            self._taken = self.turn(next((one for one in self._line if client in one), (client,)))
        found = self._taken.pop(client)
        if isinstance(found, ClientError):
            raise found
        return found

    def turn(self, group: Group) -> dict[int, Taken | ClientError]:
        """What becomes of each client of a group."""
        if len(group) > 1:
            return self._together(group)
        return {client: self._alone(client) for client in group if client is not None}

    def _alone(self, client: int) -> Taken | ClientError:
        stages = _Stages(client=client, now="data")
        try:
            run = self._run
            holding = run.holding(client)
            stages.now = "decode"
            student = self._loaded(holding)
            stages.now, folder = "distil", _simulated_state(run, self._token, client)
            loss = _distil(student, holding, run, client=client, round_index=self._round_index, folder=folder)
            stages.now = "encode"
            return self._encoded(client, student, student.state_dict(), loss)
        except RAISED as error:
            return stages.caught(error)

    def _together(self, group: Group) -> dict[int, Taken | ClientError]:
        run, index = self._run, self._round_index
        place = {client: slot for slot, client in enumerate(group) if client is not None}
        crew = _Crew(left={client: _Stages(client=client) for client in place}, failed={})
        holdings = crew.each("data", run.holding)
        folders = {client: _simulated_state(run, self._token, client) for client in place}
        with crew.at_once("decode"):
            # Of nobody's holding there is no student.
            student = self._loaded(next(iter(holdings.values())))
            stack = self._stacks.get(len(group), lambda: Stack(student, len(group)))
        if not crew.left:
            return crew.failed

        def visit(client: int) -> Visit:
            optimizer = None
            if run.distill.keep_optimizer:
                optimizer = run.optimizer(stack.of(place[client]))
                restore_optimizer(optimizer, load_state(folders[client], round_index=index))
            at = run.place(index, client=client)
            return Visit(data=holdings[client].data, place=at, optimizer=optimizer)

        visits = crew.each("distil", visit)
        with crew.at_once("distil"):
            each = [None if client is None else visits.get(client) for client in group]
            losses = run.train_together(student, stack, each)

        def loss_of(client: int) -> float:
            loss, optimizer = losses[place[client]], visits[client].optimizer
            if isinstance(loss, BaseException):
                raise loss
            assert loss is not None
            return _kept(loss, run, optimizer, round_index=index, folder=folders[client])

        told = crew.each("distil", loss_of)
        held = student.state_dict()
        return crew.failed | crew.each(
            "encode",
            lambda client: self._encoded(client, student, held | stack.arrays(place[client]), told[client]),
        )

    def _loaded(self, holding: Holding) -> Student:
        """The student with the weights of the round."""
        student = _shell(holding, self._run)
        held = student.state_dict()
        if held.keys() != self._sent.keys():
            student.load_state_dict(self._sent)
        with torch.no_grad():
            torch._foreach_copy_([held[name] for name in self._sent], list(self._sent.values()))
        return student

    def _encoded(self, client: int, student: Student, held: Mapping[str, torch.Tensor], loss: float) -> Taken:
        """What a turn gave, of weights that are ``held``."""
        weights = {name: held[name].cpu().numpy() for name in self._sent}
        wire = self._run.wire(student)
        if wire is not None:
            folder = _simulated_state(self._run, self._token, client)
            before = {name: value.numpy() for name, value in self._sent.items()}
            rest = Rest(folder=folder / REST, round_index=self._round_index, client=client)
            weights = wire.moves(rest.coded(wire, before, weights))
        return Taken(weights=weights, loss=loss)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Crew:
    """Clients that train at once.

    Attributes:
        left: How far each is that did not fail.
        failed: The others.
    """

    left: dict[int, _Stages]
    failed: dict[int, ClientError | Taken]

    def each(self, now: str, work: Callable[[int], Done]) -> dict[int, Done]:
        """What a stage gives for each client that is left."""
        done = {}
        for client, stages in list(self.left.items()):
            stages.now = now
            try:
                done[client] = work(client)
            except RAISED as error:
                self.failed[client] = self.left.pop(client).caught(error)
        return done

    @contextmanager
    def at_once(self, now: str) -> Iterator[None]:
        """A stage that all take together, whose failure is that of all."""
        try:
            yield
        except RAISED as error:
            for client in list(self.left):
                stages = self.left.pop(client)
                stages.now = now
                self.failed[client] = stages.caught(error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rest:
    """Where a client keeps what coding left out of its differences, and for which round it asks.

    Attributes:
        folder: Of its states.
        round_index: Round, from 1.
        client: Index of the client.
    """

    folder: Path
    round_index: int
    client: int

    def coded(self, wire: Wire, before: Arrays, after: Arrays) -> dict[str, np.ndarray]:
        """What the client sends of its move from ``before`` to ``after``; the new rest is kept.

        Raises:
            FloatingPointError: The move is not finite, or too large; no rest is kept.
            FederationError: The rest so far is damaged.
        """
        kept = load_state(self.folder, round_index=self.round_index).get(REST)
        parts, left = wire.answer(
            before,
            after,
            None if kept is None else kept.numpy(),
            round_index=self.round_index,
            client=self.client,
        )
        if left is not None:
            save_state(self.folder, {REST: torch.from_numpy(left)}, round_index=self.round_index)
        return parts


def _answer(
    message: Message,
    context: Context,
    stages: _Stages,
    run_of: Callable[[RunConfig], Run],
    *,
    local: bool,
) -> RecordDict:
    node, order = _asked(message, context, stages, local=local)
    run = run_of(order.config)
    plan = private_plan(run, node)
    stages.now = "data"
    holding, counting = _holding_of(run, order, node, plan)
    stages.now = "decode"
    student = _shell(holding, run)
    wire, arrays = run.wire(student), message.content.array_records["arrays"]
    if wire is not None:
        arrays = _record(wire.received(_arrays(arrays)))
    student.load_state_dict(arrays.to_torch_state_dict())
    stages.now, folder = "distil", _state_folder(run, order, node)
    if run.sum_plan is not None:
        asked = message.content.config_records[ASKED]
        masking = Masking(
            asked=asked, context=context, terms=terms_of(run, order, asked), source=source_of(run, order)
        )
        if plan is None:
            hidden = masking.hidden(_change(student, holding, run, order, folder))
        else:
            assert counting is not None
            hidden = sum_privately(
                student,
                holding,
                arrays,
                run=run,
                order=order,
                plan=plan,
                node=node,
                counting=counting,
                masking=masking,
            )
        return _private_reply(ArrayRecord({MASKED: Array(hidden)}), node.client)
    if plan is not None:
        assert counting is not None
        released = answer_privately(
            student,
            holding,
            arrays,
            run=run,
            order=order,
            plan=plan,
            node=node,
            counting=counting,
            folder=folder,
        )
        # Only now, of what is counted: nothing before noise may be in a rest.
        return _private_reply(_coded(wire, arrays, released, order, folder / NOISED_REST), node.client)
    loss = _distil(student, holding, run, client=order.client, round_index=order.round_index, folder=folder)
    stages.now = "encode"
    weights = _coded(wire, arrays, _weights(student, list(arrays)), order, folder / REST)
    if run.privacy.mechanism != "none":
        return _private_reply(weights, node.client)
    return _reply(weights, loss, node.client, len(holding.data))


def _asked(message: Message, context: Context, stages: _Stages, *, local: bool) -> tuple[Node, Order]:
    """The node's own config, and what the server asks."""
    node = read_node(context.node_config, node_id=context.node_id)
    stages.client = node.client
    sent = message.content.config_records["config"]
    return node, read_order(sent, context.run_config, node, local=local)


def _change(student: Student, holding: Holding, run: Run, order: Order, folder: Path) -> np.ndarray:
    """What local training changes: alone under a guarantee per client, else with its weight."""
    before = to_arrays(student)
    loss = _distil(student, holding, run, client=order.client, round_index=order.round_index, folder=folder)
    change = update_of(before, to_arrays(student), fixed=student.fixed)
    if run.plan is not None:
        return change
    return weighted(
        change,
        num=len(holding.data),
        loss=loss,
        max_pairs=run.privacy.max_pairs,
        max_update=run.privacy.max_update,
    )


def _holding_of(
    run: Run, order: Order, node: Node, plan: PrivacyPlan | None
) -> tuple[Holding, Counting | None]:
    """What the client holds, and who counts its private rounds."""
    if node.data is None:
        return run.holding(node.client), simulated_counting(run, node.client) if plan else None
    prepared = device.prepare(order, node)
    pairs, counting = device.read_pairs(order, node, prepared), None
    if plan is not None:
        pairs, found = device.counted_pairs(pairs, node)
        counting = Counting(ledger=found.ledger, anchors=prepared.digest)
    return device.holding(order, prepared, pairs), counting


def _is_private(context: Context) -> bool:
    """Whether the text of an error could reveal private pairs."""
    asked = context.run_config.get("privacy.mechanism", "none") != "none"
    return asked or any(name in context.node_config for name in ("data-dir", *BUDGETS))


def _shell(holding: Holding, run: Run) -> Student:
    shape = holding.data.target.shape
    return run.shell((shape[1], shape[2], shape[3]), holding.data.teacher.shape[1])


def _coded(
    wire: Wire | None, before: ArrayRecord, after: ArrayRecord, order: Order, folder: Path
) -> ArrayRecord:
    """``after`` as it travels."""
    if wire is None:
        return after
    rest = Rest(folder=folder, round_index=order.round_index, client=order.client)
    return _record(rest.coded(wire, _arrays(before), _arrays(after)))


def _arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in record.items()}


def _record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})


def _state_folder(run: Run, order: Order, node: Node) -> Path:
    """Where the optimiser's state is: never where a server says when the pairs are the device's own."""
    own = node.data is not None or node.has_state
    if not own:
        return _simulated_state(run, order.token, order.client)
    return node.state / "clients" / order.token / f"client-{order.client:04d}"


def _simulated_state(run: Run, token: str, client: int) -> Path:
    return run.folder / "clients" / token / f"client-{client:04d}"


def _distil(
    student: Student, holding: Holding, run: Run, *, client: int, round_index: int, folder: Path
) -> float:
    index = round_index
    optimizer = run.optimizer(student)
    if run.distill.keep_optimizer:
        restore_optimizer(optimizer, load_state(folder, round_index=index))
    place = run.place(index, client=client)
    loss = run.train_locally(student, holding, place=place, optimizer=optimizer)
    return _kept(loss, run, optimizer, round_index=index, folder=folder)


def _kept(
    loss: float, run: Run, optimizer: torch.optim.Optimizer | None, *, round_index: int, folder: Path
) -> float:
    """The loss, if it is one; the optimiser's state is then kept, where it is to be."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"loss={loss} is not finite. Lower distill.learning_rate.")
    if run.distill.keep_optimizer and optimizer is not None:
        save_state(folder, optimizer_tensors(optimizer), round_index=round_index)
    return loss


def _weights(student: Student, names: list[str]) -> ArrayRecord:
    """Weights in the order in which they came: some strategies match tensors by position."""
    state = student.state_dict()
    return ArrayRecord({name: Array(state[name].cpu().contiguous().numpy()) for name in names})


def _reply(weights: ArrayRecord, loss: float, client: int, num_examples: int) -> RecordDict:
    metrics = MetricRecord({"num-examples": num_examples, "loss": loss, "client": client})
    return RecordDict({"arrays": weights, "metrics": metrics})


def _private_reply(weights: ArrayRecord, client: int) -> RecordDict:
    """Under privacy a client releases weights and its index: no count, no loss."""
    return RecordDict({"arrays": weights, "metrics": MetricRecord({"client": client})})
