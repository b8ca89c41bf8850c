"""Each kind of bad reply is dropped with its reason, and the good ones come out in order."""

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from server.local_grid import set_identity
from server.screening import screen
from tests.hand_made import records, start

GOOD = start()
MAX_EXAMPLES = 1000


def message(node: int) -> Message:
    set_identity()
    return Message(RecordDict({}), node, "train")


def reply(content: RecordDict, *, node: int = 100) -> Message:
    return Message(content, reply_to=message(node))


def reason_of(content: RecordDict) -> str:
    """Reason for which the only reply is dropped, while one beside it is kept."""
    usable, rejected = screen(
        [reply(content, node=100), reply(records(GOOD, client=7), node=107)], GOOD, max_examples=MAX_EXAMPLES
    )
    assert [one.content.metric_records["metrics"]["client"] for one in usable] == [7]
    assert [one.node_id for one in rejected] == [100]
    return rejected[0].reason


def changed(**metrics: object) -> RecordDict:
    content = records(GOOD, client=0)
    for name, value in metrics.items():
        key = name.replace("_", "-")
        if value is None:
            del content.metric_records["metrics"][key]
        else:
            content.metric_records["metrics"][key] = value  # type: ignore[assignment]
    return content


def with_array(name: str, array: Array | None) -> RecordDict:
    content = records(GOOD, client=0)
    if array is None:
        del content.array_records["arrays"][name]
    else:
        content.array_records["arrays"][name] = array
    return content


def raw(data: bytes, *, stype: str = "numpy.ndarray") -> Array:
    return Array("float32", (3,), stype, data)


def npy(value: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


def test_usable_replies_are_sorted_by_client() -> None:
    replies = [reply(records(GOOD, client=client), node=200 - client) for client in (5, 0, 3)]
    usable, rejected = screen(replies, GOOD, max_examples=MAX_EXAMPLES)
    assert [one.content.metric_records["metrics"]["client"] for one in usable] == [0, 3, 5]
    assert rejected == []


def test_nothing_came_back() -> None:
    assert screen([], GOOD, max_examples=MAX_EXAMPLES) == ([], [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Error(3, "client 2, stage data: OSError: gone"), "stage data: OSError: gone"), (Error(0), "an error")],
)
def test_an_error_reply_is_dropped_with_its_own_words(error: Error, reason: str) -> None:
    _, rejected = screen([Message(error, reply_to=message(5))], GOOD, max_examples=MAX_EXAMPLES)
    assert [one.node_id for one in rejected] == [5]
    assert reason in rejected[0].reason


@pytest.mark.parametrize("value", [0, -3, MAX_EXAMPLES + 1, 10**18, 5.0, [5]])
def test_an_absurd_number_of_pairs(value: object) -> None:
    assert f"num-examples={value}" in reason_of(changed(num_examples=value))


def test_the_largest_and_smallest_believable_numbers_of_pairs() -> None:
    replies = [
        reply(records(GOOD, client=client, num_examples=num)) for client, num in enumerate((1, MAX_EXAMPLES))
    ]
    assert len(screen(replies, GOOD, max_examples=MAX_EXAMPLES)[0]) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, 2, [1.0]])
def test_a_loss_that_cannot_be_averaged(value: object) -> None:
    assert "loss=" in reason_of(changed(loss=value))


@pytest.mark.parametrize("value", [-1, 1.0, [0]])
def test_a_client_without_an_index(value: object) -> None:
    assert f"client={value} is no index" in reason_of(changed(client=value))


@pytest.mark.parametrize("name", ["num_examples", "loss", "client"])
def test_a_missing_metric(name: str) -> None:
    assert "metrics [" in reason_of(changed(**{name: None}))


def test_an_additional_metric() -> None:
    assert "accuracy" in reason_of(changed(accuracy=0.5))


@pytest.mark.parametrize("missing", ["arrays", "metrics"])
def test_a_missing_record(missing: str) -> None:
    content = records(GOOD, client=0)
    del content[missing]
    assert "records [" in reason_of(content)


@pytest.mark.parametrize(
    "record", [ArrayRecord({"x": Array(np.zeros(2))}), MetricRecord({"x": 1}), ConfigRecord({"x": b"bytes"})]
)
def test_an_additional_record(record: ArrayRecord | MetricRecord | ConfigRecord) -> None:
    content = records(GOOD, client=0)
    content["extra"] = record
    assert "extra" in reason_of(content)


