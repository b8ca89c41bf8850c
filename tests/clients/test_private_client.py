"""A private client's round: what leaves it, what it counts, when it refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from clients import private
from clients.app import app
from clients.check import check_node
from clients.work import ClientError, answer_train
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import PrivacyError
from edgecmd.privacy.accounting import Spending, total_epsilon
from edgecmd.privacy.ledger import Ledger
from edgecmd.training.averaging import to_arrays
from server.local_grid import set_identity
from server.strategies import to_record
from tests.device_files import ask as ask_device
from tests.device_files import make_device, run_config
from tests.tiny_federation import contexts, plan_of, run_of, tiny_config, write_pairs

TOKEN = "0123456789abcdef"
PRIVATE = ("privacy.mechanism=anchors", "privacy.noise_multiplier=2", "privacy.epsilon=500")


def private_config(pairs: Path, out: Path, *changes: str) -> RunConfig:
    return tiny_config(pairs, out, *PRIVATE, *changes)


def ask(
    config: RunConfig, *, client: int = 1, round_index: int = 1, shift: float = 0.0, **node: object
) -> Message:
    set_identity()
    context: Context = contexts(config)[100 + client]
    context.node_config.update({name.replace("_", "-"): value for name, value in node.items()})  # type: ignore[misc]
    weights = {
        name: np.asarray(value + np.float32(shift))
        for name, value in to_arrays(run_of(config).new_student()).items()
    }
    sent = ConfigRecord({"server-round": round_index, "run": TOKEN})
    content = RecordDict({"arrays": to_record(weights), "config": sent})
    return app(message=Message(content, 100 + client, "train"), context=context)


def weights_of(reply: Message) -> dict[str, bytes]:
    return {name: array.data for name, array in reply.content.array_records["arrays"].items()}


def spent(config: RunConfig, client: int = 1) -> int:
    return Ledger(run_of(config).client_ledger(client)).num_rounds()


def layout(reply: Message) -> dict[str, object]:
    """Names, types and lengths of everything in a reply."""
    content = reply.content
    return {
        "records": {name: type(record).__name__ for name, record in content.items()},
        "arrays": {
            name: (array.dtype, tuple(array.shape), array.stype, len(array.data))
            for name, array in content.array_records["arrays"].items()
        },
        "metrics": {name: type(value).__name__ for name, value in content.metric_records["metrics"].items()},
    }


@pytest.mark.parametrize("mechanism", ["anchors", "cosine", "groups", "client"])
def test_every_byte_of_a_private_reply(mechanism: str, pairs: Path, tmp_path: Path) -> None:
    """Weights in the student's own shapes and the client's index: no count, no loss, no config."""
    config = private_config(pairs, tmp_path, f"privacy.mechanism={mechanism}")
    reply = ask(config)
    student = to_arrays(run_of(config).new_student())
    header = 128
    assert layout(reply) == {
        "records": {"arrays": "ArrayRecord", "metrics": "MetricRecord"},
        "arrays": {
            name: ("float32", value.shape, "numpy.ndarray", header + value.nbytes)
            for name, value in student.items()
        },
        "metrics": {"client": "int"},
    }
    assert reply.content.metric_records["metrics"]["client"] == 1
    assert {name: array.numpy().shape for name, array in reply.content.array_records["arrays"].items()} == {
        name: value.shape for name, value in student.items()
    }


def test_replies_do_not_tell_how_many_pairs_a_client_has(tmp_path: Path) -> None:
    layouts = []
    for num in (24, 60):
        pairs = write_pairs(tmp_path / f"{num}.npz", num_pairs=num)
        layouts.append(layout(ask(private_config(pairs, tmp_path / str(num)))))
    assert layouts[0] == layouts[1]


NOISED = ("privacy.aggregation=noised-sum", "privacy.sampling_rate=1", "federation.local_steps=1")


@pytest.mark.parametrize("changes", [(), NOISED], ids=["plain", "noised-sum"])
def test_the_same_question_gets_the_same_bytes_and_costs_nothing(
    changes: tuple[str, ...], pairs: Path, tmp_path: Path
) -> None:
    config = private_config(pairs, tmp_path, *changes)
    first = ask(config)
    again = ask(config)
    assert weights_of(first) == weights_of(again)
    assert spent(config) == 1
    assert weights_of(ask(config, shift=0.1)) != weights_of(first)
    assert spent(config) == 2, "other weights are another question"
    ask(config, round_index=2)
    assert spent(config) == 3


def test_the_noise_is_new_each_time(pairs: Path, tmp_path: Path) -> None:
    replies = [weights_of(ask(private_config(pairs, tmp_path / str(one)))) for one in range(2)]
    assert replies[0] != replies[1]


def test_the_deterministic_mode_repeats(pairs: Path, tmp_path: Path) -> None:
    fixed = "privacy.deterministic=true"
    replies = [weights_of(ask(private_config(pairs, tmp_path / str(one), fixed))) for one in range(2)]
    assert replies[0] == replies[1]


class Crash(BaseException):
    """Stands for kill -9: no handler catches it."""


@pytest.mark.parametrize(
    ("stage", "counted"),
    [
        ("clients.private.distil_privately", 0),
        ("clients.private.write_bytes_atomically", 0),
        ("clients.private.Ledger.spend", 0),
        ("clients.private._record", 1),
    ],
)
def test_a_crash_at_any_stage_costs_a_round_at_most_once(
    stage: str, counted: int, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the line is on the disk nothing was released; after it the very same reply is sent again."""
    config = private_config(pairs, tmp_path)

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(stage, crash)
        with pytest.raises(Crash):
            ask(config)
    assert spent(config) == counted
    reply = ask(config)
    assert spent(config) == 1
    if counted:
        assert weights_of(ask(config)) == weights_of(reply)


