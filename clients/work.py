"""A client's answer to one round: decode the student, distil on the client's own pairs, encode."""

import os
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from clients.state import load_state, save_state
from edgecmd.config import RunConfig
from edgecmd.data.clients import Holding, client_holding
from edgecmd.distill import Place, distil, make_optimizer, optimizer_tensors, restore_optimizer
from edgecmd.models.students import Student, build_student
from edgecmd.runs import run_folder
from edgecmd.settings import unflatten

MAX_CACHED_CLIENTS = 4096


class ClientError(RuntimeError):
    """A failure on a client, with its index and the stage in which it happened."""

    def __init__(self, client: int, stage: str, cause: Exception) -> None:
        super().__init__(f"client {client}, stage {stage}: {type(cause).__name__}: {cause}")


@lru_cache(maxsize=8)
def _config(items: tuple[tuple[str, object], ...]) -> RunConfig:
    return unflatten(dict(items))


@lru_cache(maxsize=MAX_CACHED_CLIENTS)
def _holding(config: RunConfig, client: int, data_dir: str) -> Holding:
    return client_holding(config, client, data_dir=data_dir)


@lru_cache(maxsize=8)
def _student(architecture: str, in_channels: int, embedding_dim: int) -> Student:
    student = build_student(
        architecture,
        in_channels=in_channels,
        embedding_dim=embedding_dim,
        generator=torch.Generator().manual_seed(0),
    )
    return student.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def answer_train(message: Message, context: Context) -> Message:
    """Distil for one round.

    Args:
        message: Holds ``arrays`` (the student's weights) and ``config`` with ``server-round``.
        context: Holds the run config and the node config: ``partition-id`` and, in a deployment,
            ``data-dir`` (the node's own pairs) and ``state-dir``.

    Raises:
        ClientError: Anything failed; the message names client and stage.
    """
    torch.set_num_threads(1)
    client, stage = int(context.node_config.get("partition-id", 0)), "config"
    try:
        config = _config(tuple(sorted(context.run_config.items())))
        stage = "data"
        holding = _holding(config, client, str(context.node_config.get("data-dir", "")))
        stage = "decode"
        student = _student(config.student.architecture, holding.data.target.shape[1], holding.data.teacher.shape[1])
        student.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        stage = "distil"
        round_index = int(str(message.content.config_records["config"]["server-round"]))
        loss = _distil(student, holding, config, client, round_index, _state_folder(config, context, client))
        stage = "encode"
        names = list(message.content.array_records["arrays"])
        return Message(_reply(student, names, loss, client, len(holding.data)), reply_to=message)
    except Exception as error:
        raise ClientError(client, stage, error) from error


def _state_folder(config: RunConfig, context: Context, client: int) -> Path:
    base = context.node_config.get("state-dir") or run_folder(config) / "clients"
    return Path(os.fspath(str(base))) / f"client-{client:04d}"


def _distil(
    student: Student, holding: Holding, config: RunConfig, client: int, round_index: int, folder: Path
) -> float:
    optimizer = make_optimizer(student, config.distill)
    if config.distill.keep_optimizer:
        restore_optimizer(optimizer, load_state(folder, round_index=round_index))
    steps = config.federation.local_steps
    place = Place(
        seed=config.seed,
        round_index=round_index,
        client=client,
        first_step=(round_index - 1) * steps,
        total_steps=config.federation.num_rounds * steps,
    )
    loss = distil(
        student, holding.data, holding.anchors, config.distill, num_steps=steps, place=place, optimizer=optimizer
    )
    if config.distill.keep_optimizer:
        save_state(folder, optimizer_tensors(optimizer), round_index=round_index)
    return loss


def _reply(student: Student, names: list[str], loss: float, client: int, num_examples: int) -> RecordDict:
    """Weights in the order in which they came: some strategies match tensors by position."""
    state = student.state_dict()
    arrays = {name: Array(state[name].contiguous().numpy()) for name in names}
    metrics = MetricRecord({"num-examples": num_examples, "loss": loss, "client": client})
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
