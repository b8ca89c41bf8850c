"""A client's answer to one round: decode the student, distil on the client's own pairs, encode."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from clients import device
from clients.node import BUDGETS, Node, read_node
from clients.order import Order, read_order
from clients.private import Counting, answer_privately, private_plan, simulated_counting
from clients.state import load_state, save_state
from edgecmd.config.assemble import Assembly
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import EdgecmdError, PrivacyError
from edgecmd.core.machine import explain, is_of_machine
from edgecmd.core.own_code import RAISED
from edgecmd.models.students import Student
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.refusals import sealed
from edgecmd.run import Run
from edgecmd.training.distill import make_optimizer, optimizer_tensors, restore_optimizer
from edgecmd.training.task import Holding

SEALED = "it failed; the reason stays in the log of the client"
LOG = logging.getLogger("edgecmd.client")


class ClientError(RuntimeError):
    """A failure on a client, with its index and the stage in which it happened."""

    def __init__(self, client: int, stage: str, cause: BaseException) -> None:
        super().__init__(f"client {client}, stage {stage}: {type(cause).__name__}: {cause}")


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
    stages = _Stages()
    try:
        return Message(_answer(message, context, stages, run_of, local=local), reply_to=message)
    except PrivacyError as error:
        LOG.warning("the client declines: %s", error)
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, sealed(error)), reply_to=message)
    # Code of the run's own may ask the process to end; other clients that it serves would end with it.
    except RAISED as error:
        if _is_private(context):
            trace = None if isinstance(error, EdgecmdError) else error
            LOG.error("client %d failed in stage %s: %s", stages.client, stages.now, error, exc_info=trace)
            raise ClientError(stages.client, "private round", SealedError(SEALED)) from None
        told = explain(error) if is_of_machine(error) else error
        raise ClientError(stages.client, stages.now, told) from error


@dataclass(slots=True)
class _Stages:
    """How far an answer came, for the message of a failure."""

    client: int = 0
    now: str = "config"


def _answer(
    message: Message,
    context: Context,
    stages: _Stages,
    run_of: Callable[[RunConfig], Run],
    *,
    local: bool,
) -> RecordDict:
    node = read_node(context.node_config, node_id=context.node_id)
    stages.client = node.client
    sent = message.content.config_records["config"]
    order = read_order(sent, context.run_config, node, local=local)
    run = run_of(order.config)
    plan = private_plan(run, node)
    stages.now = "data"
    holding, counting = _holding_of(run, order, node, plan)
    stages.now = "decode"
    arrays = message.content.array_records["arrays"]
    student = _decode(arrays, holding, run)
    stages.now, folder = "distil", _state_folder(run, order, node)
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
        return _private_reply(released, node.client)
    loss = _distil(student, holding, run, order, folder)
    stages.now = "encode"
    weights = _weights(student, list(arrays))
    if run.privacy.mechanism != "none":
        return _private_reply(weights, node.client)
    return _reply(weights, loss, node.client, len(holding.data))


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


def _decode(arrays: ArrayRecord, holding: Holding, run: Run) -> Student:
    shape = holding.data.target.shape
    student = run.shell((shape[1], shape[2], shape[3]), holding.data.teacher.shape[1])
    student.load_state_dict(arrays.to_torch_state_dict())
    return student


def _state_folder(run: Run, order: Order, node: Node) -> Path:
    """Where the optimiser's state is: never where a server says when the pairs are the device's own."""
    own = node.data is not None or node.has_state
    base = node.state / "clients" if own else run.folder / "clients"
    return base / order.token / f"client-{order.client:04d}"


def _distil(student: Student, holding: Holding, run: Run, order: Order, folder: Path) -> float:
    index = order.round_index
    optimizer = make_optimizer(student, run.distill)
    if run.distill.keep_optimizer:
        restore_optimizer(optimizer, load_state(folder, round_index=index))
    place = run.place(index, client=order.client)
    loss = run.train_locally(student, holding, place=place, optimizer=optimizer)
    if not math.isfinite(loss):
        raise FloatingPointError(f"loss={loss} is not finite. Lower distill.learning_rate.")
    if run.distill.keep_optimizer:
        save_state(folder, optimizer_tensors(optimizer), round_index=index)
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
