"""Whose pairs a device's ledger counts: by folder, by the pairs themselves, and pair by pair."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from edgecmd.core.errors import PrivacyError
from edgecmd.privacy.device_ledger import DeviceLedgers, ledger_name
from tests.device_files import Device, ask, make_device, run_config, write_pairs

A, B, C, D = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)


def code_of(error: pytest.ExceptionInfo[PrivacyError]) -> str:
    return error.value.code


def test_pairs_without_a_ledger_are_refused_until_their_owner_begins_one(tmp_path: Path) -> None:
    ledgers = DeviceLedgers(state=tmp_path)
    for digests in ([], [A, B]):
        with pytest.raises(PrivacyError, match="--new-ledger") as raised:
            ledgers.find(tmp_path / "pairs", digests)
        assert code_of(raised) == "no-ledger"
    assert list(ledgers.begin(tmp_path / "pairs", [A, B]).rows([A, B])) == [0, 1]
    found = ledgers.find(tmp_path / "pairs", [A, B, C])
    assert (found.moved, list(found.rows([A, B, C]))) == (False, [0, 1, 2])


def test_a_ledger_is_begun_once(tmp_path: Path) -> None:
    ledgers = DeviceLedgers(state=tmp_path)
    ledgers.begin(tmp_path / "pairs", [A, B])
    for folder in ("pairs", "moved"):
        with pytest.raises(PrivacyError, match="already counts the pairs at"):
            ledgers.begin(tmp_path / folder, [A, B])
    ledgers.begin(tmp_path / "others", [C, D])


@pytest.mark.parametrize(
    ("there_now", "is_found"),
    [
        ([A, B, C, D], True),
        ([A, B, C], True),
        ([A], True),
        ([A, B, "e" * 32, "f" * 32], True),
        ([A, "e" * 32, "f" * 32], False),
        (["e" * 32], False),
        ([], False),
    ],
)
def test_a_folder_that_was_moved_keeps_its_past(there_now: list[str], is_found: bool, tmp_path: Path) -> None:
    """At least half of the pairs that are there now were counted before."""
    ledgers = DeviceLedgers(state=tmp_path)
    begun = ledgers.begin(tmp_path / "pairs", [A, B, C, D])
    if not is_found:
        with pytest.raises(PrivacyError) as raised:
            ledgers.find(tmp_path / "moved", there_now)
        assert code_of(raised) == "no-ledger"
        return
    found = ledgers.find(tmp_path / "moved", there_now)
    assert (found.moved, found.ledger.path) == (True, begun.ledger.path)


def test_a_pair_that_another_ledger_counts_is_left_out_by_itself(tmp_path: Path) -> None:
    """Its past is in the other ledger; here it would begin at zero."""
    ledgers = DeviceLedgers(state=tmp_path)
    ledgers.begin(tmp_path / "one", [A, B])
    ledgers.begin(tmp_path / "two", [C])
    two, one = (ledgers.find(tmp_path / name, []) for name in ("two", "one"))
    assert list(two.rows([C, A, D, B])) == [0, 2]
    assert list(one.rows([A, B, C])) == [0, 1]
    # What is claimed is never the other's.
    assert ledgers.claim(tmp_path / "two", [C, A, D]).counted == {C}
    assert ledgers.find(tmp_path / "two", []).counted == {C, D}
    assert ledgers.find(tmp_path / "one", []).counted == {A, B}


def test_a_folder_with_a_ledger_keeps_it_whatever_lies_there(tmp_path: Path) -> None:
    ledgers = DeviceLedgers(state=tmp_path)
    begun = ledgers.begin(tmp_path / "pairs", [A, B])
    for digests in ([], [C], [A, B, C, D]):
        assert ledgers.find(tmp_path / "pairs", digests).ledger.path == begun.ledger.path


def test_what_was_recorded_counts(tmp_path: Path) -> None:
    ledgers = DeviceLedgers(state=tmp_path)
    ledgers.begin(tmp_path / "pairs", [A])
    ledgers.claim(tmp_path / "pairs", [A, B, C])
    assert ledgers.find(tmp_path / "moved", [B, C]).moved
    assert (tmp_path / "ledger" / f"{ledger_name(tmp_path / 'pairs')}.pairs").stat().st_mode & 0o777 == 0o600


def test_a_list_of_pairs_that_cannot_be_read_or_written_releases_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledgers = DeviceLedgers(state=tmp_path)
    found = ledgers.begin(tmp_path / "pairs", [A])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("edgecmd.privacy.device_ledger.write_text_atomically", full)
        with pytest.raises(PrivacyError, match="No space left") as raised:
            ledgers.claim(tmp_path / "pairs", [A, B])
    assert code_of(raised) == "ledger"
    found.pairs.write_bytes(b"\xff")
    with pytest.raises(PrivacyError, match="cannot be read") as raised:
        ledgers.find(tmp_path / "pairs", [A])
    assert code_of(raised) == "ledger"


# Through the client app, with real folders.


def rounds(device: Device) -> list[int]:
    from edgecmd.privacy.ledger import Ledger

    return [Ledger(path).num_rounds() for path in sorted((device.root / "state" / "ledger").glob("*.jsonl"))]


@pytest.mark.parametrize("way", [shutil.move, shutil.copytree])
def test_a_moved_or_copied_folder_goes_on_in_its_ledger(way, tmp_path: Path) -> None:
    device = make_device(tmp_path / "node")
    device.begin()
    assert not ask(run_config(), device.node).has_error()
    way(str(device.pairs), str(tmp_path / "node" / "elsewhere"))
    moved = Device(root=device.root, pairs=tmp_path / "node" / "elsewhere")
    assert not ask(run_config(), moved.node, round_index=2).has_error()
    assert rounds(device) == [2]
    spent = ask(run_config(), moved.node | {"max-epsilon": 0.01}, round_index=3)
    assert spent.error.reason == "refused: budget-spent"


def test_an_archive_of_the_same_rows_goes_on_too(tmp_path: Path) -> None:
    noise = np.random.default_rng(1)
    arrays = {
        "source": noise.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8),
        "target": noise.integers(0, 256, (6, 16, 16, 1), dtype=np.uint8),
    }
    made = make_device(tmp_path / "node")
    first, second = (tmp_path / "node" / name for name in ("a.npz", "b.npz"))
    np.savez(first, **arrays)
    device = Device(root=made.root, pairs=first)
    device.begin()
    assert not ask(run_config(), device.node).has_error()
    first.unlink()
    np.savez_compressed(second, **{name: value[:5] for name, value in arrays.items()})
    assert not ask(run_config(), device.node | {"data-dir": str(second)}, round_index=2).has_error()
    assert rounds(device) == [2]


def test_a_vanished_state_does_not_start_at_zero(tmp_path: Path) -> None:
    """As in a container whose default folder of state is not kept."""
    device = make_device(tmp_path / "node")
    device.begin()
    assert not ask(run_config(), device.node).has_error()
    shutil.rmtree(tmp_path / "node" / "state")
    assert ask(run_config(), device.node, round_index=2).error.reason == "refused: no-ledger"


def test_pairs_copied_into_another_folder_bring_no_fresh_budget(tmp_path: Path) -> None:
    """They are left out there; the others take part."""
    device = make_device(tmp_path / "node")
    device.begin()
    assert not ask(run_config(), device.node).has_error()
    other = Device(root=device.root, pairs=write_pairs(tmp_path / "node" / "others", range(50, 60)))
    other.begin()
    write_pairs(other.pairs, range(3))
    from clients.check import check_node

    report = check_node(other.node, run_config())
    assert (report.num_pairs, len(report.skipped)) == (10, 3)
    assert set(report.skipped) == {"another ledger of this device counts it"}
    assert not ask(run_config(), other.node).has_error()


def test_a_ledger_that_is_lost_is_not_forgotten(tmp_path: Path) -> None:
    """Its list and its count are there: its pairs find no other ledger, and no new one is begun for them."""
    device = make_device(tmp_path / "node")
    device.begin()
    assert not ask(run_config(), device.node).has_error()
    other = Device(root=device.root, pairs=write_pairs(tmp_path / "node" / "others", range(50, 60)))
    other.begin()
    write_pairs(other.pairs, range(10))
    (device.root / "state" / "ledger" / f"{ledger_name(device.pairs)}.jsonl").unlink()
    from clients.check import check_node

    assert check_node(other.node, run_config()).num_pairs == 10
    assert ask(run_config(), device.node, round_index=2).error.reason == "refused: ledger"
    for pairs in (device.pairs, device.pairs.rename(tmp_path / "node" / "moved")):
        with pytest.raises(PrivacyError) as raised:
            Device(root=device.root, pairs=pairs).begin()
        assert code_of(raised) in ("ledger", "node-config")


@pytest.mark.parametrize("kind", ["grey", "rgb", "depth"])
@pytest.mark.parametrize("odd", [True, False])
def test_a_moved_folder_is_recognised_whatever_a_server_asks_of_it(
    kind: str, odd: bool, tmp_path: Path
) -> None:
    """Of grey pairs a server asks for colour: else the one colour pair would decide about the answer."""
    device = make_device(tmp_path / "node")
    if odd:
        write_pairs(device.pairs, [50], colour=True)
    device.begin()
    moved = Device(root=device.root, pairs=device.pairs.rename(tmp_path / "node" / "moved"))
    channels = {"grey": 1, "rgb": 3, "depth": 2}[kind]
    reply = ask(run_config(f"data.target_kind={kind}"), moved.node, channels=channels)
    assert not reply.has_error(), reply.error.reason


def test_of_two_folders_that_are_asked_at_once_one_counts_a_new_pair(tmp_path: Path) -> None:
    ledgers = DeviceLedgers(state=tmp_path)
    ledgers.begin(tmp_path / "one", [A])
    ledgers.begin(tmp_path / "two", [B])
    threads = [
        threading.Thread(
            target=ledgers.claim, args=(tmp_path / name, [*own, *map("{:032x}".format, range(50))])
        )
        for name, own in (("one", [A]), ("two", [B]))
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    counts = [ledgers.find(tmp_path / name, []).counted for name in ("one", "two")]
    assert not counts[0] & counts[1]
    assert len(counts[0] | counts[1]) == 52
