"""Which replies of a round may be aggregated; the others are dropped, each with its reason.

Flower believes any reply: one NaN makes the global model NaN, a negative ``num-examples`` is used
as a weight, another metric name stops the run. Here such a reply is dropped and reported and the
round goes on. Whose a reply is follows from the message that it answers: the SuperLink answers for a
node that is down, in its own name, and any node may claim any index.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SType

from edgecmd.data.user_files.decode import printable
from edgecmd.privacy.refusals import PREFIX, REFUSALS
from edgecmd.training.averaging import Arrays
from edgecmd.training.codecs import Wire
from server.strategies import to_record

RECORDS = ["arrays: ArrayRecord", "metrics: MetricRecord"]
METRICS = {"num-examples", "loss", "client"}
PRIVATE_METRICS = {"client"}
SPENT = "budget-spent"
# Finite, and yet beyond anything that training gives; its square would overflow in FedAdam's moments.
LARGEST = 1e9
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
LONGEST = 2000

UNKNOWN = "a reply to a message that this round did not send"
SECOND = "a second reply to one message"
NO_REASON = "an error without a reason"
# What a private run writes down for an error: the text of a client may hold anything. Beside its code a
# refusal may name one word, such as a setting.
SEALED = re.compile(
    re.escape(PREFIX) + r"(?P<code>[a-z-]+)(?P<detail> \([\w.,:=<>+-]{1,80}\))?( \(.*\))?", re.DOTALL
)
BY_CODE: dict[int, str] = {
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "its edgecmd could not be loaded",
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "it failed; the reason stays in the log of the client",
    ErrorCode.MESSAGE_UNAVAILABLE: "the SuperLink no longer has its message: expired, or its node removed",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its reply expired on the SuperLink",
    ErrorCode.NODE_UNAVAILABLE: "node unavailable: the SuperLink receives no heartbeat",
    ErrorCode.MOD_FAILED_PRECONDITION: "a mod of its Flower refused",
    ErrorCode.INVALID_FAB: "its Flower refused the app",
    ErrorCode.CLIENT_APP_CRASHED: "its client app crashed",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A reply that is not aggregated.

    Attributes:
        node_id: Flower's id of the node that was asked; of a reply to nothing, of the node that it names.
        reason: What is wrong with the reply.
    """

    node_id: int
    reason: str

    @property
    def refused(self) -> bool:
        """Whether the client itself declined, because its privacy budget or its owner says so."""
        return self.reason.startswith(PREFIX)

    @property
    def spent(self) -> bool:
        """Whether the client declined because its privacy budget is spent."""
        return _code(self.reason) == SPENT


def _code(reason: str) -> str:
    """Code of a sealed refusal; empty for any other reason."""
    found = SEALED.fullmatch(reason)
    return found["code"] if found is not None and found["code"] in REFUSALS else ""


def match(
    replies: Iterable[Message], asked: Mapping[str, Message], *, silence: str
) -> tuple[dict[int, Message], list[Rejection]]:
    """Assign replies to the nodes that were asked, once no more are waited for.

    Args:
        replies: What came back, from whomever.
        asked: Messages that were sent, by their ids.
        silence: Reason for a node from which no fitting reply came.

    Returns:
        The first fitting reply by node, and what was dropped or did not come.
    """
    found, dropped = fitting(replies, asked)
    silent = [one.metadata.dst_node_id for one in asked.values() if one.metadata.dst_node_id not in found]
    return found, [*dropped, *(Rejection(node_id=node, reason=silence) for node in silent)]


