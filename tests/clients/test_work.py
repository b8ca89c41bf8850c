"""A client's answer to one round, through the ClientApp as Flower calls it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from clients.app import app, is_simulated
from clients.work import ClientError, answer_train
from edgecmd.config.file_settings import NODE_CODE_SETTINGS
from edgecmd.config.schema import RunConfig
from edgecmd.training.averaging import to_arrays
from server.local_grid import set_identity
from server.strategies import to_record
from tests.device_files import TOKEN as DEVICE_TOKEN
from tests.device_files import ask, make_device, run_config
from tests.tiny_federation import contexts, run_of, task_of, tiny_config

TOKEN = "0123456789abcdef"


def context_of(config: RunConfig, client: int = 1, **node: object) -> Context:
    context = contexts(config)[100 + client]
    context.node_config.update(node)  # type: ignore[arg-type]
    return context


def order(config: RunConfig, *, round_index: int = 1, **changes: object) -> Message:
    set_identity()
    sent = {"server-round": round_index, "run": TOKEN} | {
        name.replace("_", "-"): value for name, value in changes.items()
    }
    arrays = to_record(to_arrays(run_of(config).new_student()))
    return Message(RecordDict({"arrays": arrays, "config": ConfigRecord(sent)}), 101, "train")


def weights(reply: Message) -> dict[str, np.ndarray]:
    arrays = reply.content.array_records["arrays"]
    return {name: arrays[name].numpy() for name in arrays}


def equal(one: Message, other: Message) -> bool:
    mine, others = weights(one), weights(other)
    return all(np.array_equal(mine[name], others[name]) for name in others)


def test_the_answer_is_a_trained_student(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    message = order(config)
    reply = app(message=message, context=context_of(config))
    before, after = to_arrays(run_of(config).new_student()), weights(reply)
    assert list(after) == list(before)
    for name, value in before.items():
        assert (after[name].dtype, after[name].shape) == (value.dtype, value.shape)
    assert not all(np.array_equal(after[name], before[name]) for name in before)
    metrics = reply.content.metric_records["metrics"]
    assert metrics["num-examples"] == len(task_of(config).training_pairs(run_of(config).part(1))[0])
    assert metrics["client"] == 1
    # Chance level of cmc at a batch of 8 is log 8.
    assert 0.5 * np.log(8) < float(str(metrics["loss"])) < 1.5 * np.log(8)


def test_the_order_of_the_weights_is_the_server_s(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    message = order(config)
    arrays = message.content.array_records["arrays"]
    message.content["arrays"] = ArrayRecord({name: arrays[name] for name in reversed(list(arrays))})
    reply = answer_train(message, context_of(config))
    assert list(weights(reply)) == sorted(to_arrays(run_of(config).new_student()), reverse=True)


def test_an_answer_does_not_depend_on_what_the_process_did_before(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    first = answer_train(order(config, round_index=2), context_of(config, 1))
    answer_train(order(config, round_index=1), context_of(config, 3))
    torch.manual_seed(123)
    assert equal(answer_train(order(config, round_index=2), context_of(config, 1)), first)


def test_client_and_round_do_matter(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    first = answer_train(order(config), context_of(config, 1))
    assert not equal(answer_train(order(config), context_of(config, 2)), first)
    assert not equal(answer_train(order(config, round_index=2), context_of(config, 1)), first)


@pytest.mark.parametrize("keep", ["true", "false"])
def test_the_optimiser_is_kept_only_where_it_is_asked_for(pairs: Path, tmp_path: Path, keep: str) -> None:
    config = tiny_config(pairs, tmp_path, f"distill.keep_optimizer={keep}")
    fresh = answer_train(order(config, round_index=2), context_of(config))
    answer_train(order(config, round_index=1), context_of(config))
    kept = answer_train(order(config, round_index=2), context_of(config))
    assert equal(kept, fresh) == (keep == "false")
    states = tmp_path / "tiny" / "clients" / TOKEN / "client-0001"
    assert states.exists() == (keep == "true")


def test_the_states_of_two_runs_on_one_device_are_apart(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, "distill.keep_optimizer=true")
    node = {"state-dir": str(tmp_path / "states")}
    fresh = answer_train(order(config, round_index=2, run="a" * 16), context_of(config, **node))
    answer_train(order(config, round_index=1, run="b" * 16), context_of(config, **node))
    again = answer_train(order(config, round_index=2, run="a" * 16), context_of(config, **node))
    assert equal(again, fresh)
    assert sorted(path.name for path in (tmp_path / "states" / "clients").iterdir()) == ["a" * 16, "b" * 16]
    assert not (tmp_path / "tiny").exists()


def test_a_device_writes_nothing_where_the_server_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pairs of its own and no state-dir, the state goes below the device's own folder of state."""
    monkeypatch.setenv("EDGECMD_STATE", str(tmp_path / "state"))
    device = make_device(tmp_path / "node")
    config = run_config("privacy.mechanism=none", "distill.keep_optimizer=true", f'out="{tmp_path}/chosen"')
    node = {name: value for name, value in device.node.items() if name != "state-dir"}
    assert not ask(config, node | {"partition-id": 1}).has_error()
    assert not (tmp_path / "chosen").exists()
    assert (tmp_path / "state" / "clients" / DEVICE_TOKEN / "client-0001").is_dir()


