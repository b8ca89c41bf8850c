"""`edgecmd node`: what a device's owner sees, and the ledger that is begun once."""

import json
from pathlib import Path

import pytest

from tests.command_line import run
from tests.device_files import RUN, Device, ask, make_device, run_config, write_pairs

SETTINGS = [word for setting in RUN for word in ("--set", setting)]


def node_config(device: Device, **more: object) -> str:
    """The text that flower-supernode takes."""
    texts = {name: f'"{value}"' for name, value in device.node.items()}
    texts |= {name.replace("_", "-"): str(value) for name, value in more.items()}
    return " ".join(f"{name}={value}" for name, value in texts.items())


def test_an_owner_s_first_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = make_device(tmp_path / "node")
    (device.pairs / "target" / "p003.png").write_bytes(b"broken")
    text = node_config(device, max_epsilon=4.0)
    assert run(monkeypatch, "node", text, *SETTINGS) == 0
    shown = capsys.readouterr().out
    assert "9 as grey, 1 left out" in shown
    assert "No ledger counts these pairs: private runs are refused until --new-ledger starts one." in shown
    assert run(monkeypatch, "node", text, "--new-ledger", "--json", *SETTINGS) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_pairs"], report["num_rounds"], report["epsilon"]) == (9, 0, 0.0)
    assert not ask(run_config(), device.node).has_error()
    assert run(monkeypatch, "node", text, "--json", *SETTINGS) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_rounds"] == 1
    assert 0 < report["epsilon"] < 4
    assert run(monkeypatch, "node", text, "--new-ledger", *SETTINGS) == 7
    assert "already" in capsys.readouterr().err


def test_a_public_picture_that_is_in_a_pair_is_shown_to_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To its owner alone: at a round it would let one pair decide."""
    device = make_device(tmp_path / "node")
    write_pairs(device.root / "copy", [4])
    (device.root / "copy" / "source" / "p004.png").rename(device.root / "public" / "same.png")
    device.begin()
    assert run(monkeypatch, "node", node_config(device), *SETTINGS) == 0
    assert "Public images that are also the source of a pair: 1, the first: same." in capsys.readouterr().out
    assert not ask(run_config(), device.node).has_error()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max-epsilom=3", "max-epsilom=3, which is unknown. Allowed: .* Did you mean 'max-epsilon'"),
        ("max-epsilon=3", "neither data-dir nor partition-id"),
        ("partition-id=0", "has no data-dir"),
        ('data-dir="/nowhere"', "is not a folder with source/ and target/ or an .npz file"),
    ],
)
def test_a_wrong_node_config_is_named(
    text: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    monkeypatch.setenv("EDGECMD_STATE", str(tmp_path))
    assert run(monkeypatch, "node", text, *SETTINGS) == 7
    assert re.search(said, capsys.readouterr().err)
