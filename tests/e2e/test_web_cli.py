"""``edgecmd web`` as a user types it, with a stand-in for the runtime."""

import hashlib
import shutil
from pathlib import Path

import pytest

from edgecmd.config.reader import to_toml
from edgecmd.config.schema import RunConfig
from export.web import ortweb
from tests.command_line import run


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in ortweb.SHA256:
        (folder / name).write_bytes(name.encode())
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ortweb.SHA256}
    monkeypatch.setattr(ortweb, "SHA256", digests)
    monkeypatch.delenv(ortweb.VARIABLE, raising=False)
    return folder


def test_a_run_becomes_a_page(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: RunConfig,
    tmp_path: Path,
    runtime: Path,
) -> None:
    settings, folder = tmp_path / "tiny.toml", Path(tiny.out) / "tiny"
    settings.write_text(to_toml(tiny), encoding="utf-8")
    assert run(monkeypatch, "simulate", "--config", settings) == 0
    assert run(monkeypatch, "web", "build", folder, "--ort-web", runtime) == 6
    assert "has no exported student" in capsys.readouterr().err
    assert run(monkeypatch, "export", folder) == 0
    assert run(monkeypatch, "web", "build", folder, "--ort-web", runtime, "--title", "Boxes") == 0
    assert "<h1>Boxes</h1>" in (folder / "demo.html").read_text(encoding="utf-8")
    assert run(monkeypatch, "web", "build", folder / "export", "--ort-web", runtime, "--mode", "folder") == 0
    assert (folder / "web" / "index.html").is_file()
    assert "edgecmd web serve" in capsys.readouterr().out
    alone = shutil.copytree(folder / "export", tmp_path / "alone" / "bundle")
    assert run(monkeypatch, "web", "build", alone, "--ort-web", runtime) == 0
    assert '"gallery"' not in (alone.parent / "demo.html").read_text(encoding="utf-8")
    assert run(monkeypatch, "web", "build", alone, "--ort-web", runtime, "--gallery", tmp_path) == 2
    assert "needs the run's teacher" in capsys.readouterr().err
    assert run(monkeypatch, "web", "build", folder, "--ort-web", runtime, "--mode", "both") == 2


def test_a_missing_runtime_and_a_missing_page_name_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "student.onnx").write_bytes(b"")
    assert run(monkeypatch, "web", "build", tmp_path, "--ort-web", tmp_path / "absent") == 6
    assert "edgecmd web fetch" in capsys.readouterr().err
    assert run(monkeypatch, "web", "serve", tmp_path) == 6
    assert "edgecmd web build RUN --mode folder" in capsys.readouterr().err


def test_fetch_reads_a_tarball_at_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / ortweb.PACKAGE.file).write_bytes(b"not the pinned one")
    assert run(monkeypatch, "web", "fetch", "--npm-dir", tmp_path, "--out", tmp_path / "out") == 4
    assert "has sha512=" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
