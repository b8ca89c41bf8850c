"""Which replies of a round may be aggregated; the others are dropped, each with its reason.

Flower believes any reply: one NaN makes the global model NaN, a negative ``num-examples`` is used
as a weight, another metric name stops the run. Here such a reply is dropped and reported and the
round goes on.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

METRICS = {"num-examples", "loss", "client"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A reply that is not aggregated.

    Attributes:
        node_id: Flower's id of the node.
        reason: What is wrong with the reply.
    """

    node_id: int
    reason: str


def screen(
    replies: Iterable[Message], reference: Mapping[str, np.ndarray], *, max_examples: int
) -> tuple[list[Message], list[Rejection]]:
    """Split replies into usable ones, in the order of the clients' indices, and rejections.

    Args:
        replies: What came back.
        reference: The global weights: names, shapes and dtypes that a reply must have.
        max_examples: Largest believable number of pairs.

    Returns:
        Usable replies sorted by client (floating-point sums depend on the order), rejections.
    """
    usable: dict[int, Message] = {}
    rejections = []
    for reply in replies:
        reason = _fault(reply, reference, max_examples=max_examples)
        client = _metrics(reply).get("client") if reason is None else None
        if reason is None and client in usable:
            reason = f"a second reply for client {client}"
        if reason is None and isinstance(client, int):
            usable[client] = reply
        else:
            rejections.append(Rejection(node_id=reply.metadata.src_node_id, reason=str(reason)))
    return [usable[client] for client in sorted(usable)], rejections


def _metrics(reply: Message) -> MetricRecord:
    return reply.content.metric_records["metrics"]


def _fault(reply: Message, reference: Mapping[str, np.ndarray], *, max_examples: int) -> str | None:
    """First thing that is wrong with a reply, or None."""
    if reply.has_error():
        return reply.error.reason or "an error without a reason"
    content = reply.content
    if set(content.array_records) != {"arrays"} or set(content.metric_records) != {"metrics"}:
        return f"records {sorted(content)} instead of 'arrays' and 'metrics'"
    return _metric_fault(_metrics(reply), max_examples=max_examples) or _array_fault(
        content.array_records["arrays"], reference
    )


def _metric_fault(metrics: MetricRecord, *, max_examples: int) -> str | None:
    if set(metrics) != METRICS:
        return f"metrics {sorted(metrics)} instead of {sorted(METRICS)}"
    num, client, loss = metrics["num-examples"], metrics["client"], metrics["loss"]
    if not isinstance(num, int) or not 1 <= num <= max_examples:
        return f"num-examples={num} outside 1..{max_examples}"
    if not isinstance(client, int) or client < 0:
        return f"client={client} is not an index"
    if not isinstance(loss, float) or not math.isfinite(loss):
        return f"loss={loss} is not finite"
    return None


def _array_fault(arrays: ArrayRecord, reference: Mapping[str, np.ndarray]) -> str | None:
    if set(arrays) != set(reference):
        return f"tensors {sorted(set(arrays) ^ set(reference))[:3]} are missing or unknown"
    for name, expected in reference.items():
        try:
            value = arrays[name].numpy()
        except (ValueError, TypeError, OSError, EOFError) as error:
            return f"tensor {name!r} cannot be decoded: {error}"
        if value.shape != expected.shape or value.dtype != expected.dtype:
            return (
                f"tensor {name!r} is {value.dtype}{list(value.shape)}"
                f" instead of {expected.dtype}{list(expected.shape)}"
            )
        if not np.isfinite(value).all():
            return f"tensor {name!r} holds NaN or infinity"
    return None
