"""A run folder has one owner: real processes, killed ones, and file systems without locks."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from edgecmd.core.errors import ConfigError, FederationError, MachineError
from edgecmd.core.run_lock import LOCK, OWNER, empty, owned

HOLD = (
    "import sys, time; from pathlib import Path; from edgecmd.core.run_lock import owned\n"
    "with owned(Path(sys.argv[1])):\n"
    "    Path(sys.argv[2]).write_text('')\n"
    "    time.sleep(3600)\n"
)


def holder(folder: Path, sign: Path) -> subprocess.Popen[bytes]:
    """Another process that owns ``folder``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), str(sign)])
    end = time.monotonic() + 1200
    while not sign.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def test_a_second_process_is_refused_with_the_pid_until_the_first_is_gone_however_it_went(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "runs" / "demo"
    first = holder(folder, tmp_path / "first")
    try:
        for _ in range(2):
            with (
                pytest.raises(FederationError, match=f"{folder} is in use by process {first.pid}") as caught,
                owned(folder),
            ):
                pass
        assert caught.value.exit_code == 5
        assert (folder / OWNER).read_text() == f"{first.pid}\n", "a refusal leaves the owner's sign alone"
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (folder / OWNER).exists(), "what a killed owner leaves"
    with owned(folder):
        assert (folder / OWNER).read_text() == f"{os.getpid()}\n"
    second = holder(folder, tmp_path / "second")
    second.kill()
    second.wait()


def test_blocks_nest_in_one_thread_and_the_outer_one_ends_it(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with owned(folder):
        with owned(tmp_path / "demo" / ".." / "demo"):
            (folder / "config.toml").write_text("")
        assert (folder / OWNER).exists()
        with owned(folder / "baselines" / "l2"):
            (folder / "baselines" / "l2" / "config.toml").write_text("")
    assert not (folder / OWNER).exists()
    with owned(folder):
        pass


def test_another_thread_is_another_owner(tmp_path: Path) -> None:
    refused: list[str] = []

    def try_it() -> None:
        try:
            with owned(tmp_path):
                pass
        except FederationError as error:
            refused.append(str(error))

    with owned(tmp_path):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        with owned(tmp_path):
            pass
    assert [f"process {os.getpid()}" in one for one in refused] == [True]


def test_an_error_inside_gives_the_folder_back_and_leaves_no_empty_one(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), owned(tmp_path / "runs" / "demo"):
            raise RuntimeError
        assert not (tmp_path / "runs" / "demo").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("does not support flock")]
)
def test_a_file_system_without_locks_is_an_error_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", fail)
    words = "cannot be locked: .*set out to a folder on a local disk"
    with pytest.raises(FederationError, match=words), owned(tmp_path / "demo"):
        pass
    monkeypatch.undo()
    with owned(tmp_path / "demo"):
        pass


def test_a_folder_that_cannot_be_made_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = f"The run folder .*demo cannot be written: {tmp_path}/file is a file, where a folder is needed"
    with pytest.raises(MachineError, match=words) as caught, owned(tmp_path / "file" / "demo"):
        pass
    assert caught.value.exit_code == 8


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("step", ["made", "locked"])
def test_a_folder_that_another_process_removes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, times: int
) -> None:
    """The other had it, began nothing in it and takes it away: no place for this one's lock, or its sign."""
    acquire, folder, left = FileLock.acquire, tmp_path / "runs" / "demo", [times]

    def rival(self: FileLock, *, timeout: float) -> None:
        if step == "locked":
            acquire(self, timeout=timeout)
        if left[0]:
            left[0] -= 1
            shutil.rmtree(folder)
            if step == "made":
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        if step == "made":
            acquire(self, timeout=timeout)

    monkeypatch.setattr(FileLock, "acquire", rival)
    with owned(folder):
        assert (folder / OWNER).read_text() == f"{os.getpid()}\n"
        assert (folder / LOCK).exists()
    assert left == [0]
    assert not folder.exists()


def test_a_folder_that_is_gone_again_when_it_is_looked_at_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``Path.mkdir`` finds it there, looks whether it is a folder, and finds nothing."""
    make, failed = Path.mkdir, [0]

    def late(self: Path, *args: Any, **kwargs: Any) -> None:
        if failed[0] < 3:
            failed[0] += 1
            raise FileExistsError(errno.EEXIST, "File exists")
        make(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", late)
    with owned(tmp_path / "demo"):
        assert (tmp_path / "demo" / OWNER).exists()
    assert failed == [3]


def test_a_file_in_the_place_of_the_folder_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    words = "demo is a file, where a folder is needed"
    with pytest.raises(MachineError, match=words), owned(tmp_path / "demo"):
        pass
    assert (tmp_path / "demo").is_file()


def test_emptying_keeps_the_lock(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    folder = tmp_path / "demo"
    with owned(folder):
        (folder / "checkpoints" / "round-000001").mkdir(parents=True)
        (folder / "checkpoints" / "round-000001" / "state.json").write_text("")
        (folder / "config.toml").write_text("")
        (folder / "link").symlink_to(outside)
        empty(folder)
        assert sorted(path.name for path in folder.iterdir()) == [LOCK, OWNER]
    assert (outside / "kept").exists()


def test_what_is_no_file_of_a_run_is_not_deleted(tmp_path: Path) -> None:
    """`--fresh` in a folder that somebody uses for more than a run."""
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "config.toml").write_text("[tool]\n")
    (folder / ".DS_Store").write_text("")
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("years of work")
    with (
        owned(folder),
        pytest.raises(ConfigError, match=r"thesis/chapter\.tex, which is not a file of a run"),
    ):
        empty(folder)
    assert (folder / "thesis" / "chapter.tex").read_text() == "years of work"
    assert (folder / "config.toml").exists()


def test_when_deleting_fails_the_settings_are_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the checkpoints that are left would be taken for those of the next run."""
    folder = tmp_path / "demo"
    folder.mkdir()
    for name in ("config.toml", "events.jsonl", "report.html"):
        (folder / name).write_text("")

    unlink = Path.unlink

    def refuse(self: Path, *_: object, **__: object) -> None:
        if self.name == "report.html":
            raise OSError(errno.EIO, "Input/output error", str(self))
        unlink(self)

    with owned(folder):
        monkeypatch.setattr(Path, "unlink", refuse)
        with pytest.raises(OSError, match="report"):
            empty(folder)
        monkeypatch.undo()
        assert (folder / "config.toml").exists()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "there is no space left"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "this user has no permission"),
    ],
)
def test_a_folder_in_which_nothing_can_be_written_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(MachineError, match=words), owned(tmp_path / "runs" / "demo"):
        pass
    assert list(tmp_path.iterdir()) == []