def test_a_lost_reply_is_made_anew_and_counted(pairs: Path, tmp_path: Path) -> None:
    config = private_config(pairs, tmp_path)
    ask(config)
    for path in (tmp_path / "tiny").rglob("released.reply"):
        path.write_bytes(b"damaged")
    assert not ask(config).has_error()
    assert spent(config) == 2


def round_cost(config: RunConfig, rounds: int) -> float:
    one = Spending(sampling_rate=0.25, noise_multiplier=2.0, count=2 * rounds)
    return total_epsilon([one], delta=config.privacy.delta)


def test_a_client_refuses_what_its_budget_does_not_cover(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generous = private_config(pairs, tmp_path)
    owner = round_cost(generous, 2) + 1e-6
    for index in (1, 2):
        assert not ask(generous, round_index=index, max_epsilon=owner).has_error()
    before = run_of(generous).client_ledger(1).read_bytes()
    refused = ask(generous, round_index=3, max_epsilon=owner)
    assert refused.has_error()
    # The server learns that; what was spent, and by how many rounds, stays in the client's own log.
    assert refused.error.reason == "refused: budget-spent"
    assert re.search(r"The privacy budget is spent: epsilon=.* after 2 rounds", caplog.text)
    assert run_of(generous).client_ledger(1).read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "code", "text"),
    [
        (
            [
                "privacy.noise_multiplier=0.1",
                "privacy.epsilon=1000",
                "federation.num_rounds=1",
                "federation.local_steps=1",
            ],
            "budget-spent",
            "budget is spent",
        ),
        (["privacy.mechanism=none"], "no-guarantee", "adds no noise on the client"),
        (["privacy.mechanism=client"], "no-guarantee", "adds no noise on the client"),
    ],
)
def test_the_owner_s_bound_holds_against_the_server_s_settings(
    settings: list[str], code: str, text: str, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reply = ask(private_config(pairs, tmp_path, *settings), max_epsilon=3.0)
    assert reply.error.reason == f"refused: {code}"
    assert text in caplog.text


def test_the_owner_s_delta_holds_too(pairs: Path, tmp_path: Path) -> None:
    config = private_config(pairs, tmp_path, "privacy.delta=0.01")
    between = (round_cost(config, 1) + total_epsilon([plan_of(config).round_spending()], delta=1e-9)) / 2
    assert not ask(config, max_epsilon=between).has_error()
    assert ask(config, round_index=1, shift=1.0, client=2, max_epsilon=between, max_delta=1e-9).has_error()


def test_an_owner_s_epsilon_is_at_a_delta_that_the_server_does_not_choose(
    pairs: Path, tmp_path: Path
) -> None:
    """At delta 0.1 this round costs an epsilon near nothing; at 1e-5 it costs more than the owner allows."""
    config = private_config(pairs, tmp_path, "privacy.delta=0.1", "privacy.noise_multiplier=1")
    one = plan_of(config).round_spending()
    assert total_epsilon([one], delta=0.1) < 0.4
    assert total_epsilon([one], delta=1e-5) > 1
    assert ask(config, max_epsilon=0.5).error.reason == "refused: budget-spent"
    assert not ask(config, client=2, max_epsilon=0.5, max_delta=0.1).has_error()


@pytest.mark.parametrize("name", ["max_epsilon", "max_delta"])
@pytest.mark.parametrize("value", ["nan", "many", "-1", 0, "inf"])
def test_a_bound_that_is_no_number_is_no_leave(
    name: str, value: object, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reply = ask(private_config(pairs, tmp_path), **{name: value})
    assert reply.error.reason == "refused: node-config"
    assert f"{name.replace('_', '-')}={value!r}" in caplog.text
    assert "allowed are numbers above 0" in caplog.text


@pytest.mark.parametrize("mechanism", ["none", "client"])
def test_an_owner_s_delta_alone_asks_for_noise_on_the_client(
    mechanism: str, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reply = ask(private_config(pairs, tmp_path, f"privacy.mechanism={mechanism}"), max_delta=1e-6)
    assert reply.error.reason == "refused: no-guarantee"
    assert "max-delta=1e-06. Use anchors, cosine, groups, logits or statistics" in caplog.text


def test_the_optimiser_remembers_no_round_that_was_not_counted(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its moments enter the weights of later rounds, which the ledger counts as those rounds alone."""
    config = private_config(pairs, tmp_path, "distill.keep_optimizer=true")

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("clients.private.Ledger.spend", crash)
        with pytest.raises(Crash):
            ask(config)
    states = lambda: sorted(path.name for path in (tmp_path / "tiny").rglob("*.state"))  # noqa: E731
    assert (spent(config), states()) == (0, [])
    ask(config)
    assert (spent(config), states()) == (1, ["round-000001.state"])


def test_a_device_has_one_ledger_for_all_runs_and_no_say_of_the_server(tmp_path: Path) -> None:
    device = make_device(tmp_path / "node")
    device.begin()
    for index in range(2):
        evil = f'privacy.ledger_dir="{tmp_path}/evil"'
        assert not ask_device(run_config(f"seed={index}", evil), device.node).has_error()
    (ledger,) = (device.root / "state" / "ledger").glob("*.jsonl")
    assert Ledger(ledger).num_rounds() == 2
    assert not (tmp_path / "evil").exists()


def test_emptying_the_cache_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGECMD_STATE", str(tmp_path / "state"))
    device = make_device(tmp_path / "node")
    node = {name: value for name, value in device.node.items() if name != "state-dir"}
    check_node(node, run_config(), new_ledger=True)
    assert not ask_device(run_config(), node).has_error()
    assert [Ledger(path).num_rounds() for path in (tmp_path / "state" / "ledger").glob("*.jsonl")] == [1]
    assert not list((tmp_path / "cache").rglob("*.jsonl"))


@pytest.mark.parametrize("setting", ["privacy.deterministic=true", "privacy.projected_pairs=2"])
def test_a_device_takes_no_part_in_a_run_that_is_not_private(
    setting: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = make_device(tmp_path / "node")
    reply = ask_device(run_config(setting), device.node)
    assert reply.error.reason == "refused: no-guarantee"
    assert "the server can subtract" in caplog.text


def test_an_error_of_a_private_client_tells_nothing(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("alice-biopsy is broken")

    monkeypatch.setattr("clients.private.distil_privately", fail)
    with pytest.raises(ClientError) as raised:
        ask(private_config(pairs, tmp_path))
    assert "alice" not in str(raised.value)
    assert "biopsy" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_student_that_mixes_pairs_is_refused(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PrivacyError("The student mixes the pairs of a batch", code="mixes-pairs")

    monkeypatch.setattr(private, "require_pure", refuse)
    config = private_config(pairs, tmp_path)
    assert ask(config).error.reason == "refused: mixes-pairs"
    assert "mixes the pairs" in caplog.text
    assert spent(config) == 0


def test_answers_keep_the_order_of_the_weights(pairs: Path, tmp_path: Path) -> None:
    config = private_config(pairs, tmp_path)
    set_identity()
    arrays = to_record(to_arrays(run_of(config).new_student()))
    turned = ArrayRecord({name: arrays[name] for name in reversed(list(arrays))})
    sent = ConfigRecord({"server-round": 1, "run": TOKEN})
    message = Message(RecordDict({"arrays": turned, "config": sent}), 101, "train")
    reply = answer_train(message, contexts(config)[101])
    assert list(reply.content.array_records["arrays"]) == list(turned)
