"""Each kind of bad reply is dropped with its reason, and the good ones come out in order."""

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from hypothesis import given
from hypothesis import strategies as st

from server.faults import crashed, expired, posed, reply_expired, reply_like, unavailable
from server.local_grid import set_identity
from server.screening import BY_CODE, SECOND, UNKNOWN, match, screen
from tests.hand_made import records, start

GOOD = start()
MAX_EXAMPLES = 1000


def message(node: int) -> Message:
    set_identity()
    return Message(RecordDict({}), node, "train")


def reply(content: RecordDict, *, node: int = 100) -> Message:
    return Message(content, reply_to=message(node))


def by_node(*replies: Message) -> dict[int, Message]:
    return {one.metadata.src_node_id: one for one in replies}


def reason_of(content: RecordDict) -> str:
    """Reason for which the only reply is dropped, while one beside it is kept."""
    usable, rejected = screen(
        by_node(reply(content, node=100), reply(records(GOOD, client=7), node=107)),
        GOOD,
        max_examples=MAX_EXAMPLES,
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
    usable, rejected = screen(by_node(*replies), GOOD, max_examples=MAX_EXAMPLES)
    assert [one.content.metric_records["metrics"]["client"] for one in usable] == [0, 3, 5]
    assert rejected == []


def test_nothing_came_back() -> None:
    assert screen({}, GOOD, max_examples=MAX_EXAMPLES) == ([], [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Error(3, "client 2, stage data: OSError: gone"), "stage data: OSError: gone"), (Error(0), "an error")],
)
def test_an_error_reply_is_dropped_with_its_own_words(error: Error, reason: str) -> None:
    failed = Message(error, reply_to=message(5))
    _, rejected = screen({5: failed}, GOOD, max_examples=MAX_EXAMPLES)
    assert [one.node_id for one in rejected] == [5]
    assert reason in rejected[0].reason


@pytest.mark.parametrize("value", [0, -3, MAX_EXAMPLES + 1, 10**18, 5.0, [5]])
def test_an_absurd_number_of_pairs(value: object) -> None:
    assert f"num-examples={value}" in reason_of(changed(num_examples=value))


def test_the_largest_and_smallest_believable_numbers_of_pairs() -> None:
    replies = [
        reply(records(GOOD, client=client, num_examples=num), node=100 + client)
        for client, num in enumerate((1, MAX_EXAMPLES))
    ]
    assert len(screen(by_node(*replies), GOOD, max_examples=MAX_EXAMPLES)[0]) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, 2, [1.0]])
def test_a_loss_that_cannot_be_averaged(value: object) -> None:
    assert "loss=" in reason_of(changed(loss=value))


@pytest.mark.parametrize("value", [-1, 1.0, [0]])
def test_a_client_without_an_index(value: object) -> None:
    assert f"client={value} is not an index" in reason_of(changed(client=value))


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
    assert reason_of(content) == (
        "records ['arrays: MetricRecord', 'metrics: ArrayRecord'] instead of"
        " ['arrays: ArrayRecord', 'metrics: MetricRecord']"
    )


# Colours, the title of a window, a line that is gone over again, a line of its own, a turned direction.
STEERING = "a\x1b[31mb\x1b]0;c\x07d\re\nf\x9bg\u202eh"
SHOWN = r"a\x1b[31mb\x1b]0;c\x07d\re\nf\x9bg\u202eh"


def test_a_client_s_text_does_not_steer_a_terminal() -> None:
    error = Message(Error(3, STEERING), reply_to=message(5))
    _, (rejected,) = screen({5: error}, GOOD, max_examples=MAX_EXAMPLES)
    assert rejected.reason == SHOWN
    assert reason_of(with_array("bias", raw(npy(GOOD["bias"]), stype=STEERING))) == (
        f"tensor 'bias' cannot be decoded: {SHOWN}, version (1, 0)"
    )


