"""Pieces of work: done once, read afterwards, refused where they are of other settings, in their order."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgecmd.core.errors import ConfigError
from edgecmd.core.jobs import finish, run_jobs


@dataclass(frozen=True)
class Piece:
    path: Path
    number: int

    @property
    def made_of(self) -> dict[str, Any]:
        return {"number": self.number, "sizes": (1, 2)}


def squared(piece: Piece) -> dict[str, Any]:
    return finish(piece, lambda: {"square": piece.number**2})


def fail() -> dict[str, Any]:
    raise AssertionError("done again")


def pieces(folder: Path) -> list[Piece]:
    return [Piece(folder / f"{number}.json", number) for number in range(3)]


def test_what_is_finished_is_read_and_equals_what_was_made(tmp_path: Path) -> None:
    piece = Piece(tmp_path / "one.json", 3)
    made = squared(piece)
    assert made == {"number": 3, "sizes": [1, 2], "square": 9}
    assert finish(piece, fail) == made == json.loads(piece.path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ['{"number": 4, "sizes": [1, 2]}', '{"number": 3}', "[]", "3"])
def test_a_file_of_something_else_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    piece = Piece(tmp_path / "one.json", 3)
    piece.path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"one\.json was made with other settings"):
        finish(piece, fail)
    assert piece.path.read_text(encoding="utf-8") == text


def test_what_fails_leaves_no_file(tmp_path: Path) -> None:
    piece = Piece(tmp_path / "one.json", 3)
    with pytest.raises(AssertionError):
        finish(piece, fail)
    assert not piece.path.exists()


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_stand_in_the_order_of_the_pieces(tmp_path: Path, num_processes: int) -> None:
    work, seen = pieces(tmp_path), list[int]()
    found = run_jobs(
        work,
        squared,
        num_processes=num_processes,
        what="pieces",
        done=lambda piece, result: seen.append(result["square"] - piece.number**2),
    )
    assert [one["square"] for one in found] == [0, 1, 4]
    assert seen == [0, 0, 0]


def test_nothing_to_do_starts_nothing() -> None:
    assert run_jobs([], squared, num_processes=2, what="pieces", done=lambda *_: None) == []
