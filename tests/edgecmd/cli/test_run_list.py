"""``edgecmd runs``: what each run folder is, whatever state it is in."""

import json
import os
from pathlib import Path

import pytest

from edgecmd.core.errors import DataError
from edgecmd.experiments.run_list import Listed, list_runs
from tests.command_line import edgecmd


def made(folder: Path, *, rounds: int, **files: object) -> Path:
    """A run folder with so many of ten rounds done."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(
        f'name = "{folder.name}"\n[data]\nname = "emoji"\n[student]\narchitecture = "ws-50k"\n'
        "[federation]\nnum_rounds = 10\n",
        encoding="utf-8",
    )
    events = "".join(f'{{"event": "round", "round": {one + 1}}}\n' for one in range(rounds))
    (folder / "events.jsonl").write_text(events, encoding="utf-8")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


EVALUATION = {
    "student": {
        "retrieval": {"recall@1": 0.25},
        "few_labels": {"group": {"linear": {"1": {"mean": 0.2}, "all": {"mean": 0.5}}}},
    }
}


def test_each_state_has_its_word(tmp_path: Path) -> None:
    made(tmp_path / "over", rounds=10, evaluation=EVALUATION, privacy={"epsilon": 7.5})
    made(tmp_path / "half", rounds=4)
    (made(tmp_path / "now", rounds=1) / ".owner").write_text(f"{os.getpid()}\n", encoding="ascii")
    (made(tmp_path / "killed", rounds=1) / ".owner").write_text(f"{2**22 + 1}\n", encoding="ascii")
    (tmp_path / "no run").mkdir()
    found = {one.run: one for one in list_runs(tmp_path)}
    assert set(found) == {"over", "half", "now", "killed"}
    assert found["over"] == Listed(
        run="over",
        state="done",
        data="emoji",
        student="ws-50k",
        rounds="10/10",
        recall_at_1=0.25,
        probe=0.5,
        epsilon=7.5,
    )
    assert found["half"].state == "stopped"
    assert found["half"].cells == ["half", "stopped", "emoji", "ws-50k", "4/10", "-", "-", "-", "-"]
    assert found["now"].state == "running"
    assert found["killed"].state == "stopped"


def test_the_newest_comes_first(tmp_path: Path) -> None:
    for age, name in enumerate(("b", "a", "c")):
        os.utime(made(tmp_path / name, rounds=0) / "config.toml", (1e9 - age, 1e9 - age))
    assert [one.run for one in list_runs(tmp_path)] == ["b", "a", "c"]


def test_a_run_folder_is_listed_by_itself(tmp_path: Path) -> None:
    assert [one.run for one in list_runs(made(tmp_path / "one", rounds=2))] == ["one"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"student": 3}', '{"student": {"retrieval": {"recall@1": "x"}}}']
)
def test_a_damaged_run_hides_no_other(tmp_path: Path, content: str) -> None:
    made(tmp_path / "fine", rounds=1)
    (made(tmp_path / "bad", rounds=1) / "evaluation.json").write_text(content, encoding="utf-8")
    found = {one.run: one.state for one in list_runs(tmp_path)}
    assert found["fine"] == "stopped"
    assert found["bad"].startswith("cannot be read: ") or content == '{"student": 3}'


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        list_runs(tmp_path / "none")


def test_the_command(tmp_path: Path) -> None:
    made(tmp_path / "runs" / "over", rounds=10, evaluation=EVALUATION)
    told = edgecmd("runs", folder=tmp_path)
    assert told.returncode == 0
    assert "over" in told.stdout
    assert "0.250" in told.stdout
    assert json.loads(edgecmd("runs", "--json", folder=tmp_path).stdout)[0]["probe"] == 0.5
    (tmp_path / "empty").mkdir()
    empty = edgecmd("runs", "empty", folder=tmp_path)
    assert "holds no runs" in empty.stdout + empty.stderr
