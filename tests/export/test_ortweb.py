"""Where the runtime may come from, and that only the pinned one is taken."""

import base64
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from edgecmd.errors import DataError, ExportError
from export.web import ortweb
from export.web.ortweb import LICENSE, PACKAGE, PUBLIC_REGISTRY, SCRIPT, WASM, fetch_ort_web, find_ort_web

CONTENT = {SCRIPT: b"export {};", WASM: b"\0asm"}


def tarball(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in {**content, "other.js": b"1"}.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """A made-up package in place of the real one; nothing of this machine is found."""
    data = tarball(CONTENT)
    sha512 = base64.b64encode(hashlib.sha512(data).digest()).decode()
    monkeypatch.setattr(ortweb, "PACKAGE", replace(PACKAGE, digest=sha512))
    monkeypatch.setattr(
        ortweb, "SHA256", {name: hashlib.sha256(one).hexdigest() for name, one in CONTENT.items()}
    )
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in (ortweb.VARIABLE, "npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return data


def put(folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def test_the_pinned_checksum_is_that_of_the_registry() -> None:
    assert len(base64.b64decode(PACKAGE.digest)) == 64
    assert PACKAGE.version == "1.30.0"


def test_every_place_is_looked_at_in_order(
    pinned: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match="edgecmd web fetch"):
        find_ort_web()
    put(ortweb.cached_folder())
    assert find_ort_web().wasm == CONTENT[WASM]
    # A nearer place is asked first, so a wrong file there is not passed over.
    put(tmp_path / "node_modules" / "onnxruntime-web" / "dist", {SCRIPT: b"other", WASM: b"other"})
    with pytest.raises(ExportError, match=r"node_modules.*sha256=.*allowed is"):
        find_ort_web()
    monkeypatch.setenv(ortweb.VARIABLE, str(put(tmp_path / "named")))
    assert find_ort_web().script == CONTENT[SCRIPT]
    with pytest.raises(ExportError, match="absent"):
        find_ort_web(tmp_path / "absent")


def test_a_tarball_that_is_at_hand_is_unpacked_with_its_licence(pinned: bytes, tmp_path: Path) -> None:
    (tmp_path / PACKAGE.file).write_bytes(pinned)
    folder = fetch_ort_web(npm_dir=tmp_path)
    assert {path.name for path in folder.iterdir()} == {SCRIPT, WASM, LICENSE}
    assert "Copyright (c) Microsoft Corporation" in (folder / LICENSE).read_text()
    assert find_ort_web().wasm == CONTENT[WASM]


def test_a_wrong_checksum_is_refused_and_nothing_is_written(pinned: bytes, tmp_path: Path) -> None:
    (tmp_path / PACKAGE.file).write_bytes(pinned[:-1] + b"?")
    with pytest.raises(DataError, match=r"has sha512=.*allowed is"):
        fetch_ort_web(tmp_path / "out", npm_dir=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def registry(pinned: bytes, tmp_path: Path) -> Iterator[str]:
    """A registry on this machine that has the made-up package."""
    put(tmp_path / "registry" / "onnxruntime-web" / "-", {PACKAGE.file: pinned})

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = partial(Quiet, directory=str(tmp_path / "registry"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_without_npm_the_configured_registry_is_asked(
    registry: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ortweb.shutil, "which", lambda _: None)
    monkeypatch.setenv("npm_config_registry", registry + "/")
    folder = fetch_ort_web(tmp_path / "out")
    assert (folder / WASM).read_bytes() == CONTENT[WASM]


def test_a_registry_that_does_not_deliver_is_named(
    registry: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ortweb.shutil, "which", lambda _: None)
    monkeypatch.setenv("npm_config_registry", registry + "/elsewhere")
    with pytest.raises(DataError, match=r"elsewhere.*404.*--npm-dir"):
        fetch_ort_web(tmp_path / "out")
    monkeypatch.setenv("npm_config_registry", "file:///etc")
    with pytest.raises(DataError, match="no web address"):
        fetch_ort_web(tmp_path / "out")


def test_the_registry_is_the_one_that_npm_is_told(
    pinned: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ortweb.registry() == PUBLIC_REGISTRY
    (tmp_path / ".npmrc").write_text("; a comment\nfund=false\nregistry = https://npm.example.org/\n")
    assert ortweb.registry() == "https://npm.example.org"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://other.example.org")
    assert ortweb.registry() == "https://other.example.org"
