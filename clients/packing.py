"""All arrays of a record as one, on their way through a SuperLink.

Flower announces, stores and fetches every array of a record by itself, with several requests and statements
of SQL for each. A student has thirty to two hundred arrays, so that a message with all of them cost Flower
some ten times the optimiser steps of a round. Packed, they are one array of bytes in the format of
safetensors, which holds names, shapes and numbers and runs no code.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from safetensors import SafetensorError
from safetensors.numpy import load, save

PACKED = "safetensors"


def pack(content: RecordDict) -> None:
    """Pack each record of arrays in ``content``; one that is packed stays as it is."""
    for name, record in list(content.array_records.items()):
        if not is_packed(record):
            packed = save({key: np.asarray(array.numpy(), order="C") for key, array in record.items()})
            content[name] = ArrayRecord({PACKED: Array(np.frombuffer(packed, np.uint8))})


def unpack(content: RecordDict) -> bool:
    """Unpack each record of arrays in ``content`` that is packed, in the order of the names.

    Returns:
        Whether there was one.

    Raises:
        ValueError: What looks packed is not in the format; ``content`` is unchanged.
    """
    found = {}
    for name, record in content.array_records.items():
        if is_packed(record):
            try:
                tensors = load(record[PACKED].numpy().tobytes())
            except (SafetensorError, ValueError, KeyError, TypeError) as error:
                raise ValueError(f"Record {name!r} is not in the format of safetensors: {error}.") from error
            found[name] = ArrayRecord({key: Array(tensors[key]) for key in sorted(tensors)})
    for name, record in found.items():
        content[name] = record
    return bool(found)


def is_packed(record: ArrayRecord) -> bool:
    """Whether a record holds one array of the name that packed ones have."""
    return list(record) == [PACKED]


def packed_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Flower's modifier of a client app: what came packed is answered packed."""
    came_packed = message.has_content() and unpack(message.content)
    reply = call_next(message, context)
    if came_packed and reply.has_content():
        pack(reply.content)
    return reply