def fitting(
    replies: Iterable[Message], asked: Mapping[str, Message]
) -> tuple[dict[int, Message], list[Rejection]]:
    """Assign replies to the nodes that were asked, by the message that each answers.

    Args:
        replies: What came back so far, from whomever.
        asked: Messages that were sent, by their ids.

    Returns:
        The first fitting reply by node, and what was dropped.
    """
    found: dict[int, Message] = {}
    dropped: list[Rejection] = []
    for reply in replies:
        message = asked.get(reply.metadata.reply_to_message_id)
        node = reply.metadata.src_node_id if message is None else message.metadata.dst_node_id
        reason = UNKNOWN if message is None else _misfit(reply, message)
        if reason is None and node in found:
            reason = SECOND
        if reason is None:
            found[node] = reply
        else:
            dropped.append(Rejection(node_id=node, reason=reason))
    return found, dropped


def _misfit(reply: Message, message: Message) -> str | None:
    """Why ``reply`` is not an answer to ``message`` although it names it, or None."""
    answer, question = reply.metadata, message.metadata
    if answer.run_id != question.run_id:
        return "a reply of another run"
    if answer.src_node_id not in (question.dst_node_id, *([SUPERLINK_NODE_ID] if reply.has_error() else [])):
        return "a reply that another node made"
    # The SuperLink's own errors are of Flower's system type and have no group.
    if not reply.has_error() and answer.message_type != question.message_type:
        return "a reply of another type"
    if not reply.has_error() and answer.group_id != question.group_id:
        return "a reply of another round"
    return None


def screen(
    replies: Mapping[int, Message],
    reference: Arrays,
    *,
    max_examples: int,
    private: bool = False,
    wire: Wire | None = None,
    started: Mapping[int, Arrays] | None = None,
) -> tuple[list[Message], list[Rejection]]:
    """Split replies into usable ones, in the order of (claimed index, node), and rejections.

    Args:
        replies: What came back, by the node that was asked.
        reference: The global weights: names, shapes and dtypes that a reply must have.
        max_examples: Largest believable number of pairs.
        private: Whether a reply must hold weights and index alone; one that holds more is dropped. Reasons
            are then sealed: nothing that a client wrote is in them but a code of
            `edgecmd.privacy.refusals`.
        wire: How weights travel; usable replies then hold the weights that were decoded. None where they
            travel as they are.
        started: The weights that each node was sent; None where all were sent ``reference``.

    Returns:
        Usable replies in order (floating-point sums depend on it), rejections.

    Guarantees:
        Whether a reply is usable depends on nobody else's: two nodes that claim one index are both used.
    """
    usable: dict[tuple[int, int], Message] = {}
    rejections = []
    for node, reply in replies.items():
        if reply.has_error():
            reason: str | None = error_words(reply.error, private=private)
        else:
            base = reference if started is None else started[node]
            opened = None if wire is None else partial(_opened, wire=wire, base=base)
            reason = _fault(reply, reference, opened, max_examples=max_examples, private=private)
        if reason is None:
            usable[claimed_client(reply), node] = reply
        else:
            rejections.append(Rejection(node_id=node, reason=_plain(reason)))
    return [usable[place] for place in sorted(usable)], rejections


def claimed_client(reply: Message) -> int:
    """Index of the client that a screened reply claims."""
    return int(str(_metrics(reply)["client"]))


def error_words(error: Error, *, private: bool) -> str:
    """Why a node answered with an error, in its own words; under privacy nothing but what a code says."""
    reason = error.reason or ""
    if not private:
        return _plain(reason) or NO_REASON
    if not _code(reason):
        return BY_CODE.get(error.code, NO_REASON)
    found = SEALED.fullmatch(reason)
    assert found is not None
    return f"{PREFIX}{found['code']}{found['detail'] or ''}"


def _plain(reason: str) -> str:
    """``reason`` on one line of bounded length: a client's text must not steer the terminal."""
    return printable(reason[:LONGEST])[:LONGEST]


def _metrics(reply: Message) -> MetricRecord:
    return reply.content.metric_records["metrics"]


