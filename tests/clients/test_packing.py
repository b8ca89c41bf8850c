"""Arrays travel as one and arrive as they were."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clients.packing import PACKED, is_packed, pack, packed_mod, unpack
from server.local_grid import LocalGrid
from server.loop import RoundReport, run_rounds
from server.packed_grid import PackedGrid
from server.patience import GridAround, MadeUpTime, PatientGrid
from tests.hand_made import Weights, app_of, contexts, drift, federation, run_config, start
from tests.tiny_federation import strategy_of

NAMES = st.text(min_size=1, max_size=20)
DTYPES = st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.int8, np.bool_])
ARRAYS = DTYPES.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
TENSORS = st.dictionaries(NAMES.filter(lambda name: name not in (PACKED, "__metadata__")), ARRAYS, max_size=6)


def content_of(**records: dict[str, np.ndarray]) -> RecordDict:
    made = {
        name: ArrayRecord({key: Array(one) for key, one in held.items()}) for name, held in records.items()
    }
    return RecordDict({**made, "config": ConfigRecord({"server-round": 3})})


@given(TENSORS, TENSORS)
def test_every_array_arrives_as_it_was(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    content = content_of(arrays=one, more=two)
    pack(content)
    assert all(is_packed(record) for record in content.array_records.values())
    assert unpack(content)
    for name, sent in (("arrays", one), ("more", two)):
        found = content.array_records[name]
        assert list(found) == sorted(sent)
        for key, value in sent.items():
            assert (found[key].dtype, tuple(found[key].shape)) == (str(value.dtype), value.shape)
            # The bytes of Flower's own format, by which a question is recognised when it comes again.
            assert found[key].data == Array(value).data
    assert content.config_records["config"]["server-round"] == 3


def test_a_message_is_packed_once() -> None:
    """One record is shared by the messages to all nodes."""
    content = content_of(arrays={"a": np.ones(3, np.float32), "b": np.zeros((), np.float32)})
    pack(content)
    first = content.array_records["arrays"]
    pack(content)
    assert content.array_records["arrays"] is first
    assert unpack(content)
    assert not unpack(content)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0, np.uint8),
        np.full(40, 255, np.uint8),
        np.frombuffer(b"\x02\0\0\0\0\0\0\0{}junk", np.uint8),
        np.ones((2, 2), np.float32),
        np.zeros((), np.float32),
    ],
)
def test_what_is_not_in_the_format_is_refused_and_left(array: np.ndarray) -> None:
    content = content_of(arrays={PACKED: array}, more={"a": np.ones(2, np.float32), "b": np.ones(1)})
    pack(content)
    before = dict(content.array_records)
    with pytest.raises(ValueError, match="'arrays' is not in the format of safetensors"):
        unpack(content)
    assert {name: content.array_records[name] is record for name, record in before.items()} == {
        "arrays": True,
        "more": True,
    }


def add_one(message: Message) -> Message:
    arrays = {
        name: np.asarray(one.numpy() + 1) for name, one in message.content.array_records["arrays"].items()
    }
    return Message(
        RecordDict({**content_of(arrays=arrays).array_records, "metrics": MetricRecord({"client": 0})}),
        reply_to=message,
    )


@pytest.mark.parametrize("packs", [True, False])
def test_a_client_answers_in_the_form_in_which_it_was_asked(packs: bool) -> None:
    LocalGrid(app_of(add_one), contexts(1))
    content = content_of(arrays={"a": np.ones(2, np.float32), "b": np.zeros((), np.float32)})
    if packs:
        pack(content)
    message = Message(content, 100, "train")
    reply = packed_mod(message, contexts(1)[100], lambda one, _: add_one(one))
    assert is_packed(reply.content.array_records["arrays"]) == packs
    unpack(reply.content)
    assert reply.content.array_records["arrays"]["b"].numpy() == 1.0


class Carrying(GridAround):
    """Notes which arrays it carries."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.asked: list[list[str]] = []
        self.answered: list[list[str]] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        kept = list(messages)
        self.asked += [list(one.content.array_records["arrays"]) for one in kept]
        return super().push_messages(kept)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.answered += [list(one.content.array_records["arrays"]) for one in replies]
        return replies


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedavgm"])
def test_a_federation_with_packed_messages_is_the_same(strategy: str, tmp_path: Path) -> None:
    changes = (f"strategy={strategy!r}", "num_clients=3", "num_rounds=3")
    with federation(tmp_path / "plain", *changes) as plain:
        expected = run_rounds(plain, start())
        carrying = Carrying(LocalGrid(app_of(drift, mods=[packed_mod]), contexts(3)))
        clock = MadeUpTime().clock()
        packed = replace(
            plain,
            folder=tmp_path / "packed",
            grid=PatientGrid(PackedGrid(carrying), clock=clock),
            strategy=strategy_of(run_config(*changes)),
        )
        packed.folder.mkdir()
        found = run_rounds(packed, start())
    assert carrying.asked == carrying.answered == [[PACKED]] * 9
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes()


def test_a_reply_that_cannot_be_unpacked_is_dropped_and_the_round_goes_on(tmp_path: Path) -> None:
    def step(weights: Weights, round_index: int, client: int) -> RecordDict:
        made = drift(weights, round_index, client)
        if client == 1:
            made["arrays"] = ArrayRecord({PACKED: Array(np.full(40, 255, np.uint8))})
        return made

    told: list[RoundReport] = []
    with federation(tmp_path, "num_clients=3", "num_rounds=1", report=told.append) as plain:
        grid = PackedGrid(LocalGrid(app_of(step, mods=[packed_mod]), contexts(3)))
        run_rounds(replace(plain, grid=grid), start())
    assert [one.num_clients for one in told] == [2]
    assert [one.node_id for one in told[0].rejected] == [101]
    assert "'safetensors'" in told[0].rejected[0].reason or "bias" in told[0].rejected[0].reason