@pytest.mark.parametrize(
    "token", ["", "../../../../etc", "0123456789abcde", "0123456789ABCDEF", "0" * 17, "a" * 16 + "\n"]
)
def test_a_run_s_name_cannot_be_a_path(pairs: Path, tmp_path: Path, token: str) -> None:
    config = tiny_config(pairs, tmp_path, "distill.keep_optimizer=true")
    with pytest.raises(ClientError, match="client 1, stage config: ValueError: run="):
        answer_train(order(config, run=token), context_of(config))


def test_a_device_s_own_pairs_are_used_whole(tmp_path: Path) -> None:
    device = make_device(tmp_path / "node", rows=range(17))
    reply = ask(run_config("privacy.mechanism=none"), device.node)
    assert reply.content.metric_records["metrics"]["num-examples"] == 17


def test_the_strategy_s_proximal_weight_counts(pairs: Path, tmp_path: Path) -> None:
    plain = tiny_config(pairs, tmp_path)
    strong = tiny_config(pairs, tmp_path, "distill.proximal_mu=0.5")
    without = answer_train(order(plain), context_of(plain))
    told = answer_train(order(plain, proximal_mu=0.5), context_of(plain))
    assert not equal(told, without)
    assert equal(told, answer_train(order(strong), context_of(strong)))
    assert equal(answer_train(order(strong, proximal_mu=0.0), context_of(strong)), without)


def test_proximal_weights_pull_towards_the_round_s_start(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, 'distill.optimizer="sgd"', "federation.local_steps=6")
    start = to_arrays(run_of(config).new_student())

    def moved(mu: float) -> float:
        after = weights(answer_train(order(config, proximal_mu=mu), context_of(config)))
        return sum(float(((after[name] - start[name]) ** 2).sum()) for name in start)

    assert moved(100.0) < moved(0.0)


