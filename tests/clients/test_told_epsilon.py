"""What a device lets a server know of its ledger: nothing, unless its owner says so; and never by a pair."""

import shutil

import pytest
from flwr.app import Message, RecordDict

from clients.app import app
from clients.node import read_node
from edgecmd.core.errors import PrivacyError
from edgecmd.privacy.device_ledger import DeviceLedgers
from server.local_grid import set_identity
from tests.device_files import Device, ask, make_device, opened_files, run_config, write_pairs
from tests.tiny_federation import contexts

TELLS = {"tell-epsilon": True}


@pytest.fixture
def device(tmp_path) -> Device:
    made = make_device(tmp_path / "node")
    made.begin()
    return made


def asked(node: dict[str, object]) -> dict[str, object]:
    """What a device answers to the server's first question."""
    set_identity()
    context = contexts(run_config())[101]
    context.node_config.clear()
    context.node_config.update(node)  # type: ignore[arg-type]
    reply = app(message=Message(RecordDict({}), 101, "query.index"), context=context)
    return dict(reply.content.metric_records["metrics"])


def counted(device: Device, delta: float) -> float:
    return DeviceLedgers(state=device.root / "state").find(device.pairs, []).ledger.epsilon(delta=delta)


def test_an_owner_decides_whether_a_server_is_told(device: Device) -> None:
    assert asked(device.node | TELLS)["epsilon"] == 0.0
    assert not ask(run_config(), device.node).has_error()
    for kept in ({}, {"tell-epsilon": False}, {"tell-epsilon": "false"}):
        assert set(asked(device.node | kept)) == {"client", "own-pairs"}
    told = asked(device.node | TELLS)
    assert (told["epsilon"], told["delta"]) == (counted(device, 1e-5), 1e-5)
    assert told["epsilon"] > 0
    stricter = asked(device.node | {"tell-epsilon": "true", "max-delta": 1e-6})
    assert (stricter["epsilon"], stricter["delta"]) == (counted(device, 1e-6), 1e-6)


def test_no_pair_changes_what_is_told(device: Device) -> None:
    """One more, one less, a broken one, none at all: the ledger of a folder has counted what it has."""
    assert not ask(run_config(), device.node).has_error()
    told = asked(device.node | TELLS)
    with opened_files() as opened:
        assert asked(device.node | TELLS) == told
    assert not [one for one in opened if one.startswith(str(device.pairs))]
    write_pairs(device.pairs, [50])
    assert asked(device.node | TELLS) == told
    (device.pairs / "source/p000.png").write_bytes(b"no picture")
    assert asked(device.node | TELLS) == told
    shutil.rmtree(device.pairs)
    assert asked(device.node | TELLS) == told


def test_a_folder_that_its_pairs_alone_would_recognise_tells_nothing(device: Device) -> None:
    moved = device.root / "moved"
    device.pairs.rename(moved)
    node = device.node | TELLS | {"data-dir": str(moved)}
    assert not ask(run_config(), node).has_error(), "the ledger is found by the pairs"
    assert set(asked(node)) == {"client", "own-pairs"}


def test_what_cannot_be_told_is_left_out(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    (ledger,) = (device.root / "state/ledger").glob("*.jsonl")
    ledger.write_text("no ledger\n")
    for node in (device.node | TELLS, device.node | TELLS | {"max-epsilon": -1}):
        assert set(asked(node)) == {"client", "own-pairs"}
        assert "no epsilon is told" in caplog.text
        caplog.clear()
    # A node of a simulation has no ledger of its own.
    assert set(asked({"partition-id": 1, **TELLS})) == {"client", "own-pairs"}


def test_the_key_is_true_or_false(device: Device) -> None:
    assert read_node(device.node | {"tell-epsilon": "True"}).tells_epsilon
    assert not read_node(device.node | {"tell-epsilon": False}).tells_epsilon
    for wrong in ("maybe", 1, ""):
        with pytest.raises(PrivacyError, match="tell-epsilon=.*is neither true nor false"):
            read_node(device.node | {"tell-epsilon": wrong})
        assert set(asked(device.node | {"tell-epsilon": wrong})) == {"client", "own-pairs"}
