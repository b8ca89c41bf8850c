"""Whom a ledger withstands: editors with and without the key, lost files, full disks, locks that fail."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest

from edgecmd.core.errors import PrivacyError
from edgecmd.privacy import ledger_file
from edgecmd.privacy.ledger import BudgetSpentError, Ledger, Release
from edgecmd.privacy.refusals import REFUSALS
from tests.edgecmd.privacy.test_ledger import DELTA, PLAN, release, truth

KEY, OTHER = b"k" * 32, b"o" * 32


def spend(ledger: Ledger, index: int, *, epsilon: float = 1000.0) -> None:
    ledger.spend(PLAN, release(index), epsilon=epsilon, delta=DELTA)


def device(folder: Path, *, key: bytes | None = None) -> Ledger:
    return Ledger(folder / "ledger.jsonl", key=key, count=folder / "apart" / "count")


def begun(folder: Path, rounds: int, *, key: bytes | None = None) -> Ledger:
    ledger = device(folder, key=key)
    ledger.begin()
    for index in range(rounds):
        spend(ledger, index)
    return ledger


def asks(ledger: Ledger) -> list[Callable[[], object]]:
    return [
        lambda: spend(ledger, 99),
        lambda: ledger.require_budget(PLAN, epsilon=1000.0, delta=DELTA),
        lambda: ledger.find(run="a" * 16, round_index=1, query="q1"),
    ]


def check_refused(ledger: Ledger, text: str, *, code: str = "ledger") -> None:
    before = ledger.path.read_bytes() if ledger.path.is_file() else None
    for ask in asks(ledger):
        with pytest.raises(PrivacyError, match=text) as caught:
            ask()
        assert caught.value.code == code
        assert str(ledger.path) in str(caught.value)
    assert (ledger.path.read_bytes() if ledger.path.is_file() else None) == before
    assert code in REFUSALS


def forged(path: Path, lines: list[dict[str, Any]]) -> None:
    """What someone can write who knows the format and no key."""
    data, _ = ledger_file.encoded(lines, after=ledger_file.parse(b"", path), key=None)
    path.write_bytes(data)


def lines_of(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(raw) for raw in path.read_bytes().splitlines()]
    return [{name: value for name, value in line.items() if name != "digest"} for line in found]


@pytest.mark.parametrize("key", [None, KEY])
def test_a_device_s_ledger_is_begun_once_and_then_counts(tmp_path: Path, key: bytes | None) -> None:
    ledger = device(tmp_path, key=key)
    assert not ledger.exists
    check_refused(ledger, "No ledger at .* start one with `edgecmd node --new-ledger`", code="no-ledger")
    ledger.begin()
    assert ledger.exists
    assert ledger.num_rounds() == 0
    assert lines_of(ledger.path)[0] | {"time": "", "name": ""} == {
        "kind": "begin",
        "keyed": key is not None,
        "time": "",
        "name": "",
    }
    with pytest.raises(PrivacyError, match="No new ledger is started"):
        ledger.begin()
    for index in (1, 2, 3):
        spend(device(tmp_path, key=key), index)
    assert device(tmp_path, key=key).num_rounds() == 3
    assert device(tmp_path, key=key).epsilon(delta=DELTA) == truth(3)
    assert ledger.find(run="a" * 16, round_index=2, query="q2") == "r2"
    with pytest.raises(BudgetSpentError) as caught:
        spend(ledger, 4, epsilon=truth(3))
    assert caught.value.code == "budget-spent"


def test_the_anchors_of_a_round_stand_in_its_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    with_anchors = Release(run="r", round_index=1, query="q", reply="s", anchors="a" * 64)
    ledger.spend(PLAN, with_anchors, epsilon=1000.0, delta=DELTA)
    assert lines_of(ledger.path)[-1]["anchors"] == "a" * 64


def test_a_ledger_of_before_is_read_and_goes_on(tmp_path: Path) -> None:
    """Written by edgecmd 0.1 before there were keys: one round of noise multiplier 5, no begin line."""
    path = tmp_path / "ledger.jsonl"
    old = (
        '{"kind": "plan", "plan": "p", "mechanism": "anchors", "unit": "pair", "relation": '
        '"add or remove one pair of one client", "clip": 1.0, "sensitivity": 1.0, "private": true, '
        '"spending": {"sampling_rate": 1.0, "noise_multiplier": 5.0, "count": 1}, "digest": "%s"}\n'
        '{"kind": "spend", "plan": "p", "run": "r", "round": 1, "query": "q", "reply": "s", '
        '"time": "2026-01-01T00:00:00+00:00", "digest": "%s"}\n'
    )
    import hashlib

    digests: list[str] = []
    for raw in old.replace('"%s"', '""').splitlines():
        line = json.loads(raw)
        del line["digest"]
        text = (digests[-1] if digests else "") + json.dumps(line, sort_keys=True)
        digests.append(hashlib.sha256(text.encode()).hexdigest()[:16])
    path.write_text(old % tuple(digests))
    assert Ledger(path).epsilon(delta=DELTA) == truth(1)
    counted = Ledger(path, count=tmp_path / "count")
    spend(counted, 2)
    assert counted.epsilon(delta=DELTA) == truth(2)
    path.write_text(old % tuple(digests))
    check_refused(counted, "holds 1 rounds and does not continue from the 2")
    check_refused(Ledger(path, key=KEY), "started without a key and is opened with one")


def test_a_key_is_for_good(tmp_path: Path) -> None:
    begun(tmp_path, 1, key=KEY)
    check_refused(device(tmp_path, key=OTHER), "count of rounds .* or the key is a different one")
    check_refused(Ledger(tmp_path / "ledger.jsonl", key=OTHER), "damaged at line 1 or was edited, or the key")
    check_refused(Ledger(tmp_path / "ledger.jsonl"), "started with a key and is opened without one")
    begun(tmp_path / "open", 1)
    check_refused(Ledger(tmp_path / "open" / "ledger.jsonl", key=KEY), "started without a key and is opened")
    with pytest.raises(PrivacyError, match="has 3 bytes; allowed are 16 or more"):
        Ledger(tmp_path / "l", key=b"abc")


def test_a_keyed_ledger_begins_by_itself_in_a_simulation(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l", key=KEY)
    spend(ledger, 1)
    spend(ledger, 2)
    assert [line["kind"] for line in lines_of(ledger.path)] == ["begin", "plan", "spend", "spend"]
    assert ledger.epsilon(delta=DELTA) == truth(2)


def test_a_keyed_ledger_torn_at_any_byte_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l", key=KEY)
    spend(ledger, 1)
    whole = ledger.path.read_bytes()
    for end in range(1, len(whole), 7):
        ledger.path.write_bytes(whole[:end])
        spend(ledger, 2)
        assert ledger.num_rounds() in (1, 2)
        # Whole lines before the spending cost nothing; a torn line counts as one round.
        assert ledger.num_rounds() == 1 + (not whole[:end].endswith(b"}\n") and not _is_whole(whole[:end]))


def _is_whole(content: bytes) -> bool:
    """Whether the last line is complete but for its newline, and is no spending."""
    try:
        return bool(json.loads(content.splitlines()[-1])["kind"] != "spend")
    except ValueError:
        return False


def less_noise(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    changed = json.loads(json.dumps(lines))
    for line in changed:
        if line["kind"] == "plan":
            line["spending"]["noise_multiplier"] *= 10
    return changed


def fewer(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return lines[:-2]


@pytest.mark.parametrize("edit", [less_noise, fewer])
def test_who_edits_without_the_key_is_refused_and_without_a_key_is_not(
    tmp_path: Path, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> None:
    ledger = begun(tmp_path / "keyed", 3, key=KEY)
    forged(ledger.path, edit(lines_of(ledger.path)))
    check_refused(ledger, "damaged at line 1 or was edited")
    bare = Ledger(tmp_path / "bare", key=None)
    for index in (1, 2, 3):
        spend(bare, index)
    forged(bare.path, edit(lines_of(bare.path)))
    assert bare.epsilon(delta=DELTA) < truth(3), "what the docstring says: accidents only"


@pytest.mark.parametrize("key", [None, KEY])
def test_a_single_changed_byte_of_a_keyed_line_or_of_the_count_shows(
    tmp_path: Path, key: bytes | None
) -> None:
    ledger = begun(tmp_path, 2, key=key)
    assert ledger.count is not None
    count = ledger.count.read_bytes()
    ledger.count.write_bytes(count.replace(b'"rounds": 2', b'"rounds": 1'))
    for ask in asks(ledger):
        with pytest.raises(PrivacyError, match="count of rounds .* was changed") as caught:
            ask()
        assert caught.value.code == "ledger"
    ledger.count.write_bytes(count)
    assert ledger.num_rounds() == 2


def test_a_count_cannot_be_made_without_the_key(tmp_path: Path) -> None:
    """Ledger and count cut back together: refused with a key, unnoticed without one."""
    for key in (None, KEY):
        ledger = begun(tmp_path / str(key), 3, key=key)
        assert ledger.count is not None
        raws = ledger.path.read_bytes().splitlines(keepends=True)
        ledger.path.write_bytes(b"".join(raws[:-1]))
        digest = json.loads(raws[-2])["digest"]
        ledger_file.write_count(ledger.count, ledger_file.Count(rounds=2, digest=digest), key=None)
        if key is None:
            assert ledger.num_rounds() == 2
        else:
            with pytest.raises(PrivacyError, match="was changed, or the key is a different one"):
                ledger.num_rounds()


@pytest.mark.parametrize("key", [None, KEY])
def test_a_shorter_older_other_or_missing_ledger_shows(tmp_path: Path, key: bytes | None) -> None:
    ledger = begun(tmp_path / "one", 1, key=key)
    older = ledger.path.read_bytes()
    for index in (2, 3):
        spend(ledger, index)
    newest = ledger.path.read_bytes()
    other = begun(tmp_path / "two", 5, key=key)
    shorter = b"".join(newest.splitlines(keepends=True)[:-1])
    for content in (older, shorter, other.path.read_bytes()):
        ledger.path.write_bytes(content)
        check_refused(ledger, "does not continue from the 3")
    ledger.path.unlink()
    check_refused(ledger, "holds 0 rounds and does not continue from the 3")
    with pytest.raises(PrivacyError, match="No new ledger is started"):
        ledger.begin()
    ledger.path.write_bytes(newest)
    spend(ledger, 4)
    assert ledger.num_rounds() == 4


def test_a_missing_count_shows(tmp_path: Path) -> None:
    ledger = begun(tmp_path, 2)
    assert ledger.count is not None
    ledger.count.unlink()
    check_refused(ledger, "count of rounds, and .* is missing")


def test_a_crash_between_ledger_and_count_is_caught_up(tmp_path: Path) -> None:
    ledger = begun(tmp_path, 1, key=KEY)
    assert ledger.count is not None
    before = ledger.count.read_bytes()
    spend(ledger, 2)
    ledger.count.write_bytes(before)
    assert ledger.num_rounds() == 2
    spend(ledger, 3)
    count = ledger_file.read_count(ledger.count, key=KEY, ledger=ledger.path)
    assert count is not None
    assert count.rounds == 3


def test_a_crash_in_the_beginning_leaves_nothing_that_is_in_the_way(tmp_path: Path) -> None:
    """Count written, ledger not: the pairs took part in nothing, so the ledger is begun again."""
    ledger = begun(tmp_path, 0)
    ledger.path.unlink()
    check_refused(ledger, "No ledger at", code="no-ledger")
    ledger.begin()
    spend(ledger, 1)
    assert ledger.num_rounds() == 1


def test_older_copies_of_both_cannot_show(tmp_path: Path) -> None:
    """The limit that the docs state."""
    ledger = begun(tmp_path, 1, key=KEY)
    assert ledger.count is not None
    copies = ledger.path.read_bytes(), ledger.count.read_bytes()
    spend(ledger, 2)
    ledger.path.write_bytes(copies[0])
    ledger.count.write_bytes(copies[1])
    assert ledger.num_rounds() == 1


def fail(number: int) -> Callable[..., Any]:
    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, os.strerror(number)) for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO)),
        NotImplementedError("FileSystem does not appear to support flock"),  # filelock's word for ENOSYS
    ],
)
def test_a_lock_that_cannot_be_had_releases_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    ledger = begun(tmp_path, 1)
    before = ledger.path.read_bytes()
    # What tries once, of the lock of this system; waiting and giving up around it stay as they are.
    monkeypatch.setattr(filelock.FileLock, "_acquire", failing)
    with pytest.raises(PrivacyError, match="cannot be locked: .* on a disk that supports locks") as caught:
        spend(ledger, 2)
    assert caught.value.code == "ledger"
    assert str(ledger.path) in str(caught.value)
    monkeypatch.undo()
    assert ledger.path.read_bytes() == before


def test_a_lock_that_another_holds_for_too_long_releases_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = begun(tmp_path, 1)
    monkeypatch.setattr(ledger_file, "LOCK_TIMEOUT_S", 0.05)
    with (
        filelock.FileLock(f"{ledger.path}.lock"),
        pytest.raises(PrivacyError, match="has been locked by another process") as caught,
    ):
        spend(ledger, 2)
    assert caught.value.code == "ledger"
    spend(ledger, 2)
    assert ledger.num_rounds() == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_releases_nothing_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    ledger = begun(tmp_path, 1, key=KEY)
    before = ledger.path.read_bytes()
    monkeypatch.setattr(ledger_file.os, call, fail(number))
    with pytest.raises(PrivacyError, match="could not be written: .* Nothing was released") as caught:
        spend(ledger, 2)
    assert caught.value.code == "ledger"
    assert str(ledger.path) in str(caught.value)
    monkeypatch.undo()
    assert ledger.path.read_bytes() == before
    assert ledger.num_rounds() == 1


def test_a_disk_that_fills_up_in_the_middle_of_a_line_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, write = begun(tmp_path, 1), os.write
    before = ledger.path.read_bytes()
    monkeypatch.setattr(ledger_file.os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    with pytest.raises(PrivacyError, match="No space left"):
        spend(ledger, 2)
    monkeypatch.undo()
    assert ledger.path.read_bytes() == before


def test_a_line_that_cannot_be_taken_back_stays_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, write = begun(tmp_path, 1), os.write
    monkeypatch.setattr(ledger_file.os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    monkeypatch.setattr(ledger_file.os, "ftruncate", fail(errno.EIO))
    with pytest.raises(PrivacyError, match="could not be written"):
        spend(ledger, 2)
    monkeypatch.undo()
    assert ledger.num_rounds() == 2


def test_a_count_that_cannot_be_written_takes_the_line_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = begun(tmp_path, 1)
    before = ledger.path.read_bytes()
    monkeypatch.setattr(ledger_file, "write_bytes_atomically", fail(errno.ENOSPC))
    with pytest.raises(PrivacyError, match="or the count beside it could not be written") as caught:
        spend(ledger, 2)
    assert caught.value.code == "ledger"
    assert ledger.path.read_bytes() == before


def test_a_real_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    ledger = Ledger(tmp_path / "state" / "ledger.jsonl")
    with pytest.raises(PrivacyError, match="cannot be locked|cannot be read") as caught:
        spend(ledger, 1)
    assert caught.value.code == "ledger"
    with pytest.raises(PrivacyError):
        device(tmp_path / "state").begin()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    ledger, opened = Ledger(tmp_path / "ledger.jsonl"), os.open

    def read_only(path: Any, flags: int, *rest: Any, **names: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(number, os.strerror(number))
        return opened(path, flags, *rest, **names)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(PrivacyError, match="folder that this user may write to") as caught:
        spend(ledger, 1)
    assert caught.value.code == "ledger"
    monkeypatch.undo()
    assert ledger.num_rounds() == 0
