"""Which replies of a round may be aggregated; the others are dropped, each with its reason.

Flower believes any reply: one NaN makes the global model NaN, a negative ``num-examples`` is used
as a weight, another metric name stops the run. Here such a reply is dropped and reported and the
round goes on.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.common.constant import SType

METRICS = {"num-examples", "loss", "client"}
PRIVATE_METRICS = {"client"}
REFUSED = "refused: "
# Finite, and yet beyond anything that training gives; its square would overflow in FedAdam's moments.
LARGEST = 1e9
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A reply that is not aggregated.

    Attributes:
        node_id: Flower's id of the node.
        reason: What is wrong with the reply.
    """

    node_id: int
    reason: str

    @property
    def refused(self) -> bool:
        """Whether the client itself declined, because its privacy budget or its owner says so."""
        return self.reason.startswith(REFUSED)


def screen(
    replies: Iterable[Message],
    reference: Mapping[str, np.ndarray],
    *,
    max_examples: int,
    private: bool = False,
    by_node: bool = False,
) -> tuple[list[Message], list[Rejection]]:
    """Split replies into usable ones, in the order of the clients' indices, and rejections.

    Args:
        replies: What came back.
        reference: The global weights: names, shapes and dtypes that a reply must have.
        max_examples: Largest believable number of pairs.
        private: Whether a reply must hold weights and index alone; one that holds more is dropped.
        by_node: Tell clients apart by their nodes and not by the index that each claims: a client that
            claims another's would decide whether that one counts.

    Returns:
        Usable replies sorted by client (floating-point sums depend on the order), rejections.
    """
    usable: dict[int, Message] = {}
    rejections = []
    for reply in replies:
        reason = _fault(reply, reference, max_examples=max_examples, private=private)
        if reason is None:
            client = reply.metadata.src_node_id if by_node else int(str(_metrics(reply)["client"]))
            if client not in usable:
                usable[client] = reply
                continue
            reason = f"a second reply for client {client}"
        rejections.append(Rejection(node_id=reply.metadata.src_node_id, reason=reason))
    return [usable[client] for client in sorted(usable)], rejections


def _metrics(reply: Message) -> MetricRecord:
    return reply.content.metric_records["metrics"]


def _fault(
    reply: Message, reference: Mapping[str, np.ndarray], *, max_examples: int, private: bool
) -> str | None:
    """First thing that is wrong with a reply, or None."""
    if reply.has_error():
        return reply.error.reason or "an error without a reason"
    content = reply.content
    kinds = {name: type(record) for name, record in content.items()}
    if kinds != {"arrays": ArrayRecord, "metrics": MetricRecord}:
        return f"records {sorted(kinds)} instead of 'arrays' and 'metrics'"
    metrics = _metrics(reply)
    wrong = _private_fault(metrics) if private else _metric_fault(metrics, max_examples=max_examples)
    return wrong or _array_fault(content.array_records["arrays"], reference)


def _private_fault(metrics: MetricRecord) -> str | None:
    if set(metrics) != PRIVATE_METRICS:
        return f"metrics {sorted(metrics)} instead of {sorted(PRIVATE_METRICS)}, as privacy asks"
    client = metrics["client"]
    return None if isinstance(client, int) and client >= 0 else f"client={client} is no index"


def _metric_fault(metrics: MetricRecord, *, max_examples: int) -> str | None:
    if set(metrics) != METRICS:
        return f"metrics {sorted(metrics)} instead of {sorted(METRICS)}"
    num, client, loss = metrics["num-examples"], metrics["client"], metrics["loss"]
    if not isinstance(num, int) or not 1 <= num <= max_examples:
        return f"num-examples={num} is no whole number in 1..{max_examples}"
    if not isinstance(client, int) or client < 0:
        return f"client={client} is no index"
    if not isinstance(loss, float) or not abs(loss) <= LARGEST:
        return f"loss={loss} is no number in -{LARGEST:g}..{LARGEST:g}"
    return None


def _array_fault(arrays: ArrayRecord, reference: Mapping[str, np.ndarray]) -> str | None:
    if set(arrays) != set(reference):
        return f"tensors {sorted(set(arrays) ^ set(reference))[:3]} are missing or unknown"
    for name, expected in reference.items():
        try:
            fault = _tensor_fault(arrays[name], expected)
        # Whatever a client sends, it must not stop the round: numpy alone raises seven kinds of error here.
        except Exception as error:
            fault = f"cannot be decoded: {error}"
        if fault is not None:
            return f"tensor {name!r} {fault}"
    return None


def _tensor_fault(array: Array, expected: np.ndarray) -> str | None:
    """What is wrong with one tensor, or None; its header is believed only after it was compared."""
    stream = io.BytesIO(array.data)
    version = np.lib.format.read_magic(stream)
    if array.stype != SType.NUMPY or version not in HEADERS:
        raise ValueError(f"{array.stype}, version {version}")
    shape, _, dtype = HEADERS[version](stream)
    if shape != expected.shape or dtype != expected.dtype:
        return f"is {dtype}{list(shape)} instead of {expected.dtype}{list(expected.shape)}"
    num_bytes = len(array.data) - stream.tell()
    if num_bytes != expected.nbytes:
        raise ValueError(f"{num_bytes} bytes instead of {expected.nbytes}")
    largest = np.abs(np.frombuffer(array.data, dtype, offset=stream.tell())).max(initial=0)
    if not np.isfinite(largest):
        return "holds NaN or infinity"
    return f"holds {largest:g}, beyond {LARGEST:g}" if largest > LARGEST else None