def test_a_client_s_text_has_a_bounded_length() -> None:
    error = Message(Error(3, "\x1b" * 10**6), reply_to=message(5))
    _, (rejected,) = screen({5: error}, GOOD, max_examples=MAX_EXAMPLES)
    assert rejected.reason == r"\x1b" * 500
    content = records(GOOD, client=0)
    content["e" * 10**5] = MetricRecord({})
    assert len(reason_of(content)) == 2000


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


@pytest.mark.parametrize("private", [False, True])
def test_a_client_that_claims_another_s_index_displaces_nobody(private: bool) -> None:
    """Both are used, in the order of their nodes, whichever came first; nobody's index decides of another."""

    def answer(client: int, node: int) -> Message:
        content = records(GOOD, client=client)
        if private:
            content["metrics"] = MetricRecord({"client": client})
        return reply(content, node=node)

    liar, honest, other = answer(5, 100), answer(5, 105), answer(2, 300)
    for present in ([liar, honest, other], [other, honest, liar]):
        usable, rejected = screen(by_node(*present), GOOD, max_examples=MAX_EXAMPLES, private=private)
        assert [one.metadata.src_node_id for one in usable] == [300, 100, 105]
        assert rejected == []


SECRET = "pair 17 beneath /home/ann shows cats"


def private_reason(answer: Message) -> str:
    usable, (rejected,) = screen({100: answer}, GOOD, max_examples=MAX_EXAMPLES, private=True)
    assert usable == []
    return rejected.reason


@pytest.mark.parametrize("code", range(10))
def test_under_privacy_no_word_of_a_client_is_written_down(code: int) -> None:
    reason = private_reason(Message(Error(code, SECRET), reply_to=message(100)))
    assert not set(SECRET.split()) & set(reason.split())
    assert reason
    public, (rejected,) = screen(
        {100: Message(Error(code, SECRET), reply_to=message(100))}, GOOD, max_examples=MAX_EXAMPLES
    )
    assert (public, rejected.reason) == ([], SECRET)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({SECRET: MetricRecord({"client": 0})}),
        RecordDict({"arrays": records(GOOD, client=0)["arrays"], "metrics": MetricRecord({SECRET: 1})}),
        RecordDict({"arrays": records(GOOD, client=0)["arrays"], "metrics": MetricRecord({"client": -17})}),
        RecordDict(
            {"arrays": ArrayRecord({SECRET: Array(np.ones(1))}), "metrics": MetricRecord({"client": 0})}
        ),
        RecordDict(
            {
                "arrays": records(GOOD | {"scale": np.float32(1e17)}, client=0)["arrays"],
                "metrics": MetricRecord({"client": 0}),
            }
        ),
    ],
    ids=["record", "metric", "index", "tensor", "value"],
)
def test_under_privacy_a_wrong_reply_is_described_without_its_content(content: RecordDict) -> None:
    reason = private_reason(reply(content))
    assert not any(word in reason for word in ("17", "ann", "cat", "pair"))


@pytest.mark.parametrize(
    ("told", "kept", "spent"),
    [
        ("refused: budget-spent", "refused: budget-spent", True),
        ("refused: no-ledger", "refused: no-ledger", False),
        ("refused: out-of-bounds (privacy.epsilon)", "refused: out-of-bounds (privacy.epsilon)", False),
        (f"refused: budget-spent ({SECRET}\n)", "refused: budget-spent", True),
        (f"refused: budget-spent and {SECRET}", BY_CODE[2], False),
        (f"refused: {SECRET}", BY_CODE[2], False),
        ("refused: made-up", BY_CODE[2], False),
        ("budget-spent", BY_CODE[2], False),
    ],
)
def test_a_sealed_refusal_is_kept_and_a_made_up_one_is_not(told: str, kept: str, spent: bool) -> None:
    answer = Message(Error(2, told), reply_to=message(100))
    _, (rejected,) = screen({100: answer}, GOOD, max_examples=MAX_EXAMPLES, private=True)
    assert (rejected.reason, rejected.spent) == (kept, spent)
    assert rejected.refused == kept.startswith("refused: ")


