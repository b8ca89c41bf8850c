"""What the machine refuses is one sentence: the path, the need and the way out."""

import errno
import os
import pickle
import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecmd.core.errors import MachineError
from edgecmd.core.files import write_bytes_atomically
from edgecmd.core.machine import at, explain, is_of_machine, require_space


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_is_one_sentence_with_path_and_way_out(number: int, tmp_path: Path) -> None:
    error = at(OSError(number, os.strerror(number)), tmp_path / "file", need=12_345)
    assert is_of_machine(error)
    told = explain(error)
    assert told.exit_code == 8
    text = str(told)
    assert "\n" not in text
    assert "Errno" not in text
    assert text.endswith(".")
    if number not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        assert str(tmp_path / "file") in text


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left (12.3 kB were to be written"),
        (errno.EDQUOT, "quota of this user is used up (12.3 kB"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.EIO, "the disk reports an error"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOMEM, "too little free memory"),
    ],
)
def test_the_usual_ones_say_what_to_do(number: int, words: str, tmp_path: Path) -> None:
    assert words in str(explain(at(OSError(number, os.strerror(number)), tmp_path / "a", need=12_345)))


def test_a_full_disk_says_how_much_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2_000))
    error = at(OSError(errno.ENOSPC, "x"), tmp_path / "new" / "a", need=5_000_000)
    text = str(explain(pickle.loads(pickle.dumps(error))))
    assert "(5.0 MB were to be written, 2.0 kB are free)" in text, "also from a worker process"


def test_the_file_that_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as caught:
        write_bytes_atomically(tmp_path / "file" / "deep" / "er", b"")
    assert f"{tmp_path / 'file'} is a file, where a folder is needed" in str(explain(caught.value))
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        write_bytes_atomically(tmp_path / ("n" * 300), b"")
    assert "the name is too long for this file system. Choose a shorter name." in str(explain(caught.value))
    assert list(tmp_path.iterdir()) == []


def test_memory_that_torch_and_numpy_cannot_have() -> None:
    for ask in (lambda: torch.empty(2**60, dtype=torch.uint8), lambda: np.empty(2**60, dtype=np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            ask()
        assert is_of_machine(caught.value), caught.value
        text = str(explain(caught.value))
        assert text.startswith("This machine has too little free memory for this (")
        assert "data.image_size" in text
    cuda = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")
    assert str(explain(cuda)).startswith("The GPU has too little free memory")


def test_killed_workers_threads_and_a_missing_home() -> None:
    assert "killed" in str(explain(BrokenProcessPool("terminated abruptly")))
    for text in ("can't start new thread", "Could not determine home directory."):
        assert is_of_machine(RuntimeError(text))
        assert "\n" not in str(explain(RuntimeError(text)))
    assert "EDGECMD_CACHE" in str(explain(RuntimeError("Could not determine home directory.")))


def test_faults_of_data_and_program_are_not_the_machines() -> None:
    for error in (RuntimeError("shape mismatch"), ValueError("x"), KeyError("x"), AssertionError()):
        assert not is_of_machine(error)


def test_no_folder_for_temporary_files() -> None:
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert "Set TMPDIR" in str(explain(error))


def test_need_is_compared_before_the_work(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there", 1)
    with pytest.raises(MachineError, match=r"about 1000\.0 TB are needed, .* free"):
        require_space(tmp_path / "not" / "there", 10**15)
