"""What outlives a message on a device: decoded pairs on its disk, anchors in its program; equal answers."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients import device as device_round
from clients import node_program, private
from clients.check import asked_here, check_node
from edgecmd.config.reader import to_toml
from edgecmd.core.errors import PrivacyError
from edgecmd.data.stored import decoded_pairs
from edgecmd.data.user_files import device_pairs
from edgecmd.data.user_files.device_pairs import DevicePairs, read_device_pairs
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.settings import DataConfig
from tests.clients.test_device import BAD, bytes_of, reason
from tests.clients.test_node_program import python
from tests.device_files import Device, ask, make_device, opened_files, picture, run_config, write_pairs
from tests.teacher_files import onnx_file

CONFIG = DataConfig(name="folder", image_size=16)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now count as settled, so that no test has to wait."""
    monkeypatch.setattr(decoded_pairs, "SETTLED_NS", -(10**15))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the targets that are decoded, in order."""
    names, read = list[str](), device_pairs.read_halves

    def noted(source: Path, target: Path, *rest: object) -> object:
        names.append(target.stem)
        return read(source, target, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(device_pairs, "read_halves", noted)
    return names


def same(one: DevicePairs, other: DevicePairs) -> bool:
    return (one.digests, one.present, one.skipped) == (other.digests, other.present, other.skipped) and all(
        (mine.dtype, mine.shape, mine.tobytes()) == (its.dtype, its.shape, its.tobytes())
        for mine, its in ((one.data.source, other.data.source), (one.data.target, other.data.target))
    )


def both(folder: Path, kept: Path, config: DataConfig = CONFIG, kind: str = "grey") -> DevicePairs:
    """Pairs read with what is kept, which must be those that are read from their files alone."""
    found = read_device_pairs(folder, config, kind=kind, keep=kept)
    assert same(found, read_device_pairs(folder, config, kind=kind))
    return found


def test_pairs_are_decoded_once(tmp_path: Path, decoded: list[str]) -> None:
    folder, kept = write_pairs(tmp_path / "pairs", range(5)), tmp_path / "state/pairs/kept.npz"
    read_device_pairs(folder, CONFIG, kind="grey", keep=kept)
    assert decoded == [f"p{row:03d}" for row in range(5)]
    decoded.clear()
    found = read_device_pairs(folder, CONFIG, kind="grey", keep=kept)
    assert decoded == []
    assert same(found, read_device_pairs(folder, CONFIG, kind="grey"))
    assert list(kept.parent.iterdir()) == [kept]


def overwrite_in_secret(folder: Path) -> None:
    """Other pixels in a file of the same size and, as far as a program can set it, the same time."""
    path = folder / "target/p002.png"
    before = path.stat()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)
    path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def swap(folder: Path) -> None:
    """Two targets change their names; sizes and times stay."""
    one, two = folder / "target/p001.png", folder / "target/p002.png"
    one.rename(folder / "target/other")
    two.rename(one)
    (folder / "target/other").rename(two)


CHANGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "content": (overwrite_in_secret, {"p002"}),
    "names": (swap, {"p001", "p002"}),
    "one more": (lambda folder: write_pairs(folder, [7]), {"p007"}),
    "one less": (lambda folder: (folder / "source/p000.png").unlink(), set()),
    "a source": (lambda folder: picture(99, colour=True).save(folder / "source/p004.png"), {"p004"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_decodes_its_own_pairs_anew(name: str, tmp_path: Path, decoded: list[str]) -> None:
    folder, kept = write_pairs(tmp_path / "pairs", range(5)), tmp_path / "kept.npz"
    before = read_device_pairs(folder, CONFIG, kind="grey", keep=kept)
    change, expected = CHANGES[name]
    change(folder)
    decoded.clear()
    after = read_device_pairs(folder, CONFIG, kind="grey", keep=kept)
    assert set(decoded) == expected
    assert same(after, read_device_pairs(folder, CONFIG, kind="grey"))
    assert after.digests != before.digests
    decoded.clear()
    both(folder, kept)
    assert len(decoded) == len(after)


@pytest.mark.parametrize("add", BAD, ids=lambda one: one.__name__)
def test_a_bad_pair_spoils_no_other(
    add: Callable[[Path], object], tmp_path: Path, decoded: list[str]
) -> None:
    folder, kept = write_pairs(tmp_path / "pairs", range(3), colour=True), tmp_path / "kept.npz"
    add(folder)
    for _ in range(2):
        both(folder, kept, kind="rgb")
    decoded.clear()
    read_device_pairs(folder, CONFIG, kind="rgb", keep=kept)
    assert not {"p000", "p001", "p002"} & set(decoded)


def test_other_settings_decode_anew(tmp_path: Path) -> None:
    folder, kept = write_pairs(tmp_path / "pairs", range(3), colour=True), tmp_path / "kept.npz"
    for config, kind in (
        *((CONFIG, "rgb"), (CONFIG, "grey"), (CONFIG, "depth"), (CONFIG, "rgb")),
        (DataConfig(name="folder", image_size=16, fit="crop"), "rgb"),
        (DataConfig(name="folder", image_size=16, reverse=True), "rgb"),
    ):
        both(folder, kept, config, kind)
        both(folder, kept, config, kind)


def test_a_damaged_file_costs_time_alone(tmp_path: Path) -> None:
    folder, kept = write_pairs(tmp_path / "pairs", range(3)), tmp_path / "kept.npz"
    both(folder, kept)
    whole = kept.read_bytes()
    for place in range(0, len(whole), 97):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        both(folder, kept)
    for content in (b"", b"no archive", whole[:-50]):
        kept.write_bytes(content)
        both(folder, kept)
        assert kept.read_bytes() == whole
    kept.unlink()
    kept.mkdir()
    both(folder, kept)


def test_what_is_kept_is_the_owner_s_alone(tmp_path: Path) -> None:
    folder, kept = write_pairs(tmp_path / "pairs", range(3)), tmp_path / "state/pairs/kept.npz"
    before = os.umask(0)
    try:
        both(folder, kept)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (kept, kept.parent)]
    assert modes == [0o600, 0o700]


def test_what_cannot_be_kept_is_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    """A file that may still change unseen, a full disk, and more pairs than there is room for."""
    folder, kept = write_pairs(tmp_path / "pairs", range(3)), tmp_path / "kept.npz"
    with monkeypatch.context() as patched:
        patched.setattr(decoded_pairs, "SETTLED_NS", 10**15)
        both(folder, kept)
    assert not kept.exists()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(decoded_pairs, "write_bytes_atomically", full)
        both(folder, kept)
    assert not kept.exists()
    monkeypatch.setattr(decoded_pairs, "MOST_BYTES", 2 * (16 * 16 * 4))
    both(folder, kept)
    decoded.clear()
    read_device_pairs(folder, CONFIG, kind="grey", keep=kept)
    assert decoded == ["p002"]


def test_a_warm_node_answers_with_the_bytes_of_a_cold_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "make_source", lambda **_: DeterministicSource(7))
    warm, cold = (make_device(tmp_path / name) for name in ("warm", "cold"))
    for one in (warm, cold):
        one.begin()
    for index in (1, 2, 3):
        answers = []
        for one in (warm, cold):
            if one is cold:
                monkeypatch.setattr(decoded_pairs, "SETTLED_NS", 10**15)
            answers.append(bytes_of(ask(run_config(), one.node | {"partition-id": 1}, round_index=index)))
            monkeypatch.setattr(decoded_pairs, "SETTLED_NS", -(10**15))
        assert answers[0] == answers[1]
    assert len(list((warm.root / "state/pairs").iterdir())) == 1
    assert not (cold.root / "state/pairs").exists()


def test_a_look_at_a_device_reads_its_files_and_keeps_none(tmp_path: Path, decoded: list[str]) -> None:
    device = make_device(tmp_path / "node")
    device.begin()
    assert not (device.root / "state/pairs").exists()
    assert not ask(run_config(), device.node).has_error()
    decoded.clear()
    assert check_node(device.node, run_config()).num_pairs == 10
    assert len(decoded) == 10


# Anchors


@pytest.fixture
def device(tmp_path: Path) -> Device:
    made = make_device(tmp_path / "node")
    made.begin()
    return made


def prepared(device: Device, **node: object) -> str:
    order, asked = asked_here(device.node | node, run_config())
    return device_round.prepare(order, asked).digest


def test_anchors_are_made_before_a_message_and_without_a_pair(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_round, "_COMMON", device_round.Kept(2))
    with opened_files() as opened:
        device_round.warm_up(*asked_here(device.node, run_config()))
    assert not [one for one in opened if one.startswith(str(device.pairs))]
    with opened_files() as opened:
        warm = prepared(device)
    assert not [one for one in opened if one.endswith((".png", ".npz", ".safetensors"))]
    monkeypatch.setattr(device_round, "_COMMON", device_round.Kept(2))
    assert prepared(device) == warm


def test_public_images_that_change_make_other_anchors(device: Device) -> None:
    first = prepared(device)
    path = device.root / "public/public003.png"
    times = path.stat()
    picture(77, colour=True).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = prepared(device)
    picture(78, colour=True).save(device.root / "public/public099.png")
    third = prepared(device)
    (device.root / "public/public099.png").unlink()
    assert len({first, second, third}) == 3
    assert prepared(device) == second
    (device.root / "public/notes.txt").write_text("x")
    (device.root / "public/public001.png").write_bytes(b"no picture")
    assert reason(ask(run_config(), device.node)) == "refused: node-config"


def test_pins_and_the_server_s_digests_are_compared_for_each_message(device: Device) -> None:
    assert not ask(run_config(), device.node).has_error()
    said = reason(ask(run_config(), device.node | {"public-sha256": "0" * 64}))
    assert said == "refused: other-anchors (public-sha256)"
    said = reason(ask(run_config(), device.node, sent={"teacher-sha256": "0" * 64}))
    assert said == "refused: other-anchors (teacher-sha256)"


def test_a_teacher_that_is_code_is_opened_by_messages_alone(device: Device, tmp_path: Path) -> None:
    """It may start threads, which no forked process has."""
    path = onnx_file(tmp_path / "means.onnx")
    order, node = asked_here(device.node | {"teacher": f"onnx:{path}"}, run_config())
    with opened_files() as opened:
        device_round.warm_up(order, node)
    assert str(path) not in opened


WARM = """
import os, sys
from pathlib import Path
from clients import device, node_program
node_program.prepare(Path("run.toml"), node="node.toml")
device.device_sources = None
pid = os.fork()
if pid == 0:
    from clients.check import asked_here
    from edgecmd.config.reader import read_flat, unflatten
    order, node = asked_here(read_flat(Path("node.toml")), unflatten(read_flat(Path("run.toml"))))
    print(device.prepare(order, node).digest, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_forked_process_has_the_anchors_of_its_program(device: Device) -> None:
    (device.root / "run.toml").write_text(to_toml(run_config()))
    node = {**device.node, "public-dir": "emoji"}
    (device.root / "node.toml").write_text("\n".join(f"{key} = {json.dumps(node[key])}" for key in node))
    done = python(device.root, WARM)
    assert done.stdout.strip() == prepared(device, **{"public-dir": "emoji"}), done.stderr


@pytest.mark.parametrize("wrong", ["data-dri", "public-dir"])
def test_a_node_that_would_refuse_says_so_and_starts(
    wrong: str, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its owner may correct the file of public images while it runs; its key only by a new start."""
    (device.root / "run.toml").write_text(to_toml(run_config()))
    node = {**device.node, wrong: "/nowhere"}
    (device.root / "node.toml").write_text("\n".join(f"{key} = {json.dumps(node[key])}" for key in node))
    node_program.prepare(device.root / "run.toml", node=str(device.root / "node.toml"))
    said = capsys.readouterr().err
    assert said.startswith("edgecmd-node: rounds would be refused: ")
    assert wrong in said
    with pytest.raises(PrivacyError):
        prepared(device, **{wrong: "/nowhere"})