# Whose a reply is.


def asked(*nodes: int) -> dict[str, Message]:
    messages = {f"m{node}": message(node) for node in nodes}
    for name, one in messages.items():
        one.metadata.__dict__["_message_id"] = name
        one.metadata.group_id = "round-3"
    return messages


def test_every_error_that_the_superlink_makes_itself_belongs_to_the_node_that_was_asked() -> None:
    """Made by Flower's own code: it signs with node 1, and one kind has another type and no group."""
    questions = asked(101, 102, 103, 104)
    makers = (unavailable, expired, reply_expired, crashed)
    replies = [make(one) for make, one in zip(makers, questions.values(), strict=True)]
    assert [one.metadata.src_node_id for one in replies] == [1, 1, 1, 104]
    found, dropped = match(replies, questions, silence="silent")
    assert sorted(found) == [101, 102, 103, 104]
    assert dropped == []
    usable, rejected = screen(found, GOOD, max_examples=MAX_EXAMPLES)
    assert usable == []
    assert [one.node_id for one in rejected] == [101, 102, 103, 104]
    assert [one.reason.split(" - ")[0].split(" \u2014 ")[0] for one in rejected] == [
        "Error: Node Unavailable",
        "Error: Message Unavailable",
        "Error: Reply Message Unavailable",
        "ClientApp stopped responding.",
    ]


def test_flower_s_codes_all_have_a_sentence_for_private_runs() -> None:
    codes = {value for name, value in vars(ErrorCode).items() if name.isupper()}
    assert codes - {ErrorCode.UNKNOWN} == set(BY_CODE)


def test_replies_that_answer_nothing_of_this_round_are_dropped_each_with_its_reason() -> None:
    questions = asked(101, 102, 103, 104, 105, 106, 107)
    answers = {
        node: reply_like(reply(records(GOOD, client=0)), questions[f"m{node}"]) for node in range(101, 108)
    }
    late = reply_like(answers[101], posed(questions["m101"], name="m-of-round-2"))
    other_group = reply_like(answers[103], posed(questions["m103"], group="round-2", name="m103"))
    impostor = reply_like(answers[104], posed(questions["m104"], node=105, name="m104"))
    other_type = reply_like(answers[105], questions["m105"])
    other_type.metadata.message_type = "query.index"
    other_run = reply_like(answers[106], questions["m106"])
    other_run.metadata.__dict__["_run_id"] = 99
    replies = [late, answers[102], answers[102], other_group, impostor, other_type, other_run, answers[106]]
    found, dropped = match(replies, questions, silence="silent")
    assert sorted(found) == [102, 106]
    assert found[106] is answers[106], "a forged reply does not stand in the way of the true one"
    assert [(one.node_id, one.reason) for one in dropped] == [
        (101, UNKNOWN),
        (102, SECOND),
        (103, "a reply of another round"),
        (104, "a reply that another node made"),
        (105, "a reply of another type"),
        (106, "a reply of another run"),
        *((node, "silent") for node in (101, 103, 104, 105, 107)),
    ]


@given(order=st.permutations(range(8)))
def test_the_order_of_arrival_changes_nothing(order: list[int]) -> None:
    questions = asked(*range(101, 105))
    replies = [
        reply_like(reply(records(GOOD, client=node % 3)), one) for node, one in enumerate(questions.values())
    ]
    replies += [unavailable(posed(message(9), name=f"of-old-{index}")) for index in range(4)]
    found, dropped = match([replies[place] for place in order], questions, silence="silent")
    usable, _ = screen(found, GOOD, max_examples=MAX_EXAMPLES)
    assert [one.metadata.src_node_id for one in usable] == [101, 104, 102, 103]
    assert [one.reason for one in dropped] == [UNKNOWN] * 4
