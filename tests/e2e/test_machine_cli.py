"""A machine that refuses: at every write of a command, and as real limits of a process.

Each time: one line, exit code 8, nothing half-written, and the same command works afterwards.
"""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgecmd.config.reader import to_toml
from edgecmd.config.schema import RunConfig
from tests.command_line import run
from tests.machine_faults import Faults, failing, left_overs

# Names that differ from run to run.
DRAWN = re.compile(r"[0-9a-f]{8,}|\d+|\b[a-z0-9_]{8}\b")


@pytest.fixture
def settings_file(tiny: RunConfig, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny), encoding="utf-8")
    return path


def is_tolerated(write: str) -> bool:
    """A folder that is there already, or one that cannot be synchronised, is no failure."""
    kind, _, name = write.partition(" ")
    return (kind in ("fsync", "open") and "." not in Path(name).name) or name.endswith("bundle")


def fail_everywhere(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    root: Path,
    words: Sequence[object],
    *,
    every: int = 1,
    number: int = errno.ENOSPC,
) -> int:
    """Let each kind of write below ``root`` fail once, in an empty folder each time; how many there are."""
    before = root.parent / "before"
    shutil.copytree(root, before)
    with failing(Faults(root, fail_at=None)) as counted:
        assert run(monkeypatch, *words) == 0
    kinds: dict[str, int] = {}
    for index, write in enumerate(counted.seen):
        kinds.setdefault(DRAWN.sub("#", write), index)
    tried = [index for index in list(kinds.values())[::every] if not is_tolerated(counted.seen[index])]
    for index in tried:
        shutil.rmtree(root)
        shutil.copytree(before, root)
        there = sorted(root.rglob("*"))
        capsys.readouterr()
        with failing(Faults(root, fail_at=index, number=number)) as faults:
            code = run(monkeypatch, *words)
        err = capsys.readouterr().err
        # The folder was there; or its synchronisation, which some network file systems cannot do, failed.
        if code == 0 and faults.seen[index].startswith(("mkdir", "fsync of a folder")):
            if words[0] == "init":
                Path(words[1]).unlink()  # a file that is there would be refused next time
            continue
        assert code == 8, (faults.seen[index], err)
        assert err.count("\n") == 1, err
        assert err.startswith("edgecmd: ")
        assert "Traceback" not in err
        assert "Unexpected" not in err
        assert "there is no space left" in err or number != errno.ENOSPC
        assert left_overs(root) == [], faults.seen[index]
        if words[0] in ("init", "data", "pretrain"):
            assert sorted(root.rglob("*")) == there
    assert run(monkeypatch, *words) == 0
    return len(tried)


def test_a_disk_that_is_full_at_any_write_leaves_no_half_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    assert (
        fail_everywhere(monkeypatch, capsys, tmp_path / "work", ["init", tmp_path / "work" / "a" / "b.toml"])
        >= 3
    )


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE])
def test_other_refusals_at_any_write(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, number: int
) -> None:
    (tmp_path / "work").mkdir()
    words = ["init", tmp_path / "work" / "b.toml"]
    assert fail_everywhere(monkeypatch, capsys, tmp_path / "work", words, number=number) >= 3


def test_a_disk_that_is_full_during_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tmp_path: Path
) -> None:
    """Some of the places, each of which `simulate` goes on from."""
    (tmp_path / "runs").mkdir()
    words = ["simulate", "--config", settings_file]
    assert fail_everywhere(monkeypatch, capsys, tmp_path / "runs", words, every=5) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["simulate"], ["run", "--no-baselines"], ["compare", "--methods", "untrained", "--seeds", "1"]]
)
def test_a_disk_that_is_full_at_every_place_of_a_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings_file: Path,
    tmp_path: Path,
    words: list[str],
) -> None:
    (tmp_path / "runs").mkdir()
    fail_everywhere(monkeypatch, capsys, tmp_path / "runs", [*words, "--config", settings_file])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["export", "report"])
def test_a_disk_that_is_full_after_a_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings_file: Path,
    tmp_path: Path,
    command: str,
) -> None:
    assert run(monkeypatch, "run", "--no-baselines", "--config", settings_file) == 0
    fail_everywhere(monkeypatch, capsys, tmp_path / "runs", [command, tmp_path / "runs" / "tiny"])


def test_files_in_the_place_of_folders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    out = tmp_path / "file" / "deep"
    for words in (
        ["run", "--config", settings_file, "--set", f"out={tmp_path / 'file'}"],
        ["simulate", "--config", settings_file, "--set", f"out={out}"],
        [
            "compare",
            "--config",
            settings_file,
            "--set",
            f"out={out}",
            "--methods",
            "untrained",
            "--seeds",
            "1",
        ],
        ["data", "show", "--config", settings_file, "--out", out / "sheet.png", "--num", "1"],
        ["init", out / "a.toml"],
        ["pretrain", "--config", settings_file, "--out", out / "t.safetensors"],
    ):
        assert run(monkeypatch, *words) == 8, words
        err = capsys.readouterr().err
        assert f"{tmp_path / 'file'} is a file, where a folder is needed" in err
        assert err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "kept"


def test_a_name_that_is_too_long_for_the_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "init", tmp_path / ("n" * 300)) == 8
    assert "too long for this file system" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def limited(limits: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own under ``limits`` of the shell."""
    line = f'{limits}; exec "{sys.executable}" -m edgecmd "$@"'
    return subprocess.run(
        ["bash", "-c", line, "edgecmd", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a Linux shell")
def test_a_file_that_the_system_does_not_let_grow(settings_file: Path, tmp_path: Path) -> None:
    """`ulimit -f` stands for a full disk: the write itself fails, half-way through a file."""
    done = limited("ulimit -f 8", "init", tmp_path / "a" / "b.toml")
    assert done.returncode == 8, done.stderr
    assert re.fullmatch(
        r"edgecmd: .*b\.toml cannot be used: the file would be larger than this system allows .*"
        r" were to be written.*\n",
        done.stderr,
    )
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a Linux shell")
def test_no_home_and_no_folder_for_temporary_files(settings_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "home")
    done = limited(
        ":",
        "simulate",
        "--config",
        settings_file,
        HOME=nowhere,
        EDGECMD_CACHE="",
        EDGECMD_STATE="",
        TMPDIR=nowhere,
    )
    assert done.returncode == 0, "a cache that cannot be made costs time and no run"
    # A machine that is slow is told what it works on, whatever that is; of the rest there is no word.
    assert not re.search("edgecmd:|Error|Warning|Traceback", done.stderr), done.stderr


def test_an_unusable_contact_sheet_is_refused_before_the_pairs_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The pairs are not there either: what is told first was looked at first."""
    (tmp_path / "file").write_text("x")
    for out in (tmp_path, tmp_path / "file" / "x.png", tmp_path / f"{'a' * 300}.png"):
        words = ("--set", "data.name=folder", "--set", f"data.path={tmp_path / 'absent'}")
        assert run(monkeypatch, "data", "show", "--out", str(out), *words) == 8
        captured = capsys.readouterr()
        assert str(out) in captured.err
        assert "absent" not in captured.err
        assert captured.out == ""


def test_a_data_path_that_cannot_be_opened_is_named_once_and_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    long = str(tmp_path / ("a" * 300))
    assert run(monkeypatch, "run", "--set", "data.name=folder", "--set", f"data.path={long}") == 4
    err = capsys.readouterr().err
    assert err.count(long) == 1
    assert "the name is too long for this file system" in err
    assert "Errno" not in err