def test_weights_of_another_architecture(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    other = tiny_config(pairs, tmp_path, 'student.architecture="gn-50k"')
    with pytest.raises(ClientError, match="client 1, stage decode: RuntimeError"):
        answer_train(order(other), context_of(config))


def test_an_unknown_setting_names_the_stage(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    context = context_of(config)
    context.run_config["distill.typo"] = 1
    with pytest.raises(ClientError, match="client 1, stage config: ConfigError: distill.typo is unknown"):
        answer_train(order(config), context)


def test_missing_pairs_are_the_owner_s_to_find(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    device = make_device(tmp_path / "node")
    reply = ask(run_config("privacy.mechanism=none"), device.node | {"data-dir": str(tmp_path / "none")})
    assert reply.error.reason == "refused: node-config"
    assert "none' is not a folder with source/ and target/ or an .npz file" in caplog.text


def test_a_client_beyond_the_partition(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path)
    with pytest.raises(ClientError, match="client 4, stage data: ConfigError: partition-id=4"):
        answer_train(order(config), context_of(config, **{"partition-id": 4}))


def test_an_infinite_loss_is_an_error_and_its_state_is_not_kept(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, "distill.keep_optimizer=true")
    message = order(config)
    broken = {
        name: np.full_like(value, np.nan) for name, value in to_arrays(run_of(config).new_student()).items()
    }
    message.content["arrays"] = to_record(broken)
    with pytest.raises(ClientError, match="stage distil: FloatingPointError: loss=nan.*learning_rate"):
        answer_train(message, context_of(config))
    assert not (tmp_path / "tiny").exists()


def test_the_index_is_answered_without_heavy_imports(pairs: Path, tmp_path: Path) -> None:
    set_identity()
    reply = app(
        message=Message(RecordDict({}), 101, "query.index"),
        context=context_of(tiny_config(pairs, tmp_path), 3),
    )
    assert reply.content == RecordDict({"metrics": MetricRecord({"client": 3, "own-pairs": 0})})


def test_the_index_says_whether_the_pairs_are_the_node_s_own(pairs: Path, tmp_path: Path) -> None:
    set_identity()
    for node, expected in (
        ({"data-dir": "/pairs"}, {"client": 2, "own-pairs": 1}),
        ({}, {"client": 2, "own-pairs": 0}),
    ):
        context = context_of(tiny_config(pairs, tmp_path), 2, **node)
        reply = app(message=Message(RecordDict({}), 102, "query.index"), context=context)
        assert dict(reply.content.metric_records["metrics"]) == expected


@pytest.mark.parametrize("name", sorted(NODE_CODE_SETTINGS))
def test_a_node_imports_no_code_of_a_server_unless_its_owner_allows_the_module(
    name: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pairs of its own too; where a simulation calls the app, code is of who started it."""
    module = f"own_{name.replace('.', '_')}"
    (tmp_path / f"{module}.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_suffix('.imported').touch()\ndef make(): 1 / 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config, imported = tiny_config(pairs, tmp_path), tmp_path / f"{module}.imported"
    message = order(config)

    def asked(**node: object) -> Message:
        context = context_of(config, **node)
        context.run_config[name] = f"{module}:make"
        return app(message=message, context=context)

    for allowed in ({}, {"modules": "own"}, {"modules": f"{module}.more, os"}):
        assert asked(**allowed).error.reason == f"refused: names-code ({name})"
    assert not imported.exists()
    with pytest.raises(ClientError, match="ZeroDivisionError"):
        asked(modules=f"json, {module}")
    assert imported.exists()
    for started in (False, True):
        ray = SimpleNamespace(is_initialized=lambda started=started: started)
        monkeypatch.setitem(sys.modules, "ray", ray)
        assert is_simulated() == started
    with pytest.raises(ClientError, match="ZeroDivisionError"):
        asked()


LEAVING = """
from edgecmd.losses import CMCAnchored

class Leaves(CMCAnchored):
    def __call__(self, student, teacher, anchors):
        if len(student) == 8:
            raise SystemExit("enough")
        return super().__call__(student, teacher, anchors)
"""


def test_code_that_asks_the_process_to_end_is_named_and_ends_nothing(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "leaving.py").write_text(LEAVING)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tiny_config(pairs, tmp_path, "distill.loss=leaving:Leaves")
    told = "The loss Leaves raised SystemExit: enough. Fix that code"
    with pytest.raises(ClientError, match=f"client 1, stage distil: ConfigError: {told}"):
        answer_train(order(config), context_of(config), local=True)
    node = {"modules": "leaving", "max-epsilon": 8.0}
    private = tiny_config(pairs, tmp_path, "distill.loss=leaving:Leaves", "privacy.mechanism=anchors")
    monkeypatch.setattr("clients.work.answer_privately", lambda *_, **__: sys.exit(told))
    with pytest.raises(ClientError, match="private round: SealedError: it failed") as found:
        answer_train(order(private), context_of(private, **node))
    assert told not in str(found.value)
    assert told in caplog.text
