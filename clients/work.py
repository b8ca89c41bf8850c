"""A client's answer to one round: decode the student, distil on the client's own pairs, encode."""

import logging
import math
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from clients.order import Order
from clients.private import BOUNDS, REFUSED, answer_privately, private_plan
from clients.state import load_state, save_state
from edgecmd.config import RunConfig
from edgecmd.data.clients import Holding, cache_folder, client_holding
from edgecmd.device import place, resolve_device
from edgecmd.distill import Place, distil, make_optimizer, optimizer_tensors, restore_optimizer
from edgecmd.errors import PrivacyError
from edgecmd.models.students import Student, build_student
from edgecmd.runs import run_folder
from edgecmd.settings import unflatten

MAX_CACHED_CLIENTS = 4096
# The server chooses the token and it becomes a folder's name here: nothing but a plain word.
TOKEN = re.compile(r"[0-9a-f]{16}")
SEALED = "it failed; the reason stays in the log of the client"
LOG = logging.getLogger("edgecmd.client")


class ClientError(RuntimeError):
    """A failure on a client, with its index and the stage in which it happened."""

    def __init__(self, client: int, stage: str, cause: Exception) -> None:
        super().__init__(f"client {client}, stage {stage}: {type(cause).__name__}: {cause}")


class SealedError(RuntimeError):
    """Stands for an error whose text could tell of the pairs."""


@lru_cache(maxsize=8)
def _config(items: tuple[tuple[str, object], ...]) -> RunConfig:
    return unflatten(dict(items))


@lru_cache(maxsize=MAX_CACHED_CLIENTS)
def _holding(config: RunConfig, client: int, data_dir: str) -> Holding:
    return client_holding(config, client, data_dir=data_dir)


@lru_cache(maxsize=8)
def _student(architecture: str, in_channels: int, embedding_dim: int, device: torch.device) -> Student:
    student = build_student(
        architecture,
        in_channels=in_channels,
        embedding_dim=embedding_dim,
        generator=torch.Generator().manual_seed(0),
    )
    return place(student, device)


def answer_train(message: Message, context: Context) -> Message:
    """Distil for one round.

    Args:
        message: Holds ``arrays`` (the student's weights) and ``config`` with ``server-round`` and
            ``run``.
        context: Holds the run config and the node config: ``partition-id`` and, in a deployment,
            ``data-dir`` (the node's own pairs) and ``state-dir``.

    Raises:
        ClientError: Anything failed; the message names client and stage.
    """
    torch.set_num_threads(1)
    client, stage = int(context.node_config.get("partition-id", 0)), "config"
    try:
        order = _order(message.content.config_records["config"], context, client)
        plan = private_plan(order, context.node_config)
        stage = "data"
        holding = _holding(order.config, client, str(context.node_config.get("data-dir", "")))
        stage = "decode"
        arrays = message.content.array_records["arrays"]
        student = _decode(arrays, holding, order.config)
        stage, folder = "distil", _state_folder(order, context)
        if plan is not None:
            released = answer_privately(
                student, holding, arrays, order=order, plan=plan, node=context.node_config, folder=folder
            )
            return Message(_private_reply(released, client), reply_to=message)
        loss = _distil(student, holding, order, folder)
        stage = "encode"
        weights = _weights(student, list(arrays))
        if order.config.privacy.mechanism != "none":
            return Message(_private_reply(weights, client), reply_to=message)
        return Message(_reply(weights, loss, client, len(holding.data)), reply_to=message)
    except PrivacyError as error:
        # Its text depends on settings and on the ledger, never on a pair.
        return Message(
            Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{REFUSED}client {client}: {error}"),
            reply_to=message,
        )
    except Exception as error:
        if _is_private(context):
            LOG.exception("client %d failed in stage %s", client, stage)
            raise ClientError(client, "private round", SealedError(SEALED)) from None
        raise ClientError(client, stage, error) from error


def _is_private(context: Context) -> bool:
    asked = context.run_config.get("privacy.mechanism", "none") != "none"
    return asked or any(name in context.node_config for name in BOUNDS)


def _order(sent: ConfigRecord, context: Context, client: int) -> Order:
    config = _config(tuple(sorted(context.run_config.items())))
    token = str(sent["run"])
    if not TOKEN.fullmatch(token):
        raise ValueError(f"run={token!r} is no name of a run; allowed are 16 hexadecimal digits.")
    mu = float(str(sent.get("proximal-mu", config.distill.proximal_mu)))
    if mu != config.distill.proximal_mu:
        config = replace(config, distill=replace(config.distill, proximal_mu=mu))
    return Order(client=client, round_index=int(str(sent["server-round"])), token=token, config=config)


def _decode(arrays: ArrayRecord, holding: Holding, config: RunConfig) -> Student:
    channels, dim = holding.data.target.shape[1], holding.data.teacher.shape[1]
    student = _student(config.student.architecture, channels, dim, resolve_device(config.device))
    student.load_state_dict(arrays.to_torch_state_dict())
    return student


def _state_folder(order: Order, context: Context) -> Path:
    """Where the optimiser's state lies: never where a server says when the pairs are the device's own."""
    if context.node_config.get("state-dir"):
        base = Path(str(context.node_config["state-dir"]))
    elif context.node_config.get("data-dir"):
        base = cache_folder() / "clients"
    else:
        base = run_folder(order.config) / "clients"
    return base / order.token / f"client-{order.client:04d}"


def _distil(student: Student, holding: Holding, order: Order, folder: Path) -> float:
    config, index = order.config, order.round_index
    optimizer = make_optimizer(student, config.distill)
    if config.distill.keep_optimizer:
        restore_optimizer(optimizer, load_state(folder, round_index=index))
    steps = config.federation.local_steps
    loss = distil(
        student,
        holding.data,
        holding.anchors,
        config.distill,
        num_steps=steps,
        place=Place.of_round(config, round_index=index, client=order.client),
        optimizer=optimizer,
    )
    if not math.isfinite(loss):
        raise FloatingPointError(f"loss={loss} is not finite. Lower distill.learning_rate.")
    if config.distill.keep_optimizer:
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
