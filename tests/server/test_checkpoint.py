"""Checkpoints: whole or absent, checked when read, two of them kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgecmd.core.errors import FederationError
from server.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([1.5], dtype=np.float64),
    "scalar": np.array(2.5, dtype=np.float32),
    "empty": np.zeros((0, 2), dtype=np.float32),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


def checkpoint(round_index: int) -> Checkpoint:
    return Checkpoint(
        round_index=round_index,
        arrays={name: np.asarray(value + value.dtype.type(round_index)) for name, value in TENSORS.items()},
        strategy={"m_t/b": np.full((2, 3), 0.25 * round_index, dtype=np.float32)},
        events_bytes=100 * round_index,
    )


def assert_is(found: Checkpoint | None, round_index: int) -> None:
    expected = checkpoint(round_index)
    assert found is not None
    assert (found.round_index, found.events_bytes) == (round_index, 100 * round_index)
    for mine, other in ((found.arrays, expected.arrays), (found.strategy, expected.strategy)):
        assert set(mine) == set(other)
        for name, value in other.items():
            np.testing.assert_array_equal(mine[name], value)
            assert (mine[name].dtype, mine[name].shape) == (value.dtype, value.shape)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") is None
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("round_index", [0, 7, 1_000_000])
def test_a_checkpoint_reads_back(tmp_path: Path, round_index: int) -> None:
    save_checkpoint(tmp_path, checkpoint(round_index))
    assert_is(newest_checkpoint(tmp_path), round_index)


def test_the_last_two_are_kept_in_the_order_of_numbers(tmp_path: Path) -> None:
    for round_index in (999_998, 999_999, 1_000_000):
        save_checkpoint(tmp_path, checkpoint(round_index))
    assert names(tmp_path) == ["round-1000000", "round-999999"]
    assert_is(newest_checkpoint(tmp_path), 1_000_000)


def test_saving_a_round_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(round_index=3, arrays={"b": np.zeros(1, np.float32)}))
    save_checkpoint(tmp_path, checkpoint(3))
    assert_is(newest_checkpoint(tmp_path), 3)


@pytest.mark.parametrize("name", ["round-000002.partial", ".0123456789abcdef.tmp"])
def test_what_a_killed_process_leaves_is_ignored_and_later_removed(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    partial = tmp_path / name
    partial.mkdir()
    (partial / "student.safetensors").write_bytes(b"half")
    assert_is(newest_checkpoint(tmp_path), 1)
    save_checkpoint(tmp_path, checkpoint(2))
    assert names(tmp_path) == ["round-000001", "round-000002"]
    assert_is(newest_checkpoint(tmp_path), 2)


def test_a_crash_while_writing_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, checkpoint(1))

    def stop(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("server.checkpoint.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, checkpoint(2))
    assert names(tmp_path) == ["round-000001"]
    assert_is(newest_checkpoint(tmp_path), 1)


def flip_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def drop(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["student.safetensors", "strategy.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [flip_last_byte, cut, drop, empty])
def test_damage_falls_back_to_the_previous_checkpoint(tmp_path: Path, name: str, damage: object) -> None:
    for round_index in (1, 2):
        save_checkpoint(tmp_path, checkpoint(round_index))
    path = tmp_path / "round-000002" / name
    if name == "state.json" and damage is cut:
        path.write_bytes(path.read_bytes()[:-4])  # the last byte is a line end, which JSON can do without
    else:
        damage(path)  # type: ignore[operator]
    assert_is(newest_checkpoint(tmp_path), 1)


@pytest.mark.parametrize(
    "state",
    [[], 5, {}, {"round": 1}, {"round": 2, "sha256": None, "events_bytes": 0}, {"round": 2, "sha256": {}}],
)
def test_a_state_file_with_other_content_counts_as_damaged(tmp_path: Path, state: object) -> None:
    for round_index in (1, 2):
        save_checkpoint(tmp_path, checkpoint(round_index))
    (tmp_path / "round-000002" / "state.json").write_text(json.dumps(state))
    assert_is(newest_checkpoint(tmp_path), 1)


def test_all_damaged_is_an_error_with_each_fault_and_the_way_out(tmp_path: Path) -> None:
    for round_index in (1, 2):
        save_checkpoint(tmp_path, checkpoint(round_index))
        flip_last_byte(tmp_path / f"round-{round_index:06d}" / "student.safetensors")
    with pytest.raises(FederationError) as caught:
        newest_checkpoint(tmp_path)
    for words in (str(tmp_path), "round-000001: ", "round-000002: ", "checksum", "--set name="):
        assert words in str(caught.value)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    kinds = {path.suffix for path in (tmp_path / "round-000001").iterdir()}
    assert kinds == {".safetensors", ".json"}
