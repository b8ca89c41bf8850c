"""Compressed weights in a federation: equal bytes in every engine, resumed, under privacy, and garbage."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.numpy import load
from safetensors.torch import load as load_tensors

from clients.app import app
from clients.state import DIGEST_BYTES
from clients.work import ClientError
from edgecmd.config.assemble import run_folder
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.events import read_events
from edgecmd.experiments.run_plan import plan_facts
from edgecmd.privacy.ledger import Ledger
from edgecmd.training.averaging import to_arrays
from edgecmd.training.codecs import Wire
from server.local_grid import local_grid, set_identity
from server.packed_grid import PackedGrid
from server.patience import MadeUpTime, PatientGrid
from server.screening import screen
from server.strategies import to_record
from tests.tiny_federation import (
    NUM_CLIENTS,
    TESTED,
    contexts,
    federate,
    plan_of,
    run_of,
    simulate,
    tiny_config,
)

NAMES = ("fp16", "int8", "top-k")
TOKEN = "0123456789abcdef"
DETERMINISTIC = (
    *("privacy.mechanism=anchors", "privacy.deterministic=true"),
    *("privacy.noise_multiplier=2", "privacy.epsilon=1000"),
)


def coded(pairs: Path, out: Path, name: str, *changes: str) -> RunConfig:
    return tiny_config(pairs, out, f"federation.compression={name}", *changes)


def told(config: RunConfig) -> list[dict[str, object]]:
    """The events but for what depends on the machine."""
    events = read_events(run_folder(config) / "events.jsonl", kind="round")
    return [{key: value for key, value in one.items() if key not in ("seconds", "time")} for one in events]


def bytes_of(config: RunConfig) -> bytes:
    return (run_folder(config) / "student.safetensors").read_bytes()


def wire_of(config: RunConfig) -> Wire:
    run = run_of(config)
    found = run.wire(run.new_student())
    assert found is not None
    return found


def answer(config: RunConfig, *, client: int = 1, round_index: int = 1) -> Message:
    """What a client answers to the first weights, as a server sends them."""
    set_identity()
    sent = wire_of(config).sent(to_arrays(run_of(config).new_student()))
    asked = ConfigRecord({"server-round": round_index, "run": TOKEN})
    content = RecordDict({"arrays": to_record(sent), "config": asked})
    return app(message=Message(content, 100 + client, "train"), context=contexts(config)[100 + client])


def parts_of(reply: Message) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in reply.content.array_records["arrays"].items()}


def drill(round_index: int, node: int) -> Exception | None:
    return OSError("drill") if (round_index, node) == (2, 101) else None


@pytest.mark.parametrize("name", NAMES)
def test_every_engine_gives_the_same_bytes(name: str, pairs: Path, tmp_path: Path) -> None:
    """Turns, messages, and messages that are packed as on a SuperLink; a client fails in the second round."""
    changes = ("federation.client_fraction=0.8", "federation.top_share=0.02", "federation.num_rounds=2")
    turns, messages, packed = (
        coded(pairs, tmp_path / way, name, *changes) for way in ("turns", "messages", "packed")
    )
    simulate(turns, fault=drill)
    assert [event["clients"] for event in told(turns)] == [3, 2]
    simulate(messages, fault=drill, messages=True)
    assert bytes_of(messages) == bytes_of(turns)
    assert told(messages) == told(turns)
    if name == "fp16":
        return
    with local_grid(app, contexts(packed), fault=drill) as grid:
        federate(PatientGrid(PackedGrid(grid), clock=MadeUpTime().clock()), packed)
    assert bytes_of(packed) == bytes_of(turns)
    assert told(packed) == told(turns)


def test_two_workers_give_the_bytes_of_one(pairs: Path, tmp_path: Path, workers: None) -> None:
    one, two = (coded(pairs, tmp_path / way, "int8", "federation.num_rounds=2") for way in ("one", "two"))
    simulate(one)
    simulate(replace(two, federation=replace(two.federation, num_workers=2)))
    assert bytes_of(two) == bytes_of(one)
    assert told(two) == told(one)


def test_bytes_of_a_round_by_hand(pairs: Path, tmp_path: Path) -> None:
    """A byte a number and four a scale: of 320 rows of 64 numbers or more, and of 21 smaller tensors."""
    config = coded(pairs, tmp_path, "int8", "federation.num_rounds=1")
    student = run_of(config).new_student()
    shapes = [tuple(value.shape) for value in student.state_dict().values()]
    rows = sum(shape[0] for shape in shapes if len(shape) > 1 and np.prod(shape[1:]) >= 64)
    small = sum(len(shape) < 2 or np.prod(shape[1:]) < 64 for shape in shapes)
    num = sum(value.numel() for value in student.state_dict().values())
    simulate(config)
    (event,) = told(config)
    assert event["bytes"] == 2 * NUM_CLIENTS * (num + 4 * (rows + small))
    assert event["bytes"] < 0.26 * 2 * NUM_CLIENTS * 4 * num
    assert plan_facts(config, TESTED)["bytes_a_round"] == event["bytes"]


def test_a_reply_holds_what_the_events_count(pairs: Path, tmp_path: Path) -> None:
    for name in NAMES:
        config = coded(pairs, tmp_path, name)
        _, up = wire_of(config).num_bytes
        assert sum(part.nbytes for part in parts_of(answer(config)).values()) == up


def test_a_round_that_is_cut_off_and_repeated_finds_what_was_left_over(pairs: Path, tmp_path: Path) -> None:
    """The worst case: killed within round 4 after clients kept their rests, and checkpoint 3 is damaged."""
    calm = coded(pairs, tmp_path / "calm", "int8", "federation.num_rounds=4")
    simulate(calm)

    def fault(round_index: int, node: int) -> Exception | None:
        if (round_index, node) == (4, 103):
            raise KeyboardInterrupt
        return None

    cut = coded(pairs, tmp_path / "cut", "int8", "federation.num_rounds=4")
    with pytest.raises(KeyboardInterrupt):
        simulate(cut, fault=fault)
    rests = sorted(path.stem for path in (run_folder(cut) / "clients").glob("*/client-0001/rest/*"))
    assert rests == ["round-000002", "round-000003", "round-000004"]
    (run_folder(cut) / "checkpoints" / "round-000003" / "state.json").write_text("{")
    simulate(cut)
    assert bytes_of(cut) == bytes_of(calm)
    assert told(cut) == told(calm)


def test_a_damaged_rest_drops_its_client_and_says_the_way_out(pairs: Path, tmp_path: Path) -> None:
    config = coded(pairs, tmp_path, "int8")
    answer(config)
    (file,) = tmp_path.rglob("round-000001.state")
    file.write_bytes(b"damaged")
    with pytest.raises(ClientError, match="stage encode: FederationError.*is damaged.*nothing left over"):
        answer(config, round_index=2)


def test_with_all_clients_in_the_buffer_asynchronous_rounds_are_synchronous(
    pairs: Path, tmp_path: Path
) -> None:
    calm, full = (
        coded(pairs, tmp_path / name, "int8", f"federation.buffer_size={size}", "federation.num_rounds=2")
        for name, size in (("calm", 0), ("full", NUM_CLIENTS))
    )
    simulate(calm)
    simulate(full)
    assert bytes_of(full) == bytes_of(calm)
    late = coded(pairs, tmp_path / "late", "int8", "federation.buffer_size=2", "federation.slowest=4")
    simulate(late)
    assert any(max(event["staleness"]) > 0 for event in told(late))  # type: ignore[call-overload]


# Garbage.


def spoilt(part: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Array]], None]:
    def spoil(arrays: dict[str, Array]) -> None:
        arrays[part] = Array(change(arrays[part].numpy().copy()))

    return spoil


def at(place: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[place] = value
        return values

    return change


def claims(part: str, shape: str) -> Callable[[dict[str, Array]], None]:
    """A header of a tensor beyond any memory over the bytes of a small one."""

    def spoil(arrays: dict[str, Array]) -> None:
        array = arrays[part]
        own = str(tuple(array.shape)).encode()
        data = array.data.replace(own, shape.encode()).replace(b" " * (len(shape) - len(own)) + b"\n", b"\n")
        arrays[part] = Array(array.dtype, array.shape, array.stype, data)

    return spoil


def without(part: str) -> Callable[[dict[str, Array]], None]:
    return lambda arrays: arrays.pop(part) and None


GARBAGE = [
    ("int8", spoilt("codes", at(5, -128)), "codes below -127"),
    ("int8", spoilt("scales", at(0, -1.0)), "scales below 0"),
    ("int8", spoilt("scales", at(0, np.nan)), "'projector.bias' holds NaN"),
    ("int8", spoilt("scales", at(0, np.inf)), "'projector.bias' holds NaN or infinity"),
    ("int8", spoilt("scales", at(0, 1e30)), "'projector.bias' holds"),
    ("int8", spoilt("codes", lambda codes: codes[:-1]), "'codes' is int8"),
    ("int8", spoilt("codes", lambda codes: codes.astype(np.int16)), "'codes' is int16"),
    ("int8", claims("codes", "(99999999999999,)"), "'codes' is int8[99999999999999]"),
    ("int8", without("scales"), "tensors ['scales'] are missing"),
    ("fp16", spoilt("halves", at(7, np.inf)), "holds NaN or infinity"),
    ("fp16", spoilt("halves", lambda one: one.astype(np.float32)), "'halves' is float32"),
    ("top-k", spoilt("indices", at(-1, 2**32 - 1)), "an index beyond 55221"),
    ("top-k", spoilt("indices", at(-1, 55_222)), "an index beyond 55221"),
    ("top-k", spoilt("indices", at(1, 0)), "indices that do not rise"),
    ("top-k", spoilt("indices", lambda one: one[::-1].copy()), "indices that do not rise"),
    ("top-k", spoilt("indices", lambda one: one.astype(np.int64)), "'indices' is int64"),
    ("top-k", spoilt("values", at(0, np.nan)), "holds NaN or infinity"),
    ("top-k", spoilt("values", lambda one: np.append(one, one)), "'values' is float32"),
]


@pytest.fixture(scope="module")
def replies(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[RunConfig, Message]]:
    out = tmp_path_factory.mktemp("replies")
    return {name: (config := coded(pairs, out / name, name), answer(config)) for name in NAMES}


@pytest.mark.parametrize(("name", "spoil", "reason"), GARBAGE)
@pytest.mark.parametrize("private", [False, True])
def test_garbage_is_dropped_with_its_reason(
    name: str,
    spoil: Callable[[dict[str, Array]], None],
    reason: str,
    private: bool,
    replies: Mapping[str, tuple[RunConfig, Message]],
) -> None:
    """A good reply beside it is used; under privacy nothing of the client is in the reason."""
    config, good = replies[name]
    arrays = dict(good.content.array_records["arrays"])
    metrics = MetricRecord({"client": 1}) if private else good.content.metric_records["metrics"]
    intact = RecordDict({"arrays": ArrayRecord(dict(arrays)), "metrics": metrics})
    spoil(arrays)
    garbage = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    weights = to_arrays(run_of(config).new_student())
    usable, rejected = screen(
        {node: Message(one, reply_to=good_question(node)) for node, one in ((101, intact), (102, garbage))},
        weights,
        max_examples=1000,
        private=private,
        wire=wire_of(config),
    )
    assert [one.metadata.src_node_id for one in usable] == [101]
    assert list(usable[0].content.array_records["arrays"]) == list(weights)
    assert [one.node_id for one in rejected] == [102]
    expected = "weights that are not the student's, or not finite" if private else reason
    assert expected in rejected[0].reason


def good_question(node: int) -> Message:
    set_identity()
    return Message(RecordDict({}), node, "train")


def test_weights_that_are_not_coded_are_no_reply(pairs: Path, tmp_path: Path) -> None:
    weights = to_arrays(run_of(tiny_config(pairs, tmp_path)).new_student())
    metrics = MetricRecord({"num-examples": 5, "loss": 1.0, "client": 1})
    plain = Message(
        RecordDict({"arrays": to_record(weights), "metrics": metrics}), reply_to=good_question(101)
    )
    usable, (rejected,) = screen(
        {101: plain}, weights, max_examples=9, wire=wire_of(coded(pairs, tmp_path, "int8"))
    )
    assert usable == []
    assert "are missing or unknown" in rejected.reason


def test_a_server_that_sends_other_parts_is_named(pairs: Path, tmp_path: Path) -> None:
    config = coded(pairs, tmp_path, "int8")
    sent = ConfigRecord({"server-round": 1, "run": TOKEN})
    content = RecordDict({"arrays": to_record(to_arrays(run_of(config).new_student())), "config": sent})
    set_identity()
    with pytest.raises(ClientError, match="stage decode: ValueError: the server sent other parts"):
        app(message=Message(content, 101, "train"), context=contexts(config)[101])


# Privacy.


def spendings(config: RunConfig) -> list[list[dict[str, object]]]:
    """What each ledger counts, without the digests of what was asked and answered."""
    found = []
    for file in sorted(run_of(config).ledger_folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        own = ("query", "reply", "run", "digest", "time")
        found.append([{key: value for key, value in one.items() if key not in own} for one in lines])
    return found


@pytest.mark.parametrize(("mechanism", "names"), [("anchors", ["int8", "top-k"]), ("client", ["int8"])])
def test_ledger_and_epsilon_are_those_of_a_run_without(
    mechanism: str, names: Sequence[str], pairs: Path, tmp_path: Path
) -> None:
    changes = (*DETERMINISTIC, f"privacy.mechanism={mechanism}", "federation.num_rounds=2")
    plain = tiny_config(pairs, tmp_path / "plain", *changes)
    simulate(plain)
    expected = json.loads((run_folder(plain) / "privacy.json").read_text())
    for name in names:
        config = coded(pairs, tmp_path / name, name, *changes)
        assert plan_of(config) == plan_of(plain)
        simulate(config)
        assert spendings(config) == spendings(plain)
        assert json.loads((run_folder(config) / "privacy.json").read_text()) == expected
        assert bytes_of(config) != bytes_of(plain)


def rest_of(folder: Path, round_index: int) -> np.ndarray:
    content = (folder / f"round-{round_index:06d}.state").read_bytes()[DIGEST_BYTES:]
    return load_tensors(content)["rest"].numpy()


def test_a_rest_is_a_function_of_what_was_counted(pairs: Path, tmp_path: Path) -> None:
    """By hand, from the release whose digest is in the ledger: r = d + r before - c, in two rounds."""
    config = coded(pairs, tmp_path, "int8", *DETERMINISTIC)
    wire = wire_of(config)
    received = wire.received(wire.sent(to_arrays(run_of(config).new_student())))
    folder = tmp_path / "tiny" / "clients" / TOKEN / "client-0001"
    rest = np.zeros(wire.layout.num, np.float32)
    for index in (1, 2):
        reply = answer(config, round_index=index)
        released = load((folder / "released.reply").read_bytes())
        decoded = wire.layout.vector(wire.moves(parts_of(reply)))
        rest = wire.layout.vector(released) - wire.layout.vector(received) + rest - decoded
        np.testing.assert_allclose(rest_of(folder / "noised-rest", index), rest, atol=1e-6)
        assert not (folder / "rest").exists()


def test_a_repeated_question_gets_the_same_bytes_and_costs_nothing(pairs: Path, tmp_path: Path) -> None:
    config = coded(pairs, tmp_path, "top-k", *DETERMINISTIC)
    first = answer(config, round_index=1)
    second, again = (answer(config, round_index=2) for _ in range(2))
    for one, other, equal in ((second, again, True), (first, second, False)):
        same = [parts_of(one)[name].tobytes() == parts_of(other)[name].tobytes() for name in parts_of(one)]
        assert all(same) == equal
    assert Ledger(run_of(config).client_ledger(1)).num_rounds() == 2


def test_a_round_that_was_not_counted_leaves_no_rest(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = coded(pairs, tmp_path, "int8", *DETERMINISTIC)

    def crash(*_: object, **__: object) -> None:
        raise OSError("disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("clients.private.Ledger.spend", crash)
        with pytest.raises(ClientError):
            answer(config)
    assert list((tmp_path / "tiny").rglob("*.state")) == []
    answer(config)
    assert [path.parent.name for path in (tmp_path / "tiny").rglob("*.state")] == ["noised-rest"]


def test_studies_that_replay_or_attack_plain_weights_refuse(pairs: Path, tmp_path: Path) -> None:
    from edgecmd.audits.replayed_federation import Replay
    from edgecmd.experiments.robustness.cases import read_request

    config = coded(pairs, tmp_path, "int8")
    run = run_of(config)
    with pytest.raises(ConfigError, match="federation.compression changed what travelled.*audit step"):
        Replay(run=run, student=run.new_student(), holdings=[])
    asked = {"strategies": "fedavg", "attacks": "sign-flip", "shares": "25", "drop_outs": ""}
    with pytest.raises(ConfigError, match="travels coded. Set federation.compression=none"):
        read_request(config, **asked, num_seeds=1, num_jobs=1)