def test_records_that_have_changed_places() -> None:
    content = RecordDict({"arrays": MetricRecord({"x": 1}), "metrics": ArrayRecord({})})
    assert "records [" in reason_of(content)


def test_an_empty_reply() -> None:
    assert "records []" in reason_of(RecordDict({}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_weight_that_is_not_finite(value: float) -> None:
    broken = GOOD["bias"].copy()
    broken[1] = value
    assert reason_of(with_array("bias", Array(broken))) == "tensor 'bias' holds NaN or infinity"


def test_a_weight_whose_square_would_overflow() -> None:
    broken = GOOD["bias"].copy()
    broken[1] = -1e30
    assert "holds 1e+30, beyond 1e+09" in reason_of(with_array("bias", Array(broken)))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.zeros((3, 1), np.float32), "float32[3, 1]"),
        (np.zeros(2, np.float32), "float32[2]"),
        (np.zeros((), np.float32), "float32[]"),
        (np.zeros(3, np.float64), "float64[3]"),
        (np.zeros(3, np.float16), "float16[3]"),
        (np.zeros(3, np.int32), "int32[3]"),
        (np.zeros(3, ">f4"), ">f4[3]"),
        (np.array(["a", "b", "c"]), "<U1[3]"),
    ],
)
def test_a_wrong_shape_or_dtype(value: np.ndarray, found: str) -> None:
    assert reason_of(with_array("bias", Array(value))) == f"tensor 'bias' is {found} instead of float32[3]"


def test_a_missing_tensor() -> None:
    assert "['bias'] are missing or unknown" in reason_of(with_array("bias", None))


def test_an_unknown_tensor() -> None:
    assert "['new'] are missing or unknown" in reason_of(with_array("new", Array(np.zeros(1, np.float32))))


@pytest.mark.parametrize(
    "array",
    [
        raw(b""),
        raw(b"not npy at all"),
        raw(npy(GOOD["bias"])[:-1]),
        raw(npy(GOOD["bias"])[:20]),
        raw(npy(GOOD["bias"]) + b"\0"),
        raw(b"PK\x03\x04" + b"\0" * 40),
        raw(b"\x93NUMPY\x09\x00" + b"\0" * 40),
        raw(b"\x93NUMPY\x01\x00\x10\x00((((((((((((((((" + b"\0" * 40),
        raw(b"\x80\x04\x95\x0b\x00\x00\x00"),
        raw(npy(GOOD["bias"]), stype="pickle"),
    ],
    ids=["empty", "text", "cut", "header", "longer", "zip", "version", "syntax", "pickle", "stype"],
)
def test_bytes_that_cannot_be_decoded(array: Array) -> None:
    assert "tensor 'bias' cannot be decoded" in reason_of(with_array("bias", array))


def test_an_object_array_is_never_unpickled() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([print, None, None]), allow_pickle=True)
    assert "tensor 'bias' is object[3]" in reason_of(with_array("bias", raw(stream.getvalue())))


def test_a_header_that_claims_terabytes_allocates_nothing() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    assert "float32[1000000000000] instead of float32[3]" in reason_of(with_array("bias", raw(data)))


def test_a_second_reply_for_a_client() -> None:
    replies = [reply(records(GOOD, client=1), node=node) for node in (100, 101)]
    usable, rejected = screen(replies, GOOD, max_examples=MAX_EXAMPLES)
    assert [one.metadata.src_node_id for one in usable] == [100]
    assert [(one.node_id, one.reason) for one in rejected] == [(101, "a second reply for client 1")]


def test_by_node_a_client_that_claims_another_s_index_displaces_nobody() -> None:
    """Whether the second counts must not depend on the first being there."""
    liar, honest = reply(records(GOOD, client=5), node=100), reply(records(GOOD, client=5), node=105)
    for present in ([liar, honest], [honest, liar]):
        usable, rejected = screen(present, GOOD, max_examples=MAX_EXAMPLES, by_node=True)
        assert [one.metadata.src_node_id for one in usable] == [100, 105]
        assert rejected == []
