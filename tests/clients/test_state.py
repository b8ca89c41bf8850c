"""The optimiser's state on a client's disk."""

from pathlib import Path

import pytest
import torch

from clients.state import KEPT_ROUNDS, load_state, save_state
from edgecmd.core.errors import FederationError


def state(value: float) -> dict[str, torch.Tensor]:
    return {"0.exp_avg": torch.full((2, 3), value), "0.step": torch.tensor(value)}


def rounds(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("round-")) for path in folder.iterdir())


def assert_is(found: dict[str, torch.Tensor], value: float) -> None:
    assert set(found) == set(state(value))
    for name, tensor in state(value).items():
        assert torch.equal(found[name], tensor)


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert load_state(tmp_path / "none", round_index=1) == {}


def test_the_newest_from_before_the_round_is_found(tmp_path: Path) -> None:
    """A client that was not asked in every round goes on from the last one in which it was."""
    for index in (2, 5):
        save_state(tmp_path, state(index), round_index=index)
    assert load_state(tmp_path, round_index=2) == {}
    for asked, expected in ((3, 2), (5, 2), (6, 5), (60, 5)):
        assert_is(load_state(tmp_path, round_index=asked), expected)


def test_the_last_three_are_kept(tmp_path: Path) -> None:
    for index in (1, 2, 9, 10, 11):
        save_state(tmp_path, state(index), round_index=index)
    assert KEPT_ROUNDS == 3
    assert rounds(tmp_path) == [9, 10, 11]


def test_rounds_are_numbers_and_not_words(tmp_path: Path) -> None:
    for index in (999_998, 999_999, 1_000_000):
        save_state(tmp_path, state(index), round_index=index)
    assert_is(load_state(tmp_path, round_index=1_000_001), 1_000_000)


def test_repeating_a_round_drops_the_later_ones(tmp_path: Path) -> None:
    """What an earlier, longer attempt left behind never comes before what was just written."""
    for index in (58, 59, 60):
        save_state(tmp_path, state(index), round_index=index)
    save_state(tmp_path, state(0.5), round_index=1)
    assert rounds(tmp_path) == [1]
    assert_is(load_state(tmp_path, round_index=2), 0.5)


def test_repeating_a_round_keeps_what_it_begins_with(tmp_path: Path) -> None:
    for index in (1, 2, 3):
        save_state(tmp_path, state(index), round_index=index)
    save_state(tmp_path, state(2.5), round_index=2)
    assert rounds(tmp_path) == [1, 2]
    assert_is(load_state(tmp_path, round_index=2), 1)
    assert_is(load_state(tmp_path, round_index=3), 2.5)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("round-x.state", ".round-000001.state.tmp", "notes"):
        (tmp_path / name).write_text("")
    assert load_state(tmp_path, round_index=9) == {}
    save_state(tmp_path, state(1), round_index=1)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("place", [0, 40, -1])
def test_one_changed_byte_is_an_error_with_the_file_and_the_way_out(tmp_path: Path, place: int) -> None:
    """safetensors alone does not notice a changed number; a fresh optimiser would change the result."""
    save_state(tmp_path, state(1), round_index=1)
    path = tmp_path / "round-000001.state"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(FederationError) as caught:
        load_state(tmp_path, round_index=2)
    for words in (str(path), "is damaged", f"delete the folder {tmp_path}", "fresh optimiser"):
        assert words in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"short"])
def test_a_torn_file_is_damaged(tmp_path: Path, data: bytes) -> None:
    save_state(tmp_path, state(1), round_index=1)
    (tmp_path / "round-000001.state").write_bytes(data)
    with pytest.raises(FederationError, match="is damaged"):
        load_state(tmp_path, round_index=2)


def test_an_empty_state_reads_back(tmp_path: Path) -> None:
    save_state(tmp_path, {}, round_index=1)
    assert load_state(tmp_path, round_index=2) == {}
