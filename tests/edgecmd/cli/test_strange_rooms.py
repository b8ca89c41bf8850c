"""Packages of others that are called as edgecmd's rooms: found, named with their path, and never imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgecmd.core.errors import MachineError
from edgecmd.core.machine import ROOMS, require_own_rooms, strange_rooms
from edgecmd.datasets.sample import write_sample
from tests.command_line import run

HOME = Path(__file__).resolve().parents[3]


def plant(folder: Path, name: str, *, as_file: bool = False) -> Path:
    """A package of that name, which says so where it is imported."""
    found = folder / f"{name}.py" if as_file else folder / name
    source = found if as_file else found / "__init__.py"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    return found


@pytest.fixture
def first_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python looks into before edgecmd's, as if nothing was imported yet."""
    for name in ROOMS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("first_on_the_path")
def test_the_own_rooms_are_no_strangers() -> None:
    assert strange_rooms() == []
    require_own_rooms()


@pytest.mark.parametrize("name", ROOMS)
@pytest.mark.parametrize("as_file", [False, True])
def test_a_stranger_is_named_with_both_paths_and_the_way_out(
    first_on_the_path: Path, name: str, as_file: bool
) -> None:
    found = plant(first_on_the_path, name, as_file=as_file)
    (text,) = strange_rooms()
    assert text.startswith(
        f"Python finds another {name!r} at {found} in place of edgecmd's own at {HOME / name}."
    )
    assert "PYTHONPATH" in text
    with pytest.raises(MachineError, match=f"another {name!r}"):
        require_own_rooms()


def test_a_plain_folder_of_that_name_is_no_package(first_on_the_path: Path) -> None:
    """Python takes a package farther down the path before a folder without ``__init__.py``."""
    (first_on_the_path / "server").mkdir()
    assert strange_rooms() == []


def test_a_missing_room_is_said(first_on_the_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecmd.core.machine.ROOMS", ("no_such_room",))
    text = "The package 'no_such_room', which comes with edgecmd, is missing at"
    assert strange_rooms() == [f"{text} {HOME / 'no_such_room'}. Install edgecmd again."]
    assert first_on_the_path.is_dir()


def test_the_doctor_says_it_and_goes_on(
    first_on_the_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plant(first_on_the_path, "server")
    assert run(monkeypatch, "doctor", "--json") == 0
    assert any(
        f"another 'server' at {found}" in line for line in json.loads(capsys.readouterr().out)["advice"]
    )
    assert run(monkeypatch, "doctor") == 0
    assert f"another 'server' at {found}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ROOMS)
def test_a_command_is_refused_in_one_line_before_anything_is_done(tmp_path: Path, name: str) -> None:
    found = plant(tmp_path, name)
    done = subprocess.run(
        [sys.executable, "-m", "edgecmd", "init", "mine.toml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(HOME)))},
        timeout=1200,
    )
    assert done.returncode == 8
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"edgecmd: Python finds another {name!r} at {found} ")
    assert not (tmp_path / "mine.toml").exists()


def test_a_command_started_in_a_notebook_draws_with_a_backend_of_its_own(tmp_path: Path) -> None:
    """A notebook names its backend in the environment, and edgecmd may be installed where that one is not."""
    write_sample(tmp_path / "pairs", num=60)
    done = subprocess.run(
        [sys.executable, "-m", "edgecmd", "data", "check", "pairs", "--set", "federation.num_clients=2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HOME), "MPLBACKEND": "of_another_environment"},
        timeout=1200,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "pairs: no problems found.")