def _fault(
    reply: Message,
    reference: Arrays,
    opened: Callable[[RecordDict], str | None] | None,
    *,
    max_examples: int,
    private: bool,
) -> str | None:
    """First thing that is wrong with a reply without an error, or None."""
    content = reply.content
    kinds = sorted(f"{name}: {type(record).__name__}" for name, record in content.items())
    if kinds != RECORDS:
        return (
            "records other than weights and metrics" if private else f"records {kinds} instead of {RECORDS}"
        )
    metrics = _metrics(reply)
    wrong = _private_fault(metrics) if private else _metric_fault(metrics, max_examples=max_examples)
    if wrong is not None:
        return wrong
    broken = None if opened is None else opened(content)
    broken = broken or _array_fault(content.array_records["arrays"], reference)
    return "weights that are not the student's, or not finite" if private and broken else broken


def _opened(content: RecordDict, *, wire: Wire, base: Arrays) -> str | None:
    """Put weights in the place of what a codec made of them; or what is wrong with that.

    Whether they are finite, and not too large, is asked of the weights.
    """
    record = content.array_records["arrays"]
    broken = _array_fault(record, wire.up_like, most=math.inf)
    parts = {} if broken else {name: array.numpy() for name, array in record.items()}
    broken = broken or wire.fault(parts)
    if broken is None:
        content["arrays"] = to_record(wire.onto(base, wire.moves(parts)))
    return broken


def _private_fault(metrics: MetricRecord) -> str | None:
    if set(metrics) != PRIVATE_METRICS:
        return f"other metrics than {sorted(PRIVATE_METRICS)}, all that privacy allows"
    client = metrics["client"]
    return None if isinstance(client, int) and client >= 0 else "an index that is not a number"


def _metric_fault(metrics: Mapping[str, Any], *, max_examples: int) -> str | None:
    if set(metrics) != METRICS:
        return f"metrics {sorted(metrics)} instead of {sorted(METRICS)}"
    num, client, loss = metrics["num-examples"], metrics["client"], metrics["loss"]
    if not isinstance(num, int) or not 1 <= num <= max_examples:
        return f"num-examples={num} is not a whole number in 1..{max_examples}"
    if not isinstance(client, int) or client < 0:
        return f"client={client} is not an index"
    if not isinstance(loss, float) or not abs(loss) <= LARGEST:
        return f"loss={loss} is not a number in -{LARGEST:g}..{LARGEST:g}"
    return None


def _array_fault(arrays: ArrayRecord, reference: Arrays, *, most: float = LARGEST) -> str | None:
    if set(arrays) != set(reference):
        return f"tensors {sorted(set(arrays) ^ set(reference))[:3]} are missing or unknown"
    for name, expected in reference.items():
        try:
            fault = _tensor_fault(arrays[name], expected, most=most)
        # Whatever a client sends, it must not stop the round: numpy alone raises seven kinds of error here.
        except Exception as error:
            fault = f"cannot be decoded: {error}"
        if fault is not None:
            return f"tensor {name!r} {fault}"
    return None


def _tensor_fault(array: Array, expected: np.ndarray, *, most: float) -> str | None:
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
    values = np.frombuffer(array.data, dtype, offset=stream.tell())
    return None if most == math.inf else _value_fault(values)


def _value_fault(values: np.ndarray) -> str | None:
    largest = np.abs(values).max(initial=0)
    if not np.isfinite(largest):
        return "holds NaN or infinity"
    return f"holds {largest:g}, beyond {LARGEST:g}" if largest > LARGEST else None


def turn_fault(
    weights: Mapping[str, np.ndarray], metrics: Mapping[str, Any], *, max_examples: int
) -> str | None:
    """What `screen` would find wrong with a client's turn, without privacy; None where it may be aggregated.

    Args:
        weights: The client's weights, with the names and shapes of those that it was given.
        metrics: ``num-examples``, ``loss`` and ``client``.
        max_examples: Largest believable number of pairs.
    """
    wrong = _metric_fault(metrics, max_examples=max_examples)
    if wrong is None:
        faults = ((name, _value_fault(value)) for name, value in weights.items())
        wrong = next((f"tensor {name!r} {fault}" for name, fault in faults if fault is not None), None)
    return None if wrong is None else _plain(wrong)
