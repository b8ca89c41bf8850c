"""Files are complete or absent."""

import contextlib
import hashlib
import math
import os
from pathlib import Path

import pytest

from edgecmd.core.errors import DataError
from edgecmd.core.files import (
    folder_in_one_piece,
    read_json,
    require_writable,
    sha256_file,
    write_bytes_atomically,
    write_json,
    write_text_atomically,
)
from edgecmd.core.machine import explain


def test_writes_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_bytes_atomically(path, b"old")
    write_bytes_atomically(path, b"new\x00")
    assert path.read_bytes() == b"new\x00"
    assert [one.name for one in path.parent.iterdir()] == ["file.bin"]


def test_text_keeps_line_ends_and_is_utf8(tmp_path):
    path = tmp_path / "text"
    write_text_atomically(path, "ä\n\r\n")
    assert path.read_bytes() == b"\xc3\xa4\n\r\n"


def test_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_bytes_atomically(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_bytes_atomically(path, b"old")

    def fail(*arguments):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(OSError, match="disk full"):
            write_bytes_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes_atomically(tmp_path / "file", b"new")
    assert not list(tmp_path.iterdir())


def test_target_that_is_a_folder_fails_cleanly(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_bytes_atomically(tmp_path / "folder", b"")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_folder_that_cannot_be_synchronised_is_no_failure(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("not supported")

    monkeypatch.setattr("os.open", fail)
    write_bytes_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_json_round_trip_keeps_order_and_ends_with_newline(tmp_path):
    path = tmp_path / "a.json"
    value = {"b": [1, 2.5, None], "a": {"ü": True}}
    write_json(path, value)
    assert path.read_text(encoding="utf-8").startswith('{\n  "b": [\n    1,')
    assert path.read_text(encoding="utf-8").endswith("}\n")
    assert "ü" in path.read_text(encoding="utf-8")
    assert read_json(path) == value
    assert list(read_json(path)) == ["b", "a"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_refuses_nan_before_it_writes(tmp_path, number):
    with pytest.raises(ValueError, match=r"a\.json cannot be written"):
        write_json(tmp_path / "a.json", {"loss": number})
    assert not list(tmp_path.iterdir())


def test_json_refuses_objects(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"path": Path()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": Infinity}', "", "[" * 100_000, "\udcff"])
def test_read_json_names_the_broken_file(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"a\.json is not valid JSON"):
        read_json(path)


def test_read_json_names_the_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")


def test_sha256_file(tmp_path):
    content = b"edge" * 100_000
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_file_that_could_not_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(b"old")
    require_writable(there)
    require_writable(tmp_path / "new" / "deep" / "sheet.png")
    assert [one.name for one in tmp_path.iterdir()] == ["there.png"]
    assert there.read_bytes() == b"old"
    for path in (tmp_path, there / "sheet.png", tmp_path / ("a" * 300), Path(os.devnull)):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the name is what counts
            require_writable(path)
        assert str(caught.value.filename) == str(path)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nothing can be made")
def test_a_folder_that_takes_no_file_is_not_called_absent() -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is what counts
        require_writable(Path("/proc/sheet.png"))
    assert "does not exist" not in str(explain(caught.value))


def test_a_folder_that_cannot_be_made_is_named_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "somewhere.tmp")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("edgecmd.core.files.made_folders", lambda *_: contextlib.nullcontext())
    with pytest.raises(PermissionError) as told, folder_in_one_piece(tmp_path / "kits"):
        pass
    assert told.value.filename == str(tmp_path / "kits")
    assert list(tmp_path.iterdir()) == []
